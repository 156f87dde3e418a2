"""What the data plane asks, and of whom it does not know more: agents, breakers, payments."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol
from uuid import UUID

from proxy.wire.agent import Agent
from proxy.wire.egress import Leave
from proxy.wire.origin import Origin
from proxy.wire.parsers import RawHeaders
from proxy.wire.problem import Problem
from proxy.wire.tap import Tap


class Ticket(Protocol):
    """Leave to call a provider, to be told what came of it. The first word counts; later ones
    change nothing, but that one failure may follow a success: of an answer that broke off in its
    middle, or was not what was paid for."""

    def about(self, endpoint: str) -> None:
        """What is called: method, and URL without its query."""
        ...

    def costs(self, micros: int) -> None:
        """A payment of so much (micro-USD) leaves with this call."""
        ...

    def success(self, *, latency_ms: float, status: int) -> None: ...
    def failure(self, error: str, *, status: int | None = None, paid: bool = False) -> None:
        """`paid`: it took money, and did not deliver."""
        ...

    def neutral(self) -> None:
        """It says nothing of the provider: a 402, the program's own fault, or nobody waits."""
        ...


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
    """A request was tried again. `number` counts from 1; `delay_seconds` were waited before it.
    `cause` is why it was made, `error_class` how it ended, both codes of `proxy.errors`; the latter
    and `error`, one line, are "" if it went well. Nothing of a payment had left."""

    agent: Agent
    origin: Origin
    method: str
    url: str
    payment_id: UUID | None
    """Of the payment that was about to leave."""
    number: int
    delay_seconds: float
    cause: str
    error_class: str
    error: str

    @property
    def ok(self) -> bool:
        return not self.error_class


class NotSent(Exception):
    """No byte of the paid request was written: the payment never left. `theirs`: since the provider
    could not be reached, and that was its fault."""

    def __init__(self, text: str, *, theirs: bool = False) -> None:
        super().__init__(text)
        self.theirs = theirs


class Lost(Exception):
    """The paid request left, and no whole answer came: the payment's fate is unknown."""


@dataclass(frozen=True, slots=True)
class PaymentRequired:
    """A provider's 402: the head's fields as they came, and the body. A body past the bounds of
    size and time (`Limits`) is cut there."""

    headers: RawHeaders
    body: bytes


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether an answer is what was asked for; each a line for people. `misfit`: what is wrong with
    it, `late`: with its time; `unread`: why its body was not looked at."""

    misfit: str | None = None
    late: str | None = None
    unread: str | None = None

    @property
    def fault(self) -> str | None:
        return self.misfit or self.late


@dataclass(frozen=True, slots=True)
class Came:
    """An answer that has come to its end. `body`: all of it, as it came; None where there can be
    none (HEAD), or it was not kept. `size` of what came. Seconds from the request to the answer's
    `first_byte`, and to its last one."""

    status: int
    headers: RawHeaders
    body: bytes | None
    size: int
    first_byte: float
    seconds: float

    @classmethod
    def at_hand(
        cls, status: int, headers: RawHeaders, body: bytes | None, seconds: float
    ) -> "Came":
        """One that was collected: when it began, nobody looked at the clock."""
        return cls(status, headers, body, len(body or b""), seconds, seconds)


class Expects(Protocol):
    """What must be true of an answer for it to be what was asked for."""

    def looks_at(self, headers: RawHeaders) -> int:
        """How many bytes of this answer's body it wants to see; 0: whether there are any."""
        ...

    def judge(self, came: Came) -> Verdict: ...


@dataclass(slots=True)
class Tab:
    """What an errand has cost, kept by who pays: of a payment that may have left, its price in
    micro-USD. `paid`: the provider has taken it; else it is in doubt. `fault`: what is wrong with
    the answer that was paid for, by all that is expected of it."""

    payment_id: UUID | None = None
    price: int = 0
    paid: bool = False
    fault: str | None = None


@dataclass(frozen=True, slots=True)
class Errand:
    """One of the attempts, counted from 1, at what an intent wants. `ceiling`: what it may cost at
    most, in micro-USD; None: as much as policy allows. `rules`: what the intent asks besides, in
    the words of who decides."""

    intent: str
    attempt: int
    ceiling: int | None = None
    expectation: Expects | None = None
    rules: object = None
    tab: Tab = field(default_factory=Tab, compare=False)


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
    errand: Errand | None
    """The intent that this is an attempt at."""
    payment_id: UUID | None
    """Set by who pays, before the attempt."""

    @property
    def url(self) -> str:
        """The absolute URL asked for, without userinfo or fragment."""
        ...

    @property
    def path(self) -> str: ...
    @property
    def credential(self) -> bytes:
        """What it says of who asks (`credentials.credential_of`)."""
        ...

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
    whole: bool = True
    """Whether the provider brought it to its end, whoever still listened."""
    abandoned: bool = False
    """The program went away before, and it was not read on: nobody's fault but the program's."""
    content_type: str = ""
    verdict: Verdict | None = None
    """None: nothing was expected of it, or it is not whole."""


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
    bytes of a body. One whose program has gone is read on for so many seconds; `promise` is called
    when that begins. `save` is told whether it reached its program, and may be called again with
    another word."""

    bytes: int
    seconds: float
    always: bool
    promise: Callable[[], Awaitable[None]]
    save: Callable[[Whole, bool], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Bought:
    """What an answer was bought with. `price` in micro-USD, `amount` as people write it; `asked`:
    what the policy was asked about it, in the words of who decides."""

    payment_id: UUID
    price: int
    amount: bytes
    asked: object


@dataclass(frozen=True, slots=True)
class Paid:
    """The program gets `answer`, with `headers` added. `finish` returns when all is on record;
    the answer's last byte waits for it (bounded). Without `keep`, an answer whose program has gone
    is cut off. `bought` is None where it is not known whether the provider has the money. `expects`
    judges the answer once it is whole."""

    answer: PaidAnswer
    headers: Sequence[tuple[bytes, bytes]]
    finish: Callable[[Delivery], Awaitable[None]]
    keep: Keep | None = None
    bought: Bought | None = None
    expects: Expects | None = None


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

    def admit(self, origin: Origin) -> Ticket | Awaitable[Ticket]:
        """Leave to call this provider, or raises Problem (its breaker is open). At once, but where
        it is to be tried again: that one probe must be had first, and what is given can be
        awaited. It raises Problem too."""
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

    def breaker_closed(self, origin: Origin) -> bool:
        """Whether this provider's breaker is closed. One that is left alone, or tried, is not asked
        the same again."""
        ...

    def retried(self, note: RetryNote) -> None:
        """To be put on record, without waiting for that."""
        ...

    def retry_withheld(self, origin: Origin) -> None:
        """One more retry would have been more than this provider can bear."""
        ...

    async def standing(
        self, agent: Agent, session: str | None, trace: str | None
    ) -> Mapping[str, Any]:
        """What this agent may know of itself, as JSON. Changes nothing. Raises Problem."""
        ...

    async def pay(self, purchase: Purchase, challenge: PaymentRequired) -> Reply: ...
