"""A circuit breaker for every provider: pybreaker's states behind a synchronous ticket.

pybreaker keeps the state machine, its storage and its listeners. Its own ways to call are all wrong
under asyncio: the decorator never sees a coroutine fail, `call_async` closes without probing, and
all of them let every concurrent caller through when half-open. So nothing is ever called *through*
it: who wants to call a provider takes a ticket, and tells the ticket what came of it.

    closed ──failures in a row──▶ open ──open_seconds──▶ half-open ──success──▶ closed
                                    ▲                        │
                                    └────────failure─────────┘
"""

import math
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress

import pybreaker

LAST_ERROR_CHARACTERS = 300


class BreakerOpen(Exception):
    """The provider is left alone for now. `retry_after`: whole seconds, at least 1."""

    def __init__(self, key: str, retry_after: int, last_error: str) -> None:
        super().__init__(f"{key} is left alone for {retry_after} s: {last_error or 'it failed'}")
        self.key = key
        self.retry_after = retry_after
        self.last_error = last_error


class Ticket:
    """Leave to call a provider once. The first word on what came of it counts, others are ignored.

    A ticket that is dropped without a word says nothing about the provider (`neutral`): a request
    that vanished in mid-air must not keep the only probe for ever.
    """

    __slots__ = ("_generation", "_guard")

    def __init__(self, guard: "_Guard") -> None:
        self._guard: _Guard | None = guard
        self._generation = guard.generation

    def success(self) -> None:
        if guard := self._current():
            guard.succeeded()

    def failure(self, error: str) -> None:
        """The provider failed; `error` is for people."""
        if guard := self._current():
            guard.failed(error)

    def neutral(self) -> None:
        """Nothing was learned: the caller left, or the provider answered 402 or 4xx."""
        if guard := self._current():
            guard.probing = False

    def __del__(self) -> None:
        self.neutral()

    def _current(self) -> "_Guard | None":
        """The guard, the first time it is asked for and if it is still in the same generation.

        The breaker may have changed meanwhile; what an earlier generation learned is stale.
        """
        guard, self._guard = self._guard, None
        return guard if guard is not None and guard.generation == self._generation else None


