"""An agent's tokens as the operator sees and ends them: by their ids, never by what is secret."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from proxy.ledger.agents import UnknownAgent
from proxy.ledger.database import Database
from proxy.ledger.errors import LedgerError

_AGENT = "SELECT id FROM agents WHERE name = $1 AND is_active"
_LIST = """
SELECT t.id, t.session_id AS session, t.created_at, t.expires_at
FROM agent_tokens t JOIN agents a ON a.id = t.agent_id
WHERE a.name = $1 AND a.is_active
  AND t.revoked_at IS NULL AND (t.expires_at IS NULL OR t.expires_at > now())
ORDER BY t.created_at DESC, t.id DESC
"""
_EXPIRE = """
UPDATE agent_tokens t SET expires_at = $3 FROM agents a
WHERE a.id = t.agent_id AND a.name = $1 AND a.is_active AND t.id = $2
  AND t.revoked_at IS NULL AND (t.expires_at IS NULL OR t.expires_at > now())
  AND ($3::timestamptz IS NULL OR $3 > now())
RETURNING t.id, t.session_id AS session, t.created_at, t.expires_at
"""
_FUTURE = "SELECT $1::timestamptz > now()"
_REVOKE = """
UPDATE agent_tokens t SET revoked_at = now() FROM agents a
WHERE a.id = t.agent_id AND a.name = $1 AND a.is_active AND t.id = $2
  AND t.revoked_at IS NULL AND (t.expires_at IS NULL OR t.expires_at > now())
"""


class UnknownToken(LedgerError):
    """The agent has no token of this id, or it ended before."""


class TokenError(LedgerError):
    """A moment that no token can end at. One clear line."""


@dataclass(frozen=True, slots=True)
class Token:
    """One that holds. `session`: what it is bound to. From `expires_at` on it opens nothing; None:
    until it is revoked."""

    id: UUID
    session: str | None
    created_at: datetime
    expires_at: datetime | None


async def of_agent(database: Database, agent: str) -> list[Token]:
    """Those that hold, the newest first. Raises UnknownAgent."""
    if await database.fetchval(_AGENT, agent) is None:
        raise UnknownAgent(f"there is no agent {agent[:100]!r}")
    return [Token(**dict(row)) for row in await database.fetch(_LIST, agent)]


async def expire(database: Database, agent: str, token: UUID, at: datetime | None) -> Token:
    """Lets a token end at this moment; None: only when it is revoked. Every proxy keeps to it.

    Raises UnknownToken; TokenError for a moment that has passed.
    """
    row = await database.fetchrow(_EXPIRE, agent, token, at)
    if row is not None:
        return Token(**dict(row))
    if at is not None and not await database.fetchval(_FUTURE, at):
        raise TokenError("this moment has passed: to end a token now, revoke it")
    raise UnknownToken("this agent has no such token, or it ended before")


async def revoke(database: Database, agent: str, token: UUID) -> None:
    """Ends a token, at once and for good. Raises UnknownToken."""
    if await database.execute(_REVOKE, agent, token) == "UPDATE 0":
        raise UnknownToken("this agent has no such token, or it ended before")
