"""The seals of the tables: what binds a token's row to the secret key, so that who has the database
but not the key can make no token.

A seal tells that an autopay made the row for this agent and this session. That the token still
holds (`revoked_at`, `is_active`) the database says alone.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

import asyncpg

from proxy.ledger.database import Database
from proxy.vault import Keyring, SealError, UnknownKey, Vault, VaultError, key_id_of

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]

# Each kind of value has a name of its own, so that none can be put into another's place.
_TOKEN = b"agent_tokens.sealed\0"
_NEWEST = b"agents.session_token_hash\0"
_DATA_KEY = b"agent_keys.sealed_key\0"
_WEBHOOK = b"webhooks.sealed\0"

NO_SEAL = "not made by an autopay that has your secret key"

_LIVE = """
SELECT t.agent_id, a.name, t.session_id, t.token_sha256, t.sealed
FROM agent_tokens t JOIN agents a ON a.id = t.agent_id
WHERE t.revoked_at IS NULL AND (t.expires_at IS NULL OR t.expires_at > now()) AND a.is_active
"""
_ANY = """
SELECT sealed FROM agent_tokens WHERE sealed IS NOT NULL
UNION ALL SELECT sealed_key FROM agent_keys WHERE sealed_key IS NOT NULL
UNION ALL SELECT sealed FROM webhooks
LIMIT 1
"""
_UNSEALED = """
SELECT token_sha256, agent_id, session_id FROM agent_tokens WHERE sealed IS NULL
ORDER BY agent_id, revoked_at IS NULL, created_at
"""
_ALL = """
SELECT 'agent_tokens' AS place, token_sha256 AS row, agent_id, session_id, sealed
FROM agent_tokens WHERE sealed IS NOT NULL
UNION ALL
SELECT 'agents', uuid_send(id), id, NULL, session_token_hash
FROM agents WHERE session_token_hash IS NOT NULL
UNION ALL
SELECT 'agent_keys', uuid_send(agent_id), agent_id, NULL, sealed_key
FROM agent_keys WHERE sealed_key IS NOT NULL
UNION ALL
SELECT 'webhooks', uuid_send(id), id, NULL, sealed FROM webhooks
"""
# One statement, so one transaction; and a row that has changed meanwhile is left as it is.
_RESEAL = """
WITH n AS MATERIALIZED (
    SELECT * FROM unnest($1::text[], $2::bytea[], $3::bytea[], $4::bytea[])
        AS n (place, row, before, after)
), tokens AS (
    UPDATE agent_tokens t SET sealed = n.after FROM n
    WHERE n.place = 'agent_tokens' AND t.token_sha256 = n.row AND t.sealed = n.before
    RETURNING 1
), newest AS (
    UPDATE agents a SET session_token_hash = n.after FROM n
    WHERE n.place = 'agents' AND uuid_send(a.id) = n.row AND a.session_token_hash = n.before
    RETURNING 1
), keys AS (
    UPDATE agent_keys k SET sealed_key = n.after FROM n
    WHERE n.place = 'agent_keys' AND uuid_send(k.agent_id) = n.row AND k.sealed_key = n.before
    RETURNING 1
), hooks AS (
    UPDATE webhooks w SET sealed = n.after FROM n
    WHERE n.place = 'webhooks' AND uuid_send(w.id) = n.row AND w.sealed = n.before
    RETURNING 1
)
SELECT (SELECT count(*) FROM tokens) + (SELECT count(*) FROM newest)
       + (SELECT count(*) FROM keys) + (SELECT count(*) FROM hooks)
"""


@dataclass(frozen=True, slots=True)
class Unaccepted:
    """Tokens of an active agent that are in the table and not revoked, and yet open nothing."""

    agent: str
    tokens: int
    why: str


@dataclass(frozen=True, slots=True)
class Resealed:
    """What a rotation did: rows now under the current key, and rows left as they were."""

    rows: int
    left: int


def seal_token(keyring: Keyring, agent_id: UUID, session: str | None, token_sha256: bytes) -> bytes:
    return keyring.seal(token_sha256, _token_aad(agent_id, session))


def seal_newest(keyring: Keyring, agent_id: UUID, token_sha256: bytes) -> bytes:
    return keyring.seal(token_sha256, _NEWEST + agent_id.bytes)


def seal_data_key(keyring: Keyring, agent_id: UUID, key: bytes) -> bytes:
    return keyring.seal(key, _DATA_KEY + agent_id.bytes)


def open_data_key(keyring: Keyring, agent_id: UUID, sealed: bytes) -> bytes:
    """Raises SealError."""
    return keyring.open(sealed, _DATA_KEY + agent_id.bytes)


def seal_webhook(keyring: Keyring, webhook_id: UUID, secret: bytes) -> bytes:
    return keyring.seal(secret, _WEBHOOK + webhook_id.bytes)


def open_webhook(keyring: Keyring, webhook_id: UUID, sealed: bytes) -> bytes:
    """Raises SealError."""
    return keyring.open(sealed, _WEBHOOK + webhook_id.bytes)


def is_true(
    keyring: Keyring,
    agent_id: UUID,
    session: str | None,
    token_sha256: bytes,
    sealed: bytes | None,
) -> bool:
    """Whether `sealed` is the seal of this very token. Raises UnknownKey if that can't be told."""
    try:
        opened = keyring.open(sealed or b"", _token_aad(agent_id, session))
    except UnknownKey:
        raise
    except SealError:
        return False
    return opened == token_sha256


