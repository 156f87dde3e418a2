"""A key of each agent's own, for what is kept about it: once it is destroyed, all of that is."""

from uuid import UUID

from cachetools import TTLCache

from proxy.ledger import seals
from proxy.ledger.database import Database
from proxy.vault import Keyring, UnknownKey, Vault, new_key

KEPT = 1024  # opened keys in memory
KEPT_SECONDS = 60.0  # how long another process may go on with a key that was destroyed

_FIND = "SELECT sealed_key FROM agent_keys WHERE agent_id = $1"
_MAKE = """
INSERT INTO agent_keys (agent_id, sealed_key) VALUES ($1, $2) ON CONFLICT (agent_id) DO NOTHING
"""
_TEXT = b"agent's text\0"


class AgentCipher:
    """Every call may raise LedgerError, or VaultError where the key of the key is not at hand.

    Keys are destroyed by `erase_agent` in the database. Whoever has one in memory goes on with it
    for `KEPT_SECONDS`; what is sealed in that time opens no more afterwards.
    """

    def __init__(self, database: Database, vault: Vault) -> None:
        self._database = database
        self._vault = vault
        # A destroyed key is remembered too: None.
        self._known: TTLCache[UUID, Keyring | None] = TTLCache(KEPT, KEPT_SECONDS)

    async def seal_for(self, agent_id: UUID, text: str) -> bytes | None:
        """`text` under the agent's key, which is made if it has none; None if it was destroyed."""
        return await self.seal_bytes_for(agent_id, text.encode())

    async def seal_bytes_for(self, agent_id: UUID, plain: bytes) -> bytes | None:
        """Like `seal_for`."""
        key = await self._key(agent_id, make=True)
        return None if key is None else key.seal(plain, _TEXT + agent_id.bytes)

    async def open_for(self, agent_id: UUID, sealed: bytes) -> str | None:
        """The text again; None if the agent's key was destroyed, or never was. Raises SealError
        for what `seal_for` did not give for this agent."""
        plain = await self.open_bytes_for(agent_id, sealed)
        return None if plain is None else plain.decode()

    async def open_bytes_for(self, agent_id: UUID, sealed: bytes) -> bytes | None:
        """Like `open_for`."""
        key = await self._key(agent_id, make=False)
        return None if key is None else key.open(sealed, _TEXT + agent_id.bytes)

    async def _key(self, agent_id: UUID, *, make: bool) -> Keyring | None:
        if agent_id in self._known:
            return self._known[agent_id]
        row = await self._database.fetchrow(_FIND, agent_id)
        if row is None:
            if not make:
                return None
            keyring = await seals.sealing_keyring(self._database, self._vault)
            sealed = seals.seal_data_key(keyring, agent_id, new_key())
            await self._database.execute(_MAKE, agent_id, sealed)
            row = await self._database.fetchrow(_FIND, agent_id)  # ours, or who was faster
            assert row is not None
        key = self._known[agent_id] = await self._opened(agent_id, row["sealed_key"])
        return key

    async def _opened(self, agent_id: UUID, sealed: bytes | None) -> Keyring | None:
        if sealed is None:
            return None
        try:
            plain = seals.open_data_key(await self._vault.keyring(), agent_id, sealed)
        except UnknownKey as unknown:  # somebody has rotated
            keyring = await self._vault.keyring_for([unknown.key_id])
            plain = seals.open_data_key(keyring, agent_id, sealed)
        return Keyring([plain])
