"""Who may spend: agents, their tokens and their policies, as the operator changes them.

Every change is one statement; every running proxy hears of it at once (`directory.py`).
"""

import re
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from typing import TypeVar
from uuid import UUID

import asyncpg

from policies import Policy, validated
from proxy.ledger import seals
from proxy.ledger.database import Database
from proxy.ledger.errors import LedgerError
from proxy.ledger.ids import new_id
from proxy.vault import Vault

_Found = TypeVar("_Found")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")

# A removed agent of the same name comes back as itself: today's spending still counts.
_ADD = """
WITH agent AS (
    INSERT INTO agents (id, name, session_token_hash, capture_chat) VALUES ($1, $2, $5, $19)
    ON CONFLICT (name) DO UPDATE
        SET is_active = true, session_token_hash = $5, capture_chat = $19
        WHERE NOT agents.is_active AND agents.id = $1
    RETURNING id
), token AS (
    INSERT INTO agent_tokens (token_sha256, agent_id, sealed) SELECT $3, id, $4 FROM agent
    RETURNING id
), policy AS (
    INSERT INTO agent_policies AS p (
        agent_id, frozen, per_call_limit_micros, daily_limit_micros, session_limit_micros,
        allowed_endpoints, allowed_pay_to, allowed_assets, allowed_networks,
        allowed_targets, allowed_ports, trace_limit_micros, inherited, updated_by)
    SELECT id, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18 FROM agent
    ON CONFLICT (agent_id) DO UPDATE SET
        frozen = excluded.frozen,
        per_call_limit_micros = excluded.per_call_limit_micros,
        daily_limit_micros = excluded.daily_limit_micros,
        session_limit_micros = excluded.session_limit_micros,
        allowed_endpoints = excluded.allowed_endpoints,
        allowed_pay_to = excluded.allowed_pay_to,
        allowed_assets = excluded.allowed_assets,
        allowed_networks = excluded.allowed_networks,
        allowed_targets = excluded.allowed_targets,
        allowed_ports = excluded.allowed_ports,
        trace_limit_micros = excluded.trace_limit_micros,
        inherited = excluded.inherited,
        updated_by = excluded.updated_by
)
SELECT id FROM token
"""
_REMOVE = """
WITH agent AS (
    UPDATE agents SET is_active = false, session_token_hash = NULL
    WHERE name = $1 AND is_active RETURNING id
), revoked AS (
    UPDATE agent_tokens SET revoked_at = now()
    WHERE agent_id IN (SELECT id FROM agent) AND revoked_at IS NULL
)
SELECT id FROM agent
"""
_ROTATE = """
WITH agent AS (
    UPDATE agents SET session_token_hash = $4 WHERE id = $1 AND is_active RETURNING id
), revoked AS (
    UPDATE agent_tokens SET
        revoked_at = CASE WHEN $5 = interval '0' THEN now() END,
        expires_at = CASE WHEN $5 = interval '0' THEN expires_at
                          ELSE least(expires_at, now() + $5) END
    WHERE agent_id IN (SELECT id FROM agent) AND revoked_at IS NULL
)
INSERT INTO agent_tokens (token_sha256, agent_id, sealed, expires_at)
SELECT $2, id, $3, now() + $6::interval FROM agent
RETURNING id, expires_at
"""
_ISSUE = """
WITH agent AS (
    UPDATE agents SET session_token_hash = $4 WHERE id = $1 AND is_active RETURNING id
)
INSERT INTO agent_tokens (token_sha256, agent_id, sealed, session_id, expires_at)
SELECT $2, id, $3, $5, now() + $6::interval FROM agent
RETURNING id, expires_at
"""
# A token is sealed for its agent's id, so that is asked for first; the change itself is for that
# id alone, and finds nothing to change if another was faster.
_ID = """
SELECT id, is_active OR id = '00000000-0000-0000-0000-000000000000' AS taken
FROM agents WHERE name = $1
"""
_ACTIVE_ID = "SELECT id FROM agents WHERE name = $1 AND is_active"
_REVOKE = """
UPDATE agent_tokens SET revoked_at = now() WHERE token_sha256 = $1 AND revoked_at IS NULL
"""
_SET_POLICY = """
UPDATE agent_policies SET
    frozen = $2, per_call_limit_micros = $3, daily_limit_micros = $4, session_limit_micros = $5,
    allowed_endpoints = $6, allowed_pay_to = $7, allowed_assets = $8, allowed_networks = $9,
    allowed_targets = $10, allowed_ports = $11, trace_limit_micros = $12, inherited = $13,
    updated_by = $14
FROM agents a WHERE a.id = agent_id AND a.name = $1 AND a.is_active
RETURNING version
"""
_FREEZE = """
UPDATE agent_policies SET frozen = $2, updated_by = $3
FROM agents a WHERE a.id = agent_id AND a.name = $1 AND a.is_active
RETURNING version
"""
_INFO = """
SELECT a.id, a.name, a.is_active, a.capture_chat, a.created_at, p.*
FROM agents a JOIN agent_policies p ON p.agent_id = a.id
"""


