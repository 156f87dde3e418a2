"""One connection to a provider: a request out, an answer in, and back to the pool."""

import asyncio
from collections.abc import Callable
from typing import Protocol

from proxy.wire.body import Body
from proxy.wire.endpoint import Endpoint
from proxy.wire.origin import Origin
from proxy.wire.parsers import (
    EMPTY_PAYLOAD,
    HttpProcessingError,
    Payload,
    ResponseHead,
    response_parser,
)

NO_BODY = frozenset((204, 304))


class UpstreamError(Exception):
    """The provider's answer did not come, or not whole. One line, fit for people.

    `stale` says that a pooled connection died without a single byte of an answer: the usual end of
    a connection that the provider had closed meanwhile. `timeout`: we gave up waiting.
    """

    def __init__(self, text: str, *, stale: bool = False, timeout: bool = False) -> None:
        super().__init__(text)
        self.stale = stale
        self.timeout = timeout


class Receiver(Protocol):
    """Who takes an answer as it arrives. `on_end` or `on_lost` is the last call, and comes once."""

    def on_interim(self, head: ResponseHead) -> None: ...
    def on_head(self, head: ResponseHead, *, has_body: bool, length_known: bool) -> None: ...
    def on_data(self, data: bytes, *, last: bool) -> None: ...
    def on_end(self) -> None: ...
    def on_lost(self, error: UpstreamError) -> None: ...
    def on_switch(self, head: ResponseHead, early: bytes, upstream: "Upstream") -> None: ...


