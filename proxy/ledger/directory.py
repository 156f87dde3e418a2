"""Agents, tokens and the book of policies in memory: the hot path looks up what is known already.

A change in the database is heard at once (NOTIFY, sent by triggers) and read as a whole: one
snapshot of all of it replaces the one before, so nobody sees half of a change. Without the database
the last known state goes on: traffic flows, and the ledger, which knows the version of the book
itself, pays nothing.

A token's row is taken for what it says only if its seal is true: that of a row which somebody wrote
who has the database, but not the secret key, cannot be.
"""

import asyncio
import json
import logging
import time
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from hmac import compare_digest
from typing import TYPE_CHECKING, Protocol
from uuid import UUID

import asyncpg

from policies import Book, Policy, PolicyError, Rules
from proxy.ledger import seals
from proxy.ledger.agents import Agent, token_hash
from proxy.ledger.errors import TROUBLE, LedgerUnavailable
from proxy.ledger.layers import BOOK, book_of
from proxy.ledger.listening import listen
from proxy.ledger.roles import role_refused
from proxy.ledger.seals import Unaccepted
from proxy.paths import PathError
from proxy.tasks import end
from proxy.vault import Keyring, UnknownKey, Vault, VaultError

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]

log = logging.getLogger(__name__)

_LOAD = """
SELECT a.id, a.name, a.is_active, a.capture_chat,
       ARRAY(SELECT (t.token_sha256, t.session_id, t.sealed,
                     extract(epoch FROM t.expires_at - now())::float8)
             FROM agent_tokens t WHERE t.agent_id = a.id AND t.revoked_at IS NULL
               AND (t.expires_at IS NULL OR t.expires_at > now())) AS tokens
FROM agents a JOIN agent_policies p ON p.agent_id = a.id
"""
_MOST_POLICIES = 10_000  # of agents at providers; past that they are worked out anew


class Named(Protocol):
    """All that the data plane knows of an agent."""

    @property
    def name(self) -> str: ...


class Place(Protocol):
    """A provider's origin, as policies ask about it."""

    @property
    def scheme(self) -> str: ...
    @property
    def host(self) -> str: ...
    @property
    def port(self) -> int: ...


class _Policies:
    """What holds for whom, by one book; worked out once for each that is asked for."""

    def __init__(self, book: Book) -> None:
        self.book = book
        self._known: dict[tuple[str, str, str, int] | str, Policy] = {}

    def of(self, name: str) -> Policy:
        """The agent's own and the defaults: what is the same at every provider."""
        found = self._known.get(name)
        if found is None:
            book = self.book
            own = book.agents.get(name, Rules())
            found = self._keep(name, Policy.of(name, own, book.defaults, version=book.version))
        return found

    def at(self, name: str, place: Place) -> Policy:
        """All that holds for the agent at this provider."""
        key = (name, place.scheme, place.host, place.port)
        found = self._known.get(key)
        if found is None:
            found = self._keep(key, self.book.policy(*key))
        return found

    def _keep(self, key: tuple[str, str, str, int] | str, policy: Policy) -> Policy:
        if len(self._known) >= _MOST_POLICIES:
            self._known.clear()
        self._known[key] = policy
        return policy


