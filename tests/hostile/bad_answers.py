"""What no provider should answer. A case is a name, the bytes (or a scene), and what the program
gets: a status and a body, or an answer that visibly breaks off."""

import asyncio
import contextlib
import gzip
import zlib
from dataclasses import dataclass
from typing import Literal

import brotli

from tests.wire.wire_rig import Connection, Request, Scene, linger, ok

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
PAY = b"HTTP/1.1 402 Payment Required\r\n"
MEGABYTE = bytes(1 << 20)
BOMB = 200 << 20
"""Bytes that a bomb would become."""


@dataclass(frozen=True)
class Case:
    name: str
    answer: bytes | Scene
    status: int
    body: bytes | None = None
    end: Literal["whole", "broken"] = "whole"
    method: bytes = b"GET"
    challenged: int | None = None
    """The most bytes of a 402's body that the gate may have been shown."""


def then_close(raw: bytes, *, reset: bool = False) -> Scene:
    async def scene(connection: Connection, request: Request) -> None:
        await connection.read_body(request)
        if raw:
            await connection.send(raw)
            await asyncio.sleep(0.01)
        if reset and not connection.writer.is_closing():
            linger(connection.writer)
            connection.reset()
        else:
            connection.close()

    return scene


def forever(head: bytes, piece: bytes, seconds: float = 1.0) -> Scene:
    """As much as is taken, until somebody has had enough."""

    async def scene(connection: Connection, request: Request) -> None:
        await connection.send(head)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while True:
                    await connection.send(piece)
                    await asyncio.sleep(0 if piece else 0.05)
        connection.close()

    return scene


def drip(raw: bytes) -> Scene:
    async def scene(connection: Connection, request: Request) -> None:
        for at in range(len(raw)):
            await connection.send(raw[at : at + 1])
            await asyncio.sleep(0.05)

    return scene


async def silence(connection: Connection, request: Request) -> None:
    await connection.reader.read()


async def early(connection: Connection, request: Request) -> None:
    """The answer to a body that has not come, and never will."""
    await connection.send(ok(b"early"))
    connection.close()


def bomb(coding: bytes, body: bytes) -> bytes:
    return PAY + b"Content-Encoding: %b\r\nContent-Length: %d\r\n\r\n%b" % (coding, len(body), body)


