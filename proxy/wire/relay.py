"""The usual way: a request goes up, its answer comes down, and nothing waits on a task.

The fast path ends at a 402: its body is collected, and `paying` takes over.
"""

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from proxy.wire.answer import answer_lines, reason_bytes, switch
from proxy.wire.call import Call
from proxy.wire.dial import ChainError, DialError, Forbidden
from proxy.wire.egress import EVERYWHERE
from proxy.wire.gate import PaymentRequired
from proxy.wire.headers import response_lines
from proxy.wire.parsers import ResponseHead
from proxy.wire.paying import pay
from proxy.wire.problem import Problem
from proxy.wire.tap import listen_in
from proxy.wire.upstream import Upstream, UpstreamError

if TYPE_CHECKING:
    from proxy.wire.downstream import Downstream
    from proxy.wire.plane import DataPlane


class Relay:
    """Takes one answer to one program."""

    __slots__ = ("_rest", "_retried", "call", "downstream", "plane", "upstream")

    def __init__(self, plane: "DataPlane", call: Call, downstream: "Downstream") -> None:
        self.plane = plane
        self.call = call
        self.downstream = downstream
        self.upstream: Upstream | None = None
        self._rest = b""  # the last of the answer, to be written with its end
        self._retried = False

    def begin(self) -> None:
        call = self.call
        try:
            call.ticket = self.plane.gate.admit(call.origin)
        except Problem as problem:
            call.reply.problem(problem)
            return
        if not call.upgrade:
            listen_in(self.plane.gate, call)
        call.on_gone = self.gone
        if call.mount_point is None:
            call.leave = self.plane.gate.leave(call.agent)
        else:
            call.leave = EVERYWHERE  # the operator named this provider
        upstream = self.plane.pool.take(
            call.origin, call.leave, fresh=not call.repeatable, tunnel=call.upgrade
        )
        if upstream is not None:
            self._send(upstream)
        else:
            self.plane.spawn(self._dial())

    async def _dial(self) -> None:
        call = self.call
        try:
            upstream = await self.plane.pool.dial(call.origin, call.leave, tunnel=call.upgrade)
        except Forbidden as error:
            call.ticket.neutral()  # it says nothing of the provider
            self.plane.gate.turned_away(call.turned_away(error.code, error.address))
            call.reply.problem(error.problem())
            return
        except DialError as error:
            self._unreachable(error)
            return
        if call.gone:
            upstream.abort()
            return
        self._send(upstream)

    def _send(self, upstream: Upstream) -> None:
        call = self.call
        self.upstream = upstream
        self.downstream.feeder = upstream
        upstream.send(
            call.head(chain=upstream.chain),
            call.body,
            self,
            expects_body=call.method != "HEAD",
            timeout=self.plane.limits.response,
            upgrade=call.upgrade,
        )

    # --- the answer (Receiver)

    def on_interim(self, head: ResponseHead) -> None:
        lines = response_lines(head.raw_headers, chunked=False)
        self.call.reply.interim(head.code, reason_bytes(head), lines)

    def on_head(self, head: ResponseHead, *, has_body: bool, length_known: bool) -> None:
        if head.code == 402:
            assert self.upstream is not None
            self.downstream.feeder = None  # what is collected is not written
            self.upstream.hand_to(Collector(self, head, has_body, length_known))
            return
        if head.code == 407 and self.upstream is not None and self.upstream.chain is not None:
            # The program has shown us its own credential, and could make nothing of it.
            text = self.upstream.chain.refusal(407, f"{self.call.method} {self.call.origin.key}")
            self.upstream.abort()
            self._unreachable(ChainError(text))
            return
        self._judge(head.code)
        if self.call.body is not None:
            self.call.body.forget()
        self.relay_head(head, has_body=has_body, length_known=length_known)

    def relay_head(
        self,
        head: ResponseHead,
        *,
        has_body: bool,
        length_known: bool,
        extra: tuple[bytes, ...] = (),
    ) -> None:
        lines = answer_lines(head, self.call)
        lines += extra
        self.call.reply.head(
            head.code, reason_bytes(head), lines, has_body=has_body, length_known=length_known
        )

    def on_data(self, data: bytes, *, last: bool) -> None:
        if last:
            self._rest = data
        else:
            self.call.reply.data(data)

    def on_end(self, trailers: Sequence[bytes]) -> None:
        self.call.on_gone = None
        self.downstream.feeder = None  # it may serve somebody else already
        self.call.reply.end(self._rest, trailers)

    def on_lost(self, error: UpstreamError) -> None:
        call = self.call
        if call.reply.started:
            call.ticket.failure(str(error))
            call.reply.broken()
        elif error.starved:
            call.ticket.neutral()
            call.reply.problem(Problem(408, "request_timeout", f"Given up: {error}."))
        elif error.stale and not self._retried and call.repeatable and call.replayable:
            self._retried = True
            self.plane.spawn(self._dial())
        else:
            self._unreachable(error)

    def on_switch(self, head: ResponseHead, early: bytes, upstream: Upstream) -> None:
        self._judge(head.code)
        switch(self.call, head, early, upstream)

    # ---

    def _judge(self, status: int) -> None:
        ticket = self.call.ticket
        if status >= 500:
            ticket.failure(f"answered {status}", status=status)
        elif status >= 400:
            ticket.neutral()
        else:
            elapsed = self.plane.loop.time() - self.call.started
            ticket.success(latency_ms=elapsed * 1000, status=status)

    def gone(self) -> None:
        """The program has hung up."""
        self.call.ticket.neutral()
        self.call.reply.forsaken()
        if self.upstream is not None:
            self.upstream.abort()
        if self.call.body is not None:
            self.call.body.forget()

    def _unreachable(self, error: DialError | UpstreamError) -> None:
        if isinstance(error, ChainError):
            self.call.ticket.neutral()
        else:
            self.call.ticket.failure(str(error))
        self.call.reply.problem(unreachable(self.call.origin.key, error))


