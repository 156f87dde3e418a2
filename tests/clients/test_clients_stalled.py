"""What has begun inside a CONNECT and does not go on is given up after `client_header` seconds."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
from test_clients_hello import client_hello
from tunnel_rig import HOST, Ca, Inside, inside
from wire_rig import Client, until

from proxy.wire import intercept
from proxy.wire.limits import Limits

HELLO = client_hello(HOST)
PATIENCE = 0.4


@pytest.fixture
async def rig(ca: Ca, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Inside]:
    monkeypatch.setattr(intercept, "OPENING_SECONDS", 0.15)
    async with inside(ca) as it:
        it.plane.limits = Limits(client_header=PATIENCE)
        yield it


async def plain(rig: Inside, *said: bytes) -> Client:
    sock = await rig.opened(*said)
    reader, writer = await asyncio.open_connection(sock=sock)
    rig.clients.append(Client(reader, writer))
    return rig.clients[-1]


@pytest.mark.parametrize(
    "said",
    [b"\x16", HELLO[:3], HELLO[:-1], b"G", b"GET ", b"GET / HTTP/1.1\r\nHo", HELLO],
    ids=["a byte", "a record's head", "half a hello", "a letter", "a method", "half a head",
         "a handshake"],
)  # fmt: skip
async def test_what_stalls_is_given_up(rig: Inside, said: bytes) -> None:
    began = time.monotonic()
    client = await plain(rig, said)
    _, how = await client.rest()
    assert how in {"eof", "reset"}
    assert PATIENCE * 0.9 < time.monotonic() - began < PATIENCE + 10
    await until(lambda: rig.plane.programs == 0)
    assert not rig.provider.connections, "nobody was bothered with it"
    assert not rig.gate.rejections


async def test_one_that_is_slow_is_opened_all_the_same(rig: Inside) -> None:
    """Slower than a protocol in which the server speaks first is waited for."""
    sock = await rig.opened()
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(sock, HELLO[:4])
    await asyncio.sleep(0.25)
    await loop.sock_sendall(sock, HELLO[4:])
    assert (await loop.sock_recv(sock, 1)) == b"\x16"
    sock.close()
    assert not rig.provider.connections


async def test_silence_is_a_tunnel_in_which_somebody_has_to_begin(rig: Inside) -> None:
    client = await plain(rig)
    began = time.monotonic()
    await until(lambda: rig.plane.tunnels == 1)
    _, how = await client.rest()
    assert how in {"eof", "reset"}
    assert time.monotonic() - began < 0.15 + PATIENCE + 10
    await until(lambda: rig.plane.programs == 0)


async def test_a_server_that_speaks_first_has_all_the_time(rig: Inside) -> None:
    async def banner(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 hello\r\n")
        await reader.read()
        writer.close()

    server = await asyncio.start_server(banner, "127.0.0.1", 0)
    sock = await rig.opened(port=server.sockets[0].getsockname()[1])
    reader, writer = await asyncio.open_connection(sock=sock)
    assert await reader.readline() == b"220 hello\r\n"
    await asyncio.sleep(PATIENCE * 2)
    assert rig.plane.tunnels == 1
    writer.close()
    server.close()
    await until(lambda: rig.plane.programs == 0)
