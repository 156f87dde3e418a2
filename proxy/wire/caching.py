"""What a cache of paid answers is told of a request that goes on all the same. Which answer may
serve which request is the cache's to know."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from proxy.wire.egress import Place
from proxy.wire.gate import Bought, Replayed
from proxy.wire.parsers import RawHeaders


@dataclass(frozen=True, slots=True)
class Arrived:
    """The head of an answer, before any of it goes to the program. `bought`: what was paid for it;
    None for one that was free. Moments are the loop's. `place`: the address it came from.
    `ends`: whether its end looks otherwise than a connection that broke."""

    status: int
    reason: bytes
    headers: RawHeaders
    bought: Bought | None
    sent_at: float
    came_at: float
    place: Place | None
    ends: bool
    told: RawHeaders = ()
    """What the program is told of its payment, where one has left for this answer."""


class Visit(Protocol):
    """One call that goes to its provider though there is a cache, and what becomes of it."""

    @property
    def conditions(self) -> Sequence[tuple[bytes, bytes]]:
        """Fields that are added to the request, so that the provider need not say it all again."""
        ...

    def arrived(self, answer: Arrived) -> Sequence[bytes] | Replayed:
        """Lines to be added to the answer's head; or the answer that the program gets in its stead,
        once it has ended: it was a 304 to `conditions`."""
        ...

    def add(self, data: bytes) -> None:
        """More of the body."""
        ...

    def whole(self) -> None:
        """All of the body was added, and the answer is what was paid for."""
        ...

    def over(self) -> None:
        """The program has its answer, or will not get one."""
        ...
