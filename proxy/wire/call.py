"""One request of one program, from its first byte to its answer's last."""

from collections.abc import Callable, Sequence

from proxy.wire.agent import Agent
from proxy.wire.body import Body
from proxy.wire.caching import Visit
from proxy.wire.chain import Chain, absolute
from proxy.wire.egress import Leave
from proxy.wire.gate import Errand, Ticket, TurnedAway
from proxy.wire.headers import RequestFields
from proxy.wire.origin import Origin
from proxy.wire.parsers import RawHeaders, RequestHead
from proxy.wire.reply import Reply
from proxy.wire.target import MountPoint, Target

IDEMPOTENT = frozenset(("GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"))


HUNG_UP = "the program hung up"


class Call:
    """The request as it goes upstream, and where its answer goes."""

    __slots__ = (
        "_fields",
        "agent",
        "body",
        "errand",
        "gone",
        "leave",
        "leaving",
        "method",
        "mount_point",
        "on_gone",
        "on_leaving",
        "origin",
        "raw_headers",
        "reply",
        "started",
        "target",
        "ticket",
        "upgrade",
        "visit",
    )

    def __init__(
        self,
        head: RequestHead,
        fields: RequestFields,
        target: Target,
        body: Body | None,
        reply: Reply,
        started: float,
    ) -> None:
        self.agent: Agent = target.agent
        self.origin: Origin = target.origin
        self.target = target.path
        self.mount_point: MountPoint | None = target.mount
        self.method = head.method
        self.raw_headers: RawHeaders = head.raw_headers
        self.upgrade = bool(head.upgrade) and (fields.upgrade or b"").lower() == b"websocket"
        self.body = body
        self.reply = reply
        self.started = started  # loop time
        self.errand: Errand | None = None
        self.ticket: Ticket
        self.leave: Leave
        self.gone = False
        self.leaving = False
        """The program sends no more: it half-closed, or has hung up (the two look the same)."""
        self.visit: Visit | None = None
        """What a cache wants to know of it, and adds to it."""
        self.on_gone: Callable[[], object] | None = None
        self.on_leaving: Callable[[], None] | None = None
        """Called when it sends no more; mind that it may still wait for its answer."""
        self._fields = fields

    @property
    def session(self) -> str | None:
        return self._fields.session

    @property
    def trace(self) -> str | None:
        return self._fields.trace or self._fields.parent

    @property
    def tool(self) -> str | None:
        return self._fields.tool

    @property
    def idempotency_key(self) -> bytes | None:
        return self._fields.idempotency_key

    @property
    def mount(self) -> str | None:
        return self.mount_point.name if self.mount_point is not None else None

    @property
    def path(self) -> str:
        """The path asked of the provider, without the query."""
        return self.target.partition(b"?")[0].decode("utf-8", "replace")

    @property
    def url(self) -> str:
        scheme, authority = self.origin.scheme, self.origin.authority.decode()
        return f"{scheme}://{authority}{self.target.decode('utf-8', 'replace')}"

    @property
    def endpoint(self) -> str:
        """What the provider offers there: the method, and the URL without its query."""
        return f"{self.method} {self.url.partition('?')[0]}"

    @property
    def onward(self) -> RawHeaders:
        """Its fields as the provider gets them: without Host, and without what was for us."""
        parts = (line.partition(b":") for line in self._fields.lines)
        return [(name, value.strip()) for name, _, value in parts]

    @property
    def repeatable(self) -> bool:
        """Whether sending it twice does no more than sending it once (RFC 9110 section 9.2.2). What
        carries a payment of the program's own is the program's to repeat."""
        return self.method in IDEMPOTENT and not self._fields.pays

    @property
    def wait(self) -> int | None:
        """Seconds that the program says it waits for its answer, from `started` on."""
        return self._fields.wait

    @property
    def replayable(self) -> bool:
        return self.body is None or self.body.replayable

    def head(
        self,
        extra: Sequence[tuple[bytes, bytes]] = (),
        *,
        chain: Chain | None = None,
        expect: bool = True,
    ) -> bytes:
        """The request head for the provider, or for the chained proxy that takes it there.
        `expect=False` leaves Expect out, for a second attempt whose body is here already."""
        target = self.target
        if chain is not None:
            target = absolute(self.origin, target)
            extra = (*extra, *chain.fields)
        lines = [
            self.method.encode() + b" " + target + b" HTTP/1.1",
            b"Host: " + self.origin.authority,
        ]
        if expect:
            lines += self._fields.lines
        else:
            lines += [line for line in self._fields.lines if line[:7].lower() != b"expect:"]
        if self.visit is not None:
            extra = (*self.visit.conditions, *extra)
        lines += [name + b": " + value for name, value in extra]
        if self.body is not None and self.body.chunked:
            lines += self._fields.announced
            lines.append(b"Transfer-Encoding: chunked")
        if self._fields.trailers:
            lines.append(b"Connection: TE\r\nTE: trailers")
        if self.upgrade:
            lines.append(b"Connection: Upgrade\r\nUpgrade: websocket")
        lines.append(b"\r\n")
        return b"\r\n".join(lines)

    def turned_away(self, code: str, address: str) -> TurnedAway:
        """For the record: it may not go where it leads."""
        return TurnedAway(
            self.agent, self.method, self.url, code, address, self.session, self.trace
        )

    def left_off(self) -> None:
        """The program sends no more."""
        self.leaving = True
        if self.on_leaving is not None:
            self.on_leaving()

    def hung_up(self) -> None:
        """The program is gone. Whoever works on the call decides what that means."""
        self.gone = True
        self.left_off()
        if self.on_gone is not None:
            self.on_gone()
