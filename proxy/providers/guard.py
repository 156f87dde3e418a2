"""One provider's circuit breaker: pybreaker's states behind a synchronous ticket.

pybreaker keeps the state machine, its storage and its listeners. Its own ways to call are all wrong
under asyncio: the decorator never sees a coroutine fail, `call_async` closes without probing, and
all of them let every concurrent caller through when half-open. So nothing is ever called *through*
it: who wants to call a provider takes a `Ticket`, and tells the ticket what came of it.

    closed ──failures in a row, or too many of the calls──▶ open ──its time──▶ half-open
      ▲                                                       ▲                    │
      └───────────────── successes ───────────────────────────┼────────────────────┤
                                                              └─────failure────────┘
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple, Protocol
from uuid import UUID, uuid4

import pybreaker

from proxy.providers.window import Window

LAST_ERROR_CHARACTERS = 300
# While another process has the one probe, it is not asked for again before that.
BUSY_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class BreakerRules:
    """When a provider is left alone: after so many `failures` in a row, or when `failure_rate` (0
    to 1) of the calls of the last `window_seconds` failed, if there were `min_calls`. It is left
    alone for `open_seconds`, then tried by one call at a time, until so many `successes`."""

    failures: int = 3
    failure_rate: float = 0.5
    window_seconds: float = 60.0
    min_calls: int = 20
    open_seconds: float = 180.0
    successes: int = 2
    enabled: bool = True


@dataclass(frozen=True, slots=True)
class Tripped:
    """A breaker that is "open" or "half-open". `seconds`: until it may be tried; 0: it may, or is
    being tried (`probing`)."""

    key: str
    state: str
    seconds: float
    last_error: str
    probing: bool


class Watcher(Protocol):
    """Who hears what breakers of this process do. What was heard of others' is not told again."""

    def opened(self, key: str, failures: int, last_error: str) -> None: ...
    def closed(self, key: str) -> None: ...
    def probe_over(self, key: str, lease: UUID, successes: int) -> None:
        """A probe ended, and it is still half-open, after so many successes."""
        ...


class Success(NamedTuple):
    """The how manyth success, and how many failures in a row it ended."""

    number: int
    ended: int


