"""Figures for people: how agents are liked and used, what happened, and what it cost.

Every question is about the last days, so that no table is read from its beginning.
"""

from dataclasses import dataclass
from datetime import date
from typing import ClassVar

from proxy.ledger import Database

_AGENTS = """
SELECT a.name AS agent, coalesce(r.positive, 0) AS positive, coalesce(r.negative, 0) AS negative,
       coalesce(q.uses, 0) AS uses, q.average_response_ms
FROM agents a
LEFT JOIN LATERAL (
    SELECT count(*) FILTER (WHERE is_positive) AS positive,
           count(*) FILTER (WHERE NOT is_positive) AS negative
    FROM message_ratings r WHERE r.agent_id = a.id::text
) r ON true
LEFT JOIN LATERAL (
    SELECT count(*) AS uses, round(avg(response_time_ms))::integer AS average_response_ms
    FROM query_logs q WHERE q.agent_id = a.id::text
      AND q.created_at >= now() - $1::integer * interval '1 day'
) q ON true
WHERE a.is_active AND ($2::text IS NULL OR a.name = $2)
ORDER BY a.name
"""
_STATS = """
SELECT
    (SELECT count(*) FROM agents WHERE is_active) AS agents,
    (SELECT count(*) FROM chat_sessions s
     WHERE s.created_at >= now() - $1::integer * interval '1 day') AS chat_sessions,
    (SELECT count(*) FROM chat_messages m
     WHERE m.created_at >= now() - $1::integer * interval '1 day') AS chat_messages,
    (SELECT count(*) FROM message_ratings r
     WHERE r.created_at >= now() - $1::integer * interval '1 day' AND is_positive) AS positive,
    (SELECT count(*) FROM message_ratings r
     WHERE r.created_at >= now() - $1::integer * interval '1 day' AND NOT is_positive) AS negative,
    q.queries, q.average_response_ms, p.paid_calls, p.spent
FROM (
    SELECT count(*) AS queries, round(avg(response_time_ms))::integer AS average_response_ms
    FROM query_logs q WHERE q.created_at >= now() - $1::integer * interval '1 day'
) q, (
    SELECT count(*) AS paid_calls, coalesce(sum(price_micros), 0)::bigint AS spent
    FROM payments p WHERE p.created_at >= now() - $1::integer * interval '1 day'
      AND p.status IN ('CONFIRMED', 'VERIFIED')
) p
"""
_ACTIVITY = """
WITH days AS (
    SELECT d::date AS day FROM generate_series(
        (now() AT TIME ZONE 'UTC')::date - ($1::integer - 1), (now() AT TIME ZONE 'UTC')::date,
        '1 day') d
), said AS (
    SELECT (created_at AT TIME ZONE 'UTC')::date AS day, count(*) AS messages FROM chat_messages
    WHERE created_at >= now() - $1::integer * interval '1 day' GROUP BY 1
), paid AS (
    SELECT p.day, count(*) AS paid_calls, sum(price_micros)::bigint AS spent FROM payments p
    WHERE p.created_at >= now() - $1::integer * interval '1 day'
      AND p.status IN ('CONFIRMED', 'VERIFIED') GROUP BY 1
)
SELECT days.day, coalesce(messages, 0) AS messages, coalesce(paid_calls, 0) AS paid_calls,
       coalesce(spent, 0) AS spent
FROM days LEFT JOIN said USING (day) LEFT JOIN paid USING (day) ORDER BY days.day DESC
"""
_SPEND = """
SELECT a.name AS agent, p.provider, count(*) AS paid_calls, sum(p.price_micros)::bigint AS spent
FROM payments p JOIN agents a ON a.id = p.agent_id
WHERE p.created_at >= now() - $1::integer * interval '1 day'
      AND p.status IN ('CONFIRMED', 'VERIFIED') AND ($2::text IS NULL OR a.name = $2)
GROUP BY 1, 2 ORDER BY spent DESC, agent, provider LIMIT 1000
"""


@dataclass(frozen=True, slots=True)
class AgentFigures:
    """`uses`: answered requests. `positive`, `negative`: ratings of all time."""

    agent: str
    positive: int
    negative: int
    uses: int
    average_response_ms: int | None


@dataclass(frozen=True, slots=True)
class Stats:
    """`spent` in micro-USD."""

    agents: int
    chat_sessions: int
    chat_messages: int
    positive: int
    negative: int
    queries: int
    average_response_ms: int | None
    paid_calls: int
    spent: int

    MONEY: ClassVar = ("spent",)


@dataclass(frozen=True, slots=True)
class Day:
    """One UTC day."""

    day: date
    messages: int
    paid_calls: int
    spent: int

    MONEY: ClassVar = ("spent",)


@dataclass(frozen=True, slots=True)
class Spend:
    """What one agent spent at one provider."""

    agent: str
    provider: str
    paid_calls: int
    spent: int

    MONEY: ClassVar = ("spent",)


async def agent_figures(
    database: Database, days: int, agent: str | None = None
) -> list[AgentFigures]:
    """How each active agent, or this one, is liked and used."""
    return [AgentFigures(**dict(row)) for row in await database.fetch(_AGENTS, days, agent)]


async def stats(database: Database, days: int) -> Stats:
    """Everything in one line."""
    row = await database.fetchrow(_STATS, days)
    assert row is not None
    return Stats(**dict(row))


async def activity(database: Database, days: int) -> list[Day]:
    """Day by day, the newest first; days on which nothing happened too."""
    return [Day(**dict(row)) for row in await database.fetch(_ACTIVITY, days)]


async def spend(database: Database, days: int, agent: str | None = None) -> list[Spend]:
    """By agent and provider, the dearest first, 1,000 at most."""
    return [Spend(**dict(row)) for row in await database.fetch(_SPEND, days, agent)]
