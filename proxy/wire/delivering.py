"""A paid answer on its way to its program, or to where it is kept if the program has gone.

The money has left: what was bought for it is read to its end, whoever still listens, within bounds
of size and time. Its last byte waits for the record, bounded too.
"""

import asyncio
import hashlib
import logging
from dataclasses import replace

from proxy.wire.answer import answer_lines, reason_bytes, switch
from proxy.wire.caching import Arrived
from proxy.wire.call import HUNG_UP, Call
from proxy.wire.gate import Came, Delivery, Keep, Paid, Replayed, Verdict, Whole
from proxy.wire.headers import header, response_lines
from proxy.wire.means import Means
from proxy.wire.paid_answer import Answer
from proxy.wire.parsers import MAX_READ
from proxy.wire.routes import rewrite_location
from proxy.wire.tap import Stock
from proxy.wire.upstream import NO_BODY

log = logging.getLogger(__name__)

NOT_READ_ON = f"{HUNG_UP}, and its answer is too large to be kept"
OUR_FAULT = "autopay failed in the middle of it (see its log)"


class Copy:
    """An answer's body so far, in case that it must be kept or looked at, up to `limit` bytes."""

    def __init__(self, limit: int, stock: Stock) -> None:
        self._cut = False
        self._limit = limit
        self._stock = stock
        self._chunks: list[bytes] = []
        self._size = 0

    def add(self, data: bytes) -> None:
        if self._cut:
            return
        granted = self._stock.take(len(data))
        self._size += granted
        self._chunks.append(data)
        if granted < len(data) or self._size > self._limit:
            self._cut = True
            self.drop()

    def fits(self, most: int) -> bool:
        """Whether it is here as far as it came, and that is not more than so many bytes."""
        return not self._cut and self._size <= most

    @property
    def body(self) -> bytes:
        return b"".join(self._chunks)

    def drop(self) -> None:
        """Nobody needs it any more."""
        self._stock.give(self._size)
        self._size = 0
        self._chunks.clear()


