"""Two connections joined back to back: CONNECT, and what follows a 101."""

import asyncio

from proxy.wire.endpoint import WRITE_HIGH


class TunnelEnd(asyncio.Protocol):
    """One end. Bytes, pauses and half-closes go to the other."""

    __slots__ = ("early", "peer", "transport")

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.peer: TunnelEnd | None = None
        self.early = b""  # came before the other end was there

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.set_write_buffer_limits(high=WRITE_HIGH)

    def data_received(self, data: bytes) -> None:
        if self.peer is None:
            self.early += data
        elif self.peer.transport is not None:
            self.peer.transport.write(data)

    def eof_received(self) -> bool:
        peer = self.peer.transport if self.peer is not None else None
        if peer is not None and peer.can_write_eof():
            peer.write_eof()
        elif peer is not None:
            peer.close()
        return True  # half-close: the other direction goes on

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        if self.peer is not None and self.peer.transport is not None:
            if exc is None:
                self.peer.transport.close()
            else:
                self.peer.transport.abort()

    def pause_writing(self) -> None:
        if self.peer is not None and self.peer.transport is not None:
            self.peer.transport.pause_reading()

    def resume_writing(self) -> None:
        peer = self.peer.transport if self.peer is not None else None
        if peer is not None and not peer.is_closing():
            peer.resume_reading()


def join(near: asyncio.Transport, far: TunnelEnd, head: bytes, early: bytes) -> None:
    """Join `near` to `far`: `head` goes to the near side first, `early` to the far side."""
    end = TunnelEnd()
    end.connection_made(near)
    end.peer, far.peer = far, end
    near.set_protocol(end)
    if head:
        near.write(head)
    if far.early:
        near.write(far.early)
        far.early = b""
    if early and far.transport is not None:
        far.transport.write(early)
    near.resume_reading()
    if far.transport is None:
        near.close()
