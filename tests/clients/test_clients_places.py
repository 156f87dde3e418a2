"""Tunnels take places: those that are open, and those that are being opened. Whoever finds none is
told, and a tunnel that ends frees its own."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from tunnel_rig import Ca, Inside, inside
from wire_rig import CREDENTIAL, Client, Connection, Request, until

from proxy.wire.intercept import TunnelRules
from proxy.wire.limits import Limits

PLACES = 3
KINDS = {
    "blind": TunnelRules(intercepts=False),
    "silent": TunnelRules(),
    "half a hello": TunnelRules(),
    "handshake": TunnelRules(),
    "intercepted": TunnelRules(),
}


@pytest.fixture
async def small(ca: Ca, kind: str) -> AsyncIterator[Inside]:
    async with inside(ca, "https", KINDS[kind]) as it:
        it.plane.limits = Limits(connections=PLACES)
        yield it


async def fresh(rig: Inside) -> Client:
    """A connection that has asked for nothing yet."""
    reader, writer = await asyncio.open_connection("127.0.0.1", rig.forward)
    rig.clients.append(Client(reader, writer))
    return rig.clients[-1]


async def tunnel(rig: Inside, kind: str) -> Client:
    hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"
    if kind == "intercepted":
        return await rig.client()
    client = await fresh(rig)
    where = b"shop.autopay.test:%d" % rig.provider.port
    await client.send(b"CONNECT %b HTTP/1.1\r\nHost: a\r\n%b\r\n\r\n" % (where, CREDENTIAL))
    assert (await client.head()).status == 200
    if kind == "half a hello":
        await client.send(hello)
    elif kind == "handshake":
        from test_clients_hello import client_hello

        await client.send(client_hello("shop.autopay.test"))
        await client.reader.readexactly(5)  # of what the server answers; nothing follows
    return client


@pytest.mark.parametrize("kind", KINDS)
async def test_tunnels_take_places(small: Inside, kind: str) -> None:
    rig = small
    tunnels = [await tunnel(rig, kind) for _ in range(PLACES)]
    await asyncio.sleep(0.05)
    assert rig.plane.programs == PLACES
    for _ in range(3):
        client = await fresh(rig)
        answer = await client.answer()
        assert (answer.status, b"too_many_connections" in answer.body) == (503, True)
        assert answer.one(b"connection") == b"close"
        client.close()
        await until(lambda: rig.plane.programs == PLACES)
    if kind == "intercepted":  # and those that have a place are served
        await tunnels[0].send(rig.request(b"/a"))
        assert (await tunnels[0].answer()).status == 200
    tunnels.pop().close()
    await until(lambda: rig.plane.programs == PLACES - 1)
    again = await tunnel(rig, kind)
    assert (await (await fresh(rig)).answer()).status == 503
    for client in (again, *tunnels):
        client.close()
    rig.clients[-1].close()
    await until(lambda: rig.plane.programs == 0)


@pytest.mark.parametrize("kind", ["blind"])
async def test_an_upgraded_connection_keeps_its_place(small: Inside) -> None:
    async def scene(connection: Connection, request: Request) -> None:
        await connection.send(
            b"HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
        )
        await connection.reader.read(1)

    # A plain provider of its own: the rig's speaks TLS.
    from wire_rig import provider

    async with provider({b"/ws": scene}) as shop:
        sockets = []
        for _ in range(PLACES):
            client = await fresh(small)
            await client.send(
                b"GET %b/ws HTTP/1.1\r\nHost: a\r\n%b\r\nConnection: Upgrade\r\n"
                b"Upgrade: websocket\r\n\r\n" % (shop.url, CREDENTIAL)
            )
            assert (await client.head()).status == 101
            sockets.append(client)
        assert (small.plane.tunnels, small.plane.programs) == (PLACES, PLACES)
        assert (await (await fresh(small)).answer()).status == 503
        for client in (*sockets, small.clients[-1]):
            client.close()
        await until(lambda: small.plane.programs == 0)
