"""Where the money went, by provider, by agent or by UTC day. Money in micro-USD.

Read from the budgets' counters, which every move of money keeps exact: one row per subject and day,
however many payments there were. A payment counts on the day of its reservation.
"""

from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class Spend:
    """What a provider (scheme://host:port), an agent or a day took; `held` is not paid yet, or its
    fate is not known. `day` is None for the sum of all days."""

    MONEY: ClassVar = ("spent", "held")
    name: str
    day: date | None
    spent: int
    held: int
    paid_calls: int


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
    days the newest first. `daily`: each day for itself."""
    where = Where(limit)
    where.add("c.kind = {}::text::budget_kind", _KINDS[by][agent is not None])
    where.add(f"c.{OF_AGENT}", agent)
    where.add("c.day >= ((now() - {}::interval) AT TIME ZONE 'UTC')::date", since)
    statement = _SPEND.format(
        name=_NAMES[by],
        day="c.day" if daily or by == "day" else "NULL::date",
        where=where,
    )
    return [Spend(**dict(row)) for row in await database.fetch(statement, *where.args)]
