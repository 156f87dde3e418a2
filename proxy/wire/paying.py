"""Off the fast path: a 402 was met. Ask the gate; if it pays, ask the provider again, once."""

import hashlib
import logging
from typing import Protocol
from uuid import UUID

from proxy.crashpoints import reached
from proxy.errors import counts_for_breaker
from proxy.wire.agent import Agent
from proxy.wire.call import HUNG_UP, Call
from proxy.wire.credentials import credential_of
from proxy.wire.delivering import deliver, replay
from proxy.wire.dial import DialError, Forbidden
from proxy.wire.gate import (
    NotSent,
    Paid,
    PassThrough,
    PaymentRequired,
    Replayed,
    Ticket,
)
from proxy.wire.means import Means
from proxy.wire.origin import Origin
from proxy.wire.paid_answer import Answer
from proxy.wire.parsers import RawHeaders
from proxy.wire.problem import Problem
from proxy.wire.retrying import Tries
from proxy.wire.upstream import Upstream

log = logging.getLogger(__name__)

NO_BODY = hashlib.sha256(b"").digest()


class Unpaid(Protocol):
    """The 402 that was met: handed on if it is not paid for, dropped otherwise."""

    def pass_through(self, extra: tuple[bytes, ...] = ()) -> None: ...
    def drop(self) -> None: ...


async def pay(plane: Means, call: Call, challenge: PaymentRequired, unpaid: Unpaid) -> None:
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

    def __init__(self, plane: Means, call: Call) -> None:
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
    def credential(self) -> bytes:
        return credential_of(self._call.onward)

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

    async def attempt(self, header: tuple[bytes, bytes]) -> Answer:
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
        tries = Tries(plane.retries, call, plane.loop.time(), self.payment_id)
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
