"""One connection to a provider: a request out, an answer in, and back to the pool."""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Protocol

from proxy.wire.body import Body
from proxy.wire.chain import Chain
from proxy.wire.egress import Leave, Place
from proxy.wire.endpoint import Endpoint
from proxy.wire.headers import MAX_TRAILERS, codings, header, trailer_lines
from proxy.wire.origin import Origin
from proxy.wire.parsers import (
    EMPTY_PAYLOAD,
    HttpProcessingError,
    Payload,
    ResponseHead,
    head_size,
    response_parser,
)

NO_BODY = frozenset((204, 304))
FLUSH_SECONDS = 5.0
TOO_LARGE = "the answer's header fields are too large"


class UpstreamError(Exception):
    """The provider's answer did not come, or not whole. One line, fit for people.

    `stale` says that a pooled connection died without a single byte of an answer: the usual end of
    a connection that the provider had closed meanwhile. `timeout`: we gave up waiting.
    `error_class`: a code of `proxy.errors`, as for a request without a payment.
    """

    def __init__(
        self,
        text: str,
        error_class: str = "connection_broke",
        *,
        stale: bool = False,
        timeout: bool = False,
    ) -> None:
        super().__init__(text)
        self.error_class = error_class
        self.stale = stale
        self.timeout = timeout


class Receiver(Protocol):
    """Who takes an answer as it arrives. `on_head` is followed at once by `on_data`, perhaps with
    b"". `on_end` or `on_lost` is the last call, and comes once."""

    def on_interim(self, head: ResponseHead) -> None: ...
    def on_head(self, head: ResponseHead, *, has_body: bool, length_known: bool) -> None: ...
    def on_data(self, data: bytes, *, last: bool) -> None: ...
    def on_end(self, trailers: Sequence[bytes]) -> None: ...
    def on_lost(self, error: UpstreamError) -> None: ...
    def on_switch(self, head: ResponseHead, early: bytes, upstream: "Upstream") -> None: ...


class Fed(Protocol):
    """Where an answer is written: `feeder` is held while that takes no more."""

    feeder: "Upstream | None"


