"""Every touch of aiohttp's less public surface: its C parsers, and what they ask of a protocol.

The C parser (llhttp) is the reason to use them: the pure-Python one swallows the bytes behind a
CONNECT and accepts a doubled Content-Length in answers, so we refuse to start without it.
`tests/wire/test_parsers.py` is the contract that a new aiohttp must keep.
"""

import asyncio
from collections.abc import Sequence
from typing import Any, Protocol

from aiohttp.http import HttpRequestParser, HttpResponseParser
from aiohttp.http_exceptions import HttpProcessingError, LineTooLong
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader

__all__ = [
    "EMPTY_PAYLOAD",
    "MAX_PIPELINED",
    "MAX_READ",
    "HttpProcessingError",
    "Parser",
    "Payload",
    "RawHeaders",
    "RequestHead",
    "ResponseHead",
    "head_size",
    "request_parser",
    "require_c_parser",
    "response_parser",
    "too_large",
]

MAX_READ = 256 * 1024
"""The largest single read of both event loops; the payload's high-water mark is twice this."""

MAX_HEADERS = 256
MAX_PIPELINED = 16
"""A request parser stops between two requests when so many wait; feed it b"" to go on."""

RawHeaders = Sequence[tuple[bytes, bytes]]


class RequestHead(Protocol):
    """A parsed request head. `path` is the target as sent (surrogate-escaped)."""

    method: str
    path: str
    version: Any
    raw_headers: RawHeaders
    should_close: bool
    upgrade: bool
    chunked: bool
    url: Any


class ResponseHead(Protocol):
    """A parsed answer head."""

    version: Any
    code: int
    reason: str
    raw_headers: RawHeaders
    should_close: bool
    upgrade: bool
    chunked: bool


class Parser(Protocol):
    """What we use of aiohttp's parsers."""

    def feed_data(self, data: bytes) -> tuple[Sequence[tuple[Any, "Payload"]], bool, bytes]: ...
    def feed_eof(self) -> Any: ...
    def pause_reading(self) -> None: ...
    def message_consumed(self) -> None: ...


Payload = StreamReader
"""A body being parsed. We only ever call `read_nowait()` and `is_eof()`, right after feeding."""


class ParserOwner(Protocol):
    """What a parser and its payloads call back: flow control of the connection they read."""

    connected: bool

    def pause_reading(self) -> None: ...
    def resume_reading(self, resume_parser: bool = True) -> None: ...


def require_c_parser() -> None:
    """Raise RuntimeError unless aiohttp's parsers are the C ones."""
    if not HttpRequestParser.__module__.endswith("_http_parser"):
        raise RuntimeError(
            "aiohttp's C parser is missing (AIOHTTP_NO_EXTENSIONS is set, or aiohttp was installed"
            " without a wheel): autopay does not run on the pure-Python parser"
        )


def request_parser(
    owner: ParserOwner, loop: asyncio.AbstractEventLoop, header_bytes: int
) -> Parser:
    """A parser for one client connection. A target or field over `header_bytes`, or more than
    MAX_HEADERS fields, raise an error that is `too_large()`."""
    return HttpRequestParser(
        owner,  # type: ignore[arg-type]
        loop,
        MAX_READ,
        auto_decompress=False,
        max_msg_queue_size=MAX_PIPELINED,
        max_line_size=header_bytes,
        max_field_size=header_bytes,
        max_headers=MAX_HEADERS,
    )


def response_parser(
    owner: ParserOwner, loop: asyncio.AbstractEventLoop, header_bytes: int, *, with_body: bool
) -> Parser:
    """A parser for one upstream connection; `with_body=False` for answers to HEAD."""
    return HttpResponseParser(
        owner,  # type: ignore[arg-type]
        loop,
        MAX_READ,
        auto_decompress=False,
        read_until_eof=True,
        response_with_body=with_body,
        max_line_size=header_bytes,
        max_field_size=header_bytes,
        max_headers=MAX_HEADERS,
    )


def head_size(head: RequestHead | ResponseHead) -> int:
    """Bytes of a head's fields: the parser bounds each field and their number, not the sum."""
    return sum(len(name) + len(value) + 4 for name, value in head.raw_headers)


def too_large(error: HttpProcessingError) -> bool:
    """Whether a head was refused for its size alone."""
    return isinstance(error, LineTooLong) or error.message == "Too many headers received"
