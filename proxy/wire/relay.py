"""The usual way: a request goes up, its answer comes down, and nothing waits on a task.

The fast path ends at a 402: its body is collected, and `paying` takes over.
"""

import asyncio
from collections.abc import Awaitable, Sequence

from proxy.errors import counts_for_breaker, of_status
from proxy.wire.answer import answer_lines, reason_bytes, switch
from proxy.wire.caching import Arrived, Visit
from proxy.wire.call import HUNG_UP, Call
from proxy.wire.delivering import pour
from proxy.wire.dial import ChainError, DialError, Forbidden
from proxy.wire.egress import EVERYWHERE
from proxy.wire.gate import PaymentRequired, Replayed, Ticket
from proxy.wire.headers import response_lines
from proxy.wire.means import Means
from proxy.wire.parsers import ResponseHead
from proxy.wire.paying import pay
from proxy.wire.problem import Problem
from proxy.wire.recording import listen_in
from proxy.wire.retrying import Tries, retry_after
from proxy.wire.upstream import Fed, Upstream, UpstreamError


class Relay:
    """Takes one answer to one program."""

    __slots__ = (
        "_instead",
        "_rest",
        "_retried",
        "_sent",
        "_since",
        "_tries",
        "call",
        "downstream",
        "plane",
        "upstream",
    )

    def __init__(self, plane: Means, call: Call, downstream: Fed) -> None:
        self.plane = plane
        self.call = call
        self.downstream = downstream
        self.upstream: Upstream | None = None
        self._rest = b""  # the last of the answer, to be written with its end
        self._instead: Replayed | None = None  # what is written at its end in its stead
        self._retried = False  # on another connection, as the pooled one was dead
        self._sent = False  # some of the request may have reached the provider
        self._tries: Tries | None = None  # most requests need one only
        self._since = call.started  # of the attempt under way

    def begin(self) -> None:
        call = self.call
        try:
            admitted = self.plane.gate.admit(call.origin)
        except Problem as problem:
            call.reply.problem(problem)
            return
        if isinstance(admitted, Awaitable):
            self.plane.spawn(self._wait(admitted))
        else:
            call.ticket = admitted
            self._set_out()

    async def _wait(self, admission: Awaitable[Ticket]) -> None:
        """For leave to be the one that tries a provider again."""
        call = self.call
        try:
            call.ticket = await admission
        except Problem as problem:
            call.reply.problem(problem)
            return
        if call.gone:
            self.gone()
        else:
            self._set_out()

    def _set_out(self) -> None:
        call = self.call
        call.ticket.about(call.endpoint)
        if not call.upgrade:
            listen_in(self.plane.gate, call)
        call.on_gone = self.gone
        if call.mount_point is None:
            call.leave = self.plane.gate.leave(call.agent)
        else:
            call.leave = EVERYWHERE  # the operator named this provider
        self.plane.retries.budgets.asked(call.origin)
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
            if self._tries is not None:
                self._tries.ended(error)
            call.ticket.neutral()  # it says nothing of the provider
            self.plane.gate.turned_away(call.turned_away(error.code, error.address))
            call.reply.problem(error.problem())
            return
        except DialError as error:
            self._failed(error)
            return
        if call.gone:
            upstream.abort()
            return
        self._send(upstream)

    def _send(self, upstream: Upstream) -> None:
        call, timeout = self.call, self.plane.limits.response
        self.upstream = upstream
        self.downstream.feeder = upstream
        self._sent = True
        upstream.send(
            call.head(chain=upstream.chain, expect=call.body is None or call.body.untouched),
            call.body,
            self,
            expects_body=call.method != "HEAD",
            timeout=timeout if self._tries is None else self._tries.patience(timeout),
            upgrade=call.upgrade,
        )

    def _failed(self, error: DialError | UpstreamError, *, least: float = 0.0) -> None:
        """No answer, or none to be content with: try again where that is safe, or say so."""
        if not self._again(error, least=least):
            self._unreachable(error)

    def _again(self, error: DialError | UpstreamError, *, least: float = 0.0) -> bool:
        """Whether there will be another attempt; `least`: seconds until then."""
        if self._tries is None:
            self._tries = Tries(self.plane.retries, self.call, self.call.started)
        delay = self._tries.after(error, sent=self._sent, least=least)
        if delay is None:
            return False
        if self.upstream is not None:
            self.upstream.abort()
            self.upstream = self.downstream.feeder = None
        self.plane.spawn(self._later(self._tries, delay, error))
        return True

    async def _later(self, tries: Tries, delay: float, error: DialError | UpstreamError) -> None:
        if await tries.wait(delay):
            self._since = self.plane.loop.time()
            await self._dial()
        elif not self.call.gone:
            self._unreachable(error)

    # --- the answer (Receiver)

    def on_interim(self, head: ResponseHead) -> None:
        lines = response_lines(head.raw_headers, chunked=False)
        self.call.reply.interim(head.code, reason_bytes(head), lines)

    def on_head(self, head: ResponseHead, *, has_body: bool, length_known: bool) -> None:
        if head.code == 402:
            assert self.upstream is not None
            if self._tries is not None:
                self._tries.ended(None)
            self.downstream.feeder = None  # what is collected is not written
            self.upstream.hand_to(Collector(self, head, has_body, length_known))
            return
        if head.code == 407 and self.upstream is not None and self.upstream.chain is not None:
            # The program has shown us its own credential, and could make nothing of it.
            text = self.upstream.chain.refusal(407, f"{self.call.method} {self.call.origin.key}")
            self.upstream.abort()
            self._failed(ChainError(text, refused=True))
            return
        if head.code >= 429 and self._asks_again(head):
            return
        self._judge(head.code)
        if self.call.body is not None:
            self.call.body.forget()
        extra: Sequence[bytes] = ()
        if self.call.visit is not None:
            said = self._tell(self.call.visit, head, ends=length_known or bool(head.chunked))
            if isinstance(said, Replayed):
                self._instead = said
                return
            extra = said
        self.relay_head(head, has_body=has_body, length_known=length_known, extra=tuple(extra))

    def _replace(self, instead: Replayed) -> None:
        """The program gets what was paid for before."""
        pouring = self.plane.spawn(pour(self.call, instead, outcome="cached"))

        def gone() -> None:
            pouring.cancel()
            self.call.reply.forsaken()

        self.call.on_gone = gone

    def _tell(self, visit: Visit, head: ResponseHead, *, ends: bool) -> Sequence[bytes] | Replayed:
        """The cache hears of an answer that was not paid for."""
        return visit.arrived(
            Arrived(
                head.code,
                reason_bytes(head),
                head.raw_headers,
                None,
                self.call.started,
                self.plane.loop.time(),
                None if self.upstream is None else self.upstream.place,
                ends,
            )
        )

    def _asks_again(self, head: ResponseHead) -> bool:
        """Whether the settings say that such an answer is asked for again, and it is."""
        rules = self.plane.retries.rules(self.call.origin)
        error_class = of_status(head.code)
        if head.code not in rules.statuses or error_class is None:
            return False
        error = UpstreamError(f"answered {head.code}", error_class)
        return self._again(error, least=retry_after(head.raw_headers))

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
        if self._instead is not None:
            self._replace(self._instead)
        else:
            self.call.reply.end(self._rest, trailers)

    def on_lost(self, error: UpstreamError) -> None:
        call = self.call
        if call.reply.started:
            self._blame(error)
            call.reply.broken()
        elif error.error_class == "request_stalled":
            self._blame(error)
            call.reply.problem(Problem(408, "request_timeout", f"Given up: {error}."))
        elif error.stale and not self._retried and call.repeatable and call.replayable:
            self._retried = True
            self.plane.spawn(self._dial())
        else:
            self._failed(error)

    def on_switch(self, head: ResponseHead, early: bytes, upstream: Upstream) -> None:
        self._judge(head.code)
        switch(self.call, head, early, upstream)

    # ---

    def _judge(self, status: int) -> None:
        ticket = self.call.ticket
        error_class, error = of_status(status), None
        if error_class is None:
            elapsed = self.plane.loop.time() - self._since
            ticket.success(latency_ms=elapsed * 1000, status=status)
        elif counts_for_breaker(error_class):
            error = UpstreamError(f"answered {status}", error_class)
            ticket.failure(str(error), status=status)
        else:
            ticket.neutral()
        if self._tries is not None:
            self._tries.ended(error)

    def gone(self) -> None:
        """The program has hung up."""
        if self._tries is not None:
            self._tries.ended(UpstreamError(HUNG_UP, "client_gone"))
        self.call.ticket.neutral()
        self.call.reply.forsaken()
        if self.upstream is not None:
            self.upstream.abort()
        if self.call.body is not None:
            self.call.body.forget()

    def _unreachable(self, error: DialError | UpstreamError) -> None:
        self._blame(error)
        tries = 1 if self._tries is None else self._tries.made
        self.call.reply.problem(unreachable(self.call.origin.key, error, tries))

    def _blame(self, error: DialError | UpstreamError) -> None:
        if counts_for_breaker(error.error_class):
            self.call.ticket.failure(str(error))
        else:
            self.call.ticket.neutral()


def unreachable(where: str, error: DialError | UpstreamError, tries: int = 1) -> Problem:
    """The answer when a provider can't be asked, or does not answer, `tries` times."""
    code = "upstream_timeout" if error.timeout else "upstream_unreachable"
    if isinstance(error, ChainError):
        code = "upstream_proxy_failed"
    often = "" if tries == 1 else f" It was tried {tries} times."
    text = f"{where}: {error}.{often} Nothing was paid."
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
            call.reply.forsaken()  # it hung up while the gate thought: nobody has said so yet
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
