"""A circuit breaker for every provider: pybreaker's states behind a synchronous ticket.

pybreaker keeps the state machine, its storage and its listeners. Its own ways to call are all wrong
under asyncio: the decorator never sees a coroutine fail, `call_async` closes without probing, and
all of them let every concurrent caller through when half-open. So nothing is ever called *through*
it: who wants to call a provider takes a ticket, and tells the ticket what came of it.

    closed ──failures in a row, or too many of the calls──▶ open ──its time──▶ half-open
      ▲                                                       ▲                    │
      └───────────────── successes ───────────────────────────┼────────────────────┤
                                                              └─────failure────────┘

This is one process' part, and pure but for the clock; `fleet` makes one fact of it for all of them.
"""

import math
import time
from collections import OrderedDict
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


class BreakerOpen(Exception):
    """The provider is left alone for now. `retry_after`: whole seconds, at least 1."""

    def __init__(self, key: str, retry_after: int, last_error: str) -> None:
        super().__init__(f"{key} is left alone for {retry_after} s: {last_error or 'it failed'}")
        self.key = key
        self.retry_after = retry_after
        self.last_error = last_error


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


class Ticket:
    """Leave to call a provider once. The first word on what came of it counts, others are ignored,
    but for one failure after a success: an answer that began well may break off.

    A ticket that is dropped without a word says nothing about the provider (`neutral`): a request
    that vanished in mid-air must not keep the only probe for ever. `lease` is set for a probe.
    """

    __slots__ = ("_generation", "_guard", "_success", "lease")

    def __init__(self, guard: "_Guard | None", lease: UUID | None = None) -> None:
        self._guard = guard
        self._generation = 0 if guard is None else guard.generation
        self._success: _Success | None = None
        self.lease = lease

    def success(self) -> None:
        if self._success is None and (guard := self._current()):
            self._success = guard.succeeded(probe=self.lease is not None)
            self._generation = guard.generation  # it may have closed by this

    def failure(self, error: str) -> None:
        """The provider failed; `error` is for people."""
        guard = self._current()
        self._guard = None
        if guard:
            guard.failed(error, instead_of=self._success)

    def neutral(self) -> None:
        """Nothing was learned: the caller left, or the provider answered 402 or 4xx."""
        guard = self._current()
        self._guard = None
        if guard and self.lease is not None and self._success is None:
            guard.probe_over()

    def withdraw(self, seconds: float) -> None:
        """Somebody else has the probe, for so long: nothing was called."""
        guard = self._current()
        self._guard = None
        if guard:
            guard.give_way(seconds)

    def __del__(self) -> None:
        if self.lease is not None:
            self.neutral()

    def _current(self) -> "_Guard | None":
        """The guard, if it is still in the same generation.

        The breaker may have changed meanwhile; what an earlier generation learned is stale.
        """
        guard = self._guard
        return guard if guard is not None and guard.generation == self._generation else None


