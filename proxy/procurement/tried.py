"""What was tried for intents, as the books have it."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from proxy.ledger import Database

_TRIED = """
SELECT r.id, r.intent, a.name AS agent, r.attempt, r.provider_id AS provider, r.url, r.method,
       r.status, r.success, r.schema_ok, r.latency_ms, r.score::float8 AS score, r.payment_id,
       r.tx_hash, coalesce(p.price_micros, 0) AS price, p.status::text AS payment_status, r.error,
       r.created_at
FROM x402_procurement_receipts r
LEFT JOIN agents a ON a.id = r.agent_id
LEFT JOIN payments p ON p.id = r.payment_id
WHERE position(' ' IN r.intent) = 0
"""


@dataclass(frozen=True, slots=True)
class Tried:
    """One attempt. `price`: of its payment; 0 if there was none, or if what became of it was not
    known when the attempt ended (`error` says so)."""

    id: UUID
    intent: str
    agent: str | None
    attempt: int
    provider: str
    url: str
    method: str
    status: int
    success: bool
    schema_ok: bool
    latency_ms: int
    score: float
    payment_id: UUID | None
    tx_hash: str | None
    price: int
    payment_status: str | None
    error: str | None
    created_at: datetime

    MONEY = ("price",)


async def tried(database: Database, agent: UUID | None, limit: int) -> list[Tried]:
    """The newest attempts, of one agent or of all. Raises LedgerError."""
    if agent is None:
        rows = await database.fetch(f"{_TRIED} ORDER BY r.created_at DESC LIMIT $1", limit)
    else:
        rows = await database.fetch(
            f"{_TRIED} AND r.agent_id = $2 ORDER BY r.created_at DESC LIMIT $1", limit, agent
        )
    return [Tried(**dict(row)) for row in rows]
