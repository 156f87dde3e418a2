"""What the data plane asks, and of whom it does not know more: agents, breakers, payments."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from proxy.wire.egress import Leave
from proxy.wire.origin import Origin
from proxy.wire.parsers import RawHeaders
from proxy.wire.problem import Problem


class Agent(Protocol):
    """Who asks. Identity comes from a credential alone, never from a header any code can set."""

    @property
    def name(self) -> str: ...


class Ticket(Protocol):
    """Leave to call a provider. Exactly one of these is called; later calls change nothing."""

    def success(self, *, latency_ms: float, status: int) -> None: ...
    def failure(self, error: str, *, status: int | None = None) -> None: ...
    def neutral(self) -> None: ...


@dataclass(frozen=True, slots=True)
class TurnedAway:
    """A request or a CONNECT that was refused because of the address it leads to."""

    agent: Agent
    method: str
    url: str  # host:port for a CONNECT
    code: str
    address: str
    session: str | None = None
    trace: str | None = None


class NotSent(Exception):
    """No byte of the paid request was written: the payment never left."""


class Lost(Exception):
    """The paid request left, and no whole answer came: the payment's fate is unknown."""


@dataclass(frozen=True, slots=True)
class PaymentRequired:
    """A provider's 402: the head's fields as they came, and the body. A body past the bounds of
    size and time (`Limits`) is cut there."""

    headers: RawHeaders
    body: bytes


class PaidAnswer(Protocol):
    """The head of the answer to a paid request; its body waits until it is read or relayed."""

    @property
    def status(self) -> int: ...
    @property
    def headers(self) -> RawHeaders: ...
    async def read(self, limit: int) -> bytes:
        """Up to `limit` bytes of the body, without an error if it breaks off."""
        ...

    def close(self) -> None: ...


class Purchase(Protocol):
    """A request that met a 402, and the means to ask again."""

    agent: Agent
    method: str
    origin: Origin
    raw_headers: RawHeaders
    session: str | None
    trace: str | None
    ticket: Ticket
    mount: str | None

    @property
    def url(self) -> str:
        """The absolute URL asked for, without userinfo or fragment."""
        ...

    @property
    def path(self) -> str: ...
    @property
    def replayable(self) -> bool:
        """Whether the same body can be sent again."""
        ...

    @property
    def gone(self) -> bool:
        """Whether the program has hung up."""
        ...

    async def attempt(self, header: tuple[bytes, bytes]) -> PaidAnswer:
        """Ask the same again, with a payment. Raises NotSent or Lost. Called once at most."""
        ...


@dataclass(frozen=True, slots=True)
class Delivery:
    """What the program got for the money."""

    status: int
    sha256: str
    size: int
    complete: bool
    error: str | None
    first_byte_ms: int
    total_ms: int


@dataclass(frozen=True, slots=True)
class PassThrough:
    """The program gets the 402 as it came, with `headers` added."""

    headers: Sequence[tuple[bytes, bytes]] = ()


@dataclass(frozen=True, slots=True)
class Paid:
    """The program gets `answer`, with `headers` added. `finish` returns when all is on record;
    the answer's last byte waits for it (bounded)."""

    answer: PaidAnswer
    headers: Sequence[tuple[bytes, bytes]]
    finish: Callable[[Delivery], Awaitable[None]]


Reply = PassThrough | Paid | Problem


class Gate(Protocol):
    """The questions. All but the last are answered at once, from memory."""

    def by_credentials(self, name: str, token: str) -> Agent | None: ...
    def by_token(self, token: str) -> Agent | None: ...
    def admit(self, origin: Origin) -> Ticket:
        """Leave to call this provider, or raises Problem (its breaker is open)."""
        ...

    def leave(self, agent: Agent) -> Leave:
        """Where this agent may be taken."""
        ...

    def turned_away(self, what: TurnedAway) -> None:
        """To be put on record, without waiting for that."""
        ...

    def certificate_rejected(self, agent: Agent, origin: Origin, why: str, seconds: float) -> None:
        """A program of this agent does not trust our CA; for so long its tunnels there are left
        alone. To be put on record, without waiting for that."""
        ...

    async def pay(self, purchase: Purchase, challenge: PaymentRequired) -> Reply: ...