class Upstream(Endpoint):
    """A client connection. `release` is called with self when it may serve another request."""

    __slots__ = (
        "_body",
        "_header_bytes",
        "_idle_timeout",
        "_keep",
        "_payload",
        "_receiver",
        "_release",
        "_seen",
        "_timeout",
        "_with_body",
        "origin",
        "reused",
        "writing_paused",
        "wrote",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        origin: Origin,
        *,
        header_bytes: int,
        idle_timeout: float,
        release: Callable[["Upstream"], None],
    ) -> None:
        super().__init__(loop)
        self.origin = origin
        self.reused = False
        self.wrote = False  # whether a byte of the current request may have left
        self.writing_paused = False
        self._release = release
        self._header_bytes = header_bytes
        self._idle_timeout = idle_timeout
        self._receiver: Receiver | None = None
        self._body: Body | None = None
        self._payload: Payload | None = None
        self._with_body = True
        self._keep = False
        self._timeout = 0.0
        self._seen = 0  # bytes of a head that is not complete yet

    # --- one request

    def send(
        self,
        head: bytes,
        body: Body | None,
        receiver: Receiver,
        *,
        expects_body: bool,
        timeout: float,
    ) -> None:
        """Send a request; the answer goes to `receiver`.

        `expects_body` is False for HEAD. `timeout` bounds the wait for the answer's head.
        """
        assert self.transport is not None and self._receiver is None
        self._receiver = receiver
        self._payload = None
        self._body = body
        self._seen = 0
        if self.parser is None or expects_body is not self._with_body:
            self._with_body = expects_body
            self.parser = response_parser(
                self, self.loop, self._header_bytes, with_body=expects_body
            )
        self._timeout = timeout
        self.deadline = self.loop.time() + timeout
        self.wrote = True
        self.transport.write(head)
        if body is not None:
            body.attach(self)

    def hand_to(self, receiver: Receiver) -> None:
        """The rest of the answer goes to another receiver."""
        self._receiver = receiver

    def body_moved(self) -> None:
        self.deadline = self.loop.time() + self._timeout

    def body_sent(self) -> None:
        self._body = None

    def abort(self) -> None:
        """Give up whatever is under way; the receiver hears nothing more."""
        self._receiver = None
        self._drop_body()
        if self.transport is not None:
            self.transport.abort()

    @property
    def idle(self) -> bool:
        return (
            self._receiver is None
            and self.transport is not None
            and not self.transport.is_closing()
        )

    # --- the transport's calls

    def pause_writing(self) -> None:
        self.writing_paused = True

    def resume_writing(self) -> None:
        self.writing_paused = False
        if self._body is not None:
            self._body.pump()

    def data_received(self, data: bytes) -> None:
        receiver = self._receiver
        if receiver is None:
            if data and self.transport is not None:
                self.transport.abort()  # bytes that nobody asked for: never reuse
            return
        self.deadline = self.loop.time() + self._idle_timeout
        if self._payload is None:
            self._seen += len(data)
        assert self.parser is not None
        try:
            messages, _, tail = self.parser.feed_data(data)
        except HttpProcessingError as error:
            self._fail(UpstreamError(f"the answer is not valid HTTP: {plain(error)}"))
            return
        for head, payload in messages:
            if self._payload is not None:
                # A second answer to one request: the connection is out of step.
                self._fail(UpstreamError("the provider sent two answers to one request"))
                return
            if head.code == 101:
                self._switch(head, tail)
                return
            if head.code < 200:
                self._seen = 0
                receiver.on_interim(head)
                continue
            self._begin_answer(head, payload)
            if self._receiver is None:
                return
        if self._payload is None:
            if self._seen > 2 * self._header_bytes:
                self._fail(UpstreamError("the answer's header fields are too large"))
            return
        self._deliver()

    def eof_received(self) -> bool | None:
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        self.connected = False
        self.transport = None
        receiver, self._receiver = self._receiver, None
        self._drop_body()
        if receiver is None:
            return
        if self._payload is None:
            stale = self.reused and self._seen == 0
            receiver.on_lost(UpstreamError(_lost_text(exc, "before it answered"), stale=stale))
            return
        try:
            if exc is not None:
                raise exc
            if self.parser is not None:
                self.parser.feed_eof()
        except Exception as error:
            receiver.on_lost(UpstreamError(_lost_text(error, "in the middle of its answer")))
            return
        data = self._payload.read_nowait()
        receiver.on_data(data, last=True)
        receiver.on_end()

    def expired(self) -> None:
        if self._receiver is None:
            if self.transport is not None:
                self.transport.close()
            return
        what = "its answer stalled" if self._payload is not None else "it did not answer in time"
        self._fail(UpstreamError(f"the provider was given up: {what}", timeout=True))

    # --- the answer

    def _begin_answer(self, head: ResponseHead, payload: Payload) -> None:
        has_body = not (head.code in NO_BODY or not self._with_body)
        self._payload = payload if has_body else EMPTY_PAYLOAD
        has_body = self._payload is not EMPTY_PAYLOAD
        length_known = not head.chunked and any(
            name.lower() == b"content-length" for name, _ in head.raw_headers
        )
        self._keep = not head.should_close
        assert self._receiver is not None
        self._receiver.on_head(head, has_body=has_body, length_known=length_known)

    def _deliver(self) -> None:
        payload = self._payload
        receiver = self._receiver
        assert payload is not None and receiver is not None
        data = payload.read_nowait() if payload is not EMPTY_PAYLOAD else b""
        last = payload.is_eof()
        if data or last:
            receiver.on_data(data, last=last)
        if not last or self._receiver is None:
            return
        receiver = self._receiver
        self._receiver = None
        self.deadline = 0.0
        if self._keep and self._body is None and self.transport is not None:
            self._release(self)
        else:
            self._drop_body()
            if self.transport is not None:
                self.transport.close()
        receiver.on_end()

    def _switch(self, head: ResponseHead, tail: bytes) -> None:
        receiver, self._receiver = self._receiver, None
        self._drop_body()
        assert receiver is not None
        receiver.on_switch(head, tail, self)

    def _fail(self, error: UpstreamError) -> None:
        receiver, self._receiver = self._receiver, None
        self._drop_body()
        if self.transport is not None:
            self.transport.abort()
        if receiver is not None:
            receiver.on_lost(error)

    def _drop_body(self) -> None:
        if self._body is not None:
            self._body.detach()
            self._body = None


def plain(error: Exception) -> str:
    """An error's first line, bounded and printable."""
    text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return "".join(char for char in text[:200] if char.isprintable())


def _lost_text(error: Exception | None, when: str) -> str:
    why = f" ({plain(error)})" if error is not None else ""
    return f"the provider closed the connection {when}{why}"
