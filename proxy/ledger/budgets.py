"""What is spent, held and left of every budget with a window of time. Money in micro-USD."""

from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar

from proxy.ledger.database import Database

_NOW = """
SELECT agent, provider, CASE win WHEN 'rolling' THEN hours || 'h' ELSE win END AS window,
       limit_micros AS limit, limit_payments AS payments_limit, spent_micros AS spent,
       held_micros AS held, greatest(limit_micros - spent_micros - held_micros, 0) AS remaining,
       payments, resets_at
FROM budgets_now($1)
"""


@dataclass(frozen=True, slots=True)
class Budget:
    """One window of one layer. `agent` None: of all agents together; `provider`: the pattern that
    it is about, None: everywhere. `window`: hour, day, month (of UTC), lifetime, or so many hours,
    like "24h", which roll. `payments`: settled and under way."""

    MONEY: ClassVar = ("limit", "spent", "held", "remaining")
    agent: str | None
    provider: str | None
    window: str
    limit: int | None
    payments_limit: int | None
    spent: int
    held: int
    remaining: int | None
    payments: int
    resets_at: datetime | None


async def now(database: Database, agent: str | None = None) -> list[Budget]:
    """Of one agent, or of all and of what they spend together."""
    return [Budget(**dict(row)) for row in await database.fetch(_NOW, agent)]
