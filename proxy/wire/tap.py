"""What somebody wants to know of requests and their answers, and what he gets of one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from proxy.wire.agent import Agent
from proxy.wire.origin import Origin
from proxy.wire.parsers import RawHeaders


class Stock:
    """Bytes that all copies together may take up."""

    __slots__ = ("left",)

    def __init__(self, size: int) -> None:
        self.left = size

    def take(self, wanted: int) -> int:
        """How many of the `wanted` bytes there is room for; they count from here on."""
        granted = min(wanted, self.left)
        self.left -= granted
        return granted

    def give(self, size: int) -> None:
        self.left += size


@dataclass(frozen=True, slots=True)
class Copy:
    """The first bytes of a body. `truncated`: there were more, or the rest never came."""

    data: bytes
    truncated: bool


@dataclass(frozen=True, slots=True)
class Overheard:
    """One request and its answer, as the program sent the one and got the other.

    `path` has no query. `headers` are those of the answer, with what autopay tells of a payment
    (no provider can say anything under those names). `status` is 0 if there was no answer.
    `complete`: the answer's last byte was written.
    """

    agent: Agent
    method: str
    origin: Origin
    path: str
    mount: str | None
    session: str | None
    trace: str | None
    request_headers: RawHeaders
    request: Copy
    status: int
    headers: Sequence[tuple[bytes, bytes]]
    answer: Copy
    complete: bool

    @property
    def size(self) -> int:
        """Bytes of the stock that go free with it."""
        return len(self.request.data) + len(self.answer.data)


@dataclass(frozen=True, slots=True)
class Tap:
    """Somebody wants to know. `done` gets it all, and owes `stock` its size; it must not wait."""

    request_bytes: int
    answer_bytes: int
    stock: Stock
    done: Callable[[Overheard], None]
