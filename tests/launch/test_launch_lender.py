"""The way to the proxy for programs that can send no credential."""

import asyncio
import os
import subprocess
import sys

import pytest

from proxy.launch import lender
from proxy.settings import Address

pytestmark = pytest.mark.skipif(not lender.possible(), reason="needs /proc/net/tcp")


def head(*lines: str) -> bytes:
    return "\r\n".join([*lines, "", ""]).encode()


@pytest.mark.parametrize(
    ("asked", "sent"),
    [
        (
            head("GET http://a/ HTTP/1.1", "Host: a", "Connection: keep-alive"),
            head(
                "GET http://a/ HTTP/1.1", "Host: a", "Proxy-Authorization: X", "Connection: close"
            ),
        ),
        (
            head("CONNECT a:443 HTTP/1.1", "Proxy-Authorization: mine", "proxy-connection: x"),
            head("CONNECT a:443 HTTP/1.1", "Proxy-Authorization: X"),
        ),
        (
            head("GET http://a/ HTTP/1.1", "Connection: Upgrade", "Upgrade: websocket"),
            head(
                "GET http://a/ HTTP/1.1",
                "Connection: Upgrade",
                "Upgrade: websocket",
                "Proxy-Authorization: X",
            ),
        ),
    ],
)
def test_the_credential_is_added_for_one_request(asked: bytes, sent: bytes) -> None:
    assert lender.with_credential(asked, b"X") == sent


async def test_a_request_and_its_answer_pass_and_nothing_is_left() -> None:
    seen: list[bytes] = []

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.readuntil(b"\r\n\r\n") + await reader.readexactly(4))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        writer.close()

    server = await asyncio.start_server(proxy, "127.0.0.1", 0)
    address = Address(*server.sockets[0].getsockname())
    async with lender.lending(address, "bot", "token") as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head("POST http://a/ HTTP/1.1", "Content-Length: 4") + b"body")
        assert (await reader.read()).endswith(b"\r\n\r\nok")
        writer.close()
        assert b"Proxy-Authorization: Basic Ym90OnRva2Vu\r\n" in seen[0]
        assert seen[0].endswith(b"\r\n\r\nbody")
        idle = await asyncio.open_connection("127.0.0.1", port)
    assert await idle[0].read() == b""  # what was open has ended with it
    idle[1].close()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)
    server.close()
    await server.wait_closed()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
async def test_another_user_gets_nothing() -> None:
    asked = False

    async def proxy(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked = True
        writer.close()

    server = await asyncio.start_server(proxy, "127.0.0.1", 0)
    code = (
        "import encodings.idna, os, socket, sys; os.setuid(65534)\n"
        "with socket.create_connection(('127.0.0.1', int(sys.argv[1]))) as s:\n"
        "    s.sendall(b'GET http://a/ HTTP/1.1\\r\\n\\r\\n'); print(s.recv(99))"
    )
    async with lender.lending(Address(*server.sockets[0].getsockname()), "bot", "t") as port:
        done = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-c", code, str(port)],
            check=False,
            capture_output=True,
            text=True,
        )
    assert done.stdout == "b''\n" or "ConnectionResetError" in done.stderr
    assert not asked
    server.close()
    await server.wait_closed()
