"""Request bodies: on their way, waiting, refused half-way, and kept for a second attempt."""

import asyncio
import contextlib
import hashlib
import os
import tempfile
from pathlib import Path

import pytest
from wire_rig import PAYMENT, Connection, Request, Rig, demand, ok, rig, sold, until

from proxy.wire.body import Body, Keeper
from proxy.wire.gate import PassThrough, PaymentRequired, Purchase, Reply
from proxy.wire.limits import Limits

MIB = 1 << 20


async def after_a_hundred(connection: Connection, request: Request) -> None:
    """Asks for the body, and says what it was."""
    await connection.send(b"HTTP/1.1 100 Continue\r\n\r\n")
    body = await connection.read_body(request)
    await connection.send(ok(hashlib.sha256(body).hexdigest().encode()))


async def test_expect_is_the_providers_to_answer(rig: Rig) -> None:
    rig.at(b"/e", after_a_hundred)
    client = await rig.client()
    await client.send(
        rig.request(b"/e", b"Expect: 100-continue", b"Content-Length: 3", method=b"POST")
    )
    assert (await client.head()).status == 100
    assert rig.seen.all(b"expect") == [b"100-continue"]
    assert rig.seen.body == b""
    await client.send(b"abc")
    assert (await client.answer()).body == hashlib.sha256(b"abc").hexdigest().encode()


async def test_a_body_sent_without_waiting_for_100(rig: Rig) -> None:
    rig.at(b"/e", after_a_hundred)
    client = await rig.client()
    await client.send(rig.request(b"/e", b"Expect: 100-continue", method=b"POST", body=b"abc"))
    assert (await client.head()).status == 100
    assert (await client.answer()).status == 200


async def test_expect_that_is_refused_closes(rig: Rig) -> None:
    async def refuse(connection: Connection, request: Request) -> None:
        await connection.send(ok(b"no", status=b"417 Expectation Failed"))

    rig.at(b"/e", refuse)
    client = await rig.client()
    await client.send(
        rig.request(b"/e", b"Expect: 100-continue", b"Content-Length: 3", method=b"POST")
    )
    answer = await client.answer()
    assert (answer.status, answer.one(b"connection")) == (417, b"close")
    assert await client.rest() == (b"", "eof")


async def test_a_402_before_the_body_and_the_100_for_the_paid_attempt(rig: Rig) -> None:
    """The body is sent once, and only to the attempt that paid."""

    async def shop(connection: Connection, request: Request) -> None:
        if request.all(PAYMENT[0]):
            await after_a_hundred(connection, request)
        else:
            await connection.send(demand())

    rig.at(b"/e", shop)
    rig.gate.answering = rig.gate.buy
    client = await rig.client()
    await client.send(
        rig.request(b"/e", b"Expect: 100-continue", b"Content-Length: 3", method=b"POST")
    )
    assert (await client.head()).status == 100
    await client.send(b"abc")
    answer = await client.answer()
    assert answer.body == hashlib.sha256(b"abc").hexdigest().encode()
    first, second = rig.provider.requests
    assert (first.body, second.body) == (b"", b"abc")
    assert second.all(b"expect") == [b"100-continue"]
    assert rig.gate.deliveries[0].complete


async def test_a_body_that_was_sent_is_replayed_without_expect(rig: Rig) -> None:
    async def shop(connection: Connection, request: Request) -> None:
        await connection.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        await connection.read_body(request)
        await connection.send(ok(request.body) if request.all(PAYMENT[0]) else demand())

    rig.at(b"/e", shop)
    rig.gate.answering = rig.gate.buy
    client = await rig.client()
    await client.send(rig.request(b"/e", b"Expect: 100-continue", method=b"POST", body=b"abc"))
    assert (await client.head()).status == 100
    assert (await client.answer()).body == b"abc"  # and no second 100
    assert [request.all(b"expect") for request in rig.provider.requests] == [[b"100-continue"], []]


def spilled() -> int:
    """Unnamed files this process holds open."""
    links = []
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # the folder's own descriptor is gone by now
            links.append(str(entry.readlink()))
    return sum(link.startswith(tempfile.gettempdir()) and "deleted" in link for link in links)


