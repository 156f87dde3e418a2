"""What happened: the audit trail of an agent or of all, and full-text search in it."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg

from proxy.ledger.asking import OF_AGENT, Since, Where
from proxy.ledger.database import Database
from proxy.ledger.history import Position

TYPES = (
    *("PAYMENT_SUCCESS", "PAYMENT_FAILURE", "LOW_BALANCE", "NETWORK_ISSUE", "CIRCUIT_BREAKER"),
    *("API_ACCESS", "PAYMENT_STATUS", "POLICY_CHANGE", "AGENT_CHANGE", "ALARM", "MAINTENANCE"),
    *("OPERATOR_ACTION", "BUDGET_ALERT", "WEBHOOK_CHANGE"),
)
SEVERITIES = ("INFO", "WARNING", "ERROR")

COLUMNS = """
SELECT e.id, a.name AS agent, e.event_type::text AS type, e.severity::text AS severity,
       e.related_id, e.details::text AS details, e.created_at
FROM audit_events e JOIN agents a ON a.id = e.agent_id
"""
_DETAILS = "jsonb_to_tsvector('simple', e.details, '[\"all\"]')"  # as in the index
_WORD = re.compile(r"[^\s'\\\0]+")


@dataclass(frozen=True, slots=True)
class Event:
    """`related_id`: the payment, request or wallet that it is about. `agent` is "autopay" where it
    concerns everybody."""

    id: UUID
    agent: str
    type: str
    severity: str
    related_id: UUID | None
    details: dict[str, Any]
    created_at: datetime


async def events(
    database: Database,
    *,
    agent: str | None = None,
    words: str = "",
    types: Sequence[str] = (),
    severities: Sequence[str] = (),
    since: Since | None = None,
    until: datetime | None = None,
    before: Position | None = None,
    limit: int = 50,
) -> list[Event]:
    """The newest events for which all of this holds, newest first.

    `words`: something in the details, a name or a value, begins with each of them, in upper or
    lower case. `before`: the newest behind that one. Raises ValueError for a type that is none.
    """
    where = Where(limit)
    where.add(f"e.{OF_AGENT}", agent)
    where.add(f"{_DETAILS} @@ to_tsquery('simple', {{}})", _query(words))
    where.one_of("e.event_type", types, TYPES)
    where.one_of("e.severity", severities, SEVERITIES)
    where.since("e.created_at", since)
    where.add("e.created_at < {}", until)
    where.behind("e", before)
    rows = await database.fetch(
        f"{COLUMNS} WHERE {where} ORDER BY e.created_at DESC, e.id DESC LIMIT $1", *where.args
    )
    return [event_of(row) for row in rows]


def event_of(row: asyncpg.Record) -> Event:
    """Of a row of `COLUMNS`."""
    return Event(**{**dict(row), "details": json.loads(row["details"] or "{}")})


def _query(words: str) -> str | None:
    """As to_tsquery reads it. Each word is quoted, so that no character in it is an operator."""
    return " & ".join(f"'{word}':*" for word in _WORD.findall(words)) or None
