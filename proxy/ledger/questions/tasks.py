"""Traces and sessions: what one task did step by step, what one session spent. Money in micro-USD.

Ids are the callers' own words, so one id may be a trace, or a session, of several agents.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar
from uuid import UUID

from proxy.ledger.asking import OF_AGENT, Where
from proxy.ledger.database import Database

_TRACES = """
SELECT a.name AS agent, t.trace_id, t.session_id, t.steps, t.budget_limit_micros AS budget,
       t.spent_end_micros - t.spent_start_micros AS spent, t.remaining_end_micros AS remaining,
       t.created_at, t.updated_at
FROM x402_traces t JOIN agents a ON a.id = t.agent_id
"""
_STEPS = """
SELECT a.name AS agent, s.step_index, s.tool_name, s.endpoint, s.quoted_price_micros AS price,
       s.reason, s.outcome, s.payment_id, s.created_at
FROM x402_traces t JOIN agents a ON a.id = t.agent_id
JOIN x402_trace_steps s ON s.agent_id = t.agent_id AND s.trace_id = t.trace_id
WHERE t.trace_id = $1 ORDER BY a.name, s.step_index
"""
_SESSIONS = """
SELECT a.name AS agent, x.session_id, x.spent_micros AS spent, x.held_micros AS held, x.paid_calls,
       x.updated_at
FROM x402_session_spend x JOIN agents a ON a.id = x.agent_id
WHERE x.session_id = $1 ORDER BY a.name
"""


@dataclass(frozen=True, slots=True)
class Trace:
    MONEY: ClassVar = ("budget", "spent", "remaining")
    agent: str
    trace_id: str
    session_id: str | None
    steps: int
    budget: int
    spent: int
    remaining: int
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class TraceStep:
    """`payment_id` is None for a step that was denied."""

    MONEY: ClassVar = ("price",)
    agent: str
    step_index: int
    tool_name: str
    endpoint: str
    price: int
    reason: str
    outcome: str
    payment_id: UUID | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class SessionSpend:
    MONEY: ClassVar = ("spent", "held")
    agent: str
    session_id: str
    spent: int
    held: int
    paid_calls: int
    updated_at: datetime


async def traces(
    database: Database,
    *,
    trace_id: str | None = None,
    session_id: str | None = None,
    agent: str | None = None,
    limit: int = 50,
) -> list[Trace]:
    """The newest of this id, session and agent. At least one of these must be given."""
    where = Where(limit)
    where.add("t.trace_id = {}", trace_id)
    where.add("t.session_id = {}", session_id)
    where.add(f"t.{OF_AGENT}", agent)
    rows = await database.fetch(
        f"{_TRACES} WHERE {where} ORDER BY t.created_at DESC LIMIT $1", *where.args
    )
    return [Trace(**dict(row)) for row in rows]


async def steps(database: Database, trace_id: str) -> list[TraceStep]:
    """Of each agent's trace of this id, in order."""
    return [TraceStep(**dict(row)) for row in await database.fetch(_STEPS, trace_id)]


async def sessions(database: Database, session_id: str) -> list[SessionSpend]:
    """What each agent spent in its session of this id."""
    return [SessionSpend(**dict(row)) for row in await database.fetch(_SESSIONS, session_id)]
