"""Ceilings above the agents' own policies: per provider, per wallet, for all together. Micro-USD
per UTC day. The row that names its subject goes before the one for `*`; no row is no ceiling."""

from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar, Literal

from policies import MAX_MICROS, PolicyError
from proxy.ledger.agents import UnknownAgent
from proxy.ledger.database import Database

Kind = Literal["agent_provider_day", "provider_day", "wallet_day", "fleet_day"]
KINDS: tuple[Kind, ...] = ("agent_provider_day", "provider_day", "wallet_day", "fleet_day")
ALL = "*"

_AGENT = "SELECT id FROM agents WHERE name = $1 AND is_active"
_SET = """
INSERT INTO spend_limits (kind, agent_id, subject, limit_micros, updated_by)
VALUES ($1::text::budget_kind, $2, $3, $4, $5)
ON CONFLICT (kind, agent_id, subject)
DO UPDATE SET limit_micros = excluded.limit_micros, updated_by = excluded.updated_by
"""
_CLEAR = """
DELETE FROM spend_limits
WHERE kind = $1::text::budget_kind AND agent_id IS NOT DISTINCT FROM $2 AND subject = $3
RETURNING 1
"""
_LIST = """
SELECT l.kind::text, a.name AS agent, l.subject, l.limit_micros AS limit,
       coalesce(c.spent_micros, 0) AS spent, coalesce(c.held_micros, 0) AS held, l.updated_by,
       l.updated_at
FROM spend_limits l
LEFT JOIN agents a ON a.id = l.agent_id
LEFT JOIN budget_counters c ON c.kind = l.kind AND c.day = (now() AT TIME ZONE 'UTC')::date
     AND c.agent_id IS NOT DISTINCT FROM l.agent_id
     AND (c.subject = l.subject OR l.kind = 'fleet_day')
ORDER BY l.kind, a.name NULLS FIRST, l.subject
"""


@dataclass(frozen=True, slots=True)
class Ceiling:
    """A ceiling, and what of it is used today: 0 where it is for each of many."""

    MONEY: ClassVar = ("limit", "spent", "held")
    kind: Kind
    agent: str | None
    subject: str
    limit: int
    spent: int
    held: int
    updated_by: str | None
    updated_at: datetime


async def set_ceiling(
    database: Database,
    kind: Kind,
    subject: str,
    limit: int,
    *,
    agent: str | None = None,
    by: str = "",
) -> None:
    """From the next reservation on. Raises UnknownAgent, PolicyError for a limit out of range."""
    if not 0 <= limit <= MAX_MICROS:
        raise PolicyError(f"limit {limit}: a limit is 0 to {MAX_MICROS} micro-USD")
    await database.execute(_SET, kind, await _agent_id(database, agent), subject, limit, by)


async def clear_ceiling(
    database: Database, kind: Kind, subject: str, *, agent: str | None = None
) -> bool:
    """Whether there was one. Raises UnknownAgent."""
    agent_id = await _agent_id(database, agent)
    return await database.fetchval(_CLEAR, kind, agent_id, subject) is not None


async def ceilings(database: Database) -> list[Ceiling]:
    """All of them."""
    return [Ceiling(**dict(row)) for row in await database.fetch(_LIST)]


async def _agent_id(database: Database, name: str | None) -> object:
    if name is None:
        return None
    found = await database.fetchval(_AGENT, name)
    if found is None:
        raise UnknownAgent(f"there is no agent {name[:100]!r}")
    return found
