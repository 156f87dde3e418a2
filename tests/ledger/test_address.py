import pytest

from proxy.ledger.address import tcp_addresses


@pytest.mark.parametrize(
    ("dsn", "addresses"),
    [
        ("postgresql://user@db.example/books", [("db.example", 5432)]),
        ("postgres://u:p%40ss@10.0.0.9:6000/books?sslmode=require", [("10.0.0.9", 6000)]),
        ("postgresql://[::1]:5433/x", [("::1", 5433)]),
        ("postgresql://a:1,b,[fd00::2]/x", [("a", 1), ("b", 5432), ("fd00::2", 5432)]),
        ("postgresql:///x?host=db.example&port=7000", [("db.example", 7000)]),
        ("postgresql:///x?host=a,b&port=1,2", [("a", 1), ("b", 2)]),
        ("postgresql:///x?host=/run/postgresql", []),
        ("postgresql://user@%2Frun%2Fpostgresql/x", []),
        ("postgresql:///x?host=/run/postgresql,db.example", [("db.example", 5432)]),
        ("postgresql:///x", [("localhost", 5432)]),
        ("postgresql://:6000/x", [("localhost", 6000)]),
    ],
)
def test_where_a_url_leads(dsn: str, addresses: list[tuple[str, int]]) -> None:
    assert tcp_addresses(dsn, {}) == addresses


def test_what_the_environment_adds() -> None:
    env = {"PGHOST": "db.example", "PGPORT": "7000"}
    assert tcp_addresses("postgresql:///x", env) == [("db.example", 7000)]
    assert tcp_addresses("postgresql://other/x", env) == [("other", 7000)]
    assert tcp_addresses("postgresql:///x", {"PGHOST": "/run"}) == []
