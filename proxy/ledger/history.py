"""What was decided, paid and left open: the operator's questions. Money in micro-USD."""

from dataclasses import dataclass
from datetime import date, datetime
from typing import ClassVar
from uuid import UUID

import asyncpg

from proxy.ledger.asking import OF_AGENT, Where
from proxy.ledger.database import Database

RECEIPTS = """
SELECT l.id, a.name AS agent, l.method, l.endpoint, l.amount, l.symbol, l.network, l.pay_to,
       l.amount_micros AS price, coalesce(l.tx_hash, l.settle_tx_hash, '') AS transaction,
       l.success, l.http_status, l.latency_ms, l.session_id, l.trace_id, l.created_at,
       d.latency_ms AS first_byte_ms, d.total_ms, d.size_bytes, d.content_type, d.response_hash,
       d.schema_ok, d.expected, d.unread, w.payment_id IS NOT NULL AS paid_failed,
       CASE WHEN w.payment_id IS NOT NULL THEN d.error END AS fault
FROM x402_payment_logs l JOIN agents a ON a.id = l.agent_id
LEFT JOIN LATERAL (SELECT r.* FROM x402_procurement_receipts r WHERE r.payment_id = l.id
                   ORDER BY r.success DESC, r.created_at DESC LIMIT 1) d ON true
LEFT JOIN losses w ON w.payment_id = l.id
"""
DECISIONS = """
SELECT d.id, d.payment_id, coalesce(a.name, d.agent_id::text) AS agent, d.method, d.endpoint,
       d.decision, d.reason, d.detail, d.quoted_price_micros AS price, d.limit_micros AS limit,
       d.spent_today_micros AS spent_today, d.reserved_micros AS held_today,
       d.remaining_daily_micros AS remaining_today, d.policy_version, d.shadow_reason,
       d.session_id, d.trace_id, d.created_at
FROM policy_decision_logs d LEFT JOIN agents a ON a.id = d.agent_id
"""
PAYMENTS = """
SELECT p.id, a.name AS agent, p.status::text AS status, p.in_doubt_since IS NOT NULL
           AND p.status IN ('INITIATED', 'SIGNED') AS in_doubt,
       p.provider, p.method, p.endpoint, p.amount_atomic::text AS amount, p.symbol, p.network,
       p.pay_to, p.price_micros AS price, coalesce(p.payment_hash, '') AS transaction,
       p.doubt_reason, p.release_reason, p.session_id, p.trace_id, p.created_at, p.settled_at
FROM payments p JOIN agents a ON a.id = p.agent_id
"""
_TODAY = """
SELECT a.name AS agent, t.day, p.frozen, coalesce(c.spent_micros, 0) AS spent,
       coalesce(c.held_micros, 0) AS held, p.daily_limit_micros AS limit,
       greatest(p.daily_limit_micros - coalesce(c.spent_micros, 0) - coalesce(c.held_micros, 0), 0)
           AS remaining,
       coalesce(c.paid_calls, 0) AS paid_calls,
       (SELECT coalesce(sum(s.saved_micros), 0)::bigint FROM cache_savings s
         WHERE s.agent_id = a.id AND s.day = t.day) AS saved
FROM (SELECT (now() AT TIME ZONE 'UTC')::date AS day) t
CROSS JOIN agents a
JOIN agent_policies p ON p.agent_id = a.id
LEFT JOIN budget_counters c ON c.scope = agent_day_scope(a.id, t.day)
WHERE a.is_active
ORDER BY a.name
"""
_OPEN = """
SELECT p.id, a.name AS agent, p.status::text AS status, p.method, p.endpoint,
       p.amount_atomic::text AS amount, p.symbol, p.network, p.pay_to, p.price_micros AS price,
       p.doubt_reason, p.in_doubt_since, p.blockhash, p.last_valid_block_height,
       p.client_signature, p.created_at
FROM payments p JOIN agents a ON a.id = p.agent_id
WHERE p.status IN ('INITIATED', 'SIGNED')
  AND (p.in_doubt_since IS NOT NULL OR p.created_at < now() - make_interval(secs => $1))
  AND ($3::text IS NULL OR a.name = $3)
ORDER BY p.created_at LIMIT $2
"""