def unknown_key(key_id: bytes) -> str:
    return f"sealed under the secret key {key_id.hex()}, which is not among those in use here"


def counted(faults: Iterable[tuple[str, str]]) -> tuple[Unaccepted, ...]:
    """From (agent's name, why) of each token that is not accepted."""
    counts = sorted(Counter(faults).items())
    return tuple(Unaccepted(agent, tokens, why) for (agent, why), tokens in counts)


async def unaccepted(database: Database, vault: Vault) -> tuple[Unaccepted, ...]:
    """What a proxy with these keys would not accept. Raises LedgerError or VaultError."""
    keyring = await vault.keyring()
    faults = []
    for row in await database.fetch(_LIVE):
        try:
            if is_true(keyring, *_token(row)):
                continue
            why = NO_SEAL
        except UnknownKey as unknown:
            why = unknown_key(unknown.key_id)
        faults.append((row["name"], why))
    return counted(faults)


async def sealing_keyring(database: Database, vault: Vault) -> Keyring:
    """A keyring that can seal; its first key is made if the database needs none yet.

    Raises VaultError; also where the key must have got lost, or be on another machine: what is
    sealed under a second one would be refused by whoever has the first.
    """
    if keyring := await vault.keyring():
        return keyring
    if keyring := await vault.read_again():  # another process may have made it since
        return keyring
    sealed: bytes | None = await database.fetchval(_ANY)
    if sealed is not None:
        key_id = (key_id_of(sealed) or b"").hex()
        raise VaultError(
            f"the database is sealed under the secret key {key_id}, and {vault.source.words} is "
            "not there: copy it from where autopay ran before; if it is lost, make another by "
            "autopay secret rotate, and give each agent a new token by autopay agent rotate"
        )
    return await vault.first_key()


async def seal_rows_from_before(connection: "Connection", vault: Vault | None) -> None:
    """Once, within the migration that adds the column: the tokens that are there are the
    operator's. Later, a row without a seal is nobody's. Raises VaultError."""
    rows = await connection.fetch(_UNSEALED)
    if not rows:
        return
    if vault is None:
        raise VaultError("the tokens in it are to be sealed, which needs the secret key")
    keyring = await vault.keyring() or await vault.first_key()
    await connection.executemany(
        "UPDATE agent_tokens SET sealed = $2 WHERE token_sha256 = $1",
        [
            (
                row["token_sha256"],
                seal_token(keyring, row["agent_id"], row["session_id"], row["token_sha256"]),
            )
            for row in rows
        ],
    )
    newest = {row["agent_id"]: row["token_sha256"] for row in rows}  # the last of each
    await connection.executemany(
        "UPDATE agents SET session_token_hash = $2 WHERE id = $1 AND is_active",
        [(agent, seal_newest(keyring, agent, token)) for agent, token in newest.items()],
    )


async def reseal(database: Database, keyring: Keyring) -> Resealed:
    """Puts everything under the current key that the others open, in one transaction.

    What does not open for its place is left as it is: to seal it would be to vouch for it.
    """
    changes: list[tuple[str, bytes, bytes, bytes]] = []
    left = 0
    for row in await database.fetch(_ALL):
        if key_id_of(row["sealed"]) == keyring.key_ids[0]:
            continue
        try:
            plain = keyring.open(row["sealed"], _aad(row))
        except SealError:
            left += 1
            continue
        if row["place"] == "agent_tokens" and plain != row["row"]:
            left += 1
            continue
        changes.append((row["place"], row["row"], row["sealed"], keyring.seal(plain, _aad(row))))
    columns: list[Any] = [list(column) for column in zip(*changes, strict=True)] or [[]] * 4
    done: int = await database.fetchval(_RESEAL, *columns)
    return Resealed(done, left + len(changes) - done)


async def rows_by_key(database: Database) -> Mapping[bytes, int]:
    """How many values are sealed under each key, by the id that they say."""
    return Counter(key_id_of(row["sealed"]) or b"" for row in await database.fetch(_ALL))


def _aad(row: asyncpg.Record) -> bytes:
    agent_id: UUID = row["agent_id"]
    if row["place"] == "agent_tokens":
        return _token_aad(agent_id, row["session_id"])
    names = {"agents": _NEWEST, "agent_keys": _DATA_KEY, "webhooks": _WEBHOOK}
    return names[row["place"]] + agent_id.bytes


def _token(row: asyncpg.Record) -> tuple[UUID, str | None, bytes, bytes | None]:
    return row["agent_id"], row["session_id"], row["token_sha256"], row["sealed"]


def _token_aad(agent_id: UUID, session: str | None) -> bytes:
    bound = b"" if session is None else b"\0" + session.encode()
    return _TOKEN + agent_id.bytes + bound