@pytest.mark.parametrize("chunked", [False, True])
async def test_20_mb_with_1_mb_of_memory_is_replayed_byte_for_byte(rig: Rig, chunked: bool) -> None:
    rig.at(b"/big", sold(ok(b"thanks")))
    rig.gate.answering = rig.gate.buy
    body = os.urandom(MIB) * 20
    before = spilled()
    client = await rig.client()
    if chunked:
        await client.send(rig.request(b"/big", b"Transfer-Encoding: chunked", method=b"POST"))
        for at in range(0, len(body), 300_000):
            piece = body[at : at + 300_000]
            client.writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            await client.writer.drain()
        client.writer.write(b"0\r\n\r\n")
    else:
        await client.send(rig.request(b"/big", method=b"POST", body=body))
    assert (await client.answer()).body == b"thanks"
    assert [request.body == body for request in rig.provider.requests] == [True, True]
    assert spilled() == before


async def test_over_the_cap_a_body_is_forwarded_but_cannot_be_paid_for() -> None:
    async def answering(purchase: Purchase, _: PaymentRequired) -> Reply:
        assert not purchase.replayable
        return PassThrough([(b"Autopay-Unpaid", b"body_too_large")])

    before = spilled()
    limits = Limits(replay_memory_bytes=MIB, replay_disk_bytes=2 * MIB)
    async with rig(limits) as it:
        it.at(b"/big", sold(ok(b"never")))
        it.gate.answering = answering
        body = os.urandom(MIB) * 5
        answer = await it.ask(b"/big", method=b"POST", body=body)  # by its length
        assert answer.status == 402
        assert answer.one(b"autopay-unpaid") == b"body_too_large"
        assert it.seen.body == body
        client = await it.client()  # and chunked: known only when it is too late
        await client.send(it.request(b"/big", b"Transfer-Encoding: chunked", method=b"POST"))
        await client.send(b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))
        assert (await client.answer()).status == 402
        assert it.seen.body == body
        assert spilled() == before


async def test_a_402_while_the_upload_is_still_running(rig: Rig) -> None:
    """What was sent is sent again from the start; the rest follows as it comes."""

    async def shop(connection: Connection, request: Request) -> None:
        if request.all(PAYMENT[0]):
            await connection.read_body(request)
            await connection.send(ok(b"thanks"))
        else:
            await connection.reader.readexactly(3 * MIB)
            await connection.send(demand())

    rig.at(b"/up", shop)
    rig.gate.answering = rig.gate.buy
    body = os.urandom(MIB) * 8
    client = await rig.client()
    await client.send(rig.request(b"/up", b"Content-Length: %d" % len(body), method=b"POST"))
    await client.send(body[: 4 * MIB])
    await until(lambda: len(rig.provider.requests) == 2)
    await client.send(body[4 * MIB :])
    assert (await client.answer()).body == b"thanks"
    assert rig.seen.body == body


async def test_a_402_that_was_not_read_to_its_end_does_not_stop_the_paid_upload(rig: Rig) -> None:
    """The first connection is dropped while the body is on its way to the second."""

    async def shop(connection: Connection, request: Request) -> None:
        if request.all(PAYMENT[0]):
            await connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            await connection.read_body(request)
            await connection.send(b"2\r\nok\r\n0\r\n\r\n")
        else:
            await connection.send(demand(bytes(4 * MIB)))

    rig.at(b"/up", shop)
    rig.gate.answering = rig.gate.buy
    body = os.urandom(MIB) * 4
    client = await rig.client()
    await client.send(rig.request(b"/up", b"Content-Length: %d" % len(body), method=b"POST"))
    await client.send(body[:MIB])
    await until(lambda: len(rig.provider.requests) == 2)
    await asyncio.sleep(0.05)
    await client.send(body[MIB:])
    assert (await client.answer()).body == b"ok"
    assert rig.seen.body == body


