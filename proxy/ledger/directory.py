"""Agents, tokens and policies in memory: every look-up of the hot path is a dictionary's.

A change in the database is heard at once (NOTIFY, sent by triggers on the three tables) and read as
a whole. Without the database the last known state goes on: traffic flows, and the ledger, which
reads limits and `frozen` itself, pays nothing.

A token's row is taken for what it says only if its seal is true: that of a row which somebody wrote
who has the database, but not the secret key, cannot be.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from hmac import compare_digest
from typing import TYPE_CHECKING, Protocol
from uuid import UUID

import asyncpg

from policies import Policy
from proxy.ledger import seals
from proxy.ledger.agents import Agent, policy_of, token_hash
from proxy.ledger.errors import LedgerUnavailable
from proxy.ledger.roles import role_refused, startup
from proxy.ledger.seals import Unaccepted
from proxy.paths import PathError
from proxy.vault import Keyring, UnknownKey, Vault, VaultError

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]

log = logging.getLogger(__name__)

# One statement, so one snapshot: never a new token beside an old policy.
_LOAD = """
SELECT a.id, a.name, a.is_active, a.capture_chat, p.*,
       ARRAY(SELECT (t.token_sha256, t.session_id, t.sealed) FROM agent_tokens t
             WHERE t.agent_id = a.id AND t.revoked_at IS NULL) AS tokens
