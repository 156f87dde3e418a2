"""The breakers of all processes on one database: decided by each for itself, known to all.

What this process does is written at once, and what others do is heard (NOTIFY) or found by a look
every second. A half-open provider is tried by one call of all: who wants to be that asks for a
lease, by time, so that it is held by nobody who died. A database that is away is waited for by
nobody: each process then decides alone, and what it decided is written when the database is back.
"""

import asyncio
import contextlib
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID

import asyncpg

from proxy.ledger import Database, LedgerError, circuits
from proxy.ledger.errors import TROUBLE
from proxy.ledger.listening import listen
from proxy.providers.guards import Guards
from proxy.tasks import end

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
REST_SECONDS = 0.05  # after a look: what is heard meanwhile, however much it is, takes one more
LEASE_SECONDS = 10.0  # renewed at every look
LEASE_WAIT = 1.0  # for the database to give it
_PAUSE = 0.1
_LONGEST_PAUSE = 5.0


@dataclass(frozen=True, slots=True)
class _Opened:
    error: str
    failures: int


@dataclass(frozen=True, slots=True)
class _Closed:
    pass


@dataclass(frozen=True, slots=True)
class _Over:
    lease: UUID
    successes: int


_Turn = _Opened | _Closed | _Over


def _after(unwritten: _Turn | None, what: _Turn) -> _Turn:
    """What is to be written of a provider: the last word. But that a probe is over does not replace
    an opening: the database would never hear of that, and what it says, closed, would be believed.
    """
    if isinstance(unwritten, _Opened) and isinstance(what, _Over):
        return unwritten
    return what


class Fleet:
    """`start()` it with the guards that it speaks for, and to. It is their `Watcher`."""

    def __init__(
        self, database: Database, dsn: str, *, role: str = "", timeout: float = 5.0
    ) -> None:
        """`dsn`: where to listen, as `role`."""
        self._database = database
        self._dsn = dsn
        self._role = role
        self._timeout = timeout
        self._guards: Guards
        self._unwritten: dict[str, _Turn] = {}
        self._dirty = asyncio.Event()
        self._heard = asyncio.Event()
        self._turn = asyncio.Lock()  # a look must not overtake what is being written
        self._away = False
        self._connection: Connection | None = None
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self, guards: Guards) -> None:
        """Takes up what is written. Raises LedgerError."""
        self._guards = guards
        self._take(await circuits.read(self._database))
        self._tasks = [
            asyncio.create_task(self._write_on(), name="breakers, written"),
            asyncio.create_task(self._look_on(), name="breakers, heard of"),
        ]

    async def close(self) -> None:
        """Writes what is not written yet, if that can be done."""
        await end(*self._tasks)
        if self._connection is not None:
            self._connection.terminate()
        if self._tasks:
            try:
                async with asyncio.timeout(self._timeout):
                    await self._write()
            except (LedgerError, TimeoutError) as error:
                log.warning("what was learned of providers is not written: %s", error)

    # --- for the guards

    def opened(self, key: str, failures: int, last_error: str) -> None:
        log.warning("%s fails and is left alone: %s", key, last_error)
        self._note(key, _Opened(last_error, failures))

    def closed(self, key: str) -> None:
        log.info("%s answers again", key)
        self._note(key, _Closed())

    def probe_over(self, key: str, lease: UUID, successes: int) -> None:
        self._note(key, _Over(lease, successes))

    def _note(self, key: str, what: _Turn) -> None:
        if self._tasks:
            self._unwritten[key] = _after(self._unwritten.get(key), what)
            self._dirty.set()

    # --- for who wants to try a provider

    async def lease(self, key: str, owner: UUID) -> circuits.Lease | None:
        """What the database says to that, or None where this process has to decide alone. Waits a
        second at most, and once: not while the database is known to be away."""
        if self._away or not self._tasks:
            return None
        try:
            async with asyncio.timeout(LEASE_WAIT), self._turn:
                await self._write()  # that an earlier probe is over, say
                return await circuits.try_one(self._database, key, owner, LEASE_SECONDS)
        except (LedgerError, TimeoutError) as error:
            self._trouble(error)
            return None

    # --- what is written

    async def _write_on(self) -> None:
        pause = _PAUSE
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            try:
                async with self._turn:
                    await self._write()
                pause = _PAUSE
            except LedgerError as error:
                self._trouble(error)
                await asyncio.sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE)
                self._dirty.set()

    async def _write(self) -> None:
        """All that is not written. Raises LedgerError; what it was kept from goes on waiting."""
        writing, self._unwritten = self._unwritten, {}
        try:
            await self._write_openings(writing)
            for key, what in list(writing.items()):
                if isinstance(what, _Closed):
                    version = await circuits.close(self._database, key, self._guards.version(key))
                    if version is None:  # turned by another meanwhile: see what it is now
                        self._heard.set()
                    else:
                        self._guards.written(key, version)
                elif isinstance(what, _Over):
                    await circuits.end(self._database, key, what.lease, what.successes)
                del writing[key]
        finally:
            for key, what in self._unwritten.items():  # of meanwhile
                writing[key] = _after(writing.get(key), what)
            self._unwritten = writing

    async def _write_openings(self, writing: dict[str, _Turn]) -> None:
        openings = [
            circuits.Opening(key, self._guards.open_for(key) or 0.0, what.error, what.failures)
            for key, what in writing.items()
            if isinstance(what, _Opened)
        ]
        if openings:
            versions = await circuits.open_all(self._database, openings)
            for one in openings:
                self._guards.written(one.id, versions[one.id])
                del writing[one.id]

    # --- what is heard

    async def _look_on(self) -> None:
        pause = _PAUSE
        while True:
            self._heard.clear()
            try:
                await self._look()
            except (*TROUBLE, LedgerError) as error:
                self._trouble(error)
                if self._connection is not None:
                    self._connection.terminate()
                    self._connection = None
                await asyncio.sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE)
                continue
            pause = _PAUSE
            if self._away:
                log.info("breakers are shared with other processes again")
                self._away = False
                self._dirty.set()
            # Whoever calls ever new dead hosts must not keep all processes looking without a pause.
            await asyncio.sleep(REST_SECONDS)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._heard.wait()

    async def _look(self) -> None:
        connection = await self._connected()
        async with self._turn:
            for key, lease in self._guards.leases():
                await circuits.renew(self._database, key, lease, LEASE_SECONDS)
            known = [one.key for one in self._guards.tripped()]
            self._take(await circuits.read(connection, known), known)

    def _take(self, found: list[circuits.Circuit], asked: list[str] | None = None) -> None:
        for one in found:
            if one.id not in self._unwritten:
                self._guards.hear(one.id, one.version, one.open_for, one.last_error)
        for key in set(asked or ()) - {one.id for one in found} - self._unwritten.keys():
            self._guards.hear(key, self._guards.version(key), None, "")  # its record is gone

    async def _connected(self) -> "Connection":
        connection = self._connection
        if connection is not None and not connection.is_closed():
            return connection
        self._connection = await listen(
            self._dsn,
            circuits.CHANNEL,
            self._hear,
            name="autopay breakers",
            role=self._role,
            timeout=self._timeout,
            ended=self._hear,
            by_index=True,
        )
        return self._connection

    def _hear(self, *_: object) -> None:
        self._heard.set()

    def _trouble(self, error: BaseException) -> None:
        if not self._away:
            words = str(error) or "no answer in time"
            log.warning("breakers are this process' own for now: %s", words)
        self._away = True