async def test_an_early_402_that_is_not_paid(rig: Rig) -> None:
    async def shop(connection: Connection, request: Request) -> None:
        await connection.send(demand(b"pay first"))

    rig.at(b"/up", shop)
    client = await rig.client()
    await client.send(rig.request(b"/up", b"Content-Length: 5000000", method=b"POST"))
    client.writer.write(bytes(100_000))
    answer = await client.answer()
    assert (answer.status, answer.body) == (402, b"pay first")
    assert answer.one(b"connection") == b"close"
    client.writer.write(bytes(4_900_000))  # a program that goes on sending still reads the answer
    assert (await client.rest())[0] == b""


async def test_an_answer_may_come_while_the_body_goes(rig: Rig) -> None:
    async def duplex(connection: Connection, request: Request) -> None:
        await connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(3):
            piece = await connection.reader.readexactly(4)
            await connection.send(b"4\r\n" + piece + b"\r\n")
        await connection.send(b"0\r\n\r\n")

    rig.at(b"/duplex", duplex)
    client = await rig.client()
    await client.send(rig.request(b"/duplex", b"Content-Length: 12", method=b"POST"))
    await client.head()
    for piece in (b"aaaa", b"bbbb", b"cccc"):
        await client.send(piece)
        assert await client.reader.readexactly(9) == b"4\r\n" + piece + b"\r\n"
    assert await client.reader.readexactly(5) == b"0\r\n\r\n"


@pytest.mark.parametrize("split", range(1, 30, 3))
async def test_a_body_split_anywhere(rig: Rig, split: int) -> None:
    client = await rig.client()
    raw = (
        rig.request(b"/a", b"Transfer-Encoding: chunked", method=b"POST")
        + b"5\r\nhello\r\n0\r\n\r\n"
    )
    await client.send(raw[:-split], raw[-split:])
    assert (await client.answer()).status == 200
    assert rig.seen.body == b"hello"


def test_a_full_disk_only_costs_the_second_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    class Payload:
        def __init__(self) -> None:
            self.pieces = [b"abc", b"def"]

        def read_nowait(self) -> bytes:
            return self.pieces.pop(0)

        def is_eof(self) -> bool:
            return not self.pieces

    class Sink:
        writing_paused = False

        def __init__(self) -> None:
            self.transport = self
            self.written = b""
            self.sent = False

        def write(self, data: bytes) -> None:
            self.written += data

        def body_moved(self) -> None:
            return

        def body_sent(self) -> None:
            self.sent = True

    def full(_: bytes) -> int:
        raise OSError(28, "No space left on device")

    keeper = Keeper(10, 10)
    body = Body(Payload(), chunked=False, keeper=keeper)  # type: ignore[arg-type]
    sink = Sink()
    body.attach(sink)  # type: ignore[arg-type]
    monkeypatch.setattr(keeper._file, "write", full)
    body.pump()
    assert (sink.written, sink.sent) == (b"abcdef", True)
    assert not body.replayable


async def test_a_slow_provider_holds_the_program_back(rig: Rig) -> None:
    """Nothing is read from the program before there is somewhere to send it."""
    reading = asyncio.Event()

    async def slow(connection: Connection, request: Request) -> None:
        await reading.wait()
        await connection.read_body(request)
        await connection.send(ok(b"%d" % len(request.body)))

    rig.plane.limits = Limits(replay_memory_bytes=0, replay_disk_bytes=0)
    rig.at(b"/slow", slow)
    client = await rig.client()
    total = 60 * MIB
    await client.send(rig.request(b"/slow", b"Content-Length: %d" % total, method=b"POST"))
    client.writer.transport.set_write_buffer_limits(high=MIB)
    sent = 0
    try:
        async with asyncio.timeout(0.5):
            while sent < total:
                client.writer.write(bytes(MIB))
                sent += MIB
                await client.writer.drain()
    except TimeoutError:
        pass
    assert sent < 30 * MIB
    (upstream,) = rig.plane.pool.open
    assert upstream.transport is not None
    assert upstream.transport.get_write_buffer_size() < 3 * MIB
    reading.set()
    while sent < total:
        client.writer.write(bytes(MIB))
        sent += MIB
        await client.writer.drain()
    assert (await client.answer()).body == b"%d" % total
