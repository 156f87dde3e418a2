"""Where each request of a connection ends, told beside the parser.

The parser says what a request is; it does not say where it ended, and it loses the trailers of a
chunked body (the last of them it even takes for the first field of the next head). So it is given
one request at a time, cut here by what it said of the head, and the trailers are read on the way.

A cut in a wrong place changes nothing in what the parser gets, which is every byte in order. Where
the two disagree, nothing is cut any more, and the connection ends with the request at hand.
"""

from enum import Enum, auto

from proxy.wire.headers import MAX_TRAILERS, header, request_trailers
from proxy.wire.parsers import EMPTY_PAYLOAD, Payload, RequestHead

CRLF = b"\r\n"
BLANK_LINE = b"\r\n\r\n"
MAX_LINE = 128 * 1024
_SIZE = frozenset(b"0123456789abcdefABCDEF")


class _At(Enum):
    HEAD = auto()
    BODY = auto()  # of a known length
    CHUNK_SIZE = auto()
    CHUNK = auto()
    TRAILERS = auto()
    NOWHERE = auto()  # the requests can't be told apart any more


class Framing:
    """The requests of one connection. `cut` for each piece before it is parsed, `begin` for each
    head that the parser found."""

    __slots__ = ("_at", "_left", "_line", "_trailers", "dirty")

    def __init__(self) -> None:
        self._at = _At.HEAD
        self._left = 0  # bytes of a body or a chunk to come, with the CRLF behind a chunk
        self._line = b""  # what came of a line, or the end of what came of a head
        self._trailers: list[bytes] | None = None
        self.dirty = False
        """Whether the parser holds a trailer that it would take for a field of the next head."""

    def cut(self, data: bytes, start: int) -> int:
        """Where the head or the body that `data[start:]` goes on with ends; len(data) if it does
        not end in there."""
        if self._at is _At.HEAD:
            return self._head(data, start)
        if self._at is _At.BODY:
            size = min(self._left, len(data) - start)
            self._left -= size
            if not self._left:
                self._at = _At.HEAD
            return start + size
        if self._at is _At.NOWHERE:
            return len(data)
        return self._chunks(data, start)

    def begin(self, head: RequestHead, payload: Payload) -> list[bytes]:
        """A head was parsed. The list is of the trailers that may travel on: filled when the last
        piece of the body has been cut."""
        trailers: list[bytes] = []
        if payload is EMPTY_PAYLOAD:
            return trailers
        if head.chunked:
            self._at = _At.CHUNK_SIZE
            self._trailers = trailers
        else:
            self._at = _At.BODY
            self._left = int(header(head.raw_headers, b"content-length") or 0)
        return trailers

    @property
    def lost(self) -> bool:
        """Whether this connection must serve no further request: it might be taken for another."""
        return self._at is _At.NOWHERE

    def lose(self) -> None:
        """The parser found something else than what was cut."""
        self._at = _At.NOWHERE

    def _head(self, data: bytes, start: int) -> int:
        if not self._line:
            begin = start
            while data[begin : begin + 1] in (b"\r", b"\n"):  # which a parser skips before a head
                begin += 1
            end = data.find(BLANK_LINE, begin)
            if end >= 0:
                return end + 4
            self._line = data[max(begin, len(data) - 3) :]
            return len(data)
        across = (self._line + data[start : start + 3]).find(BLANK_LINE)
        if across >= 0:
            end = start + across - len(self._line)
        elif (end := data.find(BLANK_LINE, start)) < 0:
            self._line = (self._line + data[max(start, len(data) - 3) :])[-3:]
            return len(data)
        self._line = b""
        return end + 4

    def _chunks(self, data: bytes, start: int) -> int:
        size = len(data)
        while True:
            if self._at is _At.CHUNK:
                if self._left > size - start:
                    self._left -= size - start
                    return size
                start += self._left
                self._left = 0
                self._at = _At.CHUNK_SIZE
            if self._at is _At.CHUNK_SIZE and not self._line:
                start = self._whole_chunks(data, start)
            end = data.find(CRLF, start)
            if end >= 0 and not self._line:
                line, start = data[start:end], end + 2
            else:
                whole = self._begun_line(data, start, end)
                if whole is None:
                    return size
                line, start = whole
            if self._at is _At.TRAILERS:
                if self._trailer(line):
                    return start
                continue
            text = line.partition(b";")[0] if b";" in line else line
            if not text or len(text) > 16 or not _SIZE.issuperset(text):
                self.lose()
                return size
            self._left = int(text, 16) + 2
            self._at = _At.CHUNK
            if self._left == 2:
                self._left = 0
                self._at = _At.TRAILERS

    def _whole_chunks(self, data: bytes, start: int) -> int:
        """Behind the chunks at `start` that are here whole and need no closer look: a program may
        send thousands of tiny ones in a piece."""
        size, find = len(data), data.find
        while True:
            end = find(CRLF, start)
            line = data[start:end]
            if end < 0 or not line.isalnum() or end - start > 16:
                return start
            try:
                length = int(line, 16)
            except ValueError:
                return start
            behind = end + length + 4
            if not length or behind > size:
                return start
            start = behind

    def _begun_line(self, data: bytes, start: int, end: int) -> tuple[bytes, int] | None:
        """A line of which some came before, and where the next one begins; None if more is to
        come. `end` is where the first CRLF in `data[start:]` is, or negative."""
        before = self._line
        if before[-1:] == b"\r" and data[start : start + 1] == b"\n":
            whole = before[:-1], start + 1
        elif end >= 0:
            whole = before + data[start:end], end + 2
        else:
            self._line += data[start:]
            if len(self._line) > MAX_LINE:
                self.lose()
            return None
        self._line = b""
        return whole

    def _trailer(self, line: bytes) -> bool:
        """Take a line behind the last chunk. Whether it was the blank one."""
        assert self._trailers is not None
        if line:
            self.dirty = True
            self._left += len(line)
            if self._left <= MAX_TRAILERS:
                self._trailers.append(line)
            return False
        few = self._left <= MAX_TRAILERS  # none of them, rather than some
        self._trailers[:] = request_trailers(self._trailers) if few else ()
        self._left = 0
        self._at = _At.HEAD
        self._trailers = None
        return True
