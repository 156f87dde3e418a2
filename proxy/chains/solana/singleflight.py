"""Many who want the same answer at the same time share one question."""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from proxy.tasks import end

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class SingleFlight(Generic[K, V]):
    """Runs at most one call per key at a time; everyone who asks meanwhile gets its result."""

    def __init__(self) -> None:
        self._flights: dict[K, asyncio.Task[V]] = {}

    def launch(self, key: K, call: Callable[[], Awaitable[V]]) -> asyncio.Task[V]:
        """The running call for `key`, or a new one. Nobody has to await it."""
        flight = self._flights.get(key)
        if flight is None:
            flight = asyncio.ensure_future(_run(call))
            self._flights[key] = flight
            flight.add_done_callback(lambda done: self._landed(key, done))
        return flight

    async def run(self, key: K, call: Callable[[], Awaitable[V]]) -> V:
        """As `launch`, and wait. Cancelling one waiter does not disturb the others."""
        return await asyncio.shield(self.launch(key, call))

    async def close(self) -> None:
        """Cancel what is still running."""
        await end(*self._flights.values())

    def _landed(self, key: K, flight: asyncio.Task[V]) -> None:
        self._flights.pop(key, None)
        if not flight.cancelled():
            # Fetched here because a call launched ahead of need may have no one who waits for it.
            flight.exception()


async def _run(call: Callable[[], Awaitable[V]]) -> V:
    return await call()
