"""The providers of this process: who may be called, how good each is, and a record of both."""

import asyncio
import logging
from collections.abc import Awaitable, Collection, Mapping
from contextlib import suppress
from uuid import UUID

from proxy.ledger import Database, LedgerError, LedgerUnavailable
from proxy.ledger import provider_stats as saved_stats
from proxy.providers.fleet import Fleet
from proxy.providers.guard import LAST_ERROR_CHARACTERS, BreakerRules, Tripped
from proxy.providers.guards import Guards
from proxy.providers.outcome import Outcome
from proxy.providers.score_book import ScoreBook
from proxy.providers.scores import Terms, Why
from proxy.providers.stats import Stats
from proxy.providers.ticket import Ticket as GuardTicket

log = logging.getLogger(__name__)

FLUSH_SECONDS = 1.0


class Ticket:
    """Leave to call a provider: what came of it goes to the breaker and to the statistics.

    The first word counts, later ones change nothing, but that a failure may follow a success: the
    call is then one that failed. Dropped without a word, it was neutral.
    """

    __slots__ = ("_guard", "_outcome")

    def __init__(self, guard: GuardTicket, outcome: Outcome) -> None:
        self._guard: GuardTicket | None = guard
        self._outcome = outcome

    def about(self, endpoint: str) -> None:
        """What is called: method, and URL without its query."""
        self._outcome.endpoint = endpoint

    def costs(self, micros: int) -> None:
        """A payment of so much leaves with this call."""
        self._outcome.micros = micros

    def success(self, *, latency_ms: float, status: int, schema: bool = True) -> None:
        """It answered as it should; `schema` is False if not in the form that was expected."""
        if self._guard and not self._outcome.succeeded:
            self._outcome.success(latency_ms, status, schema=schema)
            self._guard.success()

    def failure(self, error: str, *, status: int | None = None, paid: bool = False) -> None:
        """It did not answer, or not as it should; `error` is for people. `paid`: it took money."""
        guard, self._guard = self._guard, None
        if guard:
            error = _storable(error)
            self._outcome.failure(error, status, paid=paid)
            guard.failure(error)

    def neutral(self) -> None:
        """Nothing was learned: the caller left, or it answered 402 or another 4xx."""
        if self._guard and not self._outcome.succeeded:
            self._guard.neutral()
            self._guard = None


