"""The usual way: a request goes up, its answer comes down, and nothing waits on a task.

The fast path ends at a 402: its body is collected, and `paying` takes over.
"""

from typing import TYPE_CHECKING

from proxy.wire.answer import answer_lines, reason_bytes, switch
from proxy.wire.call import Call
from proxy.wire.dial import DialError
from proxy.wire.gate import PaymentRequired
from proxy.wire.headers import response_lines
from proxy.wire.origin import Origin
from proxy.wire.parsers import ResponseHead
from proxy.wire.paying import pay
from proxy.wire.problem import Problem
from proxy.wire.upstream import Upstream, UpstreamError

if TYPE_CHECKING:
    from proxy.wire.downstream import Downstream
    from proxy.wire.plane import DataPlane


class Relay:
    """Takes one answer to one program."""

    __slots__ = ("_call", "_downstream", "_plane", "_retried", "_upstream")

    def __init__(self, plane: "DataPlane", call: Call, downstream: "Downstream") -> None:
        self._plane = plane
        self._call = call
        self._downstream = downstream
        self._upstream: Upstream | None = None
        self._retried = False

    def begin(self) -> None:
        call = self._call
        try:
            call.ticket = self._plane.gate.admit(call.origin)
        except Problem as problem:
            call.reply.problem(problem)
            return
        call.on_gone = self._gone
        upstream = self._plane.pool.take(call.origin, fresh=not call.repeatable)
        if upstream is not None:
            self._send(upstream)
        else:
            self._plane.spawn(self._dial())

    async def _dial(self) -> None:
        try:
            upstream = await self._plane.pool.dial(self._call.origin)
        except DialError as error:
            self._unreachable(error)
            return
        if self._call.gone:
            upstream.abort()
            return
        self._send(upstream)

    def _send(self, upstream: Upstream) -> None:
        call = self._call
        self._upstream = upstream
        self._downstream.feeder = upstream
        upstream.send(
            call.head(),
            call.body,
            self,
            expects_body=call.method != "HEAD",
            timeout=self._plane.limits.response,
        )

    # --- the answer (Receiver)

    def on_interim(self, head: ResponseHead) -> None:
        lines = response_lines(head.raw_headers, chunked=False)
        self._call.reply.interim(head.code, reason_bytes(head), lines)

    def on_head(self, head: ResponseHead, *, has_body: bool, length_known: bool) -> None:
        if head.code == 402:
            assert self._upstream is not None
            collector = Collector(self, self._plane, self._call, self._upstream, head)
            collector.has_body, collector.length_known = has_body, length_known
            self._upstream.hand_to(collector)
            return
        self._judge(head.code)
        if self._call.body is not None:
            self._call.body.forget()
        self.relay_head(head, has_body=has_body, length_known=length_known)

    def relay_head(
        self,
        head: ResponseHead,
        *,
        has_body: bool,
        length_known: bool,
        extra: tuple[bytes, ...] = (),
    ) -> None:
        lines = answer_lines(head, self._call)
        lines += extra
        self._call.reply.head(
            head.code, reason_bytes(head), lines, has_body=has_body, length_known=length_known
        )

    def on_data(self, data: bytes, *, last: bool) -> None:
        self._call.reply.data(data)

    def on_end(self) -> None:
        self._call.on_gone = None
        self._call.reply.end()

    def on_lost(self, error: UpstreamError) -> None:
        call = self._call
        if call.reply.started:
            call.ticket.failure(str(error))
            call.reply.broken()
        elif error.stale and not self._retried and call.repeatable and call.replayable:
            self._retried = True
            self._plane.spawn(self._dial())
        else:
            self._unreachable(error)

    def on_switch(self, head: ResponseHead, early: bytes, upstream: Upstream) -> None:
        self._judge(head.code)
        switch(self._call, head, early, upstream)

    # ---

    def _judge(self, status: int) -> None:
        ticket = self._call.ticket
        if status >= 500:
            ticket.failure(f"answered {status}", status=status)
        elif status >= 400:
            ticket.neutral()
        else:
            elapsed = self._plane.loop.time() - self._call.started
            ticket.success(latency_ms=elapsed * 1000, status=status)

    def _gone(self) -> None:
        self._call.ticket.neutral()
        if self._upstream is not None:
            self._upstream.abort()

    def _unreachable(self, error: DialError | UpstreamError) -> None:
        self._call.ticket.failure(str(error))
        self._call.reply.problem(unreachable(self._call.origin, error))


def unreachable(origin: Origin, error: DialError | UpstreamError) -> Problem:
    """The answer when a provider can't be asked, or does not answer."""
    return Problem(
        504 if error.timeout else 502,
        "upstream_timeout" if error.timeout else "upstream_unreachable",
        f"{origin.key}: {error}. Nothing was paid.",
    )


class Collector:
    """Takes the body of a 402, up to a bound of bytes and of time; past either, the answer is
    relayed like any other."""

    __slots__ = (
        "_buffer",
        "_call",
        "_head",
        "_plane",
        "_relay",
        "_since",
        "_upstream",
        "has_body",
        "length_known",
    )

    def __init__(
        self, relay: Relay, plane: "DataPlane", call: Call, upstream: Upstream, head: ResponseHead
    ) -> None:
        self._relay = relay
        self._plane = plane
        self._call = call
        self._upstream = upstream
        self._head = head
        self._buffer = bytearray()
        self._since = plane.loop.time()
        self.has_body = False
        self.length_known = False

    def on_data(self, data: bytes, *, last: bool) -> None:
        self._buffer += data
        late = self._plane.loop.time() - self._since > self._plane.limits.challenge
        if len(self._buffer) > self._plane.limits.challenge_bytes or (late and not last):
            self._call.ticket.neutral()
            self._upstream.hand_to(self._relay)
            self._pass_on(b"challenge_too_large" if not late else b"challenge_too_slow")

    def on_end(self) -> None:
        call = self._call
        call.on_gone = None
        if call.gone:
            call.ticket.neutral()
            return
        challenge = PaymentRequired(self._head.raw_headers, bytes(self._buffer))
        self._plane.spawn(pay(self._plane, call, challenge, self))

    def on_lost(self, error: UpstreamError) -> None:
        self._relay.on_lost(error)

    def on_interim(self, head: ResponseHead) -> None:
        raise AssertionError("a 1xx after a final answer")

    def on_head(self, head: ResponseHead, *, has_body: bool, length_known: bool) -> None:
        raise AssertionError("a second answer")

    def on_switch(self, head: ResponseHead, early: bytes, upstream: Upstream) -> None:
        raise AssertionError("a 101 after a final answer")

    def pass_through(self, extra: tuple[bytes, ...] = ()) -> None:
        """The whole 402, as it came."""
        if self._call.body is not None:
            self._call.body.forget()
        self._relay.relay_head(
            self._head, has_body=self.has_body, length_known=self.length_known, extra=extra
        )
        self._call.reply.end(bytes(self._buffer) if self.has_body else b"")

    def _pass_on(self, why: bytes) -> None:
        if self._call.body is not None:
            self._call.body.forget()
        self._relay.relay_head(
            self._head,
            has_body=self.has_body,
            length_known=self.length_known,
            extra=(b"Autopay-Unpaid: " + why,),
        )
        self._call.reply.data(bytes(self._buffer))
