"""Leave to call a provider once, and the way to tell its breaker what came of it."""

from uuid import UUID

from proxy.providers.guard import Guard, Success


class Ticket:
    """Leave to call a provider once. The first word on what came of it counts, others are ignored,
    but for one failure after a success: an answer that began well may break off.

    A ticket that is dropped without a word says nothing about the provider (`neutral`): a request
    that vanished in mid-air must not keep the only probe for ever. `lease` is set for a probe.
    """

    __slots__ = ("_generation", "_guard", "_success", "lease")

    def __init__(self, guard: Guard | None, lease: UUID | None = None) -> None:
        self._guard = guard
        self._generation = 0 if guard is None else guard.generation
        self._success: Success | None = None
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

    def _current(self) -> Guard | None:
        """The guard, if it is still in the same generation.

        The breaker may have changed meanwhile; what an earlier generation learned is stale.
        """
        guard = self._guard
        return guard if guard is not None and guard.generation == self._generation else None
