"""One request to a chat endpoint and its answer, written as messages of a chat session.

`read` is pure and may take milliseconds: it belongs on a thread. `write` needs the database, and
may be repeated after a lost acknowledgement: every row has its id before it leaves.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any
from uuid import UUID

from proxy.chat.answered import Answered, read_answer
from proxy.chat.asked import Asked, Said, message, read_request
from proxy.chat.endpoint import Endpoint
from proxy.chat.history import (
    MOST_LOOKED_UP,
    continued,
    conversation_key,
    message_ids,
    new_messages,
)
from proxy.chat.text import title_of
from proxy.ledger.database import Database
from proxy.ledger.ids import new_id
from proxy.wire.content import decoded
from proxy.wire.headers import header
from proxy.wire.tap import Overheard

MAX_DECODED = 1024 * 1024
MOST_RECENT = 100

_PROMPT = """
UPDATE x402_traces SET user_prompt = $3
WHERE agent_id = $1 AND trace_id = $2 AND user_prompt IS NULL
"""
_FOLLOWED = """
SELECT s.session_key FROM chat_messages m JOIN chat_sessions s ON s.id = m.session_id
WHERE m.message_id = $2 AND s.agent_id = $1 AND s.session_key IS NOT NULL LIMIT 1
"""
_SESSION = """
INSERT INTO chat_sessions (id, wallet_address, title, agent_id, session_key)
SELECT $1, a.wallet_address, $4, a.id, $3 FROM agents a WHERE a.id = $2 AND a.is_active
ON CONFLICT (agent_id, session_key) WHERE session_key IS NOT NULL DO UPDATE SET updated_at = now()
RETURNING id
"""
_KNOWN = "SELECT message_id FROM chat_messages WHERE message_id = ANY ($2) AND session_id = $1"
_RECENT = """
SELECT content FROM chat_messages WHERE session_id = $1 AND is_user
ORDER BY created_at DESC LIMIT $2
"""
# A microsecond between them keeps the order of what came at once.
_WRITE = """
WITH added AS (
    INSERT INTO chat_messages (id, session_id, message_id, content, is_user, tx_hash, image_preview,
                               payment_id, truncated, created_at)
    SELECT m.id, $1, m.message_id, m.content, m.is_user, m.tx_hash, m.image_preview,
           m.payment_id, m.truncated, clock_timestamp() + m.at * interval '1 microsecond'
    FROM unnest($2::uuid[], $3::text[], $4::text[], $5::boolean[], $6::text[], $7::text[],
                $8::uuid[], $9::boolean[]) WITH ORDINALITY
         AS m (id, message_id, content, is_user, tx_hash, image_preview, payment_id, truncated, at)
    ON CONFLICT DO NOTHING
    RETURNING 1
)
UPDATE chat_sessions
SET message_count = message_count + (SELECT count(*) FROM added), history_hash = $10
WHERE id = $1
"""


@dataclass(frozen=True, slots=True)
class Heard:
    """What was understood of one exchange. `answered` is None where it gave no answer to keep, and
    then nothing of it is kept but the prompt of its trace."""

    agent_id: UUID
    session: str | None
    trace: str | None
    asked: Asked
    answered: Answered | None
    payment_id: UUID | None
    transaction: str | None
    key: str
    answer_row: UUID


@dataclass(frozen=True, slots=True)
class Row:
    """One chat_messages row to be."""

    id: UUID
    message_id: str
    said: Said
    payment_id: UUID | None = None
    transaction: str | None = None


def read(
    agent_id: UUID, endpoint: Endpoint, what: Overheard, *, session: str | None
) -> Heard | None:
    """What `what` says; None where it is no chat after all."""
    body = decoded(what.request_headers, what.request.data, MAX_DECODED)[:MAX_DECODED]
    asked = read_request(endpoint, body)
    unreadable = asked is None
    if asked is None:
        if not what.request.truncated:
            return None
        # It can't be told what is new in it, only that somebody spoke.
        asked = Asked((message(is_user=True, text="", truncated=True),))
    key = session or (
        "~" + sha256(body[:4096]).hexdigest()[:40] if unreadable else conversation_key(asked)
    )
    return Heard(
        agent_id=agent_id,
        session=session,
        trace=what.trace,
        asked=asked,
        answered=_answered(endpoint, what),
        payment_id=_uuid(header(what.headers, b"autopay-payment")),
        transaction=_text(header(what.headers, b"autopay-transaction")),
        key=key,
        answer_row=new_id(),
    )


def _answered(endpoint: Endpoint, what: Overheard) -> Answered | None:
    if not 200 <= what.status < 300:
        return None
    body = decoded(what.headers, what.answer.data, MAX_DECODED)
    cut = what.answer.truncated or len(body) > MAX_DECODED
    content_type = (header(what.headers, b"content-type") or b"").decode("latin-1")
    found = read_answer(endpoint, content_type, body[:MAX_DECODED], truncated=cut)
    if found is None and cut:
        return Answered("", message(is_user=False, text="", truncated=True))
    return found


class ChatWriter:
    """Writes what was heard. One at a time: what is new is what was not written before."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def write(self, heard: Heard) -> None:
        """Raises LedgerError; may be called again then."""
        asked = heard.asked
        if heard.trace is not None and asked.prompt:
            await self._database.execute(_PROMPT, heard.agent_id, heard.trace, asked.prompt)
        if heard.answered is None:
            return
        key = heard.key
        if heard.session is None and asked.follows is not None:
            args = (heard.agent_id, asked.follows)
            key = await self._database.fetchval(_FOLLOWED, *args) or key
        session_id = await self._database.fetchval(
            _SESSION, new_id(), heard.agent_id, key, title_of(_first_words(asked))
        )
        if session_id is None:
            return  # the agent is gone
        ids = message_ids(asked.said, f"{heard.agent_id} {session_id} {asked.follows or ''}")
        new = await self._new(session_id, heard, ids)
        rows = [Row(new_id(), ids[at], asked.said[at]) for at in new]
        rows.append(await self._answer(session_id, heard, heard.answered))
        await self._insert(session_id, rows, ids[-1])

    async def _new(self, session_id: UUID, heard: Heard, ids: Sequence[str]) -> range:
        said = heard.asked.said
        looked_up = list(ids[-MOST_LOOKED_UP:])
        found = await self._database.fetch(_KNOWN, session_id, looked_up)
        if found:
            return new_messages(said, ids, {row["message_id"] for row in found})
        recent = await self._database.fetch(_RECENT, session_id, MOST_RECENT)
        return continued(said, [row["content"] for row in reversed(recent)])

    async def _answer(self, session_id: UUID, heard: Heard, answered: Answered) -> Row:
        """The answer's row. Some servers give every answer the same id: then it gets its own."""
        message_id = answered.id
        if message_id:
            rows = await self._database.fetch(_KNOWN, session_id, [message_id])
            message_id = f"{message_id}-{heard.answer_row.hex}" if rows else message_id
        return Row(
            heard.answer_row,
            message_id or f"answer-{heard.answer_row.hex}",
            answered.said,
            heard.payment_id,
            heard.transaction,
        )

    async def _insert(self, session_id: UUID, rows: Sequence[Row], newest: str) -> None:
        columns: list[list[Any]] = [
            [row.id for row in rows],
            [row.message_id for row in rows],
            [row.said.text for row in rows],
            [row.said.is_user for row in rows],
            [row.transaction for row in rows],
            [row.said.image for row in rows],
            [row.payment_id for row in rows],
            [row.said.truncated for row in rows],
        ]
        await self._database.execute(_WRITE, session_id, *columns, newest.encode())


def _first_words(asked: Asked) -> str:
    return next((said.text for said in asked.said if said.is_user), "")


def _uuid(value: bytes | None) -> UUID | None:
    return UUID(value.decode()) if value is not None else None


def _text(value: bytes | None) -> str | None:
    return value.decode() if value is not None else None
