"""Off the fast path: a 402 was met. Ask the gate; if it pays, ask the provider again, once."""

import asyncio
import hashlib
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol
from uuid import UUID

from proxy.crashpoints import reached
from proxy.errors import counts_for_breaker
from proxy.wire.answer import answer_lines, reason_bytes
from proxy.wire.call import Call
from proxy.wire.delivering import HUNG_UP, deliver, replay
from proxy.wire.dial import DialError, Forbidden
from proxy.wire.gate import (
    Agent,
    Lost,
    NotSent,
    Paid,
    PassThrough,
    PaymentRequired,
    Replayed,
    Ticket,
)
from proxy.wire.origin import Origin
from proxy.wire.parsers import MAX_READ, RawHeaders, ResponseHead
from proxy.wire.problem import Problem
from proxy.wire.retrying import Tries
from proxy.wire.upstream import Upstream, UpstreamError

if TYPE_CHECKING:
    from proxy.wire.plane import DataPlane

log = logging.getLogger(__name__)

NO_BODY = hashlib.sha256(b"").digest()


class Unpaid(Protocol):
    """The 402 that was met: handed on if it is not paid for, dropped otherwise."""

    def pass_through(self, extra: tuple[bytes, ...] = ()) -> None: ...
    def drop(self) -> None: ...


async def pay(plane: "DataPlane", call: Call, challenge: PaymentRequired, unpaid: Unpaid) -> None:
    """Put the 402 to the gate and answer the program with what comes of it."""
    purchase = Purchase(plane, call)
    try:
        reply = await plane.gate.pay(purchase, challenge)
    except Exception:
        # The gate answers for everything it knows of; this is a fault of ours. Whatever was
        # reserved stays reserved: only proof frees money.
        purchase.close()
        unpaid.drop()
        log.exception("paying %s failed", call.url)
        call.reply.problem(
            Problem(
                500,
                "internal_error",
                "autopay failed while deciding on a payment. See its log; if a payment had left,"
                " it stays held until its fate is known (`autopay receipts --in-doubt`).",
            )
        )
        return
    finally:
        if call.body is not None:
            call.body.forget()  # one attempt, and no other
    if isinstance(reply, Paid):
        unpaid.drop()
        assert isinstance(reply.answer, Answer)
        await deliver(plane, call, reply.answer, reply)
        return
    purchase.close()
    if isinstance(reply, PassThrough):
        unpaid.pass_through(tuple(name + b": " + value for name, value in reply.headers))
    elif isinstance(reply, Replayed):
        unpaid.drop()
        replay(call, reply)
    else:
        unpaid.drop()
        call.reply.problem(reply)


class Purchase:
    """What the gate sees of a call (`gate.Purchase`)."""

    def __init__(self, plane: "DataPlane", call: Call) -> None:
        self._plane = plane
        self._call = call
        self.agent: Agent = call.agent
        self.method = call.method
        self.origin: Origin = call.origin
        self.raw_headers: RawHeaders = call.raw_headers
        self.session = call.session
        self.trace = call.trace
        self.tool = call.tool
        self.payment_id: UUID | None = None
        self.ticket: Ticket = call.ticket
        self.mount = call.mount
        self.idempotency_key = call.idempotency_key
        self.errand = call.errand
        self._answer: Answer | None = None
        self._body_sha256: bytes | None = None

    @property
    def url(self) -> str:
        return self._call.url

    @property
    def path(self) -> str:
        return self._call.path

    @property
    def replayable(self) -> bool:
        return self._call.replayable

    @property
    def gone(self) -> bool:
        return self._call.leaving

    async def body_sha256(self) -> bytes | None:
        if self._call.body is None:
            return NO_BODY
        if self._body_sha256 is None:
            self._body_sha256 = await self._call.body.sha256()
        return self._body_sha256

    async def attempt(self, header: tuple[bytes, bytes]) -> "Answer":
        call, plane = self._call, self._plane
        assert self._answer is None, "one paid attempt per request"
        upstream = plane.pool.take(call.origin, call.leave, fresh=True, tunnel=call.upgrade)
        if upstream is None:
            try:
                upstream = await self._dial()
            except DialError as error:
                if isinstance(error, Forbidden):  # its name was bound anew after the 402
                    plane.gate.turned_away(call.turned_away(error.code, error.address))
                theirs = counts_for_breaker(error.error_class)
                raise NotSent(str(error), theirs=theirs) from error
        if call.leaving:
            upstream.abort()
            raise NotSent("the program hung up")
        if not call.replayable:  # it grew past the cap while the gate was thinking
            upstream.abort()
            raise NotSent("the request's body is too large to be sent again")
        answer = self._answer = Answer(plane.loop, call, upstream)
        call.on_gone = answer.forsaken
        upstream.send(
            call.head(
                [header],
                chain=upstream.chain,
                expect=call.body is None or call.body.untouched,
            ),
            call.body,
            answer,
            expects_body=call.method != "HEAD",
            timeout=plane.limits.paid_response,
            upgrade=call.upgrade,
        )
        reached("send.midway")
        await answer.head_came()
        return answer

    async def _dial(self) -> Upstream:
        """A connection, or DialError, or NotSent as soon as nobody waits for the answer. As long as
        no byte of the payment has left, trying again can do no harm."""
        call, plane = self._call, self._plane
        tries = Tries(plane, call, plane.loop.time(), self.payment_id)
        while True:
            try:
                upstream = await plane.pool.dial(call.origin, call.leave, tunnel=call.upgrade)
            except DialError as error:
                delay = tries.after(error, sent=False)
                if delay is None:
                    raise
                if not await tries.wait(delay):
                    if call.leaving:
                        raise NotSent(HUNG_UP) from error
                    raise
            else:
                tries.ended(None)
                return upstream

    def close(self) -> None:
        """Nothing of the paid answer goes to the program."""
        if self._answer is not None:
            self._answer.close()


