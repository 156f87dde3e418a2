"""One payment whole: what was asked for, decided, paid, delivered, seen on the chain, and noted."""

import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, ClassVar
from uuid import UUID

from proxy.ledger.database import Database
from proxy.ledger.history import DECISIONS, PAYMENTS, RECEIPTS, Decision, Payment, Receipt
from proxy.ledger.questions.events import COLUMNS, Event, event_of

# Logs are looked through from the payment's own moment on: older months are left out. A decision
# has the very moment of its payment, or that of a repeated reservation soon after.
_REQUEST = """
SELECT r.id, r.method, r.endpoint, r.api_type::text AS api_type, r.status::text AS status,
       r.http_status, r.error_class, r.x402_instructions::text AS instructions, r.created_at,
       r.updated_at
FROM api_requests r JOIN payments p ON p.api_request_id = r.id WHERE p.id = $1
"""
# Each of one transaction, of one signature: by its name in the books, as we signed it, and as it
# was booked, or claimed, at first.
_NAMED = (
    "SELECT id FROM payments WHERE payment_hash = $1",
    "SELECT id FROM payments WHERE client_signature = $1",
    "SELECT id FROM x402_payment_logs WHERE tx_hash = $1",
    "SELECT id FROM x402_payment_logs WHERE settle_tx_hash = $1",
)
_DELIVERIES = """
SELECT status, success, schema_ok, latency_ms, total_ms, size_bytes, content_type, response_hash,
       whole, expected, unread, error, created_at
FROM x402_procurement_receipts WHERE payment_id = $1 ORDER BY created_at
"""
_STEPS = """
SELECT trace_id, step_index, tool_name, quoted_price_micros AS price, reason, outcome,
       budget_before_micros AS budget_before, budget_after_micros AS budget_after, created_at
FROM x402_trace_steps WHERE payment_id = $1 ORDER BY created_at
"""
_RETRIES = """
SELECT attempt_number AS attempt, backoff_delay AS delay, outcome::text AS outcome, error_class,
       error_message AS error, created_at
FROM retry_attempts WHERE payment_id = $1 ORDER BY attempt_number
"""
_TRANSACTIONS = """
SELECT confirmation_status::text AS level, solana_tx_metadata::text AS seen, gas_fees AS fee,
       is_duplicate, error_message AS error, created_at
FROM transaction_logs WHERE payment_id = $1 AND created_at >= $2 ORDER BY created_at
"""


@dataclass(frozen=True, slots=True)
class Request:
    """What met the 402. `instructions`: the challenge, as it was understood."""

    id: UUID
    method: str
    endpoint: str
    api_type: str
    status: str
    http_status: int
    error_class: str | None
    instructions: dict[str, Any] | None
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class Delivered:
    """What came back. `latency_ms` to its first byte, `total_ms` to its last; what it is null of
    was written before there was such a column."""

    status: int
    success: bool
    schema_ok: bool
    latency_ms: int
    total_ms: int | None
    size_bytes: int | None
    content_type: str | None
    response_hash: str
    whole: bool | None
    expected: bool | None
    unread: str | None
    error: str | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Step:
    """Its place in a trace, and the trace's budget around it."""

    MONEY: ClassVar = ("price", "budget_before", "budget_after")
    trace_id: str
    step_index: int
    tool_name: str
    price: int
    reason: str
    outcome: str
    budget_before: int
    budget_after: int
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Retried:
    """A try after the first; `delay_seconds` were waited before it."""

    attempt: int
    delay_seconds: float
    outcome: str
    error_class: str | None
    error: str | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Transaction:
    """What the chain showed of it, at one level; `fee` in lamports."""

    level: str
    seen: dict[str, Any]
    fee: int | None
    is_duplicate: bool
    error: str | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Story:
    """All there is about one payment; lists are the oldest first."""

    payment: Payment
    request: Request
    decisions: list[Decision]
    receipt: Receipt | None
    deliveries: list[Delivered]
    steps: list[Step]
    retries: list[Retried]
    transactions: list[Transaction]
    events: list[Event]


async def of_signature(database: Database, signature: str) -> list[UUID]:
    """The payments of a transaction, or of our signature in one; more than one only where several
    receipts claim what is booked as nobody's. None of these columns but the first has an index."""
    for statement in _NAMED:
        if rows := await database.fetch(statement, signature):
            return [row["id"] for row in rows]
    return []


async def story(database: Database, payment_id: UUID) -> Story | None:
    """None if there is no such payment."""
    row = await database.fetchrow(f"{PAYMENTS} WHERE p.id = $1", payment_id)
    if row is None:
        return None
    payment = Payment(**dict(row))
    begun = payment.created_at
    decided = await database.fetch(
        f"{DECISIONS} WHERE d.payment_id = $1 AND d.created_at >= $2 AND d.created_at < $3"
        " ORDER BY d.created_at",
        payment_id,
        begun - timedelta(days=1),
        begun + timedelta(days=2),
    )
    # An event is about the payment or about the request that it was for.
    request = await database.fetchrow(_REQUEST, payment_id)
    assert request is not None, "the database holds that there is one"
    noted = await database.fetch(
        f"{COLUMNS} WHERE e.related_id IN ($1, $2) AND e.created_at >= $3",
        payment_id,
        request["id"],
        begun,
    )
    receipt = await database.fetchrow(f"{RECEIPTS} WHERE l.id = $1", payment_id)
    return Story(
        payment=payment,
        request=Request(**{**dict(request), "instructions": _json(request["instructions"])}),
        decisions=[Decision(**dict(row)) for row in decided],
        receipt=None if receipt is None else Receipt(**dict(receipt)),
        deliveries=[
            Delivered(**dict(row)) for row in await database.fetch(_DELIVERIES, payment_id)
        ],
        steps=[Step(**dict(row)) for row in await database.fetch(_STEPS, payment_id)],
        retries=[
            Retried(
                row["attempt"],
                row["delay"].total_seconds(),
                *(row["outcome"], row["error_class"], row["error"], row["created_at"]),
            )
            for row in await database.fetch(_RETRIES, payment_id)
        ],
        transactions=[
            Transaction(
                row["level"],
                json.loads(row["seen"]),
                None if row["fee"] is None else int(row["fee"]),
                *(row["is_duplicate"], row["error"], row["created_at"]),
            )
            for row in await database.fetch(_TRANSACTIONS, payment_id, begun)
        ],
        # Sorted here: the order would tempt the planner to walk through time instead.
        events=sorted((event_of(row) for row in noted), key=lambda event: event.created_at),
    )


def _json(text: str | None) -> dict[str, Any] | None:
    return None if text is None else json.loads(text)