class Guards:
    """The breakers of all providers, by key (`https://api.example:443`). Not thread-safe.

    `rules(key)` says when each trips. At most `limit` closed ones are remembered, the least
    recently used are forgotten first. Open ones are always kept: forgetting one would open the gate
    to a provider known to be down.
    """

    def __init__(
        self,
        rules: Callable[[str], BreakerRules],
        watcher: Watcher,
        *,
        clock: Callable[[], float] = time.monotonic,
        limit: int = 10_000,
    ) -> None:
        self._rules = rules
        self._watcher = watcher
        self._clock = clock
        self._limit = limit
        self._closed: OrderedDict[str, _Guard] = OrderedDict()
        self._tripped: dict[str, _Guard] = {}  # open and half-open
        self._hearing = False

    def admit(self, key: str) -> Ticket:
        """A ticket to call the provider. Raises BreakerOpen.

        When half-open, one ticket at a time is given: the probe. It has a `lease`.
        """
        guard = self._closed.get(key)
        if guard is not None:
            self._closed.move_to_end(key)
            return Ticket(guard)
        guard = self._tripped.get(key)
        if guard is None:
            rules = self._rules(key)
            return Ticket(self._add(key, rules) if rules.enabled else None)
        wait = guard.open_until - self._clock()
        if wait > 0:
            raise BreakerOpen(key, math.ceil(wait), guard.last_error)
        if guard.breaker.current_state == pybreaker.STATE_OPEN:
            guard.breaker.half_open()
        if guard.lease is not None:
            raise BreakerOpen(key, 1, guard.last_error)
        guard.lease = uuid4()
        return Ticket(guard, guard.lease)

    def is_tripped(self, key: str) -> bool:
        """Whether the provider's breaker is open or half-open."""
        return key in self._tripped

    def state(self, key: str) -> str:
        """Of the provider's breaker: "closed", "open" or "half-open", as in `tripped`."""
        guard = self._tripped.get(key)
        return pybreaker.STATE_CLOSED if guard is None else guard.tripped_state(self._clock())

    def left_alone(self, key: str) -> float | None:
        """For how many seconds nobody gets a ticket; None: the next one may."""
        guard = self._tripped.get(key)
        wait = 0.0 if guard is None else guard.open_until - self._clock()
        return wait if wait > 0 else None

    def states(self) -> list[tuple[str, str]]:
        """(key, state): tripped ones first, then the closed, the last used first."""
        tripped = [(one.key, one.state) for one in self.tripped()]
        return tripped + [(key, pybreaker.STATE_CLOSED) for key in reversed(self._closed)]

    def tripped(self) -> list[Tripped]:
        """Those that are open or half-open; one whose time is over is half-open, tried or not."""
        now = self._clock()
        return [
            Tripped(
                key,
                guard.tripped_state(now),
                max(0.0, guard.open_until - now),
                guard.last_error,
                guard.lease is not None,
            )
            for key, guard in self._tripped.items()
        ]

    def restore(self, key: str, failures: int) -> None:
        """Take up what an earlier process knew of a closed breaker: `failures` in a row."""
        rules = self._rules(key)
        if rules.enabled and key not in self._tripped:
            guard = self._add(key, rules)
            for _ in range(min(failures, rules.failures - 1)):
                guard.storage.increment_counter()

    # --- what all processes share

    def hear(self, key: str, version: int, open_for: float | None, last_error: str) -> None:
        """Take up what is written of a provider's breaker: open for so many seconds more (0 or
        less: its time is over, and it may be tried), or closed (None). What is older than what is
        known is passed over. The watcher is not told."""
        rules = self._rules(key)
        guard = self._tripped.get(key) or self._closed.get(key)
        if not rules.enabled or (guard is not None and version < guard.version):
            return
        self._hearing = True
        try:
            if open_for is not None:
                guard = guard or self._add(key, rules)
                seconds = min(open_for, rules.open_seconds)
                guard.last_error = last_error
                if guard.breaker.current_state == pybreaker.STATE_CLOSED or (
                    seconds > 0 and version > guard.version
                ):
                    guard.breaker.open()
                if guard.lease is None:
                    guard.open_until = self._clock() + seconds
            elif guard is not None and guard.breaker.current_state != pybreaker.STATE_CLOSED:
                guard.breaker.close()
        finally:
            self._hearing = False
        if guard is not None:
            guard.version = version

    def written(self, key: str, version: int) -> None:
        """What this process did is written, as this version."""
        guard = self._tripped.get(key) or self._closed.get(key)
        if guard is not None:
            guard.version = max(guard.version, version)

    def version(self, key: str) -> int:
        """Of what is known to be written; 0: nothing is."""
        guard = self._tripped.get(key) or self._closed.get(key)
        return 0 if guard is None else guard.version

    def open_for(self, key: str) -> float | None:
        """For how many seconds more it is open, 0 or less if its time is over; None: closed."""
        guard = self._tripped.get(key)
        return None if guard is None else guard.open_until - self._clock()

    def leased(self, key: str, version: int, successes: int) -> None:
        """This process may try the provider; there were so many successes before."""
        guard = self._tripped.get(key)
        if guard is not None:
            guard.version = max(guard.version, version)
            guard.storage.reset_success_counter()
            for _ in range(successes):
                guard.storage.increment_success_counter()

    def leases(self) -> list[tuple[str, UUID]]:
        """The probes of this process that are under way."""
        return [(k, guard.lease) for k, guard in self._tripped.items() if guard.lease is not None]

    # ---

    def _add(self, key: str, rules: BreakerRules) -> "_Guard":
        guard = self._closed[key] = _Guard(key, rules, self._clock, self._changed, self._watcher)
        if len(self._closed) > self._limit:
            self._closed.popitem(last=False)
        return guard

    def _changed(self, guard: "_Guard", state: str) -> None:
        guard.generation += 1
        guard.lease = None
        guard.window.clear()
        key = guard.key
        known = self._closed.get(key) or self._tripped.get(key)
        if known is not guard:
            return  # forgotten meanwhile, and perhaps begun anew
        if state == pybreaker.STATE_CLOSED:
            del self._tripped[key]
            self._closed[key] = guard
        else:
            self._closed.pop(key, None)
            self._tripped[key] = guard
        if state == pybreaker.STATE_OPEN:
            guard.open_until = self._clock() + guard.rules.open_seconds
            if len(self._tripped) > self._limit:
                self._forget_elapsed()
        if self._hearing:
            return
        if state == pybreaker.STATE_OPEN:
            self._watcher.opened(key, guard.storage.counter, guard.last_error)
        elif state == pybreaker.STATE_CLOSED:
            self._watcher.closed(key)

    def _forget_elapsed(self) -> None:
        """Whoever calls ever new dead hosts must not fill the memory with their breakers."""
        now = self._clock()
        elapsed = [k for k, g in self._tripped.items() if not g.holds(now) and g.lease is None]
        for key in elapsed:
            del self._tripped[key]


