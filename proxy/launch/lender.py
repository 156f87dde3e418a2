"""A way to the proxy for programs that cannot send a credential: Java.

Java's clients take a proxy from system properties, but no credential: that needs an Authenticator
in the program's own code. So a loopback listener lives as long as the program and adds the
credential to what comes in. It takes connections of this user's processes only (the kernel says
whose they are), so it gives the credential to nobody who could not read it anyhow.
"""

import asyncio
import base64
import os
import re
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from proxy.settings import Address

MAX_HEAD = 256 * 1024
CHUNK = 64 * 1024
HEAD_SECONDS = 60.0


def possible() -> bool:
    """Whether this system tells whose a connection is."""
    return sys.platform.startswith("linux")


@asynccontextmanager
async def lending(proxy: Address, agent: str, token: str) -> AsyncIterator[int]:
    """Lend the credential while inside; yields the port on 127.0.0.1."""
    credential = b"Basic " + base64.b64encode(f"{agent}:{token}".encode())
    open_ones: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        open_ones.add(task)
        try:
            with suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
                if _is_ours(writer):
                    await _relay(reader, writer, proxy, credential)
        except asyncio.CancelledError:
            pass  # the program has ended
        finally:
            open_ones.discard(task)
            await _closed(writer)

    server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=MAX_HEAD)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in open_ones:
            task.cancel()
        await asyncio.gather(*open_ones)


def with_credential(head: bytes, credential: bytes) -> bytes:
    """A request head with the credential, and for one request only: what follows on the connection
    is not looked at, so the proxy shall take nothing more from it."""
    lines = head.removesuffix(b"\r\n\r\n").split(b"\r\n")
    upgrade = any(re.match(rb"connection:.*\bupgrade\b", line, re.I) for line in lines)
    drop = rb"proxy-authorization:" if upgrade else rb"(proxy-authorization|(proxy-)?connection):"
    kept = [line for line in lines if not re.match(drop, line, re.I)]
    kept.append(b"Proxy-Authorization: " + credential)
    if not upgrade and not head.startswith(b"CONNECT "):
        kept.append(b"Connection: close")
    return b"\r\n".join(kept) + b"\r\n\r\n"


async def _relay(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, proxy: Address, credential: bytes
) -> None:
    async with asyncio.timeout(HEAD_SECONDS):
        head = await reader.readuntil(b"\r\n\r\n")
    far_reader, far_writer = await asyncio.open_connection(proxy.host, proxy.port)
    try:
        far_writer.write(with_credential(head, credential))
        up = asyncio.create_task(_pump(reader, far_writer))
        try:
            await _pump(far_reader, writer)  # the proxy's end is the end
        finally:
            up.cancel()
            await asyncio.gather(up, return_exceptions=True)
    finally:
        await _closed(far_writer)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(CHUNK):
        writer.write(data)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()


async def _closed(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()


def _is_ours(writer: asyncio.StreamWriter) -> bool:
    """Whether the other end belongs to this user, or to root."""
    own = writer.get_extra_info("sockname")[1]
    peer = writer.get_extra_info("peername")[1]
    # As proc(5) writes addresses: words of four bytes, in this machine's order.
    home = f"{int.from_bytes(socket.inet_aton('127.0.0.1'), sys.byteorder):08X}"
    ffff = f"{int.from_bytes(bytes.fromhex('0000FFFF'), sys.byteorder):08X}"
    # The program's side of the connection: local is its port, remote is ours.
    wanted = (f"{home}:{peer:04X}", f"{home}:{own:04X}")
    mapped = tuple(f"{'0' * 16}{ffff}{end}" for end in wanted)  # Java's sockets are IPv6 ones
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            if (fields[1], fields[2]) in (wanted, mapped):
                return int(fields[7]) in (os.getuid(), 0)
    return False
