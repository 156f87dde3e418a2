"""Answers that were paid for and may be asked for again, sealed under the agent's own key.

What the database knows of an answer is when it came and whose it is; what it says can be read by
nobody who has the database alone, and by nobody at all once the agent is erased.
"""

import json
from base64 import b64decode, b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from proxy.ledger.agent_keys import AgentCipher
from proxy.ledger.database import Database

_KEEP = "SELECT keep_answer($1, $2, $3, $4, $5)"
_PRUNE = """
DELETE FROM kept_answers WHERE payment_id IN (
    SELECT payment_id FROM kept_answers WHERE expires_at <= now() LIMIT 1000)
"""
_FIND = """
SELECT sealed, delivered FROM kept_answers
 WHERE payment_id = $1 AND agent_id = $2 AND expires_at > now() AND sealed IS NOT NULL
"""


Fields = Sequence[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class KeptAnswer:
    """A whole answer. `headers` are the provider's, as they came; `ours` what we added to them.
    `credential`: what the request that was paid for said of who asks; None: nobody knows any more.
    `delivered`: its program had it whole."""

    status: int
    reason: str
    headers: Fields
    ours: Fields
    body: bytes
    credential: bytes | None
    delivered: bool


class KeptAnswers:
    """Everything raises LedgerError, or VaultError where the secret key is not at hand."""

    def __init__(self, database: Database, cipher: AgentCipher, *, most: int) -> None:
        """`most`: how many of one agent; then its oldest go."""
        self._database = database
        self._cipher = cipher
        self._most = most

    async def keep(
        self,
        payment_id: UUID,
        agent_id: UUID,
        answer: KeptAnswer,
        *,
        seconds: float,
    ) -> bool:
        """Repeatable. False if the agent is erased: nothing is kept of it any more."""
        sealed = await self._cipher.seal_bytes_for(agent_id, _packed(answer))
        if sealed is None:
            return False
        outcome = await self._database.fetchval(
            _KEEP, payment_id, answer.delivered, sealed, seconds, self._most
        )
        return bool(outcome == "kept")

    async def prune(self) -> None:
        """Remove what nobody can ask for any more."""
        await self._database.execute(_PRUNE)

    async def find(self, payment_id: UUID, agent_id: UUID) -> KeptAnswer | None:
        """None if there is none, or its time is over, or its agent was erased."""
        row = await self._database.fetchrow(_FIND, payment_id, agent_id)
        if row is None:
            return None
        plain = await self._cipher.open_bytes_for(agent_id, row["sealed"])
        return None if plain is None else _unpacked(plain, delivered=row["delivered"])


def _packed(answer: KeptAnswer) -> bytes:
    head = {
        "status": answer.status,
        "reason": answer.reason,
        "headers": [_texts(field) for field in answer.headers],
        "ours": [_texts(field) for field in answer.ours],
        "credential": None if answer.credential is None else answer.credential.hex(),
    }
    return json.dumps(head).encode() + b"\n" + answer.body


def _unpacked(plain: bytes, *, delivered: bool) -> KeptAnswer:
    head, _, body = plain.partition(b"\n")
    said = json.loads(head)
    credential = said.get("credential")  # not there in what was kept before it was asked for
    return KeptAnswer(
        said["status"],
        said["reason"],
        tuple(_bytes(field) for field in said["headers"]),
        tuple(_bytes(field) for field in said["ours"]),
        body,
        None if credential is None else bytes.fromhex(credential),
        delivered,
    )


def _texts(field: tuple[bytes, bytes]) -> list[str]:
    """A field's bytes are of any kind."""
    return [b64encode(part).decode() for part in field]


def _bytes(field: list[str]) -> tuple[bytes, bytes]:
    name, value = field
    return b64decode(name), b64decode(value)
