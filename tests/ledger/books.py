"""The invariants of the books, as the tests ask for them after every storm."""

from proxy.ledger import Database

_HELD_AND_SPENT = """
SELECT c.scope, c.held_micros, c.spent_micros,
       coalesce(sum(p.price_micros) FILTER (WHERE p.status IN ('INITIATED', 'SIGNED')), 0)
           AS held,
       coalesce(sum(p.price_micros) FILTER (WHERE p.status IN ('CONFIRMED', 'VERIFIED')), 0)
           AS spent
FROM budget_counters c LEFT JOIN payments p ON c.scope = ANY (p.scopes)
GROUP BY c.scope
"""
_LOST_RECEIPTS = """
SELECT count(*) FROM payments p FULL JOIN x402_payment_logs l USING (id)
WHERE (p.status IN ('CONFIRMED', 'VERIFIED')) IS DISTINCT FROM (l.id IS NOT NULL)
"""


async def check_books(database: Database) -> None:
    for row in await database.fetch(_HELD_AND_SPENT):
        assert row["held_micros"] == row["held"], dict(row)
        assert row["spent_micros"] == row["spent"], dict(row)
    assert await database.fetchval(_LOST_RECEIPTS) == 0


async def counter(database: Database, kind: str = "agent_day") -> tuple[int, int]:
    """(spent, held) of the only counter of a kind."""
    row = await database.fetchrow(
        "SELECT spent_micros, held_micros FROM budget_counters WHERE kind = $1::budget_kind", kind
    )
    assert row is not None
    return row["spent_micros"], row["held_micros"]


async def status(database: Database, payment_id: object) -> str | None:
    value = await database.fetchval("SELECT status::text FROM payments WHERE id = $1", payment_id)
    assert value is None or isinstance(value, str)
    return value
