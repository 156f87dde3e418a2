"""Handshakes as they come: early, late, in pieces, without a name, broken off, and many at once."""

import asyncio
import contextlib
import hashlib
import ssl
from collections.abc import Iterable

import pytest
from tunnel_rig import HOST, Ca, Inside, inside
from wire_rig import PATIENCE, Connection, Request, linger, ok, sold, until

MIB = 1 << 20


class Handshake:
    """A program's TLS by hand, so that the test says which bytes go when."""

    def __init__(self, context: ssl.SSLContext, name: str | None = HOST) -> None:
        self.into, self.out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.into, self.out, server_hostname=name)
        with pytest.raises(ssl.SSLWantReadError):
            self.tls.do_handshake()
        self.hello = self.out.read()

    async def ask(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes
    ) -> bytes:
        """Finish, with `request` in the same segment as the handshake's end; the whole answer."""
        async with asyncio.timeout(PATIENCE):
            while True:
                try:
                    self.tls.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    await self._move(reader, writer)
            self.tls.write(request)
            answer = b""
            while not answer.endswith(b"HTTP/1.1"):  # the provider's echo of the request line
                try:
                    answer += self.tls.read()
                except ssl.SSLWantReadError:
                    await self._move(reader, writer)
        return answer

    async def _move(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(self.out.read())
        data = await reader.read(65536)
        assert data, "the connection ended"
        self.into.write(data)


async def by_hand(
    it: Inside, shake: Handshake, early: bytes, pieces: Iterable[bytes], *, says_why: bool = False
) -> bytes:
    reader, writer = await asyncio.open_connection(sock=await it.opened(early))
    for piece in pieces:
        writer.write(piece)
        await writer.drain()
        await asyncio.sleep(0)
    try:
        return await shake.ask(reader, writer, it.request(b"/x"))
    finally:
        if says_why:
            writer.write(shake.out.read())
        writer.close()


@pytest.mark.parametrize("newlines", [b"", b"\r\n", b"\r\n\r\n"])
async def test_the_hello_may_ride_with_connect(rig: Inside, newlines: bytes) -> None:
    shake = Handshake(rig.ca.trusting)
    answer = await by_hand(rig, shake, newlines + shake.hello, [])
    assert answer.endswith(b"GET /x HTTP/1.1")


@pytest.mark.parametrize("newlines", [b"\r\n", b"\n", b"\r\n\r\n"])
async def test_newlines_between_connect_and_hello(rig: Inside, newlines: bytes) -> None:
    shake = Handshake(rig.ca.trusting)
    answer = await by_hand(rig, shake, b"", [newlines, shake.hello])
    assert answer.endswith(b"GET /x HTTP/1.1")


@pytest.mark.parametrize("early", [0, 1, 5, 100])
async def test_the_hello_byte_by_byte(rig: Inside, early: int) -> None:
    shake = Handshake(rig.ca.trusting)
    hello = shake.hello
    rest = [hello[at : at + 1] for at in range(early, len(hello))]
    answer = await by_hand(rig, shake, hello[:early], rest)
    assert answer.endswith(b"GET /x HTTP/1.1")


async def test_a_huge_hello(rig: Inside) -> None:
    context = rig.ca.trust()
    context.set_alpn_protocols([f"x{number:03}" * 60 for number in range(60)] + ["http/1.1"])
    shake = Handshake(context)
    assert len(shake.hello) > 14_000
    assert (await by_hand(rig, shake, b"", [shake.hello])).endswith(b"GET /x HTTP/1.1")


async def test_without_a_name_connects_own_is_taken(rig: Inside) -> None:
    context = rig.ca.trust()
    context.check_hostname = False
    shake = Handshake(context, None)
    assert (await by_hand(rig, shake, b"", [shake.hello])).endswith(b"GET /x HTTP/1.1")
    names = shake.tls.getpeercert()
    assert names is not None and names["subjectAltName"] == (("DNS", HOST),)


async def test_an_address_has_a_certificate_too(ca: Ca) -> None:
    async with inside(ca, host="127.0.0.1") as it:
        client = await it.behind(await it.opened(host="127.0.0.1"), name="127.0.0.1")
        await client.send(it.request(b"/x"))
        assert (await client.answer()).body == b"GET /x HTTP/1.1"
        client = await it.behind(await it.opened(host="::1", port=1), name="::1")
        await client.send(b"GET /x HTTP/1.1\r\nHost: [::1]:1\r\n\r\n")
        assert (await client.answer()).status == 502  # told by us: nobody is there


async def test_another_name_than_connects_is_left_alone(rig: Inside) -> None:
    """Domain fronting, or a test of somebody's: who knows where its requests belong."""
    client = await rig.behind(await rig.opened(), rig.ca.trust(theirs=True), name="localhost")
    await client.send(b"GET /x HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert (await client.answer()).body == b"GET /x HTTP/1.1"
    assert rig.gate.tickets == []


async def test_tls_1_2_alone(rig: Inside) -> None:
    context = rig.ca.trust()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    client = await rig.behind(await rig.opened(), context)
    await client.send(rig.request(b"/x"))
    assert (await client.answer()).body == b"GET /x HTTP/1.1"
    assert client.writer.get_extra_info("ssl_object").version() == "TLSv1.2"


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [(["h2", "http/1.1"], "http/1.1"), (["http/1.1"], "http/1.1"), (["h2"], None), ([], None)],
)
async def test_http_1_1_is_what_is_agreed_on(
    rig: Inside, offered: list[str], chosen: str | None
) -> None:
    context = rig.ca.trust()
    if offered:
        context.set_alpn_protocols(offered)
    client = await rig.behind(await rig.opened(), context)
    assert client.writer.get_extra_info("ssl_object").selected_alpn_protocol() == chosen
    await client.send(rig.request(b"/x"))
    assert (await client.answer()).body == b"GET /x HTTP/1.1"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("alert", [True, False])
async def test_a_program_that_does_not_trust_us_is_left_alone_from_then_on(
    rig: Inside, version: ssl.TLSVersion, alert: bool
) -> None:
    """One alert is enough. Python's asyncio hangs up without: twice, and it is understood."""
    context = rig.ca.trust(theirs=True)
    context.maximum_version = version
    if alert:
        shake = Handshake(context)
        with pytest.raises(ssl.SSLCertVerificationError):
            await by_hand(rig, shake, b"", [shake.hello], says_why=True)
    else:
        for _ in range(2):
            assert not rig.gate.rejections
            with pytest.raises(ssl.SSLCertVerificationError):
                await rig.behind(await rig.opened(), context)
            await asyncio.sleep(0.02)
    await until(lambda: rig.gate.rejections)
    why = "unknown ca" if alert else "it hangs up in the handshake"
    assert rig.gate.rejections == [(rig.provider.url.decode(), why)]
    client = await rig.behind(await rig.opened(), context)
    await client.send(rig.request(b"/x"))
    assert (await client.answer()).body == b"GET /x HTTP/1.1"
    assert rig.gate.tickets == []


async def test_what_only_begins_like_tls_is_left_alone(ca: Ca) -> None:
    got = []

    async def play(connection: Connection) -> None:
        got.append(await connection.reader.readexactly(10))
        await connection.send(b"yes")
        connection.close()

    async with inside(ca, "http") as it:
        it.provider.play = play  # type: ignore[method-assign]
        client = await it.client()
        await client.send(b"\x16garbage..")
        assert (await client.rest())[0] == b"yes"
        assert got == [b"\x16garbage.."]


@pytest.mark.parametrize(
    "broken",
    [
        b"\x16\x03\x01\x00\x05hello",
        b"\x16\x03\x01\x00\x04\x01\x00\x00\x00",
        b"\x16\x03\x01\x00\x04\x02\x00\x00\x00",
        b"\x16\x03\x01\x00\x00" * 8000,
    ],
)
async def test_a_broken_hello_ends_the_tunnel(rig: Inside, broken: bytes) -> None:
    reader, writer = await asyncio.open_connection(sock=await rig.opened())
    writer.write(broken)
    async with asyncio.timeout(PATIENCE):
        with contextlib.suppress(ConnectionError):
            assert len(await reader.read(-1)) < 10  # an alert at most
    writer.close()
    assert await still_serves(rig)


async def still_serves(it: Inside) -> bool:
    client = await it.client()
    await client.send(it.request(b"/x"))
    return (await client.answer()).status == 200


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("sent", [0, 1, 100, 10_000])
async def test_a_program_that_goes_in_mid_handshake(rig: Inside, sent: int, how: str) -> None:
    """The rig sees to it that nothing of it is left. Where our certificate was liked before, it is
    not taken for a no."""
    assert await still_serves(rig)
    hello = Handshake(rig.ca.trusting).hello
    for pause in (0, 0.02):
        _, writer = await asyncio.open_connection(sock=await rig.opened())
        writer.write(hello[:sent])
        await asyncio.sleep(pause)
        if how == "reset":
            linger(writer)
            writer.transport.abort()
        else:
            writer.close()
    assert await still_serves(rig)


async def test_closing_down_in_mid_handshake(rig: Inside) -> None:
    shake = Handshake(rig.ca.trusting)
    half = await rig.opened(shake.hello[:100])
    whole = await rig.opened(shake.hello)
    await rig.plane.close(grace=0.1)
    half.close()
    whole.close()


async def test_two_hundred_handshakes_at_once(rig: Inside) -> None:
    """A quarter of them to hosts of their own, each of which needs a certificate."""

    async def ask(number: int) -> int:
        host = HOST if number % 4 else f"shop-{number}.autopay.test"
        client = await rig.behind(await rig.opened(host=host), name=host)
        where = f"{host}:{rig.provider.port}".encode()
        await client.send(b"GET /x HTTP/1.1\r\nHost: %b\r\n\r\n" % where)
        return (await client.answer()).status

    got = await asyncio.gather(*[ask(number) for number in range(200)])
    # The provider's certificate is for one name only.
    assert got == [200 if number % 4 else 502 for number in range(200)]


async def test_a_hundred_megabytes_up(rig: Inside) -> None:
    piece = bytes(range(256)) * 4096

    async def count(connection: Connection, request: Request) -> None:
        digest, left = hashlib.sha256(), 100 * MIB
        while left:
            data = await connection.reader.read(MIB)
            digest.update(data)
            left -= len(data)
        await connection.send(ok(digest.hexdigest().encode()))

    rig.at(b"/up", count)
    client = await rig.client()
    await client.send(rig.request(b"/up", b"Content-Length: %d" % (100 * MIB), method=b"POST"))
    expected = hashlib.sha256()
    for _ in range(100):
        expected.update(piece)
        client.writer.write(piece)
        await client.writer.drain()
    assert (await client.answer()).body == expected.hexdigest().encode()


async def test_a_slow_reader_slows_the_provider(rig: Inside) -> None:
    moved = 0

    async def flood(connection: Connection, request: Request) -> None:
        nonlocal moved
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (64 * MIB))
        for _ in range(64):
            await connection.send(bytes(MIB))
            moved += 1

    rig.at(b"/flood", flood)
    client = await rig.client()
    client.writer.transport.pause_reading()
    await client.send(rig.request(b"/flood"))
    await asyncio.sleep(0.3)
    assert moved < 30
    client.writer.transport.resume_reading()
    async with asyncio.timeout(20):
        await client.reader.readuntil(b"\r\n\r\n")
        left = 64 * MIB
        while left:
            left -= len(await client.reader.read(MIB))


async def test_paid_on_one_tunnel_many_times(rig: Inside) -> None:
    rig.at(b"/p", sold(ok(b"goods")))
    rig.gate.answering = rig.gate.buy
    client = await rig.client()
    for _ in range(20):
        await client.send(rig.request(b"/p", method=b"POST", body=b"a"))
        assert (await client.answer()).body == b"goods"
    await until(lambda: len(rig.gate.deliveries) == 20)
