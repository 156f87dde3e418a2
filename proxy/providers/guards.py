"""The breakers of all providers, as one process sees them: who may be called now.

Pure but for the clock; `fleet` makes one fact of it for all processes.
"""

import math
import time
from collections import OrderedDict
from collections.abc import Callable
from uuid import UUID

import pybreaker

from proxy.providers.guard import BreakerRules, Guard, Tripped, Watcher
from proxy.providers.ticket import Ticket


class BreakerOpen(Exception):
    """The provider is left alone for now. `retry_after`: whole seconds, at least 1."""

    def __init__(self, key: str, retry_after: int, last_error: str) -> None:
        super().__init__(f"{key} is left alone for {retry_after} s: {last_error or 'it failed'}")
        self.key = key
        self.retry_after = retry_after
        self.last_error = last_error


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
        self._closed: OrderedDict[str, Guard] = OrderedDict()
        self._tripped: dict[str, Guard] = {}  # open and half-open
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
        lease = guard.probe()
        if lease is None:
            raise BreakerOpen(key, 1, guard.last_error)
        return Ticket(guard, lease)

    def is_tripped(self, key: str) -> bool:
        """Whether the provider's breaker is open or half-open."""
        return key in self._tripped

    def state(self, key: str) -> str:
        """Of the provider's breaker: "closed", "open" or "half-open", as in `tripped`."""
        guard = self._tripped.get(key)
        return pybreaker.STATE_CLOSED if guard is None else guard.tripped().state

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
        return [guard.tripped() for guard in self._tripped.values()]

    def restore(self, key: str, failures: int) -> None:
        """Take up what an earlier process knew of a closed breaker: `failures` in a row."""
        rules = self._rules(key)
        if rules.enabled and key not in self._tripped:
            self._add(key, rules).recall(failures)

    # --- what all processes share

    def hear(self, key: str, version: int, open_for: float | None, last_error: str) -> None:
        """Take up what is written of a provider's breaker: open for so many seconds more (0 or
        less: its time is over, and it may be tried), or closed (None). What is older than what is
        known is passed over. The watcher is not told."""
        rules = self._rules(key)
        guard = self._known(key)
        if not rules.enabled or (guard is None and open_for is None):
            return
        guard = guard or self._add(key, rules)
        if version < guard.version:
            return
        self._hearing = True
        try:
            guard.hear(version, open_for, last_error)
        finally:
            self._hearing = False

    def written(self, key: str, version: int) -> None:
        """What this process did is written, as this version."""
        guard = self._known(key)
        if guard is not None:
            guard.version = max(guard.version, version)

    def version(self, key: str) -> int:
        """Of what is known to be written; 0: nothing is."""
        guard = self._known(key)
        return 0 if guard is None else guard.version

    def open_for(self, key: str) -> float | None:
        """For how many seconds more it is open, 0 or less if its time is over; None: closed."""
        guard = self._tripped.get(key)
        return None if guard is None else guard.open_until - self._clock()

    def leased(self, key: str, version: int, successes: int) -> None:
        """This process may try the provider; there were so many successes before."""
        guard = self._tripped.get(key)
        if guard is not None:
            guard.leased(version, successes)

    def leases(self) -> list[tuple[str, UUID]]:
        """The probes of this process that are under way."""
        return [(k, guard.lease) for k, guard in self._tripped.items() if guard.lease is not None]

    # ---

    def _known(self, key: str) -> Guard | None:
        return self._tripped.get(key) or self._closed.get(key)

    def _add(self, key: str, rules: BreakerRules) -> Guard:
        guard = self._closed[key] = Guard(key, rules, self._clock, self._changed, self._watcher)
        if len(self._closed) > self._limit:
            self._closed.popitem(last=False)
        return guard

    def _changed(self, guard: Guard, state: str) -> None:
        key = guard.key
        if self._known(key) is not guard:
            return  # forgotten meanwhile, and perhaps begun anew
        if state == pybreaker.STATE_CLOSED:
            del self._tripped[key]
            self._closed[key] = guard
        else:
            self._closed.pop(key, None)
            self._tripped[key] = guard
        if state == pybreaker.STATE_OPEN and len(self._tripped) > self._limit:
            self._forget_elapsed()
        if self._hearing:
            return
        if state == pybreaker.STATE_OPEN:
            self._watcher.opened(key, guard.failures, guard.last_error)
        elif state == pybreaker.STATE_CLOSED:
            self._watcher.closed(key)

    def _forget_elapsed(self) -> None:
        """Whoever calls ever new dead hosts must not fill the memory with their breakers."""
        now = self._clock()
        elapsed = [k for k, g in self._tripped.items() if not g.holds(now) and g.lease is None]
        for key in elapsed:
            del self._tripped[key]
