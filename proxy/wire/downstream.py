"""One connection of a program: requests in, in order; answers out, in order."""

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from proxy.wire.body import Body, Keeper
from proxy.wire.call import Call
from proxy.wire.endpoint import Endpoint
from proxy.wire.headers import RequestFields, read_request_fields
from proxy.wire.parsers import (
    EMPTY_PAYLOAD,
    HttpProcessingError,
    LineTooLong,
    Payload,
    RequestHead,
    request_parser,
)
from proxy.wire.problem import Problem
from proxy.wire.reply import Reply
from proxy.wire.routes import Router
from proxy.wire.upstream import Upstream, plain

if TYPE_CHECKING:
    from proxy.wire.plane import DataPlane

LINGER_SECONDS = 2.0


class Downstream(Endpoint):
    """A server connection."""

    __slots__ = (
        "_call",
        "_drained",
        "_eof",
        "_lingering",
        "_plane",
        "_queue",
        "_router",
        "_seen",
        "_tail",
        "_unread",
        "feeder",
    )

    def __init__(self, plane: "DataPlane", router: Router) -> None:
        super().__init__(plane.loop)
        self._plane = plane
        self._router = router
        self._queue: deque[tuple[RequestHead, Payload]] = deque()
        self._call: Call | None = None
        self._seen = 0  # bytes of a head that is not complete yet
        self._tail = b""  # came behind a CONNECT or an Upgrade
        self._eof = False
        self._unread = False  # bytes will come that nobody is going to read
        self._lingering = False
        self._drained: asyncio.Future[None] | None = None  # set while writing is paused
        self.feeder: Upstream | None = None
        """Whose bytes we write: held while the program reads slowly."""
        self.parser = request_parser(self, plane.loop, plane.limits.header_bytes)

    # --- the transport's calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._plane.opened(self)
        self.deadline = self.loop.time() + self._plane.limits.client_header

    def connection_lost(self, exc: Exception | None) -> None:
        self.connected = False
        self.transport = None
        self._queue.clear()
        self._plane.closed(self)
        self._set_drained()
        call, self._call = self._call, None
        if call is not None:
            call.hung_up()

    def eof_received(self) -> bool:
        # A half-close: answer what was asked, then close.
        self._eof = True
        if self._lingering or (self._call is None and not self._queue):
            return False
        body = self._call.body if self._call is not None else None
        return body is None or body.arrived  # half a request is no request

    def pause_writing(self) -> None:
        self._drained = self.loop.create_future()
        if self.feeder is not None:
            self.feeder.hold()

    def resume_writing(self) -> None:
        self._set_drained()
        if self.feeder is not None:
            self.feeder.unhold()

    def data_received(self, data: bytes) -> None:
        if self._lingering:
            return
        if self._call is None and self._seen == 0:
            self.deadline = self.loop.time() + self._plane.limits.client_header
        self._seen += len(data)
        assert self.parser is not None
        try:
            messages, upgraded, tail = self.parser.feed_data(data)
        except LineTooLong:
            self._refuse(Problem(431, "header_too_large", "The request's header is too large."))
            return
        except HttpProcessingError as error:
            self._refuse(Problem(400, "bad_request", f"Not a valid request: {plain(error)}"))
            return
        if messages:
            self._seen = 0
            self._queue.extend(messages)
        if upgraded:
            self._tail += tail
            self.hold()
        call = self._call
        if call is not None and call.body is not None and not call.body.complete:
            self._seen = 0
            call.body.pump()
        if self._seen > 2 * self._plane.limits.header_bytes:
            self._refuse(Problem(431, "header_too_large", "The request's header is too large."))
        elif call is None and self._queue:
            self._next()

    def expired(self) -> None:
        if self.transport is None:
            return
        if self._lingering or self._seen == 0:
            self.transport.close()
        else:
            self._refuse(Problem(408, "request_timeout", "The request's header did not come."))

    # --- requests, one at a time

    def _next(self) -> None:
        head, payload = self._queue.popleft()
        assert self.parser is not None
        self.parser.message_consumed()
        self.deadline = 0.0  # until the answer is out, the provider's clock counts
        reply = Reply(
            self,
            http10=head.version < (1, 1),
            keep=not (head.should_close or head.upgrade),
            head_only=head.method == "HEAD",
        )
        fields = read_request_fields(head.raw_headers)
        if head.method == "CONNECT":
            self._connect(head, fields, reply)
            return
        body = None
        if payload is not EMPTY_PAYLOAD:
            length = int(fields.content_length) if fields.content_length is not None else None
            body = Body(
                payload, chunked=bool(head.chunked), length=length, keeper=self._keeper(length)
            )
        try:
            target = self._router.route(head, fields)
        except Problem as problem:
            self._unread = body is not None
            reply.problem(problem, close=self._unread)
            return
        call = Call(head, fields, target, body, reply, self.loop.time())
        self._call = call
        self._plane.begin(call, self)

    def _connect(self, head: RequestHead, fields: RequestFields, reply: Reply) -> None:
        try:
            _, host, port = self._router.connect(head, fields)
        except Problem as problem:
            # What came behind a refused CONNECT was meant for somebody else: never parse it here.
            reply.problem(problem, close=True)
            return
        self._plane.tunnel(host, port, reply)

    def _keeper(self, length: int | None) -> Keeper | None:
        limits = self._plane.limits
        if length is not None and length > limits.replay_memory_bytes + limits.replay_disk_bytes:
            return None
        return Keeper(limits.replay_memory_bytes, limits.replay_disk_bytes)

    def answered(self, *, keep: bool) -> None:
        """The current answer is written whole."""
        call, self._call = self._call, None
        self.feeder = None
        if call is not None and call.body is not None:
            call.body.detach()
            call.body.forget()
            if not call.body.complete:
                call.body.discard()
            self._unread = not call.body.complete
        if self.transport is None:
            return
        if self._unread:
            self._linger()
        elif not keep or (self._eof and not self._queue):
            self.transport.close()
        else:
            limits = self._plane.limits
            self.deadline = self.loop.time() + (limits.client_header if self._seen else limits.idle)
            if self._queue:
                self.loop.call_soon(self._continue)

    def leave(self) -> bytes:
        """The connection is taken over; the bytes that came behind the request."""
        self._plane.closed(self)
        self._call = None
        self.feeder = None
        self.deadline = 0.0
        tail, self._tail = self._tail, b""
        return tail

    async def drained(self) -> None:
        """Returns when there is room to write, or the program is gone."""
        if self._drained is not None:
            await self._drained

    def _set_drained(self) -> None:
        if self._drained is not None:
            self._drained.set_result(None)
            self._drained = None

    def _continue(self) -> None:
        if self._call is None and self._queue and self.transport is not None:
            self._next()

    def _linger(self) -> None:
        """Close, but let the program read the answer first: closing on unread bytes sends RST."""
        assert self.transport is not None
        self._lingering = True
        self._queue.clear()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.reading_paused = self.held = False
        if not self.transport.is_closing():
            self.transport.resume_reading()
        self.deadline = self.loop.time() + LINGER_SECONDS

    def _refuse(self, problem: Problem) -> None:
        """An answer to something that is not a request; the connection can't be read further."""
        if self.transport is None:
            return
        call = self._call
        if call is not None:
            # The broken bytes follow a request under way: nothing may be written into its answer.
            self.transport.abort()
            return
        self._unread = True
        Reply(self, http10=False, keep=False, head_only=False).problem(problem)
