"""A paid answer on its way to its program, or to where it is kept if the program has gone.

The money has left: what was bought for it is read to its end, whoever still listens, within bounds
of size and time. Its last byte waits for the record, bounded too.
"""

import asyncio
import hashlib
import logging
from typing import TYPE_CHECKING

from proxy.wire.answer import answer_lines, reason_bytes, switch
from proxy.wire.call import Call
from proxy.wire.gate import Delivery, Keep, Paid, Replayed, Whole
from proxy.wire.headers import response_lines
from proxy.wire.routes import rewrite_location
from proxy.wire.tap import Stock
from proxy.wire.upstream import NO_BODY

if TYPE_CHECKING:
    from proxy.wire.paying import Answer
    from proxy.wire.plane import DataPlane

log = logging.getLogger(__name__)

HUNG_UP = "the program hung up"


class Copy:
    """An answer's body so far, in case that it must be kept. `cut`: it is not whole any more."""

    def __init__(self, keep: Keep, stock: Stock) -> None:
        self.cut = False
        self._keep = keep
        self._stock = stock
        self._chunks: list[bytes] = []
        self._size = 0

    def add(self, data: bytes) -> None:
        if self.cut:
            return
        granted = self._stock.take(len(data))
        self._size += granted
        self._chunks.append(data)
        if granted < len(data) or self._size > self._keep.bytes:
            self.cut = True
            self.drop()

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

    def __init__(self, plane: "DataPlane", call: Call, answer: "Answer", paid: Paid) -> None:
        self._plane = plane
        self._call = call
        self._answer = answer
        self._paid = paid
        keep = paid.keep
        self._keep = keep
        self._copy = None if keep is None else Copy(keep, plane.copies)
        self._timer: asyncio.TimerHandle | None = None

    async def run(self) -> None:
        call, answer = self._call, self._answer
        call.on_gone = self._gone
        call.reply.outcome = "paid"
        if call.gone:
            self._gone()
        extra = [name + b": " + value for name, value in self._paid.headers]
        digest, size, kept = hashlib.sha256(), 0, b""
        head_is_last = not answer.has_body
        if not head_is_last:
            write_head(answer, extra)
            call.reply.data(b"")
        while data := await answer.next():
            digest.update(data)
            size += len(data)
            self._add(data)
            if answer.ended:
                kept = data  # the end is known to be here: hold it back
                break
            call.reply.data(data)
            await call.reply.drained()
        self._end_timer()
        call.on_gone = None
        keeps = self._keeps()
        delivery = Delivery(
            status=answer.status,
            sha256=digest.hexdigest(),
            size=size,
            complete=answer.ended and (not call.gone or keeps),
            error=self._error(keeps),
            first_byte_ms=round((answer.first_byte_at - answer.sent_at) * 1000),
            total_ms=round((self._plane.loop.time() - answer.sent_at) * 1000),
        )
        reached = not self._missed
        record = self._plane.spawn(self._record(delivery, keeps=keeps, reached=reached))
        await asyncio.wait([record], timeout=self._plane.limits.receipt_wait)
        if answer.switched is not None:
            answer.upstream.unhold()
            switch(call, answer.head, answer.switched, answer.upstream, extra)
        elif not answer.ended or call.gone:
            call.reply.broken()
        else:
            if head_is_last:
                write_head(answer, extra)
            call.reply.end(kept, answer.trailers)
        missed_since = reached and self._missed
        await asyncio.wait([record])
        if missed_since and self._whole:
            await self._save(reached=False)

    def drop(self) -> None:
        """What was kept in memory for it."""
        self._end_timer()
        if self._copy is not None:
            self._copy.drop()

    # --- the copy

    def _add(self, data: bytes) -> None:
        if self._copy is not None:
            self._copy.add(data)
            if self._call.gone and self._copy.cut:
                self._answer.hang_up(f"{HUNG_UP}, and its answer is too large to be kept")

    @property
    def _missed(self) -> bool:
        """Whether the program may not have got it all. One that closes its side before it has its
        answer looks like one that has gone, and mostly is."""
        return self._call.gone or self._call.leaving

    @property
    def _whole(self) -> bool:
        """Whether there is a whole answer to be kept."""
        answer = self._answer
        return (
            answer.ended
            and answer.switched is None
            and self._copy is not None
            and not self._copy.cut
        )

    def _keeps(self) -> bool:
        return self._whole and self._keep is not None and (self._keep.always or self._missed)

    def _error(self, keeps: bool) -> str | None:
        if self._answer.error is not None:
            return str(self._answer.error)
        if not self._call.gone:
            return None
        return f"{HUNG_UP}; its answer is kept" if keeps else HUNG_UP

    # --- the program hangs up

    def _gone(self) -> None:
        keep, copy = self._keep, self._copy
        if keep is None or copy is None:
            self._answer.hang_up(HUNG_UP)
        elif copy.cut:
            self._answer.hang_up(f"{HUNG_UP}, and its answer is too large to be kept")
        elif self._timer is None:
            self._timer = self._plane.loop.call_later(
                keep.seconds,
                self._answer.hang_up,
                f"{HUNG_UP}, and its answer took too long to be kept",
            )

    def _end_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    # --- the record

    async def _record(self, delivery: Delivery, *, keeps: bool, reached: bool) -> None:
        if keeps:  # first: once the delivery is on record, nobody waits for the answer
            await self._save(reached=reached)
        try:
            await self._paid.finish(delivery)
        except Exception:
            log.exception("the record of a delivery was not written")

    async def _save(self, *, reached: bool) -> None:
        keep, copy, head = self._keep, self._copy, self._answer.head
        assert keep is not None and copy is not None
        whole = Whole(
            head.code, reason_bytes(head), head.raw_headers, self._paid.headers, copy.body
        )
        try:
            await keep.save(whole, reached)
        except Exception:
            log.exception("a paid answer was not kept")


async def deliver(plane: "DataPlane", call: Call, answer: "Answer", paid: Paid) -> None:
    """Relay a paid answer."""
    delivering = Delivering(plane, call, answer, paid)
    try:
        await delivering.run()
    finally:
        delivering.drop()


def replay(call: Call, replayed: Replayed) -> None:
    """An answer that was paid for before."""
    whole = replayed.answer
    bodiless = call.method == "HEAD" or whole.status in NO_BODY
    lines = response_lines(whole.headers, chunked=not bodiless)
    if not bodiless:
        lines.append(b"Content-Length: %d" % len(whole.body))
    if call.mount_point is not None:
        lines = rewrite_location(lines, call.mount_point)
    lines += [name + b": " + value for name, value in replayed.headers]
    call.reply.outcome = "replayed"
    call.reply.head(whole.status, whole.reason, lines, has_body=not bodiless, length_known=True)
    call.reply.end(b"" if bodiless else whole.body)


def write_head(answer: "Answer", extra: list[bytes]) -> None:
    answer.call.reply.head(
        answer.head.code,
        reason_bytes(answer.head),
        [*answer_lines(answer.head, answer.call), *extra],
        has_body=answer.has_body,
        length_known=answer.length_known,
    )
