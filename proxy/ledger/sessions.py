"""What one session may spend, and what it did. Money in micro-USD."""

from dataclasses import dataclass
from datetime import datetime

from proxy.ledger.agents import Agent, UnknownAgent
from proxy.ledger.database import Database

_LIMIT = "SELECT limit_session($1, $2, $3)"
_BUDGET = """
SELECT s.limit_micros AS limit, p.session_limit_micros AS policy_limit,
       coalesce(s.spent_micros, 0) AS spent, coalesce(s.held_micros, 0) AS held,
       coalesce(s.paid_calls, 0) AS paid_calls
FROM agents a JOIN agent_policies p ON p.agent_id = a.id
LEFT JOIN budget_counters s ON s.scope = session_scope(a.id, $2)
WHERE a.name = $1 AND a.is_active
"""
_SPENDING = """
SELECT paid.calls, paid.spent, paid.providers, open.calls AS open_calls, open.held,
       denied.calls AS denied_calls, denied.reason AS denied_reason,
       greatest(least(
           least(p.session_limit_micros, s.limit_micros)
               - coalesce(s.spent_micros, 0) - coalesce(s.held_micros, 0),
           p.daily_limit_micros - coalesce(d.spent_micros, 0) - coalesce(d.held_micros, 0)
       ), 0) AS remaining
FROM agent_policies p
LEFT JOIN budget_counters s ON s.scope = session_scope($1, $2)
LEFT JOIN budget_counters d ON d.scope = agent_day_scope($1, (now() AT TIME ZONE 'UTC')::date)
CROSS JOIN (
    SELECT count(*) AS calls, coalesce(sum(price_micros), 0)::bigint AS spent,
           coalesce(array_agg(DISTINCT provider), '{}') AS providers
    FROM payments WHERE agent_id = $1 AND session_id = $2 AND created_at >= $3
      AND status IN ('CONFIRMED', 'VERIFIED')
) paid
CROSS JOIN (
    SELECT count(*) AS calls, coalesce(sum(price_micros), 0)::bigint AS held
    FROM payments WHERE agent_id = $1 AND session_id = $2 AND created_at >= $3
      AND status IN ('INITIATED', 'SIGNED')
) open
CROSS JOIN (
    SELECT count(*) AS calls, coalesce(mode() WITHIN GROUP (ORDER BY reason), '') AS reason
    FROM policy_decision_logs WHERE agent_id = $1 AND session_id = $2 AND created_at >= $3
      AND decision = 'deny' AND reason <> 'not_payable'
) denied
WHERE p.agent_id = $1
"""


@dataclass(frozen=True, slots=True)
class Spending:
    """What a session did since some moment. `remaining` is the least that is left to it of its own
    budget and of its agent's day; `denied_reason` the most frequent one, "" if nothing was."""

    calls: int
    spent: int
    providers: list[str]
    open_calls: int
    held: int
    denied_calls: int
    denied_reason: str
    remaining: int


@dataclass(frozen=True, slots=True)
class Budget:
    """A session's: a `limit` of its own or None, that of its agent's policy, and what of the lower
    one is used."""

    limit: int | None
    policy_limit: int
    spent: int
    held: int
    paid_calls: int

    @property
    def remaining(self) -> int:
        """Until the lower limit: 0 too if it was set beneath what is used."""
        least = self.policy_limit if self.limit is None else min(self.limit, self.policy_limit)
        return max(least - self.spent - self.held, 0)


async def budget(database: Database, agent: str, session: str) -> Budget:
    """Also of a session that was never heard of. Raises UnknownAgent."""
    row = await database.fetchrow(_BUDGET, agent, session)
    if row is None:
        raise UnknownAgent(f"there is no agent {agent[:100]!r}")
    return Budget(**dict(row))


async def set_limit(database: Database, agent: Agent, session: str, limit: int | None) -> None:
    """Let this session spend no more than `limit` in all, whatever it has spent before; None: what
    the policy says. The limits of the agent's policy hold besides."""
    await database.fetchval(_LIMIT, agent.id, session, limit)


async def spending(database: Database, agent: Agent, session: str, since: datetime) -> Spending:
    """`since` by the database's clock."""
    (row,) = await database.fetch(_SPENDING, agent.id, session, since)
    return Spending(**dict(row))


async def now(database: Database) -> datetime:
    """The database's clock: the one that the books go by."""
    moment: datetime = await database.fetchval("SELECT now()")
    return moment
