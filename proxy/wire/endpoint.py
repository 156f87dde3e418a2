"""What both ends of the proxy share: a transport, a parser, and flow control between them."""

import asyncio
import contextlib
import socket
import struct
from typing import cast

from proxy.wire.parsers import Parser

WRITE_HIGH = 1024 * 1024


class Endpoint(asyncio.Protocol):
    """A connection whose bytes go through an aiohttp parser.

    The parser's payloads pause and resume us when a body is not taken as fast as it comes.
    `deadline` (loop time, 0 = none) is enforced by the watchdog, which calls `expired()`.
    """

    __slots__ = (
        "_resume_waits",
        "connected",
        "deadline",
        "held",
        "loop",
        "parser",
        "reading_paused",
        "transport",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.transport: asyncio.Transport | None = None
        self.parser: Parser | None = None
        self.connected = True
        self.reading_paused = False  # by the parser: a body is not taken
        self.held = False  # by the other end: it takes no more
        self._resume_waits = False
        self.deadline = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is not one by name
        self.transport.set_write_buffer_limits(high=WRITE_HIGH)

    def pause_reading(self) -> None:
        if not self.reading_paused:
            self.reading_paused = True
            if self.parser is not None:
                self.parser.pause_reading()  # llhttp keeps the rest as its tail until fed again
            self._pause_transport()

    def resume_reading(self, resume_parser: bool = True) -> None:
        if not self.reading_paused:
            return
        self.reading_paused = False
        if resume_parser:
            self.loop.call_soon(self._resume)
        elif not self.held:
            self._resume_transport()

    def hold(self) -> None:
        """The other end takes no more: stop reading."""
        if not self.held:
            self.held = True
            self._pause_transport()

    def unhold(self) -> None:
        """The other end has room again."""
        if not self.held:
            return
        self.held = False
        if self._resume_waits:
            self._resume_waits = False
            self.loop.call_soon(self._resume)
        elif not self.reading_paused:
            self._resume_transport()

    def _resume(self) -> None:
        if self.held:
            self._resume_waits = True
            return
        if self.transport is None or self.transport.is_closing():
            return
        self.data_received(b"")  # parse what the parser kept back
        if not self.reading_paused and not self.held:
            self._resume_transport()

    def _pause_transport(self) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.pause_reading()

    def _resume_transport(self) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.resume_reading()

    def expired(self) -> None:
        """The deadline has passed."""
        raise NotImplementedError


def reset(transport: asyncio.Transport) -> None:
    """Close with RST. After a plain abort() the kernel may still send FIN, and a body that ends
    with the connection would look complete."""
    sock = transport.get_extra_info("socket")
    if sock is not None:
        with contextlib.suppress(OSError):  # already closed: there is nothing left to reset
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
