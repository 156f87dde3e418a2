"""The providers of this process: who may be called, how good each is, and a record of both."""

import asyncio
import logging
from contextlib import suppress
from datetime import UTC, datetime, timedelta

from proxy.ledger import Database, LedgerError
from proxy.ledger import provider_stats as saved_stats
from proxy.providers.guard import LAST_ERROR_CHARACTERS, Guards
from proxy.providers.guard import Ticket as GuardTicket
from proxy.providers.score import Behaviour, score
from proxy.providers.stats import Stats

log = logging.getLogger(__name__)

FLUSH_SECONDS = 1.0


class Ticket:
    """Leave to call a provider: what came of it goes to the breaker and to the statistics.

    The first word counts, later ones change nothing. Dropped without a word, it was neutral.
    """

    __slots__ = ("_guard", "_key", "_stats")

    def __init__(self, guard: GuardTicket, stats: Stats, key: str) -> None:
        self._guard: GuardTicket | None = guard
        self._stats = stats
        self._key = key

    def success(self, *, latency_ms: float, status: int, schema: bool = True) -> None:
        """It answered as it should; `schema` is False if not in the form that was expected."""
        guard, self._guard = self._guard, None
        if guard:
            self._stats.succeeded(self._key, latency_ms, status, schema=schema)
            guard.success()

    def failure(self, error: str, *, status: int | None = None) -> None:
        """It did not answer, or not as it should; `error` is for people."""
        guard, self._guard = self._guard, None
        if guard:
            error = _storable(error)
            self._stats.failed(self._key, error, status)
            guard.failure(error)

    def neutral(self) -> None:
        """Nothing was learned: the caller left, or it answered 402 or another 4xx."""
        guard, self._guard = self._guard, None
        if guard:
            guard.neutral()


class Providers:
    """Breakers, scores and statistics. `start` takes up what the ledger knows, `close` leaves
    the rest there; in between it is written once a second, and a ledger that is away disturbs
    nothing: what it misses is kept."""

    def __init__(self, database: Database, *, failures: int, open_seconds: float) -> None:
        self._database = database
        self._stats = Stats()
        self._guards = Guards(failures, open_seconds, self._changed)
        self._closing = asyncio.Event()
        self._flusher: asyncio.Task[None] | None = None
        self._in_trouble = False

    async def start(self) -> None:
        """Load the records and begin to write. Raises LedgerError."""
        known = await saved_stats.load(self._database)
        self._stats.restore(known.values())
        now = datetime.now(UTC)
        for key, stats in known.items():
            if stats.consecutive_failures or stats.circuit_open_until:
                until = stats.circuit_open_until
                open_for = (until - now).total_seconds() if until else None
                self._guards.restore(
                    key, stats.consecutive_failures, open_for, stats.last_error or ""
                )
        self._flusher = asyncio.create_task(self._flush_until_closed(), name="provider statistics")

    async def close(self) -> None:
        """Write what is not written yet, and stop."""
        self._closing.set()
        if self._flusher:
            # Not cancelled: a statement cut off in the middle might count everything twice.
            await self._flusher
            self._flusher = None
            await self._flush()

    def admit(self, key: str) -> Ticket:
        """A ticket to call the provider `key` (`https://api.example:443`). Raises BreakerOpen."""
        return Ticket(self._guards.admit(key), self._stats, key)

    def quoted(self, key: str, price_micros: int) -> None:
        """The provider asked for this much."""
        self._stats.quoted(key, price_micros)

    def score(self, key: str) -> float:
        """How good the provider is, 0 to 1; `score.score` says how that is reckoned."""
        record = self._stats.get(key)
        return score(
            Behaviour(
                calls=record.calls,
                successes=record.successes,
                schema_passes=record.schema_passes,
                quality=record.quality,
                latency_ms=record.latency_ms,
                max_price_micros=record.max_price_micros,
                tripped=self._guards.is_tripped(key),
            )
        )

    def breakers(self) -> list[tuple[str, str]]:
        """(provider, state) of every breaker that is known: those that are open or half-open first,
        then the closed ones, the last used first."""
        return self._guards.states()

    def _changed(self, key: str, state: str, open_seconds: float, last_error: str) -> None:
        if state == "open":
            log.warning("%s failed and is left alone for %.0f s: %s", key, open_seconds, last_error)
            self._stats.circuit(key, datetime.now(UTC) + timedelta(seconds=open_seconds))
        elif state == "closed":
            log.info("%s answers again", key)
            self._stats.circuit(key, None)

    async def _flush_until_closed(self) -> None:
        while not self._closing.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(FLUSH_SECONDS):
                    await self._closing.wait()
            await self._flush()

    async def _flush(self) -> None:
        flushed = self._stats.unsaved()
        try:
            await saved_stats.add(self._database, [delta for delta, _ in flushed])
        except LedgerError as error:
            if not self._in_trouble:  # once, not every second
                log.warning("provider statistics wait to be written: %s", error)
            self._in_trouble = True
            return
        if self._in_trouble:
            log.info("provider statistics are written again")
        self._in_trouble = False
        self._stats.saved(flushed)


def _storable(text: str) -> str:
    """Text as PostgreSQL takes it, and bounded: an error may quote whatever a provider sent."""
    plain = text.replace("\0", "").encode(errors="replace").decode()
    return " ".join(plain[:LAST_ERROR_CHARACTERS].split())