@dataclass(frozen=True, slots=True)
class _State:
    tokens: Mapping[bytes, Agent] = field(default_factory=dict)  # by hash; of active agents
    names: Mapping[str, Agent] = field(default_factory=dict)  # removed ones too
    active: Set[UUID] = frozenset()
    policies: _Policies = field(default_factory=lambda: _Policies(Book()))
    shadow: _Policies | None = None
    seals: Mapping[bytes, bytes] = field(default_factory=dict)  # of `tokens`, found true
    ends: Mapping[bytes, float] = field(default_factory=dict)  # of those that end by themselves
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
        self._news = asyncio.Event()  # each time all was read, once: then there is another
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
        except TROUBLE as error:
            if refused := role_refused(error, self._dsn, self._role):
                raise refused from error
            raise LedgerUnavailable(_line(error), may_have_happened=False) from error
        self._connection = connection
        self._watcher = asyncio.create_task(self._watch(), name="ledger directory")

    async def close(self) -> None:
        """Stops listening; look-ups go on answering from what is known."""
        await end(self._watcher)
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
        return self.by_hash(token_hash(token))

    def by_hash(self, hashed: bytes) -> Agent | None:
        """The agent whose token has this hash (`token_hash`)."""
        state = self._state
        # On the monotonic clock, from what the database's clock said when it was read.
        if (ends := state.ends.get(hashed)) is not None and ends <= time.monotonic():
            return None
        return state.tokens.get(hashed)

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

    @property
    def active(self) -> Set[UUID]:
        """The ids of those that were not removed."""
        return self._state.active

    def policy(self, agent: Agent) -> Policy:
        """The agent's policy, apart from what is said of providers; a frozen one if it was removed
        since it was looked up."""
        state = self._state
        return state.policies.of(agent.name) if agent.id in state.active else self._removed(agent)

    def policy_at(self, agent: Agent, place: Place) -> Policy:
        """All that holds for the agent at this provider; see `policy`."""
        state = self._state
        if agent.id not in state.active:
            return self._removed(agent)
        return state.policies.at(agent.name, place)

    def shadow_at(self, agent: Agent, place: Place) -> Policy | None:
        """What would hold there by the book that only looks on; None if there is none."""
        shadow = self._state.shadow
        return None if shadow is None else shadow.at(agent.name, place)

    @property
    def version(self) -> int:
        """Of the book of policies that is known here."""
        return self._state.policies.book.version

    async def fresh(self, version: int, seconds: float) -> bool:
        """Waits until the book is known at this version, or a later one; whether it is in time."""
        try:
            async with asyncio.timeout(seconds):
                while self.version < version:
                    news = self._news
                    self._wake()
                    await news.wait()
        except TimeoutError:
            return False
        return True

    def _removed(self, agent: Agent) -> Policy:
        return Policy(agent.name, True, 0, 0, 0, 0, version=self.version)

    async def _connect(self) -> "Connection":
        return await listen(
            self._dsn,
            "autopay_directory",
            self._wake,
            self._load,
            name="autopay directory",
            role=self._role,
            timeout=self._timeout,
            ended=self._wake,
        )

    async def _load(self, connection: "Connection") -> None:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            rows = await connection.fetch(_LOAD)
            written = await connection.fetchrow(BOOK)
        assert written is not None
        policies, shadow = _Policies(book_of(written)), _shadow(written["shadow"])
        before, keyring = self._state.unaccepted, await self._vault.keyring()
        if unknown := self._take(rows, policies, shadow, keyring):
            # To read the keys may take a while; what could be opened holds already.
            try:
                newer = await self._vault.keyring_for(unknown)
            except (VaultError, PathError) as error:
                log.warning("the secret keys cannot be read anew: %s", error)
            else:
                if newer is not keyring:
                    self._take(rows, policies, shadow, newer)
        news, self._news = self._news, asyncio.Event()
        news.set()
        for one in self._state.unaccepted if self._state.unaccepted != before else ():
            log.warning(
                "%d token(s) of agent %s in the database are not accepted: %s",
                one.tokens,
                one.agent,
                one.why,
            )

    def _take(
        self,
        rows: Sequence[asyncpg.Record],
        policies: _Policies,
        shadow: _Policies | None,
        keyring: Keyring,
    ) -> set[bytes]:
        """Makes the rows what is known, and returns the ids of keys that were not there."""
        tokens: dict[bytes, Agent] = {}
        names: dict[str, Agent] = {}
        active: set[UUID] = set()
        true: dict[bytes, bytes] = {}
        ends: dict[bytes, float] = {}
        faults: list[tuple[str, str]] = []
        unknown: set[bytes] = set()
        for row in rows:
            agent = Agent(row["id"], row["name"], capture_chat=row["capture_chat"])
            names[agent.name] = agent
            if row["is_active"]:
                active.add(agent.id)
                for token, session, seal, left in row["tokens"]:
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
                    if left is not None:
                        ends[token] = time.monotonic() + left
        self._state = _State(
            tokens, names, active, policies, shadow, true, ends, seals.counted(faults)
        )
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
            except TROUBLE as error:
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


def _shadow(document: str | None) -> _Policies | None:
    try:
        return None if document is None else _Policies(Book.from_json(json.loads(document)))
    except PolicyError as error:
        log.error("the shadow policies cannot be read, and do not decide: %s", error)
        return None


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or "no answer in time"
    return f"the ledger's database: {text[:300]}"
