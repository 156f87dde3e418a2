"""What was paid for and not delivered, as its provider can be told of it.

No query, no session, no trace, no program's words: an endpoint without its query, and hashes.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar
from uuid import UUID

from proxy.ledger.asking import Since, Where
from proxy.ledger.database import Database
from proxy.ledger.history import Position

# `losses` says what a loss is (0030_gate.sql); one that is good after all is none any more.
_CLAIMS = """
SELECT w.id, w.provider, p.method, split_part(p.endpoint, '?', 1) AS endpoint,
       p.created_at AS requested_at, encode(p.request_body_sha256, 'hex') AS request_body_sha256,
       p.amount_atomic::text AS amount, p.decimals, p.symbol, p.asset, p.network,
       p.price_micros AS price, p.pay_to, p.payer,
       coalesce(p.payment_hash, l.tx_hash, l.settle_tx_hash, '') AS transaction,
       p.status = 'VERIFIED' AS finalized,
       d.status, d.content_type, d.size_bytes, d.response_hash, d.latency_ms AS first_byte_ms,
       d.total_ms, coalesce(d.error, 'no answer came') AS fault, a.name AS agent, w.created_at
FROM (SELECT payment_id AS id, provider, created_at FROM losses) w
JOIN payments p ON p.id = w.id
JOIN agents a ON a.id = p.agent_id
LEFT JOIN x402_payment_logs l ON l.id = w.id
LEFT JOIN LATERAL (SELECT r.* FROM x402_procurement_receipts r WHERE r.payment_id = w.id
                   ORDER BY r.created_at DESC LIMIT 1) d ON true
"""


@dataclass(frozen=True, slots=True)
class Claim:
    """A payment for nothing; `amount` in atomic units, as text. From `status` on it is what came
    back, null where nothing did; `fault` is what was wrong with it. `finalized`: we have seen the
    transaction on the chain ourselves. `agent` is null unless names are asked for. `created_at`:
    when it was found out."""

    MONEY: ClassVar = ("price",)
    id: UUID
    provider: str
    method: str
    endpoint: str
    requested_at: datetime
    request_body_sha256: str | None
    amount: str
    decimals: int
    symbol: str
    asset: str
    network: str
    price: int
    pay_to: str
    payer: str | None
    transaction: str
    finalized: bool
    status: int | None
    content_type: str | None
    size_bytes: int | None
    response_hash: str | None
    first_byte_ms: int | None
    total_ms: int | None
    fault: str
    agent: str | None
    created_at: datetime


async def claims(
    database: Database,
    limit: int = 50,
    before: Position | None = None,
    *,
    provider: str | None = None,
    since: Since | None = None,
    until: datetime | None = None,
    named: bool = False,
) -> list[Claim]:
    """The newest; `before`: those behind that one. `provider`: scheme://host:port."""
    where = Where(limit)
    where.add("w.provider = {}", provider)
    where.since("w.created_at", since)
    where.add("w.created_at < {}", until)
    where.behind("w", before)
    rows = await database.fetch(
        f"{_CLAIMS} WHERE {where} ORDER BY w.created_at DESC, w.id DESC LIMIT $1", *where.args
    )
    hidden = {} if named else {"agent": None}
    return [Claim(**{**dict(row), **hidden}) for row in rows]
