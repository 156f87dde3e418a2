"""The secret keys as a running process knows them: read at first need, and again when something is
met that was sealed under a newer one."""

import asyncio
import time
from collections.abc import Collection

from proxy.vault.keyring import Keyring, VaultError
from proxy.vault.sources import FileKeys, KeySource

PAUSE = 0.5  # seconds between two readings
IN_VAIN = 60.0  # seconds for which a key that was looked for and is not there is not looked for


class Vault:
    """One per process. Nothing is read before it is needed: who only looks needs no key."""

    def __init__(self, source: KeySource) -> None:
        self.source = source
        self._keyring: Keyring | None = None
        self._read_at = 0.0
        self._in_vain: frozenset[bytes] = frozenset()
        self._reading = asyncio.Lock()

    async def keyring(self) -> Keyring:
        """The keys as last read; none if none was made yet. Raises VaultError."""
        async with self._reading:
            return self._keyring if self._keyring is not None else await self._read()

    async def keyring_for(self, key_ids: Collection[bytes]) -> Keyring:
        """The keys, read anew if these are not all among them: somebody has rotated.

        It may wait a moment, so that no flood of made-up ids floods the source; and for a while it
        does not look again for what it did not find. Raises VaultError.
        """
        async with self._reading:
            known = self._keyring or Keyring()
            missing = frozenset(key_ids) - set(known.key_ids)
            since = time.monotonic() - self._read_at
            if not missing or (missing <= self._in_vain and since < IN_VAIN):
                return known
            if known.key_ids:  # else the first key was made just now, and somebody waits for it
                await asyncio.sleep(max(0.0, PAUSE - since))
            self._in_vain = missing  # also if the source fails
            return await self._read()

    async def first_key(self) -> Keyring:
        """Makes the file's first key. Raises VaultError; PathError if its directory cannot be."""
        if not isinstance(self.source, FileKeys):  # others give a key or fail
            raise VaultError(f"{self.source.words} gives no key")
        self.source.make()
        return await self.read_again()

    async def read_again(self) -> Keyring:
        """For who has changed them. Raises VaultError."""
        async with self._reading:
            return await self._read()

    async def _read(self) -> Keyring:
        self._read_at = time.monotonic()
        self._keyring = await self.source.read()
        return self._keyring