class Answer:
    """The answer to a paid request (`gate.PaidAnswer`, and a Receiver).

    It is stopped at its head until somebody reads it or relays it. The program hanging up does not
    stop it: the money has left, and the answer says what became of it.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, call: Call, upstream: Upstream) -> None:
        self.call = call
        self.upstream = upstream
        self.head: ResponseHead
        self.has_body = False
        self.length_known = False
        self.sent_at = loop.time()
        self.first_byte_at = 0.0
        self.switched: bytes | None = None
        self.ended = False
        self.trailers: Sequence[bytes] = ()
        self._buffer: list[bytes] = []
        self._waiting = 0  # bytes in the buffer
        self._loop = loop
        self._head_came: asyncio.Future[None] = loop.create_future()
        self._changed = asyncio.Event()
        self._error: UpstreamError | None = None

    # --- gate.PaidAnswer

    @property
    def status(self) -> int:
        return self.head.code

    @property
    def headers(self) -> RawHeaders:
        return self.head.raw_headers

    async def read(self, limit: int) -> bytes:
        size = 0
        chunks = []
        while size < limit and (chunk := await self.next()):
            chunks.append(chunk)
            size += len(chunk)
        return b"".join(chunks)[:limit]

    def close(self) -> None:
        """Nobody wants the rest."""
        if not self.ended and self._error is None:
            self.upstream.abort()

    # --- for whoever takes the body

    async def head_came(self) -> None:
        """Returns at the answer's head, or raises Lost."""
        try:
            await self._head_came
        except UpstreamError as error:
            raise Lost(str(error)) from error

    async def next(self) -> bytes:
        """The next bytes of the body; b"" at its end, also when it broke off (see `error`)."""
        while not self._buffer and not self.ended and self._error is None:
            self.upstream.unhold()
            self._changed.clear()
            await self._changed.wait()
        data = b"".join(self._buffer)
        self._buffer.clear()
        self._waiting = 0
        return data

    def forsaken(self) -> None:
        """The program has gone. If it owes us some of the request, no answer will come."""
        if self.call.body is not None and not self.call.body.arrived:
            self.hang_up(HUNG_UP)

    def hang_up(self, why: str) -> None:
        """The program has gone: there is nobody to bring the answer to, nor is it kept."""
        if not self.ended and self._error is None:
            self.upstream.abort()
            self.on_lost(UpstreamError(why, "client_gone"))

    @property
    def error(self) -> UpstreamError | None:
        return self._error

    # --- Receiver

    def on_interim(self, head: ResponseHead) -> None:
        body = self.call.body
        if head.code != 100 or (body is not None and body.untouched):
            self.call.reply.interim(head.code, reason_bytes(head), answer_lines(head, self.call))

    def on_head(self, head: ResponseHead, *, has_body: bool, length_known: bool) -> None:
        self.head, self.has_body, self.length_known = head, has_body, length_known
        self.first_byte_at = self._loop.time()
        self.upstream.hold()
        self._head_came.set_result(None)

    def on_data(self, data: bytes, *, last: bool) -> None:
        if data:
            self._buffer.append(data)
            self._waiting += len(data)
            if self._waiting >= MAX_READ:
                self.upstream.hold()
            self._changed.set()

    def on_end(self, trailers: Sequence[bytes]) -> None:
        self.trailers = trailers
        self.ended = True
        self._changed.set()

    def on_lost(self, error: UpstreamError) -> None:
        self._error = error
        if not self._head_came.done():
            self._head_came.set_exception(error)
        self._changed.set()

    def on_switch(self, head: ResponseHead, early: bytes, upstream: Upstream) -> None:
        self.head = head
        self.first_byte_at = self._loop.time()
        self.switched = early
        upstream.hold()  # until it is joined to the program
        self.ended = True
        self._head_came.set_result(None)