class Providers:
    """Breakers, scores and statistics. `start` takes up what the ledger knows, `close` leaves
    the rest there; in between it is written once a second, and a ledger that is away disturbs
    nothing: what it misses is kept."""

    def __init__(
        self,
        database: Database,
        dsn: str,
        *,
        rules: BreakerRules = BreakerRules(),  # noqa: B008 - frozen
        own_rules: Mapping[str, BreakerRules] | None = None,
        terms: Terms | None = None,
        role: str = "",
    ) -> None:
        """`own_rules` for the breakers of some providers, by key; `rules` for all others. What
        other processes on the same database learn of providers is heard there as `role`."""
        self._database = database
        self._stats = Stats()
        self._book = ScoreBook(database, terms)
        self._fleet = Fleet(database, dsn, role=role)
        own = dict(own_rules or {})
        self._guards = Guards(lambda key: own.get(key, rules), self._fleet)
        self._closing = asyncio.Event()
        self._flusher: asyncio.Task[None] | None = None
        self._in_trouble = False

    async def start(self) -> None:
        """Load the records and begin to write. Raises LedgerError."""
        known = await saved_stats.load(self._database)
        self._stats.restore(known.values())
        await self._book.read()
        await self._fleet.start(self._guards)
        for key, stats in known.items():
            if stats.consecutive_failures:
                self._guards.restore(key, stats.consecutive_failures)
        self._flusher = asyncio.create_task(self._flush_until_closed(), name="provider statistics")

    async def close(self) -> None:
        """Write what is not written yet, and stop."""
        self._closing.set()
        if self._flusher:
            # Not cancelled: a statement cut off in the middle might count everything twice.
            await self._flusher
            self._flusher = None
            await self._flush()
            await self._fleet.close()

    def admit(self, key: str) -> Ticket | Awaitable[Ticket]:
        """A ticket to call the provider `key` (`https://api.example:443`). Raises BreakerOpen.

        At once, but where the provider is to be tried again: only one call of all processes may,
        and what is given must be awaited to be that. It raises BreakerOpen too.
        """
        ticket = self._guards.admit(key)
        if ticket.lease is None:
            return self._ticket(key, ticket)
        return self._try(key, ticket, ticket.lease)

    async def _try(self, key: str, ticket: GuardTicket, owner: UUID) -> Ticket:
        lease = await self._fleet.lease(key, owner)
        if lease is not None and not lease.leased:
            self._guards.hear(key, lease.version, lease.open_for, lease.last_error)
            ticket.withdraw(max(lease.open_for or 0.0, lease.probe_for or 0.0))
            ticket = self._guards.admit(key)  # closed by now, or it raises
            if ticket.lease is not None:  # it was opened anew, and for no time
                return await self._try(key, ticket, ticket.lease)
        elif lease is not None:
            self._guards.leased(key, lease.version, lease.successes)
        return self._ticket(key, ticket)

    def _ticket(self, key: str, ticket: GuardTicket) -> Ticket:
        return Ticket(ticket, Outcome(key, self._stats, self._book.scores))

    def quoted(self, key: str, price_micros: int, endpoint: str = "") -> None:
        """The provider asked for this much."""
        self._stats.quoted(key, price_micros)
        self._book.scores.quoted(key, endpoint, price_micros)

    def score(
        self, key: str, endpoint: str = "", *, among: Collection[tuple[str, str]] = ()
    ) -> float:
        """How good the provider is, or its endpoint (method, and URL without its query), 0 to 1.
        `among`: (provider, endpoint) of what offers the same, for the price; see `score.judge`."""
        tripped = self._guards.is_tripped(key)
        return self._book.scores.judge(key, endpoint, tripped=tripped, among=among).score

    def why(self, key: str, endpoint: str = "", *, among: Collection[tuple[str, str]] = ()) -> Why:
        """The same with all that it is made of."""
        return self._book.scores.why(key, endpoint, state=self.state(key), among=among)

    def state(self, key: str) -> str:
        """Of its breaker: "closed", "open" or "half-open"."""
        return self._guards.state(key)

    def met(self) -> list[str]:
        """The providers of which something is known, the last used first."""
        return self._book.scores.providers()

    def endpoints(self, key: str) -> list[str]:
        """Those of a provider of which something is known, the last used first."""
        return self._book.scores.endpoints(key)

    def is_tripped(self, key: str) -> bool:
        """Whether its breaker is open or half-open."""
        return self._guards.is_tripped(key)

    def breakers(self) -> list[tuple[str, str]]:
        """(provider, state) of every breaker that is known: those that are open or half-open first,
        then the closed ones, the last used first."""
        return self._guards.states()

    def left_alone(self, key: str) -> float | None:
        """For how many seconds it is left alone; None: it may be called, or tried."""
        return self._guards.left_alone(key)

    def tripped(self) -> list[Tripped]:
        """The breakers that are open or half-open, and until when."""
        return self._guards.tripped()

    async def _flush_until_closed(self) -> None:
        while not self._closing.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(FLUSH_SECONDS):
                    await self._closing.wait()
            await self._flush()

    async def _flush(self) -> None:
        try:
            await self._flush_stats()
            await self._book.flush()
        except LedgerError as error:
            if not self._in_trouble:  # once, not every second
                log.warning("provider statistics wait to be written: %s", error)
            self._in_trouble = True
            return
        if self._in_trouble:
            log.info("provider statistics are written again")
        self._in_trouble = False

    async def _flush_stats(self) -> None:
        flushed = self._stats.unsaved()
        try:
            await saved_stats.add(self._database, [delta for delta, _ in flushed])
        except LedgerUnavailable as error:
            if error.may_have_happened:  # rather lost than counted twice
                self._stats.saved(flushed)
            raise
        self._stats.saved(flushed)


def _storable(text: str) -> str:
    """Text as PostgreSQL takes it, and bounded: an error may quote whatever a provider sent."""
    plain = text.replace("\0", "").encode(errors="replace").decode()
    return " ".join(plain[:LAST_ERROR_CHARACTERS].split())
