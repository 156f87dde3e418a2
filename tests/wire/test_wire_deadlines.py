"""Nothing waits for ever: who is given up, when, and what they are told."""

import asyncio
import json
import time

import pytest
from wire_rig import Connection, Request, Rig, ok, rig, sold, until

from proxy.wire import downstream
from proxy.wire.limits import Limits
from proxy.wire.retrying import RetryRules

QUICK = Limits(
    connect=0.2, response=0.2, paid_response=0.2, idle=0.3, client_header=0.2, receipt_wait=0.2
)

pytestmark = pytest.mark.usefixtures("quick_watch")


@pytest.fixture
async def rig_():  # type: ignore[no-untyped-def]
    async with rig(QUICK, retries=RetryRules(attempts=0)) as it:
        yield it


async def silence(connection: Connection, request: Request) -> None:
    await connection.reader.read(-1)


async def stall(connection: Connection, request: Request) -> None:
    await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
    await connection.reader.read(-1)


async def test_a_provider_that_does_not_answer(rig_: Rig) -> None:
    rig_.at(b"/s", silence)
    began = time.monotonic()
    answer = await rig_.ask(b"/s")
    assert answer.status == 504
    assert json.loads(answer.body)["code"] == "upstream_timeout"
    assert 0.15 < time.monotonic() - began < 10
    assert rig_.gate.tickets[0].said[0].startswith("failure")


async def test_a_provider_that_stalls(rig_: Rig) -> None:
    rig_.at(b"/s", stall)
    client = await rig_.client()
    await client.send(rig_.request(b"/s"))
    got, end = await client.rest()
    assert (got[-4:], end) == (b"half", "reset")


async def test_a_slow_but_steady_provider_is_not_given_up(rig_: Rig) -> None:
    async def steady(connection: Connection, request: Request) -> None:
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n")
        for _ in range(8):
            await asyncio.sleep(0.08)
            await connection.send(b"x")

    rig_.at(b"/s", steady)
    assert (await rig_.ask(b"/s")).body == b"x" * 8


async def test_a_connection_that_cannot_be_made(rig_: Rig) -> None:
    # The listener never accepts, and its queue is full: the SYN stays unanswered.
    import socket

    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        fillers = []
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
            fillers.append(filler)
        await asyncio.sleep(0.02)
        client = await rig_.client()
        target = b"http://127.0.0.1:%d" % full.getsockname()[1]
        await client.send(rig_.request().replace(rig_.provider.url, target))
        answer = await client.answer()
        for filler in fillers:
            filler.close()
    assert answer.status == 504
    assert "no connection within 0.2 s" in json.loads(answer.body)["detail"]


@pytest.mark.parametrize("sent", [b"", b"GET http://x/ HTTP/1.1\r\nHost"])
async def test_a_program_that_does_not_finish_its_header(rig_: Rig, sent: bytes) -> None:
    client = await rig_.client()
    await client.send(sent)
    if sent:
        assert (await client.answer()).status == 408
    assert await client.rest() == (b"", "eof")


async def test_a_header_that_trickles(rig_: Rig) -> None:
    client = await rig_.client()

    async def trickle() -> None:
        for byte in rig_.request():
            client.writer.write(bytes([byte]))
            await asyncio.sleep(0.02)

    task = asyncio.create_task(trickle())
    assert (await client.answer()).status == 408
    task.cancel()


async def test_a_program_that_does_not_finish_its_body(rig_: Rig) -> None:
    """The program's fault, and not the provider's."""
    client = await rig_.client()
    await client.send(rig_.request(b"/a", b"Content-Length: 5", method=b"POST") + b"ab")
    answer = await client.answer()
    assert (answer.status, answer.one(b"connection")) == (408, b"close")
    assert rig_.gate.tickets[0].said == ["neutral"]


async def test_a_slow_but_steady_body_is_not_given_up(rig_: Rig) -> None:
    client = await rig_.client()
    await client.send(rig_.request(b"/a", b"Content-Length: 6", method=b"POST"))
    for _ in range(6):
        await asyncio.sleep(0.08)
        await client.send(b"x")
    assert (await client.answer()).status == 200


async def test_an_idle_program_is_closed(rig_: Rig) -> None:
    client = await rig_.client()
    await client.send(rig_.request())
    await client.answer()
    assert await client.rest() == (b"", "eof")


async def test_a_program_that_reads_nothing_is_dropped(rig_: Rig) -> None:
    rig_.at(b"/big", ok(bytes(20 << 20)))
    client = await rig_.client()
    client.writer.transport.pause_reading()
    await client.send(rig_.request(b"/big"))
    await until(lambda: rig_.plane._connections)
    await until(lambda: not rig_.plane._connections)
    await until(lambda: not rig_.provider.open)


async def test_a_program_that_does_not_read_its_last_answer_is_dropped(rig_: Rig) -> None:
    # Large enough to stay in our buffer, small enough not to hold the provider back.
    rig_.at(b"/mid", ok(bytes(5 << 20)))
    client = await rig_.client()
    client.writer.transport.pause_reading()
    await client.send(rig_.request(b"/mid", b"Connection: close"))
    await until(lambda: rig_.plane._connections)
    await until(lambda: not rig_.plane._connections)


async def test_a_program_that_does_not_read_what_it_paid_for_is_dropped(rig_: Rig) -> None:
    rig_.at(b"/big", sold(ok(bytes(20 << 20))))
    rig_.gate.answering = rig_.gate.buy
    client = await rig_.client()
    client.writer.transport.pause_reading()
    await client.send(rig_.request(b"/big"))
    await until(lambda: rig_.gate.deliveries)
    assert not rig_.gate.deliveries[0].complete
    await until(lambda: not rig_.plane._connections)


async def test_a_paid_answer_that_stalls(rig_: Rig) -> None:
    rig_.at(b"/s", sold(stall))
    rig_.gate.answering = rig_.gate.buy
    client = await rig_.client()
    await client.send(rig_.request(b"/s"))
    assert (await client.rest())[1] == "reset"
    (delivery,) = rig_.gate.deliveries
    assert (delivery.size, delivery.complete) == (4, False)
    assert delivery.error == "the provider's answer stalled"


async def test_lingering_ends(rig_: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A refused program may send on for a while, not for ever."""
    monkeypatch.setattr(downstream, "LINGER_SECONDS", 0.2)
    client = await rig_.client()
    await client.send(b"garbage\r\n\r\n")
    assert (await client.answer()).status == 400
    with pytest.raises(ConnectionError):
        async with asyncio.timeout(2):
            while True:
                await client.send(b"more garbage")
                await asyncio.sleep(0.01)