class Delivering:
    """One paid answer, from its head to the record of its end."""

    def __init__(self, plane: Means, call: Call, answer: Answer, paid: Paid) -> None:
        self._plane = plane
        self._call = call
        self._answer = answer
        self._paid = paid
        self._keep = paid.keep
        self._looks_at = 0
        self._copy: Copy | None = None
        self._digest = hashlib.sha256()
        self._size = 0
        self._timer: asyncio.TimerHandle | None = None
        self._instead: Replayed | None = None
        self._promised = False
        self._recorded = False

    async def run(self) -> None:
        call, answer = self._call, self._answer
        self._copy = self._room()
        call.on_leaving = self._left
        call.on_gone = self._gone
        call.reply.outcome = "paid"
        if call.leaving:
            self._left()
        if call.gone:
            self._gone()
        extra = self._extra()
        clock = self._plane.loop.time
        kept, waited = b"", 0.0
        if answer.has_body:
            write_head(answer, extra)
            call.reply.data(b"")
        while data := await answer.next():
            self._add(data)
            if answer.ended:
                kept = data  # the end is known to be here: hold it back
                break
            call.reply.data(data)
            handed_on = clock()
            await call.reply.drained()
            waited += clock() - handed_on
        took = clock() - answer.sent_at
        self._let_go()
        keeps = self._keeps()
        # A program that takes its time does not make its provider late.
        verdict = self._verdict(took - waited)
        if call.errand is not None and verdict is not None:
            call.errand.tab.fault = verdict.fault
        delivery = self._delivery(
            took,
            complete=answer.ended and (not call.gone or keeps),
            error=(verdict and verdict.fault) or self._error(keeps),
            abandoned=not answer.ended and str(answer.error) in (HUNG_UP, NOT_READ_ON),
            verdict=verdict,
        )
        reached = not self._missed
        record = self._plane.spawn(self._record(delivery, keeps=keeps, reached=reached))
        await asyncio.wait([record], timeout=self._plane.limits.receipt_wait)
        if call.visit is not None and answer.ended and (verdict is None or not verdict.fault):
            call.visit.whole()
        await self._end(extra, kept)
        missed_since = reached and self._missed
        await asyncio.wait([record])
        if missed_since and self._whole:
            await self._save(reached=False)

    async def failed(self) -> None:
        """A fault of ours, in the middle of it. It is on record all the same, with what had come:
        else the same request would wait for it."""
        self._let_go()
        if not self._recorded:
            took = self._plane.loop.time() - self._answer.sent_at
            delivery = self._delivery(took, complete=False, error=OUR_FAULT, abandoned=True)
            await self._record(delivery, keeps=False, reached=False)

    def _extra(self) -> list[bytes]:
        """Lines to be added to its head: of the payment, and of the cache, which may have another
        answer in its stead."""
        extra = [name + b": " + value for name, value in self._paid.headers]
        if self._call.visit is not None:
            said = self._call.visit.arrived(self._arrived())
            if isinstance(said, Replayed):
                self._instead = said
            else:
                extra += said
        return extra

    async def _end(self, extra: list[bytes], kept: bytes) -> None:
        """The last of it, for the program."""
        call, answer = self._call, self._answer
        if answer.switched is not None:
            answer.upstream.unhold()
            switch(call, answer.head, answer.switched, answer.upstream, extra)
        elif not answer.ended or call.gone:
            call.reply.broken()
        elif self._instead is not None:
            await pour(call, self._instead, outcome="paid")
        else:
            if not answer.has_body:
                write_head(answer, extra)
            call.reply.end(kept, answer.trailers)

    def drop(self) -> None:
        """What was kept in memory for it."""
        if self._copy is not None:
            self._copy.drop()

    def _arrived(self) -> Arrived:
        answer = self._answer
        return Arrived(
            answer.status,
            reason_bytes(answer.head),
            answer.headers,
            self._paid.bought,
            answer.sent_at,
            answer.first_byte_at,
            answer.upstream.place,
            answer.length_known or bool(answer.head.chunked) or not answer.has_body,
            self._paid.headers,
        )

    def _delivery(
        self,
        took: float,
        *,
        complete: bool,
        error: str | None,
        abandoned: bool,
        verdict: Verdict | None = None,
    ) -> Delivery:
        answer = self._answer
        return Delivery(
            status=answer.status,
            sha256=self._digest.hexdigest(),
            size=self._size,
            complete=complete,
            error=error,
            first_byte_ms=round((answer.first_byte_at - answer.sent_at) * 1000),
            total_ms=round(took * 1000),
            whole=answer.ended,
            abandoned=abandoned,
            content_type=(header(answer.headers, b"content-type") or b"").decode("latin-1"),
            verdict=verdict,
        )

    def _verdict(self, seconds: float) -> Verdict | None:
        """Of what came, now that it is whole."""
        expects, answer, copy = self._paid.expects, self._answer, self._copy
        if expects is None or not answer.ended:
            return None
        size = self._size
        body = b"" if size == 0 else None
        if self._call.method == "HEAD" or answer.switched is not None:
            body = None
        elif size and copy is not None and copy.fits(self._looks_at):
            body = copy.body
        try:
            first_byte = answer.first_byte_at - answer.sent_at
            return expects.judge(
                Came(answer.status, answer.headers, body, size, first_byte, seconds)
            )
        except Exception:
            log.exception("what %s answered could not be judged", self._call.origin.key)
            return Verdict(unread="it could not be judged")

    # --- the copy

    def _room(self) -> Copy | None:
        expects, keep = self._paid.expects, self._keep
        if expects is not None:
            self._looks_at = expects.looks_at(self._answer.headers)
        most = max(self._looks_at, 0 if keep is None else keep.bytes)
        return Copy(most, self._plane.copies) if most else None

    def _add(self, data: bytes) -> None:
        self._digest.update(data)
        self._size += len(data)
        if self._call.visit is not None:
            self._call.visit.add(data)
        if self._copy is not None:
            self._copy.add(data)
            if self._call.gone and not self._keepable:
                self._answer.hang_up(NOT_READ_ON)

    @property
    def _missed(self) -> bool:
        """Whether the program may not have got it all. One that closes its side before it has its
        answer looks like one that has gone, and mostly is."""
        return self._call.gone or self._call.leaving

    @property
    def _keepable(self) -> bool:
        """Whether what has come can be kept."""
        keep, copy, instead = self._keep, self._copy, self._instead
        if keep is None or copy is None or not copy.fits(keep.bytes):
            return False
        return instead is None or len(instead.answer.body) <= keep.bytes

    @property
    def _whole(self) -> bool:
        """Whether there is a whole answer to be kept."""
        return self._answer.ended and self._answer.switched is None and self._keepable

    def _keeps(self) -> bool:
        return self._whole and self._keep is not None and (self._keep.always or self._missed)

    def _error(self, keeps: bool) -> str | None:
        if self._answer.error is not None:
            return str(self._answer.error)
        if not self._call.gone:
            return None
        return f"{HUNG_UP}; its answer is kept" if keeps else HUNG_UP

    # --- the program hangs up

    def _left(self) -> None:
        """It may ask again, anywhere, before the rest of it is here."""
        if self._keep is not None and self._keepable and not self._promised:
            self._promised = True
            self._plane.spawn(self._promise(self._keep))

    def _gone(self) -> None:
        keep = self._keep
        if keep is None:
            self._answer.hang_up(HUNG_UP)
        elif not self._keepable:
            self._answer.hang_up(NOT_READ_ON)
        elif self._timer is None:
            self._timer = self._plane.loop.call_later(
                keep.seconds,
                self._answer.hang_up,
                f"{HUNG_UP}, and its answer took too long to be kept",
            )

    def _let_go(self) -> None:
        """There is no more of it: what its program does is no matter from now on."""
        self._call.on_leaving = self._call.on_gone = None
        if self._timer is not None:
            self._timer.cancel()

    # --- the record

    async def _record(self, delivery: Delivery, *, keeps: bool, reached: bool) -> None:
        self._recorded = True
        if keeps:  # first: once the delivery is on record, nobody waits for the answer
            await self._save(reached=reached)
        try:
            await self._paid.finish(delivery)
        except Exception:
            log.exception("the record of a delivery was not written")

    async def _promise(self, keep: Keep) -> None:
        try:
            await keep.promise()
        except Exception:
            log.exception("that a paid answer will be kept was not written")

    async def _save(self, *, reached: bool) -> None:
        keep, copy, head, ours = self._keep, self._copy, self._answer.head, self._paid.headers
        assert keep is not None and copy is not None
        if self._instead is not None:  # its program never asked for the 304 that came
            whole = replace(self._instead.answer, ours=ours)
        else:
            whole = Whole(head.code, reason_bytes(head), head.raw_headers, ours, copy.body)
        try:
            await keep.save(whole, reached)
        except Exception:
            log.exception("a paid answer was not kept")