class Guard:
    """One provider's breaker and what pybreaker does not keep.

    `open_until` is on the monotonic clock: pybreaker's own opened_at is wall time, which jumps.
    `lease`: of the probe that is under way.
    """

    __slots__ = (
        "_breaker",
        "_changed",
        "_clock",
        "_rules",
        "_storage",
        "_successes",
        "_watcher",
        "_window",
        "generation",
        "key",
        "last_error",
        "lease",
        "open_until",
        "version",
    )

    def __init__(
        self,
        key: str,
        rules: BreakerRules,
        clock: Callable[[], float],
        changed: Callable[["Guard", str], None],
        watcher: Watcher,
    ) -> None:
        self.key = key
        self._rules = rules
        self._storage = pybreaker.CircuitMemoryStorage(pybreaker.STATE_CLOSED)
        self._breaker = pybreaker.CircuitBreaker(
            fail_max=rules.failures,
            success_threshold=rules.successes,
            state_storage=self._storage,
            listeners=[_Listener(self._turned)],
            name=key,
        )
        self._window = Window(rules.window_seconds)
        self.generation = 0
        self.version = 0
        self.lease: UUID | None = None
        self.open_until = 0.0
        self.last_error = ""
        self._changed = changed
        self._clock = clock
        self._successes = 0
        self._watcher = watcher

    @property
    def failures(self) -> int:
        """In a row."""
        return self._storage.counter

    def probe(self) -> UUID | None:
        """A lease to try it, now that its time is over; None: it is being tried."""
        if self._breaker.current_state == pybreaker.STATE_OPEN:
            self._breaker.half_open()
        if self.lease is not None:
            return None
        self.lease = uuid4()
        return self.lease

    def holds(self, now: float) -> bool:
        """Whether it is open, and its time not over."""
        return self.open_until > now and self._breaker.current_state == pybreaker.STATE_OPEN

    def tripped(self) -> Tripped:
        """Of one that is not closed: when its time is over it is half-open, tried or not."""
        now = self._clock()
        return Tripped(
            self.key,
            pybreaker.STATE_OPEN if self.holds(now) else pybreaker.STATE_HALF_OPEN,
            max(0.0, self.open_until - now),
            self.last_error,
            self.lease is not None,
        )

    # --- what came of a call

    def succeeded(self, *, probe: bool) -> Success:
        self._window.add(self._clock(), 1, 0)
        self._successes += 1
        success = Success(self._successes, self._storage.counter)
        if success.ended:
            self._storage.reset_counter()
        if probe:
            generation = self.generation
            self._breaker.state.on_success()
            if self.generation == generation:
                self.probe_over()
        return success

    def failed(self, error: str, *, instead_of: Success | None) -> None:
        """`instead_of`: what was taken for a success did not end the failures in a row either, if
        there was no other since."""
        self.last_error = error[:LAST_ERROR_CHARACTERS]
        self._window.add(self._clock(), 1 if instead_of is None else 0, 1)
        if instead_of is not None and instead_of.number == self._successes:
            for _ in range(instead_of.ended):
                self._storage.increment_counter()
        self._storage.increment_counter()
        generation = self.generation
        # That it trips now is told by this exception, and by the listener.
        with suppress(pybreaker.CircuitBreakerError):
            self._breaker.state.on_failure(RuntimeError(error))
        if self.generation == generation and self._fails_too_often():
            self._breaker.open()

    def probe_over(self) -> None:
        lease, self.lease = self.lease, None
        if lease is not None:
            self._watcher.probe_over(self.key, lease, self._storage.success_counter)

    def give_way(self, seconds: float) -> None:
        self.lease = None
        self.open_until = self._clock() + min(max(seconds, BUSY_SECONDS / 10), BUSY_SECONDS)

    # --- what others know of it

    def recall(self, failures: int) -> None:
        """An earlier process saw it closed, after so many failures in a row."""
        for _ in range(min(failures, self._rules.failures - 1)):
            self._storage.increment_counter()

    def hear(self, version: int, open_for: float | None, last_error: str) -> None:
        """See `Guards.hear`."""
        closed = self._breaker.current_state == pybreaker.STATE_CLOSED
        if open_for is not None:
            seconds = min(open_for, self._rules.open_seconds)
            self.last_error = last_error
            if closed or (seconds > 0 and version > self.version):
                self._breaker.open()
            if self.lease is None:
                self.open_until = self._clock() + seconds
        elif not closed:
            self._breaker.close()
        self.version = version

    def leased(self, version: int, successes: int) -> None:
        """See `Guards.leased`."""
        self.version = max(self.version, version)
        self._storage.reset_success_counter()
        for _ in range(successes):
            self._storage.increment_success_counter()

    # ---

    def _turned(self, state: str) -> None:
        self.generation += 1
        self.lease = None
        self._window.clear()
        if state == pybreaker.STATE_OPEN:
            self.open_until = self._clock() + self._rules.open_seconds
        self._changed(self, state)

    def _fails_too_often(self) -> bool:
        window, rules = self._window, self._rules
        return (
            window.calls >= rules.min_calls and window.failures >= rules.failure_rate * window.calls
        )


class _Listener(pybreaker.CircuitBreakerListener):
    """Passes a change of state on."""

    def __init__(self, turned: Callable[[str], None]) -> None:
        self._turned = turned

    def state_change(
        self,
        cb: pybreaker.CircuitBreaker,
        old_state: pybreaker.CircuitBreakerState | None,
        new_state: pybreaker.CircuitBreakerState,
    ) -> None:
        self._turned(new_state.name)