FROM agents a JOIN agent_policies p ON p.agent_id = a.id
"""
_TROUBLE = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)


class Named(Protocol):
    """All that the data plane knows of an agent."""

    @property
    def name(self) -> str: ...


@dataclass(frozen=True, slots=True)
class _State:
    tokens: Mapping[bytes, Agent] = field(default_factory=dict)  # by hash; of active agents
    names: Mapping[str, Agent] = field(default_factory=dict)  # removed ones too
    policies: Mapping[UUID, Policy] = field(default_factory=dict)  # of active agents
    seals: Mapping[bytes, bytes] = field(default_factory=dict)  # of `tokens`, found true
    unaccepted: tuple[Unaccepted, ...] = ()


class Directory:
    """`start()` it, then ask. It also reads every `poll` seconds without having heard anything."""

    def __init__(
        self, dsn: str, vault: Vault, *, poll: float = 15.0, timeout: float = 5.0, role: str = ""
    ) -> None:
        self._dsn = dsn
        self._vault = vault
        self._role = role
        self._poll = poll
        self._timeout = timeout
        self._state = _State()
        self._changed = asyncio.Event()
        self._connection: Connection | None = None
        self._watcher: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Reads everything and keeps it fresh.

        Raises LedgerUnavailable if it cannot be read, RoleRefused if the login may not be `role`,
        VaultError if the secret keys cannot be read.
        """
        await self._vault.keyring()
        try:
            connection = await self._connect()
        except _TROUBLE as error:
            if refused := role_refused(error, self._dsn, self._role):
                raise refused from error
            raise LedgerUnavailable(_line(error), may_have_happened=False) from error
        self._connection = connection
        self._watcher = asyncio.create_task(self._watch(), name="ledger directory")

    async def close(self) -> None:
        """Stops listening; look-ups go on answering from what is known."""
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.gather(self._watcher, return_exceptions=True)
        if self._connection is not None:
            self._connection.terminate()

    @property
    def unaccepted(self) -> tuple[Unaccepted, ...]:
        """Tokens of active agents that are in the database, but without a true seal."""
        return self._state.unaccepted

    def by_token(self, token: str) -> Agent | None:
        """The agent whose token this is.

        The look-up is by hash: its timing tells of the SHA-256 of a guess, not of a token.
        """
        return self._state.tokens.get(token_hash(token))

    def authenticate(self, name: str, token: str) -> Agent | None:
        """The agent of this name, if this is its token."""
        agent = self.by_token(token)
        if agent is None or not compare_digest(
            agent.name.encode(), name.encode("utf-8", "surrogateescape")
        ):
            return None
        return agent

    def agent(self, who: Named) -> Agent:
        """The agent that was authenticated before as `who`, whether it was removed since or not.

        Raises KeyError for a name that never was an agent's.
        """
        return self._state.names[who.name]

    def policy(self, agent: Agent) -> Policy:
        """The agent's policy; a frozen one if it was removed since it was looked up."""
        found = self._state.policies.get(agent.id)
        return found or Policy(agent.name, True, 0, 0, 0, 0)

    async def _connect(self) -> "Connection":
        async with asyncio.timeout(self._timeout):
            connection = await asyncpg.connect(
                self._dsn,
                command_timeout=self._timeout,
                server_settings={"application_name": "autopay directory", **startup(self._role)},
            )
            try:
                # First listen, then read: what changes in between is heard.
                await connection.add_listener("autopay_directory", self._wake)
                connection.add_termination_listener(self._wake)
                await self._load(connection)
            except BaseException:
                connection.terminate()
                raise
        return connection

    async def _load(self, connection: "Connection") -> None:
        rows = await connection.fetch(_LOAD)
        before, keyring = self._state.unaccepted, await self._vault.keyring()
        if unknown := self._take(rows, keyring):
            # To read the keys may take a while; what could be opened holds already.
            try:
                newer = await self._vault.keyring_for(unknown)
            except (VaultError, PathError) as error:
                log.warning("the secret keys cannot be read anew: %s", error)
            else:
                if newer is not keyring:
                    self._take(rows, newer)
        for one in self._state.unaccepted if self._state.unaccepted != before else ():
            log.warning(
                "%d token(s) of agent %s in the database are not accepted: %s",
                one.tokens,
                one.agent,
                one.why,
            )

    def _take(self, rows: Sequence[asyncpg.Record], keyring: Keyring) -> set[bytes]:
        """Makes the rows what is known, and returns the ids of keys that were not there."""
        tokens: dict[bytes, Agent] = {}
        names: dict[str, Agent] = {}
        policies: dict[UUID, Policy] = {}
        true: dict[bytes, bytes] = {}
        faults: list[tuple[str, str]] = []
        unknown: set[bytes] = set()
        for row in rows:
            agent = Agent(row["id"], row["name"], capture_chat=row["capture_chat"])
            names[agent.name] = agent
            if row["is_active"]:
                policies[agent.id] = policy_of(row)
                for token, session, seal in row["tokens"]:
                    owner = agent if session is None else replace(agent, session=session)
                    try:
                        if not self._is_true(keyring, owner, token, seal):
                            faults.append((agent.name, seals.NO_SEAL))
                            continue
                    except UnknownKey as error:
                        unknown.add(error.key_id)
                        if not self._was_true(owner, token):
                            faults.append((agent.name, seals.unknown_key(error.key_id)))
                            continue
                    else:
                        true[token] = seal
                    tokens[token] = owner
        self._state = _State(tokens, names, policies, true, seals.counted(faults))
        return unknown

    def _is_true(self, keyring: Keyring, owner: Agent, token: bytes, seal: bytes | None) -> bool:
        """Raises UnknownKey. A seal that was opened before, for the same, is not opened again."""
        if self._state.seals.get(token, b"") == seal and self._was_true(owner, token):
            return True
        return seals.is_true(keyring, owner.id, owner.session, token, seal)

    def _was_true(self, owner: Agent, token: bytes) -> bool:
        """Whether this very token was this agent's, for this session, when its seal was opened: a
        rotation whose key is not here yet takes nothing from anybody."""
        known = self._state.tokens.get(token)
        return known is not None and (known.id, known.session) == (owner.id, owner.session)

    async def _watch(self) -> None:
        pause = 0.1
        while True:
            try:
                if self._connection is None or self._connection.is_closed():
                    self._connection = await self._connect()
                    log.info("the agents' directory is connected again")
                await self._refresh(self._connection)
                pause = 0.1
            except _TROUBLE as error:
                if self._connection is not None:
                    self._connection.terminate()
                log.warning("the agents' directory is not fresh: %s", _line(error))
                await asyncio.sleep(pause)
                pause = min(pause * 2, 5.0)

    async def _refresh(self, connection: "Connection") -> None:
        """Waits for a change, or for the next poll, and reads."""
        try:
            async with asyncio.timeout(self._poll):
                await self._changed.wait()
        except TimeoutError:
            pass
        self._changed.clear()
        await self._load(connection)

    def _wake(self, *_: object) -> None:
        self._changed.set()


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or "no answer in time"
    return f"the ledger's database: {text[:300]}"