def unreachable(where: str, error: DialError | UpstreamError) -> Problem:
    """The answer when a provider can't be asked, or does not answer."""
    code = "upstream_timeout" if error.timeout else "upstream_unreachable"
    if isinstance(error, ChainError):
        code = "upstream_proxy_failed"
    text = f"{where}: {error}. Nothing was paid."
    return Problem(504 if error.timeout else 502, code, text)


class Collector:
    """Takes the body of a 402, up to a bound of bytes and of time, and lets it be paid for.

    Past a bound the rest is left where it is, unread: what has come is enough to decide on (a
    challenge in a header, say, beside a paywall's page), and an answer that is not paid for is
    relayed to its end like any other.
    """

    __slots__ = (
        "_buffer",
        "_error",
        "_has_body",
        "_head",
        "_length_known",
        "_relay",
        "_timer",
        "_trailers",
    )

    def __init__(
        self, relay: Relay, head: ResponseHead, has_body: bool, length_known: bool
    ) -> None:
        self._relay = relay
        self._head = head
        self._has_body = has_body
        self._length_known = length_known
        self._buffer = bytearray()
        self._trailers: Sequence[bytes] = ()
        self._error: UpstreamError | None = None
        plane = relay.plane
        self._timer: asyncio.TimerHandle | None
        self._timer = plane.loop.call_later(plane.limits.challenge, self._enough)

    # --- Receiver

    def on_data(self, data: bytes, *, last: bool) -> None:
        self._buffer += data
        if not last and len(self._buffer) > self._relay.plane.limits.challenge_bytes:
            self._enough()

    def on_end(self, trailers: Sequence[bytes]) -> None:
        self._trailers = trailers
        self._relay.upstream = None  # it may serve somebody else already
        self._enough()

    def on_lost(self, error: UpstreamError) -> None:
        if self._timer is None:
            self._error = error  # while the gate thinks
        else:
            self._timer.cancel()
            self._relay.on_lost(error)

    def on_interim(self, head: ResponseHead) -> None:
        raise AssertionError("a 1xx after a final answer")

    def on_head(self, head: ResponseHead, *, has_body: bool, length_known: bool) -> None:
        raise AssertionError("a second answer")

    def on_switch(self, head: ResponseHead, early: bytes, upstream: Upstream) -> None:
        raise AssertionError("a 101 after a final answer")

    # --- what becomes of it

    def _enough(self) -> None:
        """Decide on what is here."""
        if self._timer is None:
            return
        self._timer.cancel()
        self._timer = None
        relay, call = self._relay, self._relay.call
        if relay.upstream is not None:
            relay.upstream.hold()
        call.on_gone = None
        challenge = PaymentRequired(self._head.raw_headers, bytes(self._buffer))
        relay.plane.spawn(pay(relay.plane, call, challenge, self))

    def pass_through(self, extra: tuple[bytes, ...] = ()) -> None:
        """The whole 402, as it came and still comes."""
        relay, call = self._relay, self._relay.call
        relay.relay_head(
            self._head, has_body=self._has_body, length_known=self._length_known, extra=extra
        )
        if relay.upstream is None:
            call.reply.end(bytes(self._buffer) if self._has_body else b"", self._trailers)
        elif self._error is not None:
            relay.on_lost(self._error)
        elif call.gone:
            relay.upstream.abort()
        else:
            call.reply.data(bytes(self._buffer))
            call.on_gone = relay.gone
            relay.downstream.feeder = relay.upstream
            relay.upstream.hand_to(relay)
            relay.upstream.unhold()

    def drop(self) -> None:
        """Nobody wants the rest."""
        if self._relay.upstream is not None:
            self._relay.upstream.abort()