class _Success(NamedTuple):
    """The how manyth success, and how many failures in a row it ended."""

    number: int
    ended: int


class _Guard:
    """One provider's breaker and what pybreaker does not keep.

    `open_until` is on the monotonic clock: pybreaker's own opened_at is wall time, which jumps.
    `lease`: of the probe that is under way.
    """

    __slots__ = (
        "_changed",
        "_clock",
        "_successes",
        "_watcher",
        "breaker",
        "generation",
        "key",
        "last_error",
        "lease",
        "open_until",
        "rules",
        "storage",
        "version",
        "window",
    )

    def __init__(
        self,
        key: str,
        rules: BreakerRules,
        clock: Callable[[], float],
        changed: Callable[["_Guard", str], None],
        watcher: Watcher,
    ) -> None:
        self.key = key
        self.rules = rules
        self.storage = pybreaker.CircuitMemoryStorage(pybreaker.STATE_CLOSED)
        self.breaker = pybreaker.CircuitBreaker(
            fail_max=rules.failures,
            success_threshold=rules.successes,
            state_storage=self.storage,
            listeners=[_Listener(self, changed)],
            name=key,
        )
        self.window = Window(rules.window_seconds)
        self.generation = 0
        self.version = 0
        self.lease: UUID | None = None
        self.open_until = 0.0
        self.last_error = ""
        self._clock = clock
        self._successes = 0
        self._watcher = watcher

    def holds(self, now: float) -> bool:
        """Whether it is open, and its time not over."""
        return self.open_until > now and self.breaker.current_state == pybreaker.STATE_OPEN

    def tripped_state(self, now: float) -> str:
        """Of one that is not closed: when its time is over it is half-open, tried or not."""
        return pybreaker.STATE_OPEN if self.holds(now) else pybreaker.STATE_HALF_OPEN

    def succeeded(self, *, probe: bool) -> _Success:
        self.window.add(self._clock(), 1, 0)
        self._successes += 1
        success = _Success(self._successes, self.storage.counter)
        if success.ended:
            self.storage.reset_counter()
        if probe:
            generation = self.generation
            self.breaker.state.on_success()
            if self.generation == generation:
                self.probe_over()
        return success

    def failed(self, error: str, *, instead_of: _Success | None) -> None:
        """`instead_of`: what was taken for a success did not end the failures in a row either, if
        there was no other since."""
        self.last_error = error[:LAST_ERROR_CHARACTERS]
        self.window.add(self._clock(), 1 if instead_of is None else 0, 1)
        if instead_of is not None and instead_of.number == self._successes:
            for _ in range(instead_of.ended):
                self.storage.increment_counter()
        self.storage.increment_counter()
        generation = self.generation
        # That it trips now is told by this exception, and by the listener.
        with suppress(pybreaker.CircuitBreakerError):
            self.breaker.state.on_failure(RuntimeError(error))
        if self.generation == generation and self._fails_too_often():
            self.breaker.open()

    def probe_over(self) -> None:
        lease, self.lease = self.lease, None
        if lease is not None:
            self._watcher.probe_over(self.key, lease, self.storage.success_counter)

    def give_way(self, seconds: float) -> None:
        self.lease = None
        self.open_until = self._clock() + min(max(seconds, BUSY_SECONDS / 10), BUSY_SECONDS)

    def _fails_too_often(self) -> bool:
        window, rules = self.window, self.rules
        return (
            window.calls >= rules.min_calls and window.failures >= rules.failure_rate * window.calls
        )


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