class Upstream(Endpoint):
    """A client connection. `release` is called with self when it may serve another request."""

    __slots__ = (
        "_begun",
        "_body",
        "_end",
        "_header_bytes",
        "_idle_timeout",
        "_keep",
        "_payload",
        "_receiver",
        "_release",
        "_seen",
        "_timeout",
        "_upgrade",
        "_with_body",
        "chain",
        "granted",
        "origin",
        "place",
        "reused",
        "writing_paused",
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
        self.chain: Chain | None = None
        """The chained proxy that has to be told with every request where it goes."""
        self.place: Place | None = None
        """The address that was dialled, once it is connected."""
        self.granted: Leave | None = None
        """Who was found to be allowed there last: the next one is mostly the same."""
        self.reused = False
        self.writing_paused = False
        self._release = release
        self._header_bytes = header_bytes
        self._idle_timeout = idle_timeout
        self._receiver: Receiver | None = None
        self._body: Body | None = None
        self._payload: Payload | None = None
        self._with_body = True
        self._upgrade = False
        self._keep = False
        self._timeout = 0.0
        self._end: bytes | None = None  # the last bytes of a chunked answer
        self._seen = 0  # bytes of a head that is not complete yet
        self._begun: bytes | None = b""  # those bytes; None behind a 1xx

    # --- one request

    def send(
        self,
        head: bytes,
        body: Body | None,
        receiver: Receiver,
        *,
        expects_body: bool,
        timeout: float,
        upgrade: bool = False,
    ) -> None:
        """Send a request; the answer goes to `receiver`.

        `expects_body` is False for HEAD. `timeout` bounds the wait for the answer's head.
        `upgrade` allows a 101.
        """
        assert self.transport is not None and self._receiver is None
        self._receiver = receiver
        self._payload = None
        self._end = None
        self._begun = b""
        self._body = body
        self._seen = 0
        self._upgrade = upgrade
        self._with_body = expects_body
        # A new parser each time (1 us): what a provider sent behind its last answer is forgotten.
        self.parser = response_parser(self, self.loop, self._header_bytes, with_body=expects_body)
        self._timeout = timeout
        self.deadline = self.loop.time() + timeout
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

    def fail(self, error: UpstreamError) -> None:
        """Give up; the receiver, if there is one, hears why."""
        receiver, self._receiver = self._receiver, None
        self._drop_body()
        if self.transport is not None:
            self.transport.abort()
        if receiver is not None:
            receiver.on_lost(error)

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
        if self._payload is None:
            self._seen += len(data)
        else:
            self.deadline = self.loop.time() + self._idle_timeout
        assert self.parser is not None
        try:
            messages, _, tail = self.parser.feed_data(data)
        except HttpProcessingError as error:
            if not self._whole_before_it(data):
                text = f"the answer is not valid HTTP: {plain(error)}"
                self.fail(UpstreamError(text, "answer_invalid"))
            elif self._receiver is not None:
                self._deliver()
            return
        for head, payload in messages:
            self._head(head, payload, tail)
            if self._receiver is None:
                return
        if self._payload is None:
            self._half_a_head(data, behind_interim=bool(messages))
            return
        if self._end is not None:
            few = len(data) < MAX_TRAILERS
            self._end = (self._end + data if few else data)[-MAX_TRAILERS:]
        self._deliver()

    def _half_a_head(self, data: bytes, *, behind_interim: bool) -> None:
        if self._seen > 2 * self._header_bytes:
            self.fail(UpstreamError(TOO_LARGE, "answer_invalid"))
        elif behind_interim:
            self._begun = None
        elif self._begun is not None:
            self._begun += data

    def _whole_before_it(self, data: bytes) -> bool:
        """Whether the answer had come whole before what is wrong in `data`. If so, its head has
        been told, its body can be delivered, and the connection is not used again."""
        if self._payload is None:
            # The parser forgets what it found before an error in the same piece. A line at a time
            # tells where that is.
            if self._begun is None:
                return False
            heads: list[tuple[ResponseHead, Payload]] = []
            parser = response_parser(self, self.loop, self._header_bytes, with_body=self._with_body)
            self.parser = parser
            with contextlib.suppress(HttpProcessingError):
                for line in (self._begun + data).splitlines(keepends=True):
                    heads += parser.feed_data(line)[0]
            final = [(head, payload) for head, payload in heads if head.code >= 200]
            if not final or not final[0][1].is_eof():
                return False
            for head, payload in heads[: heads.index(final[0]) + 1]:
                self._head(head, payload, b"")
                if self._receiver is None:
                    return True
        elif not self._payload.is_eof():
            return False
        self._keep = False
        self._end = None  # it does not end where the answer does
        return True

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
            text = _lost_text(error, "in the middle of its answer")
            receiver.on_lost(UpstreamError(text, "answer_broke_off"))
            return
        data = self._payload.read_nowait()
        receiver.on_data(data, last=True)
        receiver.on_end(self._trailers())

    def expired(self) -> None:
        if self._receiver is None:
            if self.transport is not None:
                self.transport.abort()
        elif self._payload is not None:
            text = "the provider's answer stalled"
            self.fail(UpstreamError(text, "answer_broke_off", timeout=True))
        elif self._body is not None and not self.writing_paused:
            text = "the rest of the request's body did not come in time"
            self.fail(UpstreamError(text, "request_stalled", timeout=True))
        else:
            text = "the provider did not answer in time"
            self.fail(UpstreamError(text, "response_timeout", timeout=True))

    # --- the answer

    def _head(self, head: ResponseHead, payload: Payload, tail: bytes) -> None:
        assert self._receiver is not None
        if self._payload is not None:
            # A second answer to one request: out of step, never reuse.
            self._keep = False
            self._end = None
        elif head.code >= 200:
            self._begin_answer(head, payload)
        elif head.code == 101 and self._upgrade and head.upgrade:
            self._switch(head, tail)
        elif 100 <= head.code != 101:
            self.deadline = self.loop.time() + self._timeout
            self._receiver.on_interim(head)  # what it took counts: a flood of them ends
        else:
            text = f"the provider answered {head.code} out of place"
            self.fail(UpstreamError(text, "answer_invalid"))

    def _begin_answer(self, head: ResponseHead, payload: Payload) -> None:
        if self._seen > 2 * self._header_bytes < head_size(head):  # in one read, that is
            self.fail(UpstreamError(TOO_LARGE, "answer_invalid"))
            return
        coding = header(head.raw_headers, b"transfer-encoding")
        if coding is not None and codings(coding) not in ([b"chunked"], [b"identity"]):
            text = "the answer's Transfer-Encoding is not understood"
            self.fail(UpstreamError(text, "answer_invalid"))
            return
        length = None if head.chunked else header(head.raw_headers, b"content-length")
        has_body = (
            self._with_body
            and head.code not in NO_BODY
            and payload is not EMPTY_PAYLOAD
            and (length is None or int(length) > 0)
        )
        self._payload = payload if has_body else EMPTY_PAYLOAD
        self._keep = not head.should_close
        self.deadline = self.loop.time() + self._idle_timeout
        if has_body and head.chunked:
            self._end = b""
        assert self._receiver is not None
        self._receiver.on_head(head, has_body=has_body, length_known=length is not None)

    def _deliver(self) -> None:
        payload = self._payload
        receiver = self._receiver
        assert payload is not None and receiver is not None
        data = payload.read_nowait() if payload is not EMPTY_PAYLOAD else b""
        last = payload.is_eof()
        receiver.on_data(data, last=last)
        if not last or self._receiver is None:
            return
        receiver = self._receiver
        self._receiver = None
        trailers = self._trailers()
        self.deadline = 0.0
        self.unhold()  # whoever was slow has it all now; in the pool it must read, to see its end
        if self._keep and self._body is None and self.transport is not None:
            self._release(self)
        else:
            self._drop_body()
            if self.transport is not None:
                self.transport.close()
                self.deadline = self.loop.time() + FLUSH_SECONDS
        receiver.on_end(trailers)

    def _trailers(self) -> Sequence[bytes]:
        """The parser drops them: they are read from the bytes that it was fed."""
        return trailer_lines(self._end) if self._end is not None else ()

    def _switch(self, head: ResponseHead, tail: bytes) -> None:
        receiver, self._receiver = self._receiver, None
        self._drop_body()
        assert receiver is not None
        receiver.on_switch(head, tail, self)

    def _drop_body(self) -> None:
        if self._body is not None:
            self._body.detach(self)
            self._body = None


def plain(error: Exception) -> str:
    """An error's first line, bounded and printable."""
    text = error.message if isinstance(error, HttpProcessingError) else str(error)
    line = text.strip().splitlines()[0].rstrip(":") if text.strip() else type(error).__name__
    return "".join(char for char in line[:200] if char.isprintable())


def _lost_text(error: Exception | None, when: str) -> str:
    why = f" ({plain(error)})" if error is not None else ""
    return f"the provider closed the connection {when}{why}"