MEMO_REFUSED = "memo_refused"
"""The doubt_reason of a payment whose facilitator wanted no memo."""

_REJECTIONS = """
SELECT a.name AS agent, r.host, r.reason, r.times, r.last_seen, r.left_until
FROM certificate_rejections r JOIN agents a ON a.id = r.agent_id
WHERE r.left_until > now()
ORDER BY r.last_seen DESC LIMIT $1
"""
_MEMO_LESS = """
SELECT DISTINCT provider FROM payments
WHERE doubt_reason = $1 AND created_at > now() - interval '90 days'
"""


Position = tuple[datetime, UUID]
"""Where a record stands in a list of its kind: `created_at` and `id`."""

STATUSES = ("INITIATED", "SIGNED", "CONFIRMED", "VERIFIED", "FAILED")


@dataclass(frozen=True, slots=True)
class Within:
    """What else is asked of a list: a session, a trace, from `since` on and before `until`."""

    session: str | None = None
    trace: str | None = None
    since: datetime | None = None
    until: datetime | None = None


_EVERYTHING = Within()


@dataclass(frozen=True, slots=True)
class Receipt:
    """A settled payment; `amount` in atomic units, as text. `MONEY` names the fields in micro-USD,
    here and below. `latency_ms` is to the head that told of the settlement; from `first_byte_ms` on
    it is what came in the end, and null until then. `unread`: why its body was not held against
    what was expected. `paid_failed`: it is not what was paid for, `fault` says why."""

    MONEY: ClassVar = ("price",)
    id: UUID
    agent: str
    method: str
    endpoint: str
    amount: str
    symbol: str
    network: str
    pay_to: str
    price: int
    transaction: str
    success: bool
    http_status: int | None
    latency_ms: int
    session_id: str | None
    trace_id: str | None
    created_at: datetime
    first_byte_ms: int | None
    total_ms: int | None
    size_bytes: int | None
    content_type: str | None
    response_hash: str | None
    schema_ok: bool | None
    expected: bool | None
    unread: str | None
    paid_failed: bool
    fault: str | None


@dataclass(frozen=True, slots=True)
class Decision:
    """One allow or deny; the `_today` numbers are those after it. `shadow_reason`: what the book
    said that only looks on, if there was one."""

    MONEY: ClassVar = ("price", "limit", "spent_today", "held_today", "remaining_today")
    id: UUID
    payment_id: UUID | None
    agent: str
    method: str
    endpoint: str
    decision: str
    reason: str
    detail: str
    price: int
    limit: int | None
    spent_today: int
    held_today: int
    remaining_today: int
    policy_version: int | None
    shadow_reason: str | None
    session_id: str | None
    trace_id: str | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Payment:
    """A payment from its reservation on; `amount` in atomic units, as text. `in_doubt`: it left,
    and what became of it is not known."""

    MONEY: ClassVar = ("price",)
    id: UUID
    agent: str
    status: str
    in_doubt: bool
    provider: str
    method: str
    endpoint: str
    amount: str
    symbol: str
    network: str
    pay_to: str
    price: int
    transaction: str
    doubt_reason: str | None
    release_reason: str | None
    session_id: str | None
    trace_id: str | None
    created_at: datetime
    settled_at: datetime | None


@dataclass(frozen=True, slots=True)
class Today:
    """An agent's UTC day so far. `saved`: what cached answers would have cost."""

    MONEY: ClassVar = ("spent", "held", "limit", "remaining", "saved")
    agent: str
    day: date
    frozen: bool
    spent: int
    held: int
    limit: int
    remaining: int
    paid_calls: int
    saved: int


@dataclass(frozen=True, slots=True)
class OpenPayment:
    """A payment whose fate is not known: its money is held."""

    id: UUID
    agent: str
    status: str
    method: str
    endpoint: str
    amount: str
    symbol: str
    network: str
    pay_to: str
    price: int
    doubt_reason: str | None
    in_doubt_since: datetime | None
    blockhash: str | None
    last_valid_block_height: int | None
    client_signature: str | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Rejection:
    """A host that is not paid for an agent, since its program does not trust our CA."""

    agent: str
    host: str
    reason: str
    times: int
    last_seen: datetime
    left_until: datetime


