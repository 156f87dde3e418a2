"""Two connections joined back to back: CONNECT, and what follows a 101."""

import asyncio
from collections.abc import Callable
from typing import cast

from proxy.wire.endpoint import WRITE_HIGH, reset


class TunnelEnd(asyncio.Protocol):
    """One end. Bytes, pauses and half-closes go to the other."""

    __slots__ = ("early", "finished", "moved", "peer", "transport", "tunnel")

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.peer: TunnelEnd | None = None
        self.tunnel: Tunnel | None = None
        self.early = b""  # came before the other end was there
        self.finished = False  # sends no more
        self.moved = True  # since the watchdog looked last

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is not one by name
        self.transport.set_write_buffer_limits(high=WRITE_HIGH)

    def data_received(self, data: bytes) -> None:
        self.moved = True
        if self.peer is None:
            self.early += data
        elif self.peer.transport is not None:
            self.peer.transport.write(data)

    def eof_received(self) -> bool:
        self.finished = True
        return self.peer is None or self.peer.far_finished()

    def far_finished(self) -> bool:
        """The other end sends no more. Whether this one may still send."""
        if self.transport is None:
            return False
        if not self.finished and self.transport.can_write_eof():
            self.transport.write_eof()  # half-close: the other direction goes on
            return True
        self.transport.close()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        if self.peer is not None and self.peer.transport is not None:
            if exc is None:
                self.peer.transport.close()
            else:
                reset(self.peer.transport)
        if self.tunnel is not None:
            self.tunnel.end_lost()

    def pause_writing(self) -> None:
        if self.peer is not None and self.peer.transport is not None:
            self.peer.transport.pause_reading()

    def resume_writing(self) -> None:
        peer = self.peer.transport if self.peer is not None else None
        if peer is not None and not peer.is_closing():
            peer.resume_reading()


class Tunnel:
    """Two ends that were joined, for the watchdog."""

    __slots__ = ("deadline", "far", "near", "on_closed")

    def __init__(self, near: TunnelEnd, far: TunnelEnd) -> None:
        self.near = near
        self.far = far
        self.deadline = 0.0
        self.on_closed: Callable[[Tunnel], None] | None = None
        near.tunnel = far.tunnel = self

    @property
    def closed(self) -> bool:
        return self.near.transport is None and self.far.transport is None

    def end_lost(self) -> None:
        """One end is gone. With the other, the tunnel is."""
        if self.closed and self.on_closed is not None:
            self.on_closed(self)

    def expect(self, deadline: float) -> None:
        """Nothing has been said yet: drop both ends if nothing is until `deadline` (loop time)."""
        self.near.moved = self.far.moved = False
        self.deadline = deadline

    def check(self, now: float, idle: float) -> None:
        """Drop both ends when nothing has moved for `idle` seconds."""
        if self.near.moved or self.far.moved or not self.deadline:
            self.near.moved = self.far.moved = False
            self.deadline = now + idle
        elif self.deadline < now:
            self.drop()

    def drop(self) -> None:
        for end in (self.near, self.far):
            if end.transport is not None:
                end.transport.abort()


def join(transport: asyncio.Transport, far: TunnelEnd, head: bytes, early: bytes) -> Tunnel:
    """Join the program's connection to `far`: `head` goes to the program first, `early` to far."""
    near = TunnelEnd()
    near.connection_made(transport)
    near.peer, far.peer = far, near
    transport.set_protocol(near)
    transport.write(head + far.early)
    far.early = b""
    if early and far.transport is not None:
        far.transport.write(early)
    transport.resume_reading()
    if far.transport is None:
        transport.close()
    elif far.finished:
        near.far_finished()
    return Tunnel(near, far)
