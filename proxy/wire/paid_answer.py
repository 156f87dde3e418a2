"""The answer to a paid request, as it comes: stopped at its head, then taken piece by piece."""

import asyncio
from collections.abc import Sequence

from proxy.wire.answer import answer_lines, reason_bytes
from proxy.wire.call import HUNG_UP, Call
from proxy.wire.gate import Lost
from proxy.wire.parsers import MAX_READ, RawHeaders, ResponseHead
from proxy.wire.upstream import Upstream, UpstreamError


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
