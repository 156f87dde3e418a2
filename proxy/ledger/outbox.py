"""Writes that must happen, however long the database is away.

They wait here, in memory: a process that is killed meanwhile leaves its payments held and in doubt,
which is safe, and the chain tells later what became of them.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from proxy.ledger.errors import LedgerFault, LedgerUnavailable
from proxy.tasks import end

log = logging.getLogger(__name__)

_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 5.0
# Reservations fail while the database is away, so what waits is bounded by what was under way; only
# log rows could pile up, and those are dropped past this.
_MOST_LOG_ROWS = 10_000


@dataclass(frozen=True, slots=True)
class _Write:
    what: str
    attempt: Callable[[], Awaitable[None]]


class Outbox:
    """Tries each write at once, and those that found no database again and again, in order."""

    def __init__(self) -> None:
        self._waiting: deque[_Write] = deque()
        self._first_attempts: set[asyncio.Task[bool]] = set()
        self._retrier: asyncio.Task[None] | None = None
        self._idle = asyncio.Event()
        self._idle.set()
        self._dropped = 0

    def __len__(self) -> int:
        """How many writes are not acknowledged yet."""
        return len(self._waiting) + len(self._first_attempts)

    async def write(
        self, what: str, attempt: Callable[[], Awaitable[None]], *, droppable: bool = False
    ) -> bool:
        """True once the write is acknowledged; False if it waits for the database, or was refused.

        `attempt` must be repeatable. Cancelling the caller does not cancel the write. One that the
        database refuses (LedgerFault) is logged and given up: repeating it would change nothing.
        """
        task = asyncio.create_task(self._first(_Write(what, attempt), droppable), name=what)
        self._first_attempts.add(task)
        self._idle.clear()
        task.add_done_callback(self._first_done)
        return await asyncio.shield(task)

    def later(self, what: str, attempt: Callable[[], Awaitable[None]]) -> None:
        """Like `write`, for a write whose database was just seen to be away."""
        self._enqueue(_Write(what, attempt))

    async def flush(self, timeout: float) -> int:  # noqa: ASYNC109 - it cancels nothing
        """Waits up to `timeout` seconds for every write; returns how many still wait."""
        try:
            async with asyncio.timeout(timeout):
                await self._idle.wait()
        except TimeoutError:
            log.error("the ledger: %d writes are still waiting for the database", len(self))
        return len(self)

    async def close(self) -> None:
        """Stops trying. What still waits is lost to this process; its payments stay held."""
        await end(*self._first_attempts, self._retrier)

    async def _first(self, write: _Write, droppable: bool) -> bool:
        try:
            return await self._try(write)
        except LedgerUnavailable as error:
            if droppable and len(self._waiting) >= _MOST_LOG_ROWS:
                self._dropped += 1
                log.error("%s was not recorded, %d so far: %s", write.what, self._dropped, error)
            else:
                self._enqueue(write)
            return False

    def _first_done(self, task: asyncio.Task[bool]) -> None:
        self._first_attempts.discard(task)
        self._note_idle()

    async def _try(self, write: _Write) -> bool:
        try:
            await write.attempt()
        except LedgerFault as error:
            log.error("%s was refused: %s", write.what, error)
            return False
        return True

    def _enqueue(self, write: _Write) -> None:
        self._waiting.append(write)
        self._idle.clear()
        if self._retrier is None or self._retrier.done():
            self._retrier = asyncio.create_task(self._retry(), name="ledger outbox")

    async def _retry(self) -> None:
        pause = _FIRST_PAUSE
        while self._waiting:
            await asyncio.sleep(pause)
            try:
                while self._waiting:
                    await self._try(self._waiting[0])
                    self._waiting.popleft()
                    pause = _FIRST_PAUSE
            except LedgerUnavailable as error:
                log.warning("the ledger: %d writes wait: %s", len(self._waiting), error)
                pause = min(pause * 2, _LONGEST_PAUSE)
        self._note_idle()

    def _note_idle(self) -> None:
        if not self._waiting and not self._first_attempts:
            self._idle.set()
