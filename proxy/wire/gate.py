"""What the data plane asks, and of whom it does not know more: agents, breakers, payments."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from uuid import UUID

from proxy.wire.egress import Leave
from proxy.wire.origin import Origin
from proxy.wire.parsers import RawHeaders
from proxy.wire.problem import Problem
from proxy.wire.tap import Tap


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


@dataclass(frozen=True, slots=True)
class RetryNote:
    """A connection for a paid request was tried for again. `number` counts from 1; `delay_seconds`
    were waited before it; `error` is one line, "" if `ok`."""

    number: int
    delay_seconds: float
    ok: bool
    error: str


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
    tool: str | None
    """What the program calls the step of its task that this is."""
    ticket: Ticket
    mount: str | None
    idempotency_key: bytes | None
    """What the program calls this request, so that it is not paid for twice; as it gave it."""
    payment_id: UUID | None
    """Set by who pays, before the attempt."""

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

    async def body_sha256(self) -> bytes | None:
        """Of the request's body; None while not all of it is here, or it can't be kept."""
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
class Whole:
    """An answer from its first byte to its last. `headers` are the provider's, as they came; `ours`
    what was added to them."""

    status: int
    reason: bytes
    headers: RawHeaders
    ours: RawHeaders
    body: bytes


@dataclass(frozen=True, slots=True)
class Keep:
    """An answer that is to be kept, `always` or if it does not reach its program, up to so many
    bytes of a body. One whose program has gone is read on for so many seconds. `save` is told
    whether it reached its program, and may be called again with another word."""

    bytes: int
    seconds: float
    always: bool
    save: Callable[[Whole, bool], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Paid:
    """The program gets `answer`, with `headers` added. `finish` returns when all is on record;
    the answer's last byte waits for it (bounded). Without `keep`, an answer whose program has gone
    is cut off."""

    answer: PaidAnswer
    headers: Sequence[tuple[bytes, bytes]]
    finish: Callable[[Delivery], Awaitable[None]]
    keep: Keep | None = None


@dataclass(frozen=True, slots=True)
class Replayed:
    """The program gets an answer that was paid for before, with `headers` added."""

    answer: Whole
    headers: Sequence[tuple[bytes, bytes]]


Reply = PassThrough | Paid | Replayed | Problem


class Gate(Protocol):
    """The questions. All but the last two are answered at once, from memory."""

    def by_credentials(self, name: str, token: str) -> Agent | None: ...
    def by_token(self, token: str) -> Agent | None: ...
    def holder(self, token: str) -> Callable[[], Agent | None]:
        """Asks who holds this token at each call, without keeping the token itself."""
        ...

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

    def tap(
        self, agent: Agent, method: str, origin: Origin, target: bytes, mount: str | None
    ) -> Tap | None:
        """Whether somebody wants a copy of this request and its answer. `target` is what is asked
        of the provider, with the query."""
        ...

    def retried(self, purchase: Purchase, note: RetryNote) -> None:
        """To be put on record, without waiting for that."""
        ...

    async def standing(
        self, agent: Agent, session: str | None, trace: str | None
    ) -> Mapping[str, Any]:
        """What this agent may know of itself, as JSON. Changes nothing. Raises Problem."""
        ...

    async def pay(self, purchase: Purchase, challenge: PaymentRequired) -> Reply: ...
