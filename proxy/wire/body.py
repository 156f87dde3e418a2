"""A request body on its way upstream, kept as long as it may have to be sent a second time.

Nothing is read from the program before there is somewhere to send it, so the program's own
connection carries the backpressure: what was read is what was sent, plus what is kept.
"""

import asyncio
import hashlib
import logging
import tempfile
from collections.abc import Callable, Sequence
from typing import Protocol

from proxy.wire.parsers import Payload

log = logging.getLogger(__name__)

REPLAY_CHUNK = 256 * 1024


class Keeper:
    """The first bytes of a body: in memory up to `memory`, then on disk up to `disk` bytes.

    A spooled file is written and read without a thread: both touch the page cache, which costs
    less than handing a chunk to another thread.
    """

    __slots__ = ("_file", "_limit", "size")

    def __init__(self, memory: int, disk: int) -> None:
        # Unnamed on disk from the start: a crash leaves nothing behind.
        self._file = tempfile.SpooledTemporaryFile(max_size=memory)  # noqa: SIM115
        self._limit = memory + disk
        self.size = 0

    def keep(self, data: bytes) -> bool:
        """Add `data`; False (and nothing kept) if that would pass the cap, or the disk is full."""
        if self.size + len(data) > self._limit:
            return False
        try:
            self._file.seek(self.size)
            self._file.write(data)
        except OSError as error:
            log.warning("a request body can't be kept for a paid attempt: %s", error)
            return False
        self.size += len(data)
        return True

    def read(self, offset: int, length: int) -> bytes:
        self._file.seek(offset)
        return self._file.read(length)

    def close(self) -> None:
        self._file.close()


class Sink(Protocol):
    """Where a body goes: one upstream connection, in one attempt."""

    writing_paused: bool
    transport: asyncio.Transport | None

    def body_moved(self) -> None: ...
    def body_sent(self) -> None: ...


class Body:
    """The body of one request: pulled from the program's parser, pushed into one sink at a time."""

    __slots__ = (
        "_forgotten",
        "_keeper",
        "_offset",
        "_payload",
        "_sink",
        "_taken",
        "chunked",
        "complete",
        "on_taken",
        "trailers",
    )

    def __init__(
        self,
        payload: Payload,
        *,
        chunked: bool,
        keeper: Keeper | None,
        trailers: Sequence[bytes] = (),
    ) -> None:
        """`trailers` are lines to be sent behind a chunked body, known when the payload ends."""
        self._payload = payload
        self._keeper = keeper
        self._sink: Sink | None = None
        self._offset = 0  # of the next byte for the current sink
        self._taken = 0  # bytes taken from the program
        self._forgotten = keeper is None
        self.chunked = chunked
        self.trailers = trailers
        self.complete = False  # all of it was taken from the program
        self.on_taken: Callable[[bytes], None] | None = None
        """Is given what was taken from the program."""

    @property
    def untouched(self) -> bool:
        """Whether nothing was taken from the program yet (it waits for a 100, say)."""
        return self._taken == 0 and not self.complete

    @property
    def arrived(self) -> bool:
        """Whether the program has sent all of it, taken or not."""
        return self.complete or self._payload.is_eof()

    @property
    def replayable(self) -> bool:
        """Whether a second attempt could send the same bytes from the start."""
        return not self._forgotten or self._taken == 0

    async def sha256(self) -> bytes | None:
        """Of the whole body; None if it is not all here, or was not kept."""
        if not self.complete or self._keeper is None:
            return None
        digest, offset = hashlib.sha256(), 0
        while self._keeper is not None and offset < self._keeper.size:
            chunk = self._keeper.read(offset, REPLAY_CHUNK)
            digest.update(chunk)
            offset += len(chunk)
            await asyncio.sleep(0)  # a large body must not hold up the others
        return digest.digest() if offset == self._taken else None

    def forget(self) -> None:
        """No further attempt will come: stop keeping, once what is kept was sent or not wanted."""
        self._forgotten = True
        if self._keeper is not None and (self._sink is None or self._offset >= self._keeper.size):
            self._keeper.close()
            self._keeper = None

    def attach(self, sink: Sink) -> None:
        """Send to `sink` from the first byte on. The body must be replayable."""
        assert self.replayable
        self._sink = sink
        self._offset = 0
        self.pump()

    def detach(self, sink: Sink) -> None:
        """`sink` takes no more. Nothing happens if the body went on to another one."""
        if self._sink is sink:
            self._sink = None
            if self._forgotten:
                self.forget()

    def pump(self) -> None:
        """Move what can be moved now. Called when there is more, and when the sink has room."""
        sink = self._sink
        if sink is None or sink.transport is None:
            return
        while self._keeper is not None and self._offset < self._keeper.size:
            if sink.writing_paused:
                return
            self._send(sink, self._keeper.read(self._offset, REPLAY_CHUNK))
        if self._forgotten:
            self.forget()
        if sink.writing_paused or self.complete:
            self._finish(sink)
            return
        data = self._payload.read_nowait()
        self.complete = self._payload.is_eof()
        if data:
            self._taken += len(data)
            if self.on_taken is not None:
                self.on_taken(data)
            self._send(sink, data)
            if self._keeper is not None and not self._keeper.keep(data):
                self.forget()
        self._finish(sink)

    def discard(self) -> None:
        """Nobody wants it any more: throw away what has arrived, and what was kept."""
        self._sink = None
        self.forget()
        if not self.complete:
            self._payload.read_nowait()
            self.complete = self._payload.is_eof()

    def _send(self, sink: Sink, data: bytes) -> None:
        self._offset += len(data)
        sink.body_moved()
        assert sink.transport is not None
        if self.chunked:
            sink.transport.write(b"%x\r\n%b\r\n" % (len(data), data))
        else:
            sink.transport.write(data)

    def _finish(self, sink: Sink) -> None:
        if self.complete and self._offset == self._taken:
            assert sink.transport is not None
            if self.chunked:
                sink.transport.write(b"\r\n".join([b"0", *self.trailers, b"\r\n"]))
            self._sink = None
            sink.body_sent()
