"""Abuse of connections: too many requests, too slow, too short, half gone."""

import asyncio
import contextlib
import os
import ssl
import time

import pytest

from tests.hostile.arena import PLAIN, TUNNEL, WAYS, Arena
from tests.wire.wire_rig import CREDENTIAL

pytestmark = pytest.mark.asyncio(loop_scope="module")

GET = b"GET {url}/x HTTP/1.1\r\nHost: {host}\r\n{auth}\r\n"
POST = b"POST {url}/x HTTP/1.1\r\nHost: {host}\r\n{auth}Content-Length: 9\r\n\r\n"
PIPELINED = 10_000
CHURN = 400


def client_hello() -> bytes:
    """What OpenSSL says first to localhost."""
    context, out = ssl.create_default_context(), ssl.MemoryBIO()
    tls = context.wrap_bio(ssl.MemoryBIO(), out, server_hostname="localhost")
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    return out.read()


async def settled(ring: Arena) -> None:
    await ring.serves()
    await ring.quiet()


@pytest.mark.parametrize("way", WAYS)
async def test_ten_thousand_pipelined_requests(ring: Arena, way: str) -> None:
    """Written as fast as the proxy takes them; answered in order, all of them."""
    total = PIPELINED if way == PLAIN else PIPELINED // 5
    client = await ring.connect(way)

    async def write() -> None:
        for at in range(0, total, 100):
            client.writer.write(
                b"".join(
                    ring.fill(way, GET.replace(b"/x", b"/%d" % number))
                    for number in range(at, at + 100)
                )
            )
            await client.writer.drain()

    writing = asyncio.create_task(write())
    for number in range(total):
        assert (await client.answer()).body == b"GET /%d HTTP/1.1" % number
    await writing
    ring.leave(client)
    await settled(ring)


@pytest.mark.parametrize("way", WAYS)
async def test_many_pipelined_and_never_read(ring: Arena, way: str) -> None:
    """The program takes no answer: the proxy stops reading, and lets go in time."""
    ring.provider(way).scenes[b"/large"] = (
        b"HTTP/1.1 200 OK\r\nContent-Length: 300000\r\n\r\n" + bytes(300_000)
    )
    client = await ring.connect(way)
    client.reader._transport.pause_reading()  # type: ignore[attr-defined]
    request = ring.fill(way, GET.replace(b"/x", b"/large"))
    client.writer.write(request * 200)
    await asyncio.sleep(1.2)
    ring.leave(client)
    await settled(ring)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (GET[:-9], 408),
        (GET[:20], 408),
        (b"\r\n" * 3 + GET[:10], 408),
        (POST, 408),
        (POST + b"abc", 408),
    ],
    ids=["head", "half a target", "newlines first", "body", "half a body"],
)
async def test_what_never_comes(ring: Arena, way: str, raw: bytes, status: int) -> None:
    client = await ring.connect(way)
    await client.send(ring.fill(way, raw))
    assert (await client.answer()).status == status
    ring.leave(client)
    await settled(ring)


@pytest.mark.parametrize("way", WAYS)
async def test_slow_loris(ring: Arena, way: str) -> None:
    """Fifty programs, one byte at a time: each is given up, and nobody else waits for them."""
    clients = [await ring.connect(way) for _ in range(50)]
    raw = ring.fill(way, GET)

    async def drip() -> None:
        for at in range(len(raw)):
            for client in clients:
                if not client.writer.is_closing():
                    client.writer.write(raw[at : at + 1])
            await asyncio.sleep(0.05)

    dripping = asyncio.create_task(drip())
    await ring.serves()
    assert not dripping.done()  # they are still at it
    for client in clients:
        assert (await client.answer()).status == 408
    dripping.cancel()
    for client in clients:
        ring.leave(client)
    await settled(ring)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("raw", [b"", GET[:15], GET, POST, POST + b"abc"], ids=range(5))