def many(number: int, line: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\n" + line * number + b"Content-Length: 0\r\n\r\n"


GZIP = gzip.compress(bytes(BOMB))
ZLIB = zlib.compress(bytes(BOMB))
BROTLI = brotli.compress(bytes(BOMB), quality=1)

NO_HTTP = [
    Case(name, then_close(raw), 502)
    for name, raw in {
        "nothing": b"",
        "garbage": b"\x00\xff garbage\r\n\r\n",
        "HTTP/0.9": b"<html>hello</html>",
        "an SSH server": b"SSH-2.0-OpenSSH_9.2p1\r\n",
        "a TLS alert": b"\x15\x03\x01\x00\x02\x02\x28",
        "h2": b"\x00\x00\x12\x04\x00\x00\x00\x00\x00",
        "half a status line": b"HTTP/1.1 2",
        "half a head": b"HTTP/1.1 200 OK\r\nX: y\r\n",
        "version 3": b"HTTP/3.0 200 OK\r\nContent-Length: 0\r\n\r\n",
        "status 99": b"HTTP/1.1 99 X\r\nContent-Length: 0\r\n\r\n",
        "status of four digits": b"HTTP/1.1 2000 X\r\nContent-Length: 0\r\n\r\n",
        "status -1": b"HTTP/1.1 -1 X\r\nContent-Length: 0\r\n\r\n",
        "a second status line as a field": b"HTTP/1.1 200 OK\r\nHTTP/1.1 200 OK\r\n\r\n",
    }.items()
]

FRAMING = [
    Case(name, then_close(b"HTTP/1.1 200 OK\r\n" + lines + b"\r\nhello"), 502)
    for name, lines in {
        "CL, TE": b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "TE, CL": b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        "CL twice": b"Content-Length: 5\r\nContent-Length: 5\r\n",
        "CL twice, differing": b"Content-Length: 5\r\nContent-Length: 6\r\n",
        "CL as a list": b"Content-Length: 5, 5\r\n",
        "CL negative": b"Content-Length: -5\r\n",
        "CL in hex": b"Content-Length: 0x5\r\n",
        "CL of 2^64": b"Content-Length: 18446744073709551616\r\n",
        "TE gzip, chunked": b"Transfer-Encoding: gzip, chunked\r\n",
        "NUL in a value": b"X: a\x00b\r\nContent-Length: 5\r\n",
        "bare CR in a value": b"X: a\rb\r\nContent-Length: 5\r\n",
        "no colon": b"X\r\nContent-Length: 5\r\n",
        "a field of 70 KiB": b"X: " + b"a" * 70_000 + b"\r\nContent-Length: 5\r\n",
        "300 fields": b"X: y\r\n" * 300 + b"Content-Length: 5\r\n",
        "200 KiB of fields": (b"X: " + b"a" * 1000 + b"\r\n") * 200 + b"Content-Length: 5\r\n",
    }.items()
]

BODIES = [
    Case(
        "CL too long",
        then_close(b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhello"),
        200,
        end="broken",
    ),
    Case("CL too short", ok(b"hello") + b"and more", 200, b"hello"),
    Case("two answers", ok(b"one") + ok(b"two"), 200, b"one"),
    Case("a body on a 204", b"HTTP/1.1 204 No\r\n\r\nbody", 204, b""),
    Case("a body on a 304", b"HTTP/1.1 304 No\r\nContent-Length: 4\r\n\r\nbody", 304, b""),
    Case("a body on HEAD", ok(b"body") + b"more", 200, b"", method=b"HEAD"),
    Case("chunks that end early", then_close(CHUNKED + b"5\r\nhel"), 200, end="broken"),
    Case("chunks without a last", then_close(CHUNKED + b"5\r\nhello\r\n"), 200, end="broken"),
    Case("a chunk of no size", then_close(CHUNKED + b"2\r\nok\r\nxyz\r\n"), 502),
    Case("a chunk of 2^64", then_close(CHUNKED + b"2\r\nok\r\n10000000000000000\r\nhello"), 502),
    Case(
        "trailers that frame",
        CHUNKED + b"2\r\nok\r\n0\r\nX-Late: y\r\nAutopay-State: paid\r\n\r\n",
        200,
        b"ok",
    ),
    Case(
        "endless trailers",
        forever(CHUNKED + b"2\r\nok\r\n0\r\n", b"T: %b\r\n" % (b"x" * 900)),
        200,
        end="broken",
    ),
    Case(
        "a chunk extension of 4 MiB",
        CHUNKED + b"2;" + b"x" * (4 << 20) + b"\r\nok\r\n0\r\n\r\n",
        200,
        b"ok",
    ),
    Case("endless fields", forever(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n" * 100), 502),
    Case("an endless field", forever(b"HTTP/1.1 200 OK\r\nX: ", b"y" * 4096), 502),
    Case("an endless reason", forever(b"HTTP/1.1 200 ", b"y" * 4096), 502),
    Case("a flood of 100", forever(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 100), 502),
    Case(
        "a flood of 103 for one answer",
        b"HTTP/1.1 103 E\r\nLink: </a>\r\n\r\n" * 50 + ok(b"ok"),
        200,
        b"ok",
    ),
    Case("a head byte by byte", drip(ok(b"slow")), 504),
    Case("silence", silence, 504),
    Case(
        "a body that stalls",
        forever(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc", b""),
        200,
        end="broken",
    ),
    Case("an answer before the body", early, 200, b"early", method=b"POST"),
    Case(
        "101 unasked",
        b"HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nraw",
        502,
    ),
    Case(
        "101 of h2c", b"HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n", 502
    ),
    Case(
        "headers of ours, forged",
        ok(b"ok", b"Autopay-Payment: 1", b"Proxy-Authenticate: Basic"),
        200,
        b"ok",
    ),
    Case("Connection lists Content-Length", ok(b"ok", b"Connection: content-length"), 200, b"ok"),
]

RESETS = [
    Case("RST before the head", then_close(b"", reset=True), 502),
    Case("RST in the head", then_close(b"HTTP/1.1 200 OK\r\nX: ", reset=True), 502),
    Case(
        "RST behind the head",
        then_close(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", reset=True),
        200,
        end="broken",
    ),
    Case("RST in the body", then_close(CHUNKED + b"5\r\nhello\r\n", reset=True), 200, end="broken"),
    Case(
        "RST in a body without a length",
        then_close(b"HTTP/1.1 200 OK\r\n\r\nhello", reset=True),
        200,
        end="broken",
    ),
    Case("RST in a 402", then_close(PAY + b"Content-Length: 50\r\n\r\n{", reset=True), 502),
    Case("RST behind a 100", then_close(b"HTTP/1.1 100 Continue\r\n\r\n", reset=True), 502),
]

CHALLENGES = [
    Case(
        "402 without end",
        forever(PAY + b"Transfer-Encoding: chunked\r\n\r\n", b"10000\r\n" + b"x" * 65536 + b"\r\n"),
        402,
        end="broken",
        challenged=1 << 20,
    ),
    Case(
        "402 that stalls",
        forever(PAY + b"Content-Length: 50\r\n\r\n{", b""),
        402,
        end="broken",
        challenged=1,
    ),
    Case(
        "402 with a header of 1 MiB",
        PAY + b"PAYMENT-REQUIRED: " + b"A" * (1 << 20) + b"\r\nContent-Length: 0\r\n\r\n",
        502,
    ),
    Case("402, truncated", then_close(PAY + b"Content-Length: 50\r\n\r\n{"), 502),
    Case("402, a gzip bomb", bomb(b"gzip", GZIP), 402, GZIP, challenged=1 << 20),
    Case("402, a deflate bomb", bomb(b"deflate", ZLIB), 402, ZLIB, challenged=1 << 20),
    Case("402, a br bomb", bomb(b"br", BROTLI), 402, BROTLI, challenged=1 << 20),
    Case("402, gzip cut off", bomb(b"gzip", GZIP[:500]), 402, GZIP[:500]),
    Case("402, codings piled up", bomb(b"gzip, gzip, gzip", GZIP[:500]), 402, GZIP[:500]),
    Case("402, not the coding it says", bomb(b"br", b"{}"), 402, b"{}"),
    Case("402 to HEAD", PAY + b"Content-Length: 99\r\n\r\n", 402, b"", method=b"HEAD"),
]

CASES = NO_HTTP + FRAMING + BODIES + RESETS + CHALLENGES
