"""Chat sessions, their messages and what users thought of them, for the operator's API."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from proxy.ledger import Database
from proxy.ledger.history import Position
from proxy.ledger.ids import new_id

_CREATE = """
WITH s AS (
    INSERT INTO chat_sessions (id, wallet_address, title, agent_id)
    SELECT $1, $2, $3, (SELECT id FROM agents WHERE name = $4)
    WHERE $4::text IS NULL OR EXISTS (SELECT 1 FROM agents WHERE name = $4)
    RETURNING *
)
SELECT s.id, s.wallet_address, s.title, a.name AS agent, s.message_count, s.created_at, s.updated_at
FROM s LEFT JOIN agents a ON a.id = s.agent_id
"""
_GET = """
SELECT s.id, s.wallet_address, s.title, a.name AS agent, s.message_count, s.created_at, s.updated_at
FROM chat_sessions s LEFT JOIN agents a ON a.id = s.agent_id WHERE s.id = $1
"""
_LIST = """
SELECT s.id, s.wallet_address, s.title, a.name AS agent, s.message_count, s.created_at, s.updated_at
FROM chat_sessions s LEFT JOIN agents a ON a.id = s.agent_id
WHERE s.wallet_address = $1 AND ($3::timestamptz IS NULL OR (s.updated_at, s.id) < ($3, $4))
ORDER BY s.updated_at DESC, s.id DESC LIMIT $2
"""
_DELETE = "DELETE FROM chat_sessions WHERE id = $1 RETURNING id"
_APPEND = """
WITH m AS (
    INSERT INTO chat_messages (id, session_id, message_id, content, is_user, escrow_id, tx_hash,
                               image_preview, created_at)
    SELECT $1, s.id, $3, $4, $5, $6, $7, $8, clock_timestamp()
    FROM chat_sessions s WHERE s.id = $2
    ON CONFLICT (session_id, message_id) DO NOTHING
    RETURNING *
), counted AS (
    UPDATE chat_sessions SET message_count = message_count + 1
    WHERE id = (SELECT session_id FROM m)
)
SELECT m.id, m.message_id, m.content, m.is_user, m.escrow_id, m.tx_hash, m.image_preview,
       m.payment_id, m.truncated, m.created_at
FROM m
"""
_MESSAGES = """
SELECT m.id, m.message_id, m.content, m.is_user, m.escrow_id, m.tx_hash, m.image_preview,
       m.payment_id, m.truncated, m.created_at
FROM chat_messages m
WHERE m.session_id = $1 AND ($3::timestamptz IS NULL OR (m.created_at, m.id) < ($3, $4))
ORDER BY m.created_at DESC, m.id DESC LIMIT $2
"""
_CLEAR = """
WITH gone AS (DELETE FROM chat_messages WHERE session_id = $1 RETURNING 1)
UPDATE chat_sessions SET message_count = 0, history_hash = NULL WHERE id = $1
RETURNING (SELECT count(*) FROM gone)
"""
# The agent is the one that said it, whoever claims otherwise.
_RATE = """
INSERT INTO message_ratings AS r (message_id, user_address, agent_id, is_positive)
SELECT m.message_id, $2, s.agent_id::text, $3
FROM chat_messages m JOIN chat_sessions s ON s.id = m.session_id
WHERE m.message_id = $1 ORDER BY m.created_at LIMIT 1
ON CONFLICT (message_id, user_address) DO UPDATE SET is_positive = excluded.is_positive
RETURNING r.message_id, r.user_address, r.is_positive, r.created_at
"""
_UNRATE = """
DELETE FROM message_ratings WHERE message_id = $1 AND user_address = $2 RETURNING id
"""
_RATINGS = """
SELECT message_id, user_address, is_positive, created_at, id FROM message_ratings
WHERE message_id = $1 AND ($3::timestamptz IS NULL OR (created_at, id) < ($3, $4))
ORDER BY created_at DESC, id DESC LIMIT $2
"""


@dataclass(frozen=True, slots=True)
class Session:
    """`agent`: of a captured conversation, and where a session was made for one."""

    id: UUID
    wallet_address: str
    title: str | None
    agent: str | None
    message_count: int
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class NewMessage:
    """What is appended; without a `message_id` it gets one."""

    content: str
    is_user: bool
    message_id: str | None = None
    escrow_id: str | None = None
    tx_hash: str | None = None
    image_preview: str | None = None


@dataclass(frozen=True, slots=True)
class Message:
    """`truncated`: it was longer when it was captured."""

    id: UUID
    message_id: str
    content: str
    is_user: bool
    escrow_id: str | None
    tx_hash: str | None
    image_preview: str | None
    payment_id: UUID | None
    truncated: bool
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Rating:
    message_id: str
    user_address: str
    is_positive: bool
    created_at: datetime


async def create_session(
    database: Database, wallet: str, title: str, agent: str | None = None
) -> Session | None:
    """A new session; None if there is no such agent."""
    row = await database.fetchrow(_CREATE, new_id(), wallet, title, agent)
    return Session(**dict(row)) if row else None


async def session(database: Database, session_id: UUID) -> Session | None:
    row = await database.fetchrow(_GET, session_id)
    return Session(**dict(row)) if row else None


async def sessions(
    database: Database, wallet: str, limit: int, before: Position | None = None
) -> list[Session]:
    """Those of a wallet, the last used first."""
    rows = await database.fetch(_LIST, wallet, limit, *(before or (None, None)))
    return [Session(**dict(row)) for row in rows]


async def delete_session(database: Database, session_id: UUID) -> bool:
    """Deletes a session with its messages; whether there was one."""
    return await database.fetchval(_DELETE, session_id) is not None


async def append(database: Database, session_id: UUID, message: NewMessage) -> Message | None:
    """The message as it is kept; None if it is there already, or there is no such session."""
    identity = new_id()
    row = await database.fetchrow(
        _APPEND,
        identity,
        session_id,
        message.message_id or f"msg-{identity.hex}",
        message.content,
        message.is_user,
        message.escrow_id,
        message.tx_hash,
        message.image_preview,
    )
    return Message(**dict(row)) if row else None


async def messages(
    database: Database, session_id: UUID, limit: int, before: Position | None = None
) -> list[Message]:
    """Those of a session, the newest first."""
    rows = await database.fetch(_MESSAGES, session_id, limit, *(before or (None, None)))
    return [Message(**dict(row)) for row in rows]


async def clear(database: Database, session_id: UUID) -> int | None:
    """Deletes the messages of a session; how many, or None if there is no such session."""
    deleted: int | None = await database.fetchval(_CLEAR, session_id)
    return deleted


async def rate(
    database: Database, message_id: str, user_address: str, *, is_positive: bool
) -> Rating | None:
    """A user's one word on a message, the last one; None if there is no such message."""
    row = await database.fetchrow(_RATE, message_id, user_address, is_positive)
    return Rating(**dict(row)) if row else None


async def unrate(database: Database, message_id: str, user_address: str) -> bool:
    """Takes a user's word back; whether there was one."""
    return await database.fetchval(_UNRATE, message_id, user_address) is not None


async def ratings(
    database: Database, message_id: str, limit: int, before: Position | None = None
) -> list[tuple[Position, Rating]]:
    """The newest words on a message, each with its place in the list."""
    rows = await database.fetch(_RATINGS, message_id, limit, *(before or (None, None)))
    return [
        (
            (row["created_at"], row["id"]),
            Rating(**{key: value for key, value in row.items() if key != "id"}),
        )
        for row in rows
    ]
