"""Framing: an answer, from whatever source, written for one program (RFC 9112 sections 6 and 7)."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol

from proxy.wire.endpoint import reset
from proxy.wire.problem import Problem
from proxy.wire.tunnel import TunnelEnd


class Connection(Protocol):
    """A program's, as far as the answer to a request asks for it."""

    transport: asyncio.Transport | None

    @property
    def uploading(self) -> bool:
        """Whether more of the current request is to come."""
        ...

    def note(self, outcome: str, status: int) -> None: ...
    def told(self, code: str) -> None: ...
    def answered(self, *, keep: bool) -> None: ...
    def switch(self, head: bytes, far: TunnelEnd) -> None: ...
    async def drained(self) -> None: ...


class Recorder(Protocol):
    """Hears an answer as it is written."""

    def head(self, status: int, lines: Sequence[bytes]) -> None: ...
    def data(self, data: bytes) -> None: ...
    def end(self, *, complete: bool) -> None: ...


class Reply:
    """The answer to one request. Writes nothing once the program is gone, or the answer ended."""

    __slots__ = (
        "_chunked",
        "_downstream",
        "_ended",
        "_head",
        "_head_only",
        "_http10",
        "_keep",
        "_status",
        "on_over",
        "outcome",
        "recorder",
        "started",
    )

    def __init__(
        self, downstream: Connection, *, http10: bool, keep: bool, head_only: bool
    ) -> None:
        self._downstream = downstream
        self._http10 = http10
        self._keep = keep
        self._head_only = head_only
        self._chunked = False
        self._head = b""
        self._ended = False
        self._status = 0
        self.outcome = "answered"
        """As `Outcomes` counts it, when it has ended."""
        self.started = False
        self.recorder: Recorder | None = None
        self.on_over: Callable[[], None] | None = None
        """Called once no more of it will be written; perhaps more often."""

    @property
    def takes_trailers(self) -> bool:
        """HTTP/1.0 has no chunks, and no place behind them."""
        return not self._http10

    def interim(self, code: int, reason: bytes, lines: Sequence[bytes]) -> None:
        """A 1xx. HTTP/1.0 knows none."""
        if not self._http10:
            self._write(b"\r\n".join([b"HTTP/1.1 %d %b" % (code, reason), *lines, b"\r\n"]))

    def head(
        self, code: int, reason: bytes, lines: list[bytes], *, has_body: bool, length_known: bool
    ) -> None:
        """Status line and fields, kept until data() or end(). `lines` carry a Content-Length iff
        `length_known`, or as information where there is no body."""
        self.started = True
        self._status = code
        if self.recorder is not None:
            self.recorder.head(code, lines)
        self._chunked = has_body and not length_known and not self._http10
        if self._downstream.uploading:
            self._keep = False  # the rest of the request may never be read
        if has_body and not length_known and self._http10:
            self._keep = False  # only the connection's end can end this body
        out = [b"HTTP/1.1 %d %b" % (code, reason), *lines]
        if self._chunked:
            out.append(b"Transfer-Encoding: chunked")
        if not self._keep:
            out.append(b"Connection: close")
        elif self._http10:
            out.append(b"Connection: keep-alive")
        out.append(b"\r\n")
        self._head = b"\r\n".join(out)

    def data(self, data: bytes) -> None:
        """More of the body. The head goes out with the first call, be it b""."""
        if self.recorder is not None:
            self.recorder.data(data)
        if data and self._chunked:
            data = b"%x\r\n%b\r\n" % (len(data), data)
        self._write(data)

    def end(self, data: bytes = b"", trailers: Sequence[bytes] = ()) -> None:
        """The last bytes, and the turn of the next request. Only a chunked answer has a place for
        trailers."""
        last = data
        if self._chunked:
            data = b"%x\r\n%b\r\n" % (len(data), data) if data else b""
            data += b"\r\n".join([b"0", *trailers, b"\r\n"])
        self._write(data)
        if not self._ended:
            self._ended = True
            self._downstream.note(self.outcome, self._status)
            self._downstream.answered(keep=self._keep)
            if self.recorder is not None:
                self.recorder.data(last)
                self.recorder.end(complete=True)
            if self.on_over is not None:
                self.on_over()

    async def drained(self) -> None:
        """Returns when the program has room for more, or is gone."""
        await self._downstream.drained()

    def broken(self) -> None:
        """The answer can't be completed: it must not look complete either."""
        self.forsaken()
        self.outcome = "broken"
        transport = self._downstream.transport
        if transport is not None and not self._ended:
            reset(transport)

    def forsaken(self) -> None:
        """No more of the answer will be written, whoever is to blame."""
        if self.recorder is not None:
            self.recorder.end(complete=False)
        if self.on_over is not None:
            self.on_over()

    def problem(self, problem: Problem, *, close: bool = False) -> None:
        """An answer of our own."""
        body = problem.body()
        self.outcome = "failed" if problem.status >= 500 else "refused"
        self._downstream.told(problem.code)
        lines = [
            b"Content-Type: application/problem+json",
            b"Content-Length: %d" % len(body),
            b"Cache-Control: no-store",
            *(name + b": " + value for name, value in problem.headers),
        ]
        if close:
            self._keep = False
        self.head(problem.status, problem.reason, lines, has_body=True, length_known=True)
        self.end(b"" if self._head_only else body)

    def switch(self, head: bytes, far: TunnelEnd) -> None:
        """From here both connections are opaque. `head` is written to the program first."""
        self._downstream.switch(head, far)

    def _write(self, data: bytes) -> None:
        transport = self._downstream.transport
        if self._head:  # with the body in one write: half the system calls of a small answer
            data = self._head + data
            self._head = b""
        if not data or self._ended:
            return
        if transport is not None and not transport.is_closing():
            transport.write(data)