async def receipts(
    database: Database,
    agent: str | None = None,
    limit: int = 50,
    before: Position | None = None,
    within: Within = _EVERYTHING,
) -> list[Receipt]:
    """The newest receipts, of one agent or of all; `before`: the newest behind that one."""
    where = _where("l", agent, limit, before, within)
    return [Receipt(**dict(row)) for row in await _newest(database, RECEIPTS, "l", where)]


async def decisions(
    database: Database,
    agent: str | None = None,
    limit: int = 50,
    before: Position | None = None,
    within: Within = _EVERYTHING,
    *,
    decision: str | None = None,
    reason: str | None = None,
) -> list[Decision]:
    """The newest decisions; see `receipts`."""
    where = _where("d", agent, limit, before, within)
    where.add("d.decision = {}", decision)
    where.add("d.reason = {}", reason)
    return [Decision(**dict(row)) for row in await _newest(database, DECISIONS, "d", where)]


async def payments(
    database: Database,
    agent: str | None = None,
    limit: int = 50,
    before: Position | None = None,
    within: Within = _EVERYTHING,
    *,
    status: str | None = None,
    provider: str | None = None,
) -> list[Payment]:
    """The newest payments, whatever became of them; see `receipts`. Raises ValueError for a status
    that is none."""
    where = _where("p", agent, limit, before, within)
    where.one_of("p.status", [status] if status else [], STATUSES)
    where.add("p.provider = {}", provider)
    return [Payment(**dict(row)) for row in await _newest(database, PAYMENTS, "p", where)]


async def today(database: Database) -> list[Today]:
    """What every active agent has spent, holds and has left today."""
    return [Today(**dict(row)) for row in await database.fetch(_TODAY)]


async def in_doubt(
    database: Database, agent: str | None = None, *, silent_for: float = 60.0, limit: int = 100
) -> list[OpenPayment]:
    """Open payments in doubt, or of which nothing was heard for `silent_for` seconds; of one agent
    or of all, oldest first."""
    rows = await database.fetch(_OPEN, silent_for, limit, agent)
    return [OpenPayment(**dict(row)) for row in rows]


async def unverified(
    database: Database, agent: str | None = None, limit: int = 100
) -> list[Payment]:
    """Payments that their provider says are settled and that were not yet seen finalized on the
    chain; of one agent or of all, oldest first."""
    where = Where(limit)
    where.add(f"p.{OF_AGENT}", agent)
    rows = await database.fetch(
        f"{PAYMENTS} WHERE p.status = 'CONFIRMED' AND {where} ORDER BY p.created_at LIMIT $1",
        *where.args,
    )
    return [Payment(**dict(row)) for row in rows]


async def memo_less(database: Database) -> set[str]:
    """Providers (scheme://host:port) whose facilitators have refused a payment for its memo."""
    return {row["provider"] for row in await database.fetch(_MEMO_LESS, MEMO_REFUSED)}


async def rejections(database: Database, limit: int = 50) -> list[Rejection]:
    """Hosts whose tunnels are left alone now because a program rejected our certificate."""
    return [Rejection(**dict(row)) for row in await database.fetch(_REJECTIONS, limit)]


def _where(
    table: str, agent: str | None, limit: int, before: Position | None, within: Within
) -> Where:
    where = Where(limit)
    where.add(f"{table}.{OF_AGENT}", agent)
    where.add(f"{table}.session_id = {{}}", within.session)
    where.add(f"{table}.trace_id = {{}}", within.trace)
    where.since(f"{table}.created_at", within.since)
    where.add(f"{table}.created_at < {{}}", within.until)
    where.behind(table, before)
    return where


async def _newest(
    database: Database, select: str, table: str, where: Where
) -> list[asyncpg.Record]:
    order = f"{table}.created_at DESC, {table}.id DESC"
    return await database.fetch(f"{select} WHERE {where} ORDER BY {order} LIMIT $1", *where.args)
