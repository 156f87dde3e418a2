"""One answer that is on its way, and those who wait for it."""

import asyncio
from collections.abc import MutableMapping
from enum import Enum

from proxy.cache.shelves import Key

Route = tuple[Key, str]
"""Whose answer to what, and the method."""


class Outcome(Enum):
    """NEXT: it is kept, or came to nothing: look, else the next one asks. ALONE: it serves nobody
    else, or not without asking: each asks for itself. APART: it is its agent's alone: each agent
    asks for itself."""

    NEXT = "next"
    ALONE = "alone"
    APART = "apart"


class Flight:
    """Registered in `flights` until it lands. The first outcome counts."""

    __slots__ = ("_flights", "landed", "route")

    def __init__(self, route: Route, flights: MutableMapping[Route, "Flight"]) -> None:
        self.route = route
        self.landed: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._flights = flights
        flights[route] = self

    def land(self, outcome: Outcome) -> None:
        if not self.landed.done():
            self.landed.set_result(outcome)
        if self._flights.get(self.route) is self:
            del self._flights[self.route]

    def apart(self, route: Route) -> "Flight":
        """Goes on by another route, for those who may still wait for it."""
        self.land(Outcome.APART)
        return Flight(route, self._flights)