_CAPTURE = """
UPDATE agents SET capture_chat = $2 WHERE name = $1 AND is_active RETURNING id
"""


class AgentError(LedgerError):
    """There is no such agent, or there is one already. One clear line."""


class UnknownAgent(AgentError):
    """There is no agent of this name, or it was removed."""


class AgentExists(AgentError):
    """There is an agent of this name already."""


@dataclass(frozen=True, slots=True)
class Agent:
    """Who spends. The name is for people and credentials; the books go by the id.

    `session`: the one that the token is bound to. What is done with it counts against that one,
    whatever session the program names. `capture_chat`: what it says to chat endpoints is kept.
    """

    id: UUID
    name: str
    session: str | None = None
    capture_chat: bool = False


@dataclass(frozen=True, slots=True)
class AgentInfo:
    """An agent as the operator sees it."""

    agent: Agent
    is_active: bool
    created_at: datetime
    policy: Policy


@dataclass(frozen=True, slots=True)
class NewAgent:
    """An agent and a new token of it, which is not kept and cannot be shown again. The token is
    spoken of as `token_id`; from `expires_at` on it opens nothing (None: until it is revoked)."""

    agent: Agent
    token: str
    token_id: UUID
    expires_at: datetime | None = None


async def add(
    database: Database,
    vault: Vault,
    name: str,
    policy: Policy | None = None,
    *,
    by: str = "",
    capture_chat: bool = False,
) -> NewAgent:
    """Makes an agent with a token, under `policy` or the default one.

    A removed agent of that name is brought back with its books. Raises AgentError if the name is
    taken or no name, PolicyError if the policy cannot be meant, VaultError if the token cannot be
    sealed.
    """
    columns = _columns(policy or Policy(named(name)))
    known = await database.fetchrow(_ID, named(name))
    if known is not None and known["taken"]:
        raise AgentExists(f"there is an agent {name!r} already")
    agent_id: UUID = new_id() if known is None else known["id"]
    token, *sealed = await _new_token(database, vault, agent_id)
    token_id: UUID | None = await database.fetchval(
        _ADD, agent_id, name, *sealed, *columns, by, capture_chat
    )
    if token_id is None:
        raise AgentExists(f"there is an agent {name!r} already")
    return NewAgent(Agent(agent_id, name), token, token_id)


async def remove(database: Database, name: str) -> None:
    """Deactivates an agent and revokes its tokens. Its books stay. Raises AgentError if unknown."""
    _known(name, await database.fetchval(_REMOVE, name))


async def rotate_token(
    database: Database,
    vault: Vault,
    name: str,
    *,
    grace: timedelta = timedelta(),
    lives: timedelta | None = None,
) -> NewAgent:
    """Gives an agent a new token, which `lives` so long (None: until it is revoked); its others
    end, at once or after `grace`. Raises UnknownAgent, VaultError if the token cannot be sealed."""
    agent_id: UUID = _known(name, await database.fetchval(_ACTIVE_ID, name))
    token, *sealed = await _new_token(database, vault, agent_id)
    made = _known(name, await database.fetchrow(_ROTATE, agent_id, *sealed, grace, lives))
    return NewAgent(Agent(agent_id, name), token, made["id"], made["expires_at"])


async def issue_token(
    database: Database,
    vault: Vault,
    name: str,
    *,
    session: str | None = None,
    lives: timedelta | None = None,
) -> NewAgent:
    """One more token for an agent, bound to `session` if that is given; its others stay as they
    are. Raises UnknownAgent, VaultError if the token cannot be sealed."""
    agent_id: UUID = _known(name, await database.fetchval(_ACTIVE_ID, name))
    token, *sealed = await _new_token(database, vault, agent_id, session)
    made = _known(name, await database.fetchrow(_ISSUE, agent_id, *sealed, session, lives))
    return NewAgent(Agent(agent_id, name, session), token, made["id"], made["expires_at"])


