"""Keys to the operator's listener. Only hashes are stored; a key is shown once, when it is made."""

import re
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256

from proxy.admin.roles import Role
from proxy.ledger import Database, LedgerError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_KEY = re.compile(r"apk_[A-Za-z0-9_-]{43}")

_CREATE = """
INSERT INTO api_keys (key_sha256, name, role, created_by, expires_at)
VALUES ($1, $2, $3::text::api_role, $4, now() + $5::interval)
ON CONFLICT (name) WHERE revoked_at IS NULL DO NOTHING
RETURNING name
"""
_REVOKE = """
UPDATE api_keys SET revoked_at = now() WHERE name = $1 AND revoked_at IS NULL RETURNING name
"""
_LIST = """
SELECT name, role::text AS role, created_at, created_by, expires_at,
       coalesce(expires_at <= now(), false) AS expired
FROM api_keys WHERE revoked_at IS NULL ORDER BY name
"""
_FIND = """
SELECT name, role::text AS role FROM api_keys
WHERE key_sha256 = $1 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())
"""


class KeyRefused(LedgerError):
    """There is no such key, or there is one already. One clear line."""


class KeyExists(KeyRefused):
    """There is a key of this name already."""


@dataclass(frozen=True, slots=True)
class Key:
    """Who calls."""

    name: str
    role: Role


@dataclass(frozen=True, slots=True)
class KeyInfo:
    """A key that was not revoked, as the operator sees it."""

    name: str
    role: Role
    created_at: datetime
    created_by: str
    expires_at: datetime | None
    expired: bool


class Keys:
    """The keys in the database. Nothing is kept in memory: what is revoked ends at once."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(
        self, name: str, role: Role, *, lives: timedelta | None = None, by: str = ""
    ) -> str:
        """A new key, for good or for as long as it `lives`. It is not kept.

        Raises KeyRefused if the name is taken or no name, LedgerError.
        """
        if _NAME.fullmatch(name) is None:
            raise KeyRefused(
                f"{name[:100]!r} cannot be a key's name: use 1 to 100 letters, digits, . _ and -"
            )
        key = "apk_" + secrets.token_urlsafe(32)
        made = await self._database.fetchval(_CREATE, _hash(key), name, role.value, by, lives)
        if made is None:
            raise KeyExists(f"there is a key {name!r} already; first: autopay key revoke {name}")
        return key

    async def revoke(self, name: str) -> None:
        """Ends a key, from the next request on. Raises KeyRefused if there is none of that name."""
        if await self._database.fetchval(_REVOKE, name) is None:
            raise KeyRefused(f"there is no key {name[:100]!r}")

    async def list_all(self) -> list[KeyInfo]:
        """Every key that was not revoked, by name."""
        return [
            KeyInfo(**{**dict(row), "role": Role(row["role"])})
            for row in await self._database.fetch(_LIST)
        ]

    async def find(self, key: str) -> Key | None:
        """Whose key this is; None if it is nobody's, was revoked or has expired.

        Raises LedgerError. The look-up is by hash: its timing tells of the SHA-256 of a guess,
        not of a key.
        """
        if _KEY.fullmatch(key) is None:
            return None
        row = await self._database.fetchrow(_FIND, _hash(key))
        return None if row is None else Key(row["name"], Role(row["role"]))


def _hash(key: str) -> bytes:
    return sha256(key.encode()).digest()
