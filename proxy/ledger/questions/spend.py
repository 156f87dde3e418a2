"""Where the money went, by provider, by agent or by UTC day. Money in micro-USD.

Read from the budgets' counters, which every move of money keeps exact: one row per subject and day,
however many payments there were. A payment counts on the day of its reservation.
"""

from dataclasses import dataclass, replace
from datetime import date, timedelta
from typing import ClassVar, Literal

from proxy.ledger.asking import OF_AGENT, Where
from proxy.ledger.database import Database

By = Literal["provider", "agent", "day"]

# Whose counters tell it: of all agents together, of one.
_KINDS: dict[By, tuple[str, str]] = {
    "provider": ("provider_day", "agent_provider_day"),
    "agent": ("agent_day", "agent_day"),
    "day": ("fleet_day", "agent_day"),
}
_NAMES: dict[By, str] = {"provider": "c.subject", "agent": "a.name", "day": "c.day::text"}
_SPEND = """
SELECT {name} AS name, {day} AS day, sum(c.spent_micros)::bigint AS spent,
       sum(c.held_micros)::bigint AS held, sum(c.paid_calls)::bigint AS paid_calls
FROM budget_counters c LEFT JOIN agents a ON a.id = c.agent_id
WHERE {where}
GROUP BY 1, 2 HAVING sum(c.spent_micros + c.held_micros) > 0
ORDER BY 2 DESC, sum(c.spent_micros) DESC, 1 LIMIT $1
"""


_SAVED_NAMES: dict[By, str] = {"provider": "s.provider", "agent": "a.name", "day": "s.day::text"}
_SAVED = """
SELECT {name} AS name, {day} AS day, sum(s.saved_micros)::bigint AS saved
FROM cache_savings s JOIN agents a ON a.id = s.agent_id
WHERE {where}
GROUP BY 1, 2 ORDER BY 2 DESC, 3 DESC, 1 LIMIT $1
"""


@dataclass(frozen=True, slots=True)
class Spend:
    """What a provider (scheme://host:port), an agent or a day took; `held` is not paid yet, or its
    fate is not known; `saved` is what cached answers would have cost. `day` is None for the sum of
    all days."""

    MONEY: ClassVar = ("spent", "held", "saved")
    name: str
    day: date | None
    spent: int
    held: int
    paid_calls: int
    saved: int = 0


async def spend(
    database: Database,
    by: By,
    *,
    agent: str | None = None,
    since: timedelta | None = None,
    daily: bool = False,
    limit: int = 1000,
) -> list[Spend]:
    """By `by`, of one agent or of all, since the UTC day that was `since` ago; the greatest first,
    days the newest first; at the end what only the cache served. `daily`: each day for itself."""
    where = Where(limit)
    where.add("c.kind = {}::text::budget_kind", _KINDS[by][agent is not None])
    where.add(f"c.{OF_AGENT}", agent)
    where.add("c.day >= ((now() - {}::interval) AT TIME ZONE 'UTC')::date", since)
    statement = _SPEND.format(
        name=_NAMES[by],
        day="c.day" if daily or by == "day" else "NULL::date",
        where=where,
    )
    found = [Spend(**dict(row)) for row in await database.fetch(statement, *where.args)]
    saved = await _saved(database, by, agent, since, daily, limit)
    found = [replace(one, saved=saved.pop((one.name, one.day), 0)) for one in found]
    return (found + [Spend(*key, 0, 0, 0, micros) for key, micros in saved.items()])[:limit]


async def _saved(
    database: Database,
    by: By,
    agent: str | None,
    since: timedelta | None,
    daily: bool,
    limit: int,
) -> dict[tuple[str, date | None], int]:
    """(name, day) → what the cache saved."""
    where = Where(limit)
    where.add(f"s.{OF_AGENT}", agent)
    where.add("s.day >= ((now() - {}::interval) AT TIME ZONE 'UTC')::date", since)
    statement = _SAVED.format(
        name=_SAVED_NAMES[by],
        day="s.day" if daily or by == "day" else "NULL::date",
        where=where,
    )
    rows = await database.fetch(statement, *where.args)
    return {(row["name"], row["day"]): row["saved"] for row in rows}