async def revoke_token(database: Database, token: str) -> None:
    """Ends this one token. That it was ended before, or never was one, is no error."""
    await database.execute(_REVOKE, token_hash(token))


async def set_policy(database: Database, policy: Policy, *, by: str = "") -> int:
    """Replaces the whole policy of `policy.agent` and returns its new version.

    Raises PolicyError if it cannot be meant, AgentError if the agent is unknown.
    """
    version: int | None = await database.fetchval(_SET_POLICY, policy.agent, *_columns(policy), by)
    return _known(policy.agent, version)


async def set_frozen(database: Database, name: str, frozen: bool, *, by: str = "") -> int:
    """Freezes or thaws an agent's spending. Once a freeze has returned, nothing is granted."""
    version: int | None = await database.fetchval(_FREEZE, name, frozen, by)
    return _known(name, version)


async def set_capture_chat(database: Database, name: str, capture: bool) -> None:
    """Whether to keep what an agent says to chat endpoints. Raises AgentError if unknown."""
    _known(name, await database.fetchval(_CAPTURE, name, capture))


async def list_all(database: Database) -> list[AgentInfo]:
    """Every agent, removed ones too, by name."""
    return [_info(row) for row in await database.fetch(f"{_INFO} ORDER BY a.name")]


async def find(database: Database, name: str) -> AgentInfo:
    """One agent, removed or not. Raises UnknownAgent."""
    return _info(_known(name, await database.fetchrow(f"{_INFO} WHERE a.name = $1", name)))


async def find_active(database: Database, name: str) -> AgentInfo:
    """The same, but of those that were not removed. Raises UnknownAgent."""
    info = await find(database, name)
    return _known(name, info if info.is_active else None)


def _info(row: asyncpg.Record) -> AgentInfo:
    return AgentInfo(
        agent=Agent(row["id"], row["name"], capture_chat=row["capture_chat"]),
        is_active=row["is_active"],
        created_at=row["created_at"],
        policy=policy_of(row),
    )


def named(name: str) -> str:
    """The name, if it can be an agent's. Raises AgentError."""
    if _NAME.fullmatch(name) is None:
        raise AgentError(
            f"{name[:100]!r} cannot be an agent's name: use 1 to 100 letters, digits, . _ and -"
        )
    return name


def token_hash(token: str) -> bytes:
    """What is stored of a token."""
    return sha256(token.encode("utf-8", "surrogateescape")).digest()


def policy_of(row: asyncpg.Record) -> Policy:
    """A policy from a row that holds the agent's `name` and the columns of agent_policies."""
    return Policy(
        agent=row["name"],
        frozen=row["frozen"],
        per_call_limit=row["per_call_limit_micros"],
        daily_limit=row["daily_limit_micros"],
        session_limit=row["session_limit_micros"],
        trace_limit=row["trace_limit_micros"],
        allowed_endpoints=tuple(row["allowed_endpoints"]),
        allowed_pay_to=tuple(row["allowed_pay_to"]),
        allowed_assets=tuple(row["allowed_assets"]),
        allowed_networks=tuple(row["allowed_networks"]),
        allowed_targets=tuple(row["allowed_targets"]),
        allowed_ports=tuple(row["allowed_ports"]),
        version=row["version"],
        inherited=tuple(row["inherited"]),
    )


async def _new_token(
    database: Database, vault: Vault, agent_id: UUID, session: str | None = None
) -> tuple[str, bytes, bytes, bytes]:
    """A token, its hash, and that sealed for the token's row and for its agent's."""
    token = "ap_" + secrets.token_urlsafe(32)
    hashed = token_hash(token)
    keyring = await seals.sealing_keyring(database, vault)
    return (
        token,
        hashed,
        seals.seal_token(keyring, agent_id, session, hashed),
        seals.seal_newest(keyring, agent_id, hashed),
    )


def _columns(policy: Policy) -> tuple[object, ...]:
    checked = validated(policy)
    return (
        checked.frozen,
        checked.per_call_limit,
        checked.daily_limit,
        checked.session_limit,
        list(checked.allowed_endpoints),
        list(checked.allowed_pay_to),
        list(checked.allowed_assets),
        list(checked.allowed_networks),
        list(checked.allowed_targets),
        list(checked.allowed_ports),
        checked.trace_limit,
        list(checked.inherited),
    )


def _known(name: str, found: _Found | None) -> _Found:
    if found is None:
        raise UnknownAgent(f"there is no agent {name[:100]!r}")
    return found
