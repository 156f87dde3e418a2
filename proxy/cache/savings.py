"""What was not paid again: counted where it happens, and written now and then."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, date, datetime
from uuid import UUID

from proxy.ledger import Agent, Database, LedgerError, LedgerUnavailable
from proxy.ledger.savings import Saving, add_savings
from proxy.metrics import Counts

log = logging.getLogger(__name__)

FLUSH_SECONDS = 2.0


class Savings:
    """By agent, provider and UTC day. `start()` it; `close()` writes the rest. A database that is
    away disturbs nothing: what it misses is kept, one sum for each agent, provider and day.

    `tidy` is called as often: the cache's own upkeep."""

    def __init__(
        self, database: Database, counts: Counts, *, flush_seconds: float = FLUSH_SECONDS
    ) -> None:
        self.tidy: Callable[[], None] | None = None
        self._database = database
        self._counts = counts
        self._flush_seconds = flush_seconds
        self._sums: dict[tuple[date, UUID, str], tuple[int, int]] = {}
        self._closing = asyncio.Event()
        self._flusher: asyncio.Task[None] | None = None
        self._in_trouble = False

    def start(self) -> None:
        self._flusher = asyncio.create_task(self._run(), name="cache savings")

    async def close(self) -> None:
        """Write what is not written yet, and stop."""
        self._closing.set()
        if self._flusher is not None:
            await self._flusher
        await self.flush()

    def add(self, agent: Agent, provider: str, micros: int) -> None:
        """One answer that would have cost so much, micro-USD."""
        self._counts.saved_answers.add(agent.name, provider)
        self._counts.saved_micros.add(agent.name, provider, by=micros)
        key = (datetime.now(UTC).date(), agent.id, provider)
        answers, saved = self._sums.get(key, (0, 0))
        self._sums[key] = (answers + 1, saved + micros)

    async def flush(self) -> None:
        """Write all there is. If it is not known whether that arrived, it is not written again:
        these are statistics, and rather too small than too great."""
        sums, self._sums = self._sums, {}
        rows = [Saving(*key, *sum_) for key, sum_ in sums.items()]
        try:
            await add_savings(self._database, rows)
        except LedgerError as error:
            if not self._in_trouble:
                log.warning("what the cache saved waits to be written: %s", error)
            self._in_trouble = True
            if isinstance(error, LedgerUnavailable) and not error.may_have_happened:
                self._take_back(sums)
            return
        self._in_trouble = False

    def _take_back(self, sums: dict[tuple[date, UUID, str], tuple[int, int]]) -> None:
        for key, (answers, saved) in sums.items():
            more = self._sums.get(key, (0, 0))
            self._sums[key] = (answers + more[0], saved + more[1])

    async def _run(self) -> None:
        while not self._closing.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(self._flush_seconds):
                    await self._closing.wait()
            await self.flush()
            if self.tidy is not None:
                self.tidy()
