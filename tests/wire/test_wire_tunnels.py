"""CONNECT, and what follows a 101: bytes both ways, whatever they are."""

import asyncio
import json
from base64 import b64encode
from dataclasses import replace

import pytest
from wire_rig import (
    CREDENTIAL,
    PAYMENT,
    RECEIPT,
    Client,
    Connection,
    Request,
    Rig,
    demand,
    ok,
    sold,
    until,
)

WS = (b"Connection: keep-alive, Upgrade", b"Upgrade: WebSocket", b"Sec-WebSocket-Key: x")
SWITCH = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nX: y\r\n\r\n"
)


def connect(it: Rig, *lines: bytes) -> bytes:
    fields = b"".join(line + b"\r\n" for line in lines or (CREDENTIAL,))
    return b"CONNECT %b HTTP/1.1\r\nHost: x\r\n%b\r\n" % (it.provider.authority, fields)


async def tunnel(it: Rig, early: bytes = b"") -> Client:
    client = await it.client()
    await client.send(connect(it) + early)
    assert (await client.head()).line == b"HTTP/1.1 200 Connection established"
    return client


def raw_provider(it: Rig, serve) -> None:  # type: ignore[no-untyped-def]
    """Let the provider speak something that is not HTTP."""

    async def play(connection: Connection) -> None:
        await serve(connection.reader, connection)
        connection.close()

    it.provider.play = play  # type: ignore[method-assign]


async def test_what_is_inside_is_not_looked_at(rig: Rig) -> None:
    client = await tunnel(rig)
    request = b"GET /in HTTP/1.1\r\nHost: x\r\nProxy-Authorization: kept\r\n\r\n"
    await client.send(request)
    assert (await client.answer()).body == b"GET /in HTTP/1.1"
    assert rig.seen.all(b"proxy-authorization") == [b"kept"]
    assert not rig.gate.tickets