async def test_churn(ring: Arena, way: str, raw: bytes) -> None:
    """Connections that come, say something or nothing, and are reset."""

    async def one(_: int) -> None:
        async with lanes:
            client = await ring.connect(way)
            client.writer.write(ring.fill(way, raw))
            await asyncio.sleep(0)
            client.reset() if way == PLAIN else client.writer.transport.abort()
            ring.clients.remove(client)

    lanes = asyncio.Semaphore(20)
    await asyncio.gather(*(one(number) for number in range(CHURN if way == PLAIN else CHURN // 8)))
    await settled(ring)


async def test_connects_that_go_at_once(ring: Arena) -> None:
    """Reset at every stage of a tunnel's opening."""
    head = b"CONNECT localhost:%d HTTP/1.1\r\nHost: x\r\n%b\r\n\r\n" % (
        ring.secret.port,
        CREDENTIAL,
    )
    hello = client_hello()
    stages = [head, head + hello[:3], head + hello[:60], head + hello, head + hello * 2]
    for raw in stages * 10:
        client = await ring.raw()
        client.writer.write(raw)
        await asyncio.sleep(0.001 * (len(ring.clients) % 3))
        client.reset()
        ring.clients.remove(client)
    await settled(ring)
    for raw in stages[:-1]:  # and those that stay, and say no more
        client = await ring.raw()
        client.writer.write(raw)
        client.half_close()
        assert (await client.head()).status == 200
        assert (await client.rest())[1] != "open"
        ring.leave(client)
    await settled(ring)


@pytest.mark.parametrize(
    "inside",
    [
        b"\x16\x03\x01\xff\xff" + b"\xff" * 40_000,
        b"\x16\x03\x01\x00\x04\x01\xff\xff\xff",
        b"\x16\x03\x01\x00\x00" * 7000,
        b"\x16\x03\x01\x00\x01\x01" * 6000,
        b"\x16" + os.urandom(3000),
        b"\x80\x2e\x01\x00\x02" + bytes(50),
        b"GARBAGE\r\n\r\n",
        b"\x00" * 5000,
    ],
    ids=range(8),
)
async def test_garbage_inside_a_tunnel(ring: Arena, inside: bytes) -> None:
    client = await ring.tunnel(b"localhost", ring.secret.port)
    client.writer.write(inside)
    client.half_close()
    assert (await client.rest())[1] in {"eof", "reset"}
    ring.leave(client)
    await settled(ring)


async def test_a_hello_in_single_bytes_holds_up_nobody(ring: Arena) -> None:
    """Each byte is one more look at all that came: the looks must be cheap."""
    client = await ring.tunnel(b"localhost", ring.secret.port)

    async def drip() -> None:
        for at in range(0, 30_000, 6):
            client.writer.write((b"\x16\x03\x01\x00\x01\x01" * 2)[at % 6 : at % 6 + 6])
            await asyncio.sleep(0)

    dripping = asyncio.create_task(drip())
    worst = 0.0
    while not dripping.done():
        began = time.monotonic()
        await asyncio.sleep(0.005)
        worst = max(worst, time.monotonic() - began)
    assert worst < 0.25, worst
    ring.leave(client)
    await settled(ring)


@pytest.mark.parametrize("way", WAYS)
async def test_what_is_wrong_behind_a_body(ring: Arena, way: str) -> None:
    """The last of a body comes in one piece with garbage: the request is whole, and is answered."""
    client = await ring.connect(way)
    await client.send(ring.fill(way, POST))
    await asyncio.sleep(0.05)
    await client.send(b"123456789garbage\r\n\r\n")
    assert (await client.answer()).status == 200
    assert (await client.answer()).status == 400
    ring.leave(client)
    await settled(ring)


async def test_half_open(ring: Arena) -> None:
    """A program that has shut its side gets its answer, and the connection ends."""
    client = await ring.connect(PLAIN)
    await client.send(ring.fill(PLAIN, GET))
    client.half_close()
    assert (await client.answer()).status == 200
    assert (await client.rest()) == (b"", "eof")
    ring.leave(client)
    await settled(ring)


async def test_a_request_of_many_trailers(ring: Arena) -> None:
    for way in (PLAIN, TUNNEL):
        client = await ring.connect(way)
        await client.send(
            ring.fill(
                way,
                b"POST {url}/x HTTP/1.1\r\nHost: {host}\r\n{auth}"
                b"Transfer-Encoding: chunked\r\n\r\n",
            )
        )
        client.writer.write(b"1\r\nx\r\n0\r\n" + b"T: y\r\n" * 100_000 + b"\r\n")
        assert (await client.answer()).status == 431
        ring.leave(client)
        await settled(ring)