class Guards:
    """The breakers of all providers, by key (`https://api.example:443`). Not thread-safe.

    At most `limit` closed ones are remembered, the least recently used are forgotten first. Open
    ones are always kept: forgetting one would open the gate to a provider known to be down.
    `on_change(key, state, open_seconds, last_error)` is told of every change of state; `state` is
    "closed", "open" or "half-open", `open_seconds` how long it stays open.
    """

    def __init__(
        self,
        failures: int,
        open_seconds: float,
        on_change: Callable[[str, str, float, str], None],
        *,
        clock: Callable[[], float] = time.monotonic,
        limit: int = 10_000,
    ) -> None:
        self._failures = failures
        self._open_seconds = open_seconds
        self._on_change = on_change
        self._clock = clock
        self._limit = limit
        self._closed: OrderedDict[str, _Guard] = OrderedDict()
        self._tripped: dict[str, _Guard] = {}  # open and half-open

    def admit(self, key: str) -> Ticket:
        """A ticket to call the provider. Raises BreakerOpen.

        When half-open, one ticket at a time is given: the probe.
        """
        guard = self._closed.get(key)
        if guard is not None:
            self._closed.move_to_end(key)
            return Ticket(guard)
        guard = self._tripped.get(key)
        if guard is None:
            return Ticket(self._add(key))
        if guard.breaker.current_state == pybreaker.STATE_OPEN:
            wait = guard.open_until - self._clock()
            if wait > 0:
                raise BreakerOpen(key, math.ceil(wait), guard.last_error)
            guard.breaker.half_open()
        if guard.probing:
            raise BreakerOpen(key, 1, guard.last_error)
        guard.probing = True
        return Ticket(guard)

    def is_tripped(self, key: str) -> bool:
        """Whether the provider's breaker is open or half-open."""
        return key in self._tripped

    def states(self) -> list[tuple[str, str]]:
        """(key, state): tripped ones first, then the closed, the last used first."""
        tripped = [(key, guard.breaker.current_state) for key, guard in self._tripped.items()]
        return tripped + [(key, pybreaker.STATE_CLOSED) for key in reversed(self._closed)]

    def restore(self, key: str, failures: int, open_for: float | None, last_error: str) -> None:
        """Take up what an earlier process knew: `failures` in a row and, if the breaker was open,
        for how many seconds more. 0 or less: its time is over, and the next ticket is the probe.

        Nobody is told: nothing has changed.
        """
        if open_for is None:
            guard = self._add(key)
        else:
            guard = self._tripped[key] = self._new(key, pybreaker.STATE_OPEN)
            guard.open_until = self._clock() + min(open_for, self._open_seconds)
        guard.last_error = last_error
        for _ in range(min(failures, self._failures - 1)):
            guard.storage.increment_counter()

    def _add(self, key: str) -> "_Guard":
        guard = self._closed[key] = self._new(key, pybreaker.STATE_CLOSED)
        if len(self._closed) > self._limit:
            self._closed.popitem(last=False)
        return guard

    def _new(self, key: str, state: str) -> "_Guard":
        return _Guard(key, state, self._failures, self._changed)

    def _changed(self, guard: "_Guard", state: str) -> None:
        guard.generation += 1
        guard.probing = False
        known = self._closed.get(guard.key) or self._tripped.get(guard.key)
        if known is not guard:
            return  # forgotten meanwhile, and perhaps begun anew
        if state == pybreaker.STATE_CLOSED:
            del self._tripped[guard.key]
            self._closed[guard.key] = guard
        else:
            self._closed.pop(guard.key, None)
            self._tripped[guard.key] = guard
        open_seconds = 0.0
        if state == pybreaker.STATE_OPEN:
            open_seconds = self._open_seconds
            guard.open_until = self._clock() + open_seconds
            if len(self._tripped) > self._limit:
                self._forget_elapsed()
        self._on_change(guard.key, state, open_seconds, guard.last_error)

    def _forget_elapsed(self) -> None:
        """Whoever calls ever new dead hosts must not fill the memory with their breakers."""
        now = self._clock()
        elapsed = [k for k, g in self._tripped.items() if g.open_until <= now and not g.probing]
        for key in elapsed:
            del self._tripped[key]


class _Guard:
    """One provider's breaker and what pybreaker does not keep.

    `open_until` is on the monotonic clock: pybreaker's own opened_at is wall time, which jumps.
    """

    __slots__ = ("breaker", "generation", "key", "last_error", "open_until", "probing", "storage")

    def __init__(
        self, key: str, state: str, failures: int, changed: Callable[["_Guard", str], None]
    ) -> None:
        self.key = key
        self.storage = pybreaker.CircuitMemoryStorage(state)
        self.breaker = pybreaker.CircuitBreaker(
            fail_max=failures,
            state_storage=self.storage,
            listeners=[_Listener(self, changed)],
            name=key,
        )
        self.generation = 0
        self.probing = False
        self.open_until = 0.0
        self.last_error = ""

    def succeeded(self) -> None:
        if self.probing or self.storage.counter:
            self.storage.reset_counter()
            self.breaker.state.on_success()

    def failed(self, error: str) -> None:
        self.last_error = error[:LAST_ERROR_CHARACTERS]
        self.storage.increment_counter()
        # That it trips now is told by this exception, and by the listener.
        with suppress(pybreaker.CircuitBreakerError):
            self.breaker.state.on_failure(RuntimeError(error))


class _Listener(pybreaker.CircuitBreakerListener):
    """Passes a change of state on, with the guard instead of the breaker."""

    def __init__(self, guard: _Guard, changed: Callable[[_Guard, str], None]) -> None:
        self._guard = guard
        self._changed = changed

    def state_change(
        self,
        cb: pybreaker.CircuitBreaker,
        old_state: pybreaker.CircuitBreakerState | None,
        new_state: pybreaker.CircuitBreakerState,
    ) -> None:
        self._changed(self._guard, new_state.name)