async def test_bytes_that_ride_with_connect(rig: Rig) -> None:
    client = await tunnel(rig, b"GET /early HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (await client.answer()).body == b"GET /early HTTP/1.1"


async def test_http10_may_connect_without_host(rig: Rig) -> None:
    client = await rig.client()
    await client.send(connect(rig).replace(b"HTTP/1.1\r\nHost: x", b"HTTP/1.0"))
    assert (await client.head()).status == 200


async def test_connect_behind_another_request(rig: Rig) -> None:
    client = await rig.client()
    await client.send(rig.request(b"/1") + connect(rig) + b"GET /in HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (await client.answer()).body == b"GET /1 HTTP/1.1"
    assert (await client.head()).status == 200
    assert (await client.answer()).body == b"GET /in HTTP/1.1"


async def test_half_closes_travel(rig: Rig) -> None:
    async def serve(reader: asyncio.StreamReader, connection: Connection) -> None:
        data = await reader.read(-1)
        await connection.send(data[::-1])

    raw_provider(rig, serve)
    client = await tunnel(rig, b"early")
    await client.send(b"-late")
    client.half_close()
    assert await client.rest() == (b"etal-ylrae", "eof")
    await until(lambda: all(tunnel.closed for tunnel in rig.plane._tunnels))


async def test_a_half_close_of_the_provider_travels(rig: Rig) -> None:
    got = []

    async def serve(reader: asyncio.StreamReader, connection: Connection) -> None:
        await connection.send(b"bye")
        connection.writer.write_eof()
        got.append(await reader.read(-1))

    raw_provider(rig, serve)
    client = await tunnel(rig)
    assert await client.rest() == (b"bye", "eof")
    await client.send(b"still here")
    client.close()
    await until(lambda: got == [b"still here"])
    await until(lambda: all(tunnel.closed for tunnel in rig.plane._tunnels))


@pytest.mark.parametrize("side", ["program", "provider"])
async def test_a_reset_travels(rig: Rig, side: str) -> None:
    ends: list[object] = []
    held: list[Connection] = []

    async def serve(reader: asyncio.StreamReader, connection: Connection) -> None:
        held.append(connection)
        try:
            ends.append(await reader.read(1))
        except ConnectionError:
            ends.append("reset")

    raw_provider(rig, serve)
    client = await tunnel(rig)
    await until(lambda: held)
    if side == "program":
        client.reset()
        await until(lambda: ends == ["reset"])
    else:
        from wire_rig import linger

        linger(held[0].writer)
        held[0].reset()
        assert (await client.rest())[1] == "reset"


async def test_a_server_that_speaks_first(rig: Rig) -> None:
    async def serve(reader: asyncio.StreamReader, connection: Connection) -> None:
        await connection.send(b"220 ready\r\n")
        await reader.read(1)

    raw_provider(rig, serve)
    client = await tunnel(rig)
    assert await client.reader.readline() == b"220 ready\r\n"


@pytest.mark.parametrize("direction", ["down", "up"])
async def test_backpressure_goes_through(rig: Rig, direction: str) -> None:
    moved = 0
    piece = bytes(1 << 20)
    done = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, connection: Connection) -> None:
        nonlocal moved
        if direction == "down":
            for _ in range(64):
                await connection.send(piece)
                moved += 1
        else:
            connection.writer.transport.pause_reading()
        await done.wait()

    raw_provider(rig, serve)
    client = await tunnel(rig)
    if direction == "down":
        client.writer.transport.pause_reading()
        await asyncio.sleep(0.3)
    else:
        try:
            async with asyncio.timeout(0.3):
                while moved < 64:
                    await client.send(piece)
                    moved += 1
        except TimeoutError:
            pass
    assert moved < 30
    client.reset()
    done.set()


@pytest.mark.parametrize(
    ("raw", "status", "code"),
    [
        (b"CONNECT 127.0.0.1:1 HTTP/1.1\r\nHost: a\r\n%b\r\n\r\n", 502, "upstream_unreachable"),
        (b"CONNECT a..b:80 HTTP/1.1\r\nHost: a\r\n%b\r\n\r\n", 502, "upstream_unreachable"),
        (b"CONNECT nowhere HTTP/1.1\r\nHost: a\r\n%b\r\n\r\n", 400, "bad_connect"),
        (b"CONNECT 127.0.0.1:0 HTTP/1.1\r\nHost: a\r\n%b\r\n\r\n", 400, "bad_connect"),
        (b"CONNECT 127.0.0.1:99999 HTTP/1.1\r\nHost: a\r\n%b\r\n\r\n", 400, "bad_request"),
        (b"CONNECT /x HTTP/1.1\r\nHost: a\r\n%b\r\n\r\n", 400, "bad_connect"),
        (b"CONNECT 127.0.0.1:1 HTTP/1.1\r\nHost: a\r\n\r\n", 407, "proxy_authentication_required"),
    ],
)
async def test_behind_a_refused_connect_nothing_is_parsed(
    rig: Rig, raw: bytes, status: int, code: str
) -> None:
    client = await rig.client()
    smuggled = rig.request(b"/smuggled")
    await client.send((raw % CREDENTIAL if b"%b" in raw else raw) + smuggled, smuggled)
    answer = await client.answer()
    assert (answer.status, answer.one(b"connection")) == (status, b"close")
    assert json.loads(answer.body)["code"] == code
    await client.send(smuggled)
    assert await client.rest() == (b"", "eof")
    assert not rig.provider.requests


async def test_connect_wants_the_right_credential(rig: Rig) -> None:
    client = await rig.client()
    await client.send(connect(rig, b"Proxy-Authorization: Basic " + b64encode(b"ann:no")))
    answer = await client.answer()
    assert answer.status == 407
    assert answer.all(b"proxy-authenticate")


async def test_an_idle_tunnel_is_dropped(rig: Rig, quick_watch: None) -> None:
    await asyncio.sleep(0)
    rig.plane.limits = replace(rig.plane.limits, idle=0.2)
    rig.plane._watch()  # from here on at the quick pace
    client = await tunnel(rig)
    for _ in range(4):
        await asyncio.sleep(0.1)
        await client.send(b"GET /in HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await client.answer()).status == 200
    assert (await client.rest())[0] == b""
    await until(lambda: not rig.plane._tunnels)


async def test_closing_down_ends_tunnels(rig: Rig) -> None:
    client = await tunnel(rig)
    await rig.plane.close(grace=0)
    assert (await client.rest())[0] == b""


# --- 101


async def echo(connection: Connection, _: Request) -> None:
    await connection.send(SWITCH + b"FIRST")
    while data := await connection.reader.read(1000):
        await connection.send(data)


async def test_a_websocket_with_early_bytes_on_both_sides(rig: Rig) -> None:
    rig.at(b"/ws", echo)
    client = await rig.client()
    await client.send(rig.request(b"/ws", *WS) + b"EARLY")
    head = await client.head()
    assert head.status == 101
    assert head.one(b"upgrade") == b"websocket"
    assert head.one(b"connection") == b"Upgrade"
    assert head.one(b"x") == b"y"
    assert await client.reader.readexactly(10) == b"FIRSTEARLY"
    assert rig.seen.all(b"upgrade") == [b"websocket"]
    assert rig.seen.all(b"connection") == [b"Upgrade"]
    assert rig.seen.all(b"sec-websocket-key") == [b"x"]
    await client.send(b"ping")
    assert await client.reader.readexactly(4) == b"ping"
    client.close()
    await until(lambda: not rig.provider.open)
    assert rig.gate.tickets[0].said == ["success 101"]


async def test_a_refused_upgrade_is_an_answer_and_closes(rig: Rig) -> None:
    rig.at(b"/ws", ok(b"no", status=b"403 Forbidden"))
    client = await rig.client()
    await client.send(rig.request(b"/ws", *WS) + rig.request(b"/smuggled"))
    answer = await client.answer()
    assert (answer.status, answer.body) == (403, b"no")
    assert await client.rest() == (b"", "eof")
    assert len(rig.provider.requests) == 1


@pytest.mark.parametrize("protocol", [b"h2c", b"tcp", b"websocket, h2c"])
async def test_no_other_protocol_is_asked_for(rig: Rig, protocol: bytes) -> None:
    """On a connection that speaks HTTP/2 a 402 would pass unseen."""
    rig.at(b"/up", SWITCH)
    client = await rig.client()
    await client.send(rig.request(b"/up", b"Connection: Upgrade", b"Upgrade: " + protocol))
    assert (await client.answer()).status == 502
    assert not rig.seen.all(b"upgrade")
    assert not rig.seen.all(b"connection")


async def test_a_paid_websocket(rig: Rig) -> None:
    rig.at(b"/ws", sold(echo))
    rig.gate.answering = rig.gate.buy
    client = await rig.client()
    await client.send(rig.request(b"/ws", *WS) + b"EARLY")
    head = await client.head()
    assert head.status == 101
    assert head.all(RECEIPT[0]) == [RECEIPT[1]]
    assert await client.reader.readexactly(10) == b"FIRSTEARLY"
    await client.send(b"ping")
    assert await client.reader.readexactly(4) == b"ping"
    assert rig.seen.all(PAYMENT[0])
    assert rig.gate.deliveries[0].status == 101


async def test_an_unpaid_websocket(rig: Rig) -> None:
    rig.at(b"/ws", demand())
    client = await rig.client()
    await client.send(rig.request(b"/ws", *WS))
    assert (await client.answer()).status == 402
    assert await client.rest() == (b"", "eof")
