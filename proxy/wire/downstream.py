"""One connection of a program: requests in, in order; answers out, in order."""

import asyncio
from collections import deque
from typing import Protocol

from proxy.wire.agent import Caller
from proxy.wire.body import Body, Keeper
from proxy.wire.call import Call
from proxy.wire.endpoint import Endpoint, reset
from proxy.wire.framing import Framing
from proxy.wire.headers import codings, read_request_fields
from proxy.wire.limits import Limits
from proxy.wire.outcomes import Outcomes
from proxy.wire.parsers import (
    EMPTY_PAYLOAD,
    MAX_PIPELINED,
    HttpProcessingError,
    Payload,
    RequestHead,
    head_size,
    request_parser,
    too_large,
)
from proxy.wire.problem import Problem
from proxy.wire.reply import Reply
from proxy.wire.routes import Router
from proxy.wire.tunnel import Tunnel, TunnelEnd, join
from proxy.wire.upstream import Upstream, plain

LINGER_SECONDS = 2.0
VERSIONS = frozenset(((1, 0), (1, 1)))


class Plane(Protocol):
    """What a connection is one of, and hands its requests to."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop: ...
    @property
    def limits(self) -> Limits: ...
    @property
    def outcomes(self) -> Outcomes: ...
    def opened(self, connection: "Downstream") -> bool:
        """Whether there is room for one more program."""
        ...

    def closed(self, connection: "Downstream") -> None: ...
    def joined(self, tunnel: Tunnel) -> None: ...
    def begin(self, call: Call, downstream: "Downstream") -> None:
        """A request is to be answered."""
        ...

    def tunnel(
        self, caller: Caller, host: str, port: int, downstream: "Downstream", reply: Reply
    ) -> None:
        """A CONNECT is to be answered. Raises Problem to refuse it."""
        ...


class _TooLarge(Exception):
    """A head that is larger than the parser looks for."""


class Downstream(Endpoint):
    """A server connection."""

    __slots__ = (
        "_call",
        "_drained",
        "_eof",
        "_framing",
        "_kept",
        "_latest",
        "_lingering",
        "_plane",
        "_queue",
        "_refusal",
        "_router",
        "_seen",
        "_tail",
        "_unread",
        "_upgraded",
        "feeder",
    )

    def __init__(self, plane: Plane, router: Router) -> None:
        super().__init__(plane.loop)
        self._plane = plane
        self._router = router
        self._queue: deque[tuple[RequestHead, Payload, list[bytes]]] = deque()
        self._framing = Framing()
        self._kept = b""  # came while the parser, or the queue, took no more
        self._call: Call | None = None
        self._latest: Payload = EMPTY_PAYLOAD  # the body of the request parsed last
        self._seen = 0  # bytes of a head that is not complete yet
        self._upgraded = False  # the parser is done: what follows is not HTTP
        self._tail = b""  # came behind a CONNECT or an Upgrade
        self._refusal: Problem | None = None  # the last answer of this connection, in its turn
        self._eof = False
        self._unread = False  # bytes will come that nobody is going to read
        self._lingering = False
        self._drained: asyncio.Future[None] | None = None  # set while writing is paused
        self.feeder: Upstream | None = None
        """Whose bytes we write: held while the program reads slowly."""
        self.parser = request_parser(self, plane.loop, plane.limits.header_bytes)

    @property
    def _has_place(self) -> bool:
        """Whether it takes over a place that was counted already."""
        return False

    # --- the transport's calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.deadline = self.loop.time() + self._plane.limits.client_header
        if not self._plane.opened(self) and not self._has_place:
            self._refuse(Problem(503, "too_many_connections", "Too many programs are connected."))

    def connection_lost(self, exc: Exception | None) -> None:
        self.connected = False
        self.transport = None
        self._queue.clear()
        self._plane.closed(self)
        self._set_drained()
        call, self._call = self._call, None
        if call is not None:
            broken = call.reply.outcome == "broken"
            self._plane.outcomes.ended("broken" if broken else "abandoned", 0)
            call.hung_up()

    def eof_received(self) -> bool:
        # A half-close: answer what was asked, then close.
        self._eof = True
        if self._lingering or (self._call is None and not self._queue):
            return False
        if self._call is not None:
            self._call.left_off()
        if self.transport is not None and self.transport.get_extra_info("sslcontext") is not None:
            return False  # TLS knows no half-close
        return self._latest.is_eof()  # half a request is no request

    def pause_writing(self) -> None:
        self._drained = self.loop.create_future()
        self.deadline = self.loop.time() + self._plane.limits.idle
        if self.feeder is not None:
            self.feeder.hold()

    def resume_writing(self) -> None:
        self._set_drained()
        if self._call is not None:
            self.deadline = 0.0
        if self.feeder is not None:
            self.feeder.unhold()
        self._advance()

    def data_received(self, data: bytes) -> None:
        if self._lingering or self._refusal is not None:
            return
        if self._upgraded:
            self._tail += data
            return
        if data and self._call is None and self._seen == 0:
            self.deadline = self.loop.time() + self._plane.limits.client_header
        refusal = None
        try:
            if not data:
                self._parse(b"")  # what the parser kept back
            self._kept += data
            data, self._kept = self._kept, b""
            start, size = 0, len(data)
            while start < size and not self._upgraded:
                if self.reading_paused or len(self._queue) >= MAX_PIPELINED:
                    self._kept = data[start:]
                    break
                end = self._framing.cut(data, start)
                self._parse(data if end - start == size else data[start:end])
                start = end
        except HttpProcessingError as error:
            refusal = _refusal(error)
        except _TooLarge:
            refusal = _too_large()
        if self._upgraded:
            self._tail += data[start:]
            self.hold()
        elif len(self._queue) >= MAX_PIPELINED:
            self.hold()
        self._pump()  # the end of a body may have come with what is wrong behind it
        if refusal is not None:
            self._refuse(refusal)
        elif self._call is None:
            self._advance()

    def _parse(self, data: bytes) -> None:
        """Feed the parser no more than one head, or some of one body."""
        framing = self._framing
        if framing.lost and self._latest.is_eof():
            return
        if framing.dirty and data and self._latest.is_eof():
            framing.dirty = False
            self.parser = request_parser(self, self.loop, self._plane.limits.header_bytes)
        if self._latest.is_eof():
            self._seen += len(data)
        assert self.parser is not None
        messages, self._upgraded, tail = self.parser.feed_data(data)
        self._tail += tail
        bound = 2 * self._plane.limits.header_bytes
        if framing.lost or len(messages) > 1:
            framing.lose()
            messages = ()  # nobody knows whose trailers the first field is
        for head, payload in messages:
            if self._seen > bound < head_size(head):
                raise _TooLarge
            self._seen = 0
            self._latest = payload
            self._queue.append((head, payload, framing.begin(head, payload)))
        if self._seen > bound:
            raise _TooLarge

    def resume_reading(self, resume_parser: bool = True) -> None:
        super().resume_reading(resume_parser or bool(self._kept))

    def _pump(self) -> None:
        call = self._call
        if call is not None and call.body is not None and not call.body.complete:
            call.body.pump()

    def expired(self) -> None:
        if self.transport is None:
            return
        if self.transport.is_closing() or (self._drained is not None and not self._lingering):
            reset(self.transport)  # the program takes nothing
        elif self._lingering or self._seen == 0:
            self._close()
        else:
            self._refuse(Problem(408, "request_timeout", "The request's header did not come."))

    # --- requests, one at a time

    def _advance(self) -> None:
        """The next request, when the one before is answered and the answer is on its way."""
        if self._call is not None or self._drained is not None:
            return
        if self.transport is None or self.transport.is_closing():
            return
        if self._queue:
            self._next()
        elif self._refusal is not None and not self._lingering:
            self._unread = True
            Reply(self, http10=False, keep=False, head_only=False).problem(self._refusal)

    def _next(self) -> None:
        head, payload, trailers = self._queue.popleft()
        assert self.parser is not None
        self.parser.message_consumed()
        if not self._queue and self.held and not self._upgraded:
            self._resume_waits = True  # the parser may have kept requests back
            self.unhold()
        self.deadline = 0.0  # until the answer is out, the provider's clock counts
        reply = Reply(
            self,
            http10=head.version < (1, 1),
            keep=not (head.should_close or head.upgrade),
            head_only=head.method == "HEAD",
        )
        fields = read_request_fields(head.raw_headers)
        try:
            if head.version not in VERSIONS:
                raise Problem(
                    505, "version_not_supported", "Only HTTP/1.1 and 1.0 are spoken here."
                )
            if head.method == "CONNECT":
                caller, host, port = self._router.connect(head, fields)
                self._unread = True  # should it be refused after all
                self._plane.tunnel(caller, host, port, self, reply)
                return
            if fields.transfer_encoding and codings(fields.transfer_encoding) != [b"chunked"]:
                raise Problem(501, "coding_not_supported", "Only `chunked` is understood.")
            target = self._router.route(head, fields)
        except Problem as problem:
            # What came behind a refused CONNECT was meant for somebody else: never parse it here.
            self._unread = payload is not EMPTY_PAYLOAD
            reply.problem(problem, close=self._unread or problem.last)
            return
        body = None
        if payload is not EMPTY_PAYLOAD:
            length = fields.content_length
            body = Body(
                payload,
                chunked=bool(head.chunked),
                keeper=self._keeper(length),
                trailers=trailers,
            )
        call = Call(head, fields, target, body, reply, self.loop.time())
        call.leaving = self._eof
        self._call = call
        self._plane.begin(call, self)

    def _keeper(self, length: int | None) -> Keeper | None:
        limits = self._plane.limits
        if length is not None and length > limits.replay_memory_bytes + limits.replay_disk_bytes:
            return None
        return Keeper(limits.replay_memory_bytes, limits.replay_disk_bytes)

    @property
    def uploading(self) -> bool:
        """Whether more of the current request is to come."""
        call = self._call
        return call is not None and call.body is not None and not call.body.arrived

    def note(self, outcome: str, status: int) -> None:
        """What became of a request. Counted before, if the program has hung up meanwhile."""
        if self.connected:
            self._plane.outcomes.ended(outcome, status)

    def told(self, code: str) -> None:
        """An answer is ours."""
        self._plane.outcomes.problem(code)

    def answered(self, *, keep: bool) -> None:
        """The current answer is written whole."""
        call, self._call = self._call, None
        self.feeder = None
        if call is not None and call.body is not None:
            call.body.discard()
            self._unread = not call.body.complete
        if self.transport is None:
            return
        if self._unread:
            self._linger()
        elif (
            not keep
            or (self._framing.lost and self._refusal is None)
            or (self._eof and not self._queue)
        ):
            self._close()
        else:
            if self._drained is None:
                limits = self._plane.limits
                wait = limits.client_header if self._seen else limits.idle
                self.deadline = self.loop.time() + wait
            if self._queue or self._refusal is not None:
                self.loop.call_soon(self._advance)

    def retire(self) -> None:
        """Close unless a request is under way."""
        if self._call is None and not self._queue and self.transport is not None:
            self._close()

    def leave(self) -> tuple[asyncio.Transport | None, bytes]:
        """Let go of the connection: the transport, and what came behind the last request."""
        self._plane.closed(self)
        self.deadline = 0.0
        transport, self.transport = self.transport, None
        return transport, self._tail

    def switch(self, head: bytes, far: TunnelEnd) -> None:
        """From here this connection and `far` are opaque. `head` is written first."""
        self._plane.closed(self)
        self.note("tunnelled" if self._call is None else "switched", 0)
        self._call = None
        self.feeder = None
        self.deadline = 0.0
        if self.transport is None:
            if far.transport is not None:
                far.transport.abort()
            return
        self._plane.joined(join(self.transport, far, head, self._tail))

    async def drained(self) -> None:
        """Returns when there is room to write, or the program is gone."""
        if self._drained is not None:
            await self._drained

    def _set_drained(self) -> None:
        if self._drained is not None:
            self._drained.set_result(None)
            self._drained = None

    def _close(self) -> None:
        """Close once all is written; a program that does not take it is dropped in time."""
        assert self.transport is not None
        self.transport.close()
        self.deadline = self.loop.time() + self._plane.limits.idle

    def _linger(self) -> None:
        """Close, but let the program read the answer first: closing on unread bytes sends RST."""
        assert self.transport is not None
        self._lingering = True
        self._queue.clear()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.reading_paused = self.held = False
        self._resume_transport()
        self.deadline = self.loop.time() + LINGER_SECONDS

    def _refuse(self, problem: Problem) -> None:
        """What follows is not a request; the connection can't be read further. Requests that came
        whole before it are answered first."""
        self._refusal = problem
        call = self._call
        if self._latest.is_eof():
            self.hold()
            self._advance()
        elif self._queue:  # the fault is in the body of a request whose turn has not come
            self._queue.pop()
            self._advance()
        elif call is not None:
            call.hung_up()  # the request can't be completed, whoever works on it
            if call.reply.started:
                call.reply.broken()
            else:
                call.reply.problem(problem)


def _refusal(error: HttpProcessingError) -> Problem:
    if too_large(error):
        return _too_large()
    return Problem(400, "bad_request", f"Not a valid request: {plain(error)}.")


def _too_large() -> Problem:
    return Problem(431, "header_too_large", "The request's header is too large.")