async def deliver(plane: Means, call: Call, answer: Answer, paid: Paid) -> None:
    """Relay a paid answer."""
    delivering = Delivering(plane, call, answer, paid)
    try:
        await delivering.run()
    except Exception:  # a fault of ours: neither its program nor who waits beside it waits for ever
        answer.close()
        call.reply.broken()
        await delivering.failed()
        raise
    finally:
        delivering.drop()


def replay(call: Call, replayed: Replayed, outcome: str = "replayed") -> None:
    """An answer that was paid for before; `outcome` as `Outcomes` counts it."""
    call.reply.end(_begun(call, replayed, outcome))


async def pour(call: Call, replayed: Replayed, outcome: str = "replayed") -> None:
    """The same, no faster than its program reads: what waits for slow ones is in memory once."""
    body, at = _begun(call, replayed, outcome), 0
    while len(body) - at > MAX_READ and not call.gone:
        call.reply.data(body[at : at + MAX_READ])
        at += MAX_READ
        await call.reply.drained()
    if call.gone:
        call.reply.forsaken()
    else:
        call.reply.end(body[at:])


def _begun(call: Call, replayed: Replayed, outcome: str) -> bytes:
    """The head; what is given is the body to follow."""
    whole = replayed.answer
    bodiless = call.method == "HEAD" or whole.status in NO_BODY
    lines = response_lines(whole.headers, chunked=not bodiless)
    if not bodiless:
        lines.append(b"Content-Length: %d" % len(whole.body))
    if call.mount_point is not None:
        lines = rewrite_location(lines, call.mount_point)
    lines += [name + b": " + value for name, value in replayed.headers]
    call.reply.outcome = outcome
    call.reply.head(whole.status, whole.reason, lines, has_body=not bodiless, length_known=True)
    return b"" if bodiless else whole.body


def write_head(answer: Answer, extra: list[bytes]) -> None:
    answer.call.reply.head(
        answer.head.code,
        reason_bytes(answer.head),
        [*answer_lines(answer.head, answer.call), *extra],
        has_body=answer.has_body,
        length_known=answer.length_known,
    )
