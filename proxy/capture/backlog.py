"""Work that waits its turn behind the traffic, bounded: what finds no room is dropped, and said."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from proxy.ledger import LedgerError, LedgerUnavailable
from proxy.tasks import end

log = logging.getLogger(__name__)

_Item = TypeVar("_Item")

FIRST_PAUSE = 0.1
LONGEST_PAUSE = 5.0
TELL_SECONDS = 10.0


class Backlog(Generic[_Item]):
    """`work` gets one item after the other. While the database is away it is tried again and again,
    and the items behind it wait; `put` never does."""

    def __init__(self, what: str, work: Callable[[_Item], Awaitable[None]], *, most: int) -> None:
        self.dropped = 0
        """How many found no room, or were refused."""
        self._what = what
        self._work = work
        self._queue: asyncio.Queue[_Item] = asyncio.Queue(most)
        self._worker: asyncio.Task[None] | None = None
        self._told_at = float("-inf")
        self.waiting = 0
        """How many are not done with."""

    def put(self, item: _Item) -> bool:
        """Whether there was room for it."""
        try:
            self._queue.put_nowait(item)
        except asyncio.QueueFull:
            self.drop("too much is waiting for the database")
            return False
        self.waiting += 1
        if self._worker is None:
            self._worker = asyncio.create_task(self._run(), name=self._what)
        return True

    def drop(self, why: str) -> None:
        """Count one that is lost; the log hears of it now and then."""
        self.dropped += 1
        now = asyncio.get_running_loop().time()
        if now - self._told_at >= TELL_SECONDS:
            self._told_at = now
            log.error("%s: %d were dropped so far: %s", self._what, self.dropped, why)

    async def close(self, timeout: float) -> None:  # noqa: ASYNC109 - what waits has so long
        """Work off what waits, bounded; the rest is lost."""
        if self._worker is None:
            return
        try:
            async with asyncio.timeout(timeout):
                await self._queue.join()
        except TimeoutError:
            log.error("%s: %d still waited and are lost", self._what, self.waiting)
        await end(self._worker)

    async def _run(self) -> None:
        while True:
            item = await self._queue.get()
            try:
                await self._until_done(item)
            except LedgerError as error:
                self.drop(str(error))
            except Exception:
                log.exception("%s: one failed", self._what)
                self.drop("it failed")
            self.waiting -= 1
            self._queue.task_done()

    async def _until_done(self, item: _Item) -> None:
        pause = FIRST_PAUSE
        while True:
            try:
                await self._work(item)
                return
            except LedgerUnavailable as error:
                log.warning("%s wait: %s", self._what, error)
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE)
