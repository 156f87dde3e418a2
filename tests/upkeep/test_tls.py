"""Off this machine the database is reached with TLS or not at all."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from proxy.ledger import Database, LedgerUnavailable
from proxy.ledger.address import AddressError, sealed, target_of
from proxy.upkeep import backup
from proxy.upkeep.tools import environment
from tests.upkeep.servers import EMBEDDED, PASSWORD, server

MODE = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"


@pytest.fixture(scope="module")
def tls() -> Iterator[tuple[int, Path]]:
    with server(EMBEDDED, tls=True) as made:
        yield made


@pytest.fixture(scope="module")
def plain() -> Iterator[int]:
    with server(EMBEDDED, tls=False) as (port, _):
        yield port


def url(host: str, port: int, query: str = "") -> str:
    return f"postgresql://owner:{PASSWORD}@{host}:{port}/postgres{query}"


@pytest.mark.parametrize(
    "where",
    [
        "127.0.0.1",
        "127.8.8.8",
        "[::1]",
        "localhost",
        "LOCALHOST:5433",
        "%2Frun%2Fpostgresql",
        "127.0.0.1:1,[::1]:2",
    ],
)
def test_this_machine_needs_no_tls(where: str) -> None:
    dsn = f"postgresql://u@{where}/x"
    assert sealed(dsn, env={}) == dsn


@pytest.mark.parametrize(
    "where",
    [
        "db.example",
        "10.0.0.9",
        "[fd00::9]",
        "127.0.0.1,db.example",  # the second of two hosts
        "127.0.0.1%2Cdb.example",
        "localhost.example",
        "127.0.0.1.nip.io",
        "127.0.0.1@db.example",
        "x@127.0.0.1@db.example",
        "127.1",  # what only some resolvers read as loopback
        "2130706433",
        "0x7f000001",
        "0.0.0.0",
        "[::]",
        "[::ffff:127.0.0.1]",
        "localhost%00.example",
    ],
)
def test_everything_else_does(where: str) -> None:
    dsn = f"postgresql://u@{where}/x"
    assert sealed(dsn, env={}) == f"{dsn}?sslmode=require"
    assert target_of(sealed(dsn)).sslmode == "require"


def test_a_host_in_the_query_or_the_environment_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    found = sealed("postgresql://u@/x?host=db.example&application_name=y", env={})
    assert found == "postgresql://u@/x?host=db.example&application_name=y&sslmode=require"
    monkeypatch.setenv("PGHOST", "db.example")
    assert sealed("postgresql:///x").endswith("?sslmode=require")


@pytest.mark.parametrize("mode", ["disable", "allow", "prefer"])
def test_plain_text_must_be_allowed(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    dsn = f"postgresql://u:{PASSWORD}@db.example/x?sslmode={mode}"
    with pytest.raises(AddressError, match=r"db\.example.*allow_plaintext") as error:
        sealed(dsn)
    assert PASSWORD not in str(error.value)
    assert sealed(dsn, allow_plaintext=True) == dsn
    monkeypatch.setenv("PGSSLMODE", mode)
    with pytest.raises(AddressError):
        sealed("postgresql://u@db.example/x")


async def test_the_wire_is_sealed(tls: tuple[int, Path]) -> None:
    # 127.1 is dialled as 127.0.0.1, and judged as what it says: some host.
    database = await Database.open(sealed(url("127.1", tls[0])), size=1)
    assert await database.fetchval(MODE) is True
    await database.close()


async def test_without_tls_no_password_leaves(plain: int) -> None:
    with pytest.raises(LedgerUnavailable):
        await Database.open(sealed(url("127.1", plain)), size=1)
    allowed = sealed(url("127.1", plain, "?sslmode=disable"), allow_plaintext=True)
    database = await Database.open(allowed, size=1)
    assert await database.fetchval(MODE) is False
    await database.close()


async def test_a_certificate_is_checked_where_it_is_asked_for(tls: tuple[int, Path]) -> None:
    port, certificate = tls
    query = f"?sslmode=verify-full&sslrootcert={certificate}"
    connection = await asyncpg.connect(sealed(url("127.0.0.1", port, query)))
    assert await connection.fetchval(MODE) is True
    await connection.close()
    with pytest.raises(OSError, match="certificate verify failed"):
        await asyncpg.connect(sealed(url("localhost", port, query)))


async def test_a_backup_goes_the_same_way_and_tells_nobody_the_password(
    tls: tuple[int, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port, certificate = tls
    dsn = sealed(url("127.0.0.1", port, f"?sslmode=verify-full&sslrootcert={certificate}"))
    connection = await asyncpg.connect(dsn)
    await connection.execute("CREATE TABLE IF NOT EXISTS schema_migrations (name text)")
    await connection.close()
    started: list[tuple[str, ...]] = []
    plain = asyncio.create_subprocess_exec

    async def watched(*words: str, **more: object) -> asyncio.subprocess.Process:
        started.append(words)
        return await plain(*words, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(asyncio, "create_subprocess_exec", watched)
    await backup.backup(dsn, tmp_path / "x.dump")
    assert started
    assert not any(PASSWORD in word for words in started for word in words)
    assert environment(dsn)["PGSSLMODE"] == "verify-full"
    written = (tmp_path / "x.dump.json").read_text()
    assert PASSWORD not in written
