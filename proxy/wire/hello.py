"""The first bytes inside a CONNECT: TLS, plain HTTP, or something that is not ours to read."""

import re
from dataclasses import dataclass
from enum import Enum, auto

MAX_HELLO = 32 * 1024  # more than any client sends, post-quantum key shares included


# How a request begins, and what may still become that. SSH's "SSH-2.0-" and HTTP/2's preface do
# not: both must reach their servers as they are.
_REQUEST = re.compile(rb"[A-Z][A-Z_-]{0,23} [/*hH]")
_METHOD = re.compile(rb"[A-Z][A-Z_-]{0,23} ?")
_HTTP2 = b"PRI "
_LONGEST_METHOD = 32  # bytes; what is longer and has no space is none


class Talk(Enum):
    """What a program begins to speak."""

    TLS = auto()
    HTTP = auto()
    OTHER = auto()


@dataclass(frozen=True, slots=True)
class Opening:
    """What is known from the first bytes. `server_name` is the SNI, None without one."""

    talk: Talk
    server_name: str | None = None


class _Cut(Exception):
    """The bytes end in mid-message."""


class FirstBytes:
    """Takes the first bytes as they come and says what they are. Looks at each of them once, so
    that a program which sends them one by one costs no more than another."""

    __slots__ = ("_at", "_left", "_message", "data")

    def __init__(self) -> None:
        self.data = bytearray()
        self._message = bytearray()  # the handshake message, put together from TLS records
        self._at = 0  # behind what was put there
        self._left = 0  # bytes to come of the record that `_at` is in

    def add(self, data: bytes) -> Opening | None:
        """What it is, None if more is needed. Never raises."""
        self.data += data
        if not self.data:
            return None
        if self.data[0] != 0x16:
            return _text(bytes(self.data[:_LONGEST_METHOD]))
        if len(self.data) > 1 and self.data[1] != 3:
            return Opening(Talk.OTHER)  # no version of TLS
        try:
            return Opening(Talk.TLS, _server_name(self._handshake()))
        except _Cut:
            return None if len(self.data) < MAX_HELLO else Opening(Talk.TLS)
        except ValueError:
            return Opening(Talk.TLS)  # OpenSSL will say what is wrong with it

    def _handshake(self) -> bytes:
        """The ClientHello's body (RFC 8446 section 5.1)."""
        data, message = self.data, self._message
        while True:
            if not self._left:
                if len(data) < self._at + 5:
                    raise _Cut
                if data[self._at] != 0x16:
                    raise ValueError("not a handshake record")
                self._left = int.from_bytes(data[self._at + 3 : self._at + 5], "big")
                self._at += 5
            piece = data[self._at : self._at + self._left]
            message += piece
            self._at += len(piece)
            self._left -= len(piece)
            if len(message) >= 4:
                if message[0] != 1:
                    raise ValueError("not a ClientHello")
                size = int.from_bytes(message[1:4], "big")
                if len(message) >= 4 + size:
                    return bytes(message[4 : 4 + size])
            if self._left:
                raise _Cut


def _text(data: bytes) -> Opening | None:
    if _REQUEST.match(data) and not data.startswith(_HTTP2):
        return Opening(Talk.HTTP)
    return None if _METHOD.fullmatch(data) else Opening(Talk.OTHER)


def _server_name(hello: bytes) -> str | None:
    """The host_name of the server_name extension (RFC 6066 section 3)."""
    at = 2 + 32  # version, random
    at = _skip(hello, at, 1)  # session id
    at = _skip(hello, at, 2)  # cipher suites
    at = _skip(hello, at, 1)  # compression methods
    end = _skip(hello, at, 2)
    at += 2
    while at + 4 <= end:
        kind = int.from_bytes(hello[at : at + 2], "big")
        following = _skip(hello, at + 2, 2)
        if kind == 0:
            entry = hello[at + 4 : following]
            if len(entry) < 5 or entry[2] != 0:
                raise ValueError("an odd server_name")
            length = int.from_bytes(entry[3:5], "big")
            return entry[5 : 5 + length].decode("ascii")
        at = following
    return None


def _skip(data: bytes, at: int, width: int) -> int:
    """Where the vector at `at` ends whose length is `width` bytes wide."""
    end = at + width + int.from_bytes(data[at : at + width], "big")
    if at + width > len(data) or end > len(data):
        raise ValueError("a vector that ends outside")
    return end
