"""A provider's bytes, as bad as they come: a 502 with its reason, or an answer that visibly breaks
off; never half an answer that looks whole, and never somebody else's."""

import asyncio

import pytest

from proxy.wire.content import decoded
from tests.hostile.arena import PLAIN, WAYS, Arena
from tests.hostile.bad_answers import CASES, Case
from tests.wire.wire_rig import Client, Connection, Request, demand, ok

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def final(client: Client, *, head_only: bool) -> tuple[int, bytes, str]:
    """(status, body, whole or broken) of the next answer that is not a 1xx."""
    head = await client.head()
    while head.status < 200:
        head = await client.head()
    names = [name.lower() for name, _ in head.headers]
    assert names.count(b"content-length") + names.count(b"transfer-encoding") <= 1, names
    assert not [name for name in names if name.startswith((b"autopay-p", b"proxy-"))], names
    if head_only or head.status in {204, 304}:
        return head.status, b"", "whole"
    body, rest = b"", client.reader
    try:
        async with asyncio.timeout(6):
            if length := head.one(b"content-length"):
                return head.status, await rest.readexactly(int(length)), "whole"
            assert head.one(b"transfer-encoding") == b"chunked", head
            while size := int((await rest.readuntil(b"\r\n"))[:-2], 16):
                chunk = await rest.readexactly(size + 2)
                body = (body + chunk[:-2])[: 1 << 20]
            while (line := await rest.readuntil(b"\r\n")) != b"\r\n":
                assert not line.lower().startswith((b"autopay-", b"proxy-")), line
            return head.status, body, "whole"
    except (asyncio.IncompleteReadError, ConnectionError):
        return head.status, body, "broken"


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_a_bad_answer(ring: Arena, case: Case, way: str) -> None:
    ring.provider(way).scenes[b"/bad"] = case.answer
    ring.gate.challenges.clear()
    client = await ring.connect(way)
    lines = b"Content-Length: 100\r\n" if case.method == b"POST" else b""
    await client.send(
        ring.fill(
            way, case.method + b" {url}/bad HTTP/1.1\r\nHost: {host}\r\n{auth}" + lines + b"\r\n"
        )
    )

    status, body, end = await final(client, head_only=case.method == b"HEAD")

    assert (status, end) == (case.status, case.end), body[:500]
    if case.body is not None:
        assert body == case.body
    if case.status >= 500:
        assert b"Nothing was paid" in body
    if case.challenged is not None:
        (challenge,) = ring.gate.challenges
        assert len(challenge.body) <= case.challenged
        assert len(decoded(challenge.headers, challenge.body, 65536)) <= max(65537, case.challenged)
    ring.leave(client)
    await ring.serves()
    await ring.quiet()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_does_not_carry_our_payment(ring: Arena, way: str, status: int) -> None:
    """Whatever a provider says to a payment, the payment goes nowhere else."""
    shop, other = ring.provider(way), ring.plain
    other.scenes[b"/elsewhere"] = demand()

    async def scene(connection: Connection, request: Request) -> None:
        if request.all(b"payment-signature"):
            where = b"Location: " + other.url + b"/elsewhere"
            await connection.send(ok(b"", where, status=b"%d Moved" % status))
        else:
            await connection.send(demand())

    shop.scenes[b"/moved"] = scene
    shop.requests.clear()
    other.requests.clear()
    ring.gate.answering = ring.gate.buy
    client = await ring.connect(way)
    await client.send(ring.fill(way, b"GET {url}/moved HTTP/1.1\r\nHost: {host}\r\n{auth}\r\n"))
    answer = await client.answer()
    ring.gate.answering = None
    assert answer.status == status
    assert len([r for r in shop.requests if r.all(b"payment-signature")]) == 1
    assert not [r for r in other.requests if r.path == b"/elsewhere"]
    ring.leave(client)
    await ring.serves()
    await ring.quiet()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_a_bad_answer_to_a_payment(ring: Arena, case: Case) -> None:
    """The same behind a payment: one attempt, never a second."""
    way = PLAIN
    shop = ring.provider(way)
    payments = 0

    async def scene(connection: Connection, request: Request) -> None:
        nonlocal payments
        if not request.all(b"payment-signature"):
            await connection.send(demand().partition(b"{")[0] if method == b"HEAD" else demand())
        elif callable(case.answer):
            payments += 1
            await case.answer(connection, request)
        else:
            payments += 1
            await connection.send(case.answer)

    shop.scenes[b"/bad"] = scene
    ring.gate.answering = ring.gate.buy
    method = b"HEAD" if case.method == b"HEAD" else b"GET"
    client = await ring.connect(way)
    await client.send(ring.fill(way, method + b" {url}/bad HTTP/1.1\r\nHost: {host}\r\n{auth}\r\n"))
    try:
        head = await client.head()
        while head.status < 200:
            head = await client.head()
        assert head.status in {case.status, 502, 402, 200}
    except (asyncio.IncompleteReadError, ConnectionError):
        pass  # broken off before its head was out
    ring.gate.answering = None
    ring.leave(client)
    await ring.serves()
    await ring.quiet()
    assert payments == 1


async def test_what_tls_says_wrong(ring: Arena) -> None:
    """Behind an intercepted tunnel: a provider that does not speak TLS, or hangs up in it."""

    async def talk(what: bytes) -> int:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(1)
            writer.write(what)
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        client = await ring.connect("tunnel", port)
        get = b"GET /x HTTP/1.1\r\nHost: {host}\r\n\r\n"
        await client.send(ring.fill("tunnel", get, port))
        status = (await client.answer()).status
        ring.leave(client)
        server.close()
        return status

    for what in (b"", b"HTTP/1.1 200 OK\r\n\r\n", b"\x15\x03\x03\x00\x02\x02\x28", bytes(5000)):
        assert await talk(what) == 502
        await ring.serves()
        await ring.quiet()
