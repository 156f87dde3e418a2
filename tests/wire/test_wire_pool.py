"""Connections to providers: kept, found dead, tried again, given up, and never leaked."""

import asyncio
import gc

import pytest
from wire_rig import Client, Connection, Request, Rig, demand, ok, provider, rig, sold, until

from proxy.wire import pool
from proxy.wire.limits import Limits
from proxy.wire.retrying import RetryRules


def dies_when_reused(answers: int = 1):  # type: ignore[no-untyped-def]
    """A server whose connections die, without a word, at the request after the first."""

    async def scene(connection: Connection, request: Request) -> None:
        used = getattr(connection, "used", 0)
        connection.used = used + 1  # type: ignore[attr-defined]
        await connection.read_body(request)
        if used >= answers:
            connection.close()
        else:
            await connection.send(ok(request.line))

    return scene


@pytest.mark.parametrize("method", [b"GET", b"PUT", b"DELETE", b"OPTIONS"])
async def test_a_stale_connection_is_tried_again_on_a_new_one(rig: Rig, method: bytes) -> None:
    rig.at(b"/s", dies_when_reused())
    client = await rig.client()
    body = b"abc" if method == b"PUT" else b""
    for _ in range(2):
        await client.send(rig.request(b"/s", method=method, body=body))
        assert (await client.answer()).body == method + b" /s HTTP/1.1"
    assert rig.provider.connections == 2
    assert [request.body for request in rig.provider.requests] == [body] * 3


async def test_a_post_is_not_sent_twice(rig: Rig) -> None:
    rig.at(b"/s", dies_when_reused())
    client = await rig.client()
    await client.send(rig.request(b"/s"))
    await client.answer()
    await client.send(rig.request(b"/s", method=b"POST", body=b"x"))
    assert (await client.answer()).status == 502
    assert len(rig.provider.requests) == 2


async def test_a_post_does_not_go_on_an_old_connection(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "FRESH_SECONDS", 0.05)
    client = await rig.client()
    await client.send(rig.request(b"/s"))
    await client.answer()
    await asyncio.sleep(0.1)
    await client.send(rig.request(b"/s", method=b"POST", body=b"x"))
    assert (await client.answer()).status == 200
    assert rig.provider.connections == 2


async def test_a_retry_is_made_once(rig: Rig) -> None:
    rig.plane.retries.usual = RetryRules(attempts=0)
    client = await rig.client()
    await client.send(rig.request(b"/ok"))
    await client.answer()
    rig.at(b"/s", dies_when_reused(answers=0))
    await client.send(rig.request(b"/s"))
    assert (await client.answer()).status == 502
    assert len(rig.provider.requests) == 3


async def test_a_half_given_answer_is_not_tried_again(rig: Rig) -> None:
    async def half(connection: Connection, _: Request) -> None:
        await connection.send(b"HTTP/1.1 2")
        connection.close()

    rig.plane.retries.usual = RetryRules(attempts=0)
    client = await rig.client()
    await client.send(rig.request(b"/ok"))
    await client.answer()
    rig.at(b"/s", half)
    await client.send(rig.request(b"/s"))
    assert (await client.answer()).status == 502
    assert len(rig.provider.requests) == 2


async def test_a_connection_closed_meanwhile_is_not_used(rig: Rig) -> None:
    async def bye(connection: Connection, request: Request) -> None:
        await connection.send(ok(b"x"))
        await asyncio.sleep(0.01)
        connection.close()

    rig.at(b"/s", bye)
    client = await rig.client()
    await client.send(rig.request(b"/s"))
    await client.answer()
    await until(lambda: not any(upstream.idle for upstream in rig.plane.pool.open))
    await client.send(rig.request(b"/a", method=b"POST", body=b"x"))
    assert (await client.answer()).status == 200


async def test_idle_connections_end_and_are_forgotten(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, quick_watch: None
) -> None:
    monkeypatch.setattr(pool, "IDLE_SECONDS", 0.1)
    rig.plane._watch()
    await rig.ask()
    await until(lambda: not rig.provider.open)
    await until(lambda: not rig.plane.pool.open)
    assert not rig.plane.pool._idle


async def test_origins_do_not_share_connections(rig: Rig) -> None:
    async with provider() as other:
        client = await rig.client()
        await client.send(rig.request(b"/1"))
        await client.answer()
        await client.send(rig.request(b"/2").replace(rig.provider.url, other.url))
        await client.answer()
        assert [request.path for request in other.requests] == [b"/2"]
        # Its end must be seen before its provider goes.
        rig.plane.pool.close()


async def test_a_slow_reader_does_not_leave_a_stopped_connection_behind(rig: Rig) -> None:
    size = 6 << 20
    rig.at(b"/big", ok(bytes(size)))
    client = await rig.client()
    client.writer.transport.pause_reading()
    await client.send(rig.request(b"/big"))
    await asyncio.sleep(0.1)
    client.writer.transport.resume_reading()
    await client.head()
    await client.reader.readexactly(size)
    for _ in range(3):
        await client.send(rig.request(b"/a"))
        assert (await client.answer()).status == 200
    assert rig.provider.connections == 1


async def test_a_slow_reader_stops_nobody_else(rig: Rig) -> None:
    """Also when it reads what it paid for, and its first connection serves others meanwhile."""
    rig.at(b"/big", sold(ok(bytes(8 << 20))))
    rig.gate.answering = rig.gate.buy
    slow = await rig.client()
    slow.writer.transport.pause_reading()
    await slow.send(rig.request(b"/big"))
    for _ in range(50):
        assert (await rig.ask(b"/a")).status == 200
        assert (await rig.ask(b"/a", method=b"POST", body=b"x")).status == 200
    slow.writer.transport.resume_reading()
    assert len((await slow.answer()).body) == 8 << 20


async def test_pipelined_answers_do_not_pile_up(rig: Rig) -> None:
    """A program that asks and never reads must not fill the memory, however often it asks."""
    sent = 0

    async def big(connection: Connection, _: Request) -> None:
        nonlocal sent
        await connection.send(ok(bytes(2 << 20)))
        sent += 2

    rig.at(b"/big", big)
    client = await rig.client()
    client.writer.transport.pause_reading()
    await client.send(rig.request(b"/big") * 40)
    await asyncio.sleep(0.4)
    assert sent < 24
    (connection,) = rig.plane._connections
    assert connection.transport is not None
    assert connection.transport.get_write_buffer_size() < 6 << 20
    client.writer.transport.resume_reading()
    for _ in range(40):
        assert len((await client.answer()).body) == 2 << 20


@pytest.mark.asyncio(loop_factories=["uvloop"])
async def test_ten_thousand_interleaved_requests_leave_nothing_behind(rig: Rig) -> None:
    """GETs, POSTs, payments, refusals and hang-ups, fifty programs at a time."""
    rig.at(b"/paid", sold(ok(b"goods")))
    rig.at(b"/402", demand(b"no"))
    rig.at(
        b"/chunks", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    )

    async def answering(purchase, challenge):  # type: ignore[no-untyped-def]
        if purchase.path == "/paid":
            return await rig.gate.buy(purchase, challenge)
        rig.gate.answering, kept = None, rig.gate.answering
        try:
            return await rig.gate.pay(purchase, challenge)
        finally:
            rig.gate.answering = kept

    rig.gate.answering = answering
    expected = {b"/paid": 200, b"/402": 402, b"/chunks": 200, b"/x": 200}

    async def program(number: int) -> None:
        client = await rig.client()
        for turn in range(200):
            path = (b"/x", b"/chunks", b"/paid", b"/402", b"/x")[(number + turn) % 5]
            post = turn % 3 == 0
            request = rig.request(path, method=b"POST" if post else b"GET", body=b"b" * 10 * post)
            await client.send(request)
            if (number + turn) % 100 == 99:
                client.reset() if turn % 2 else client.close()
                client = await rig.client()
                continue
            answer = await client.answer()
            assert answer.status == expected[path]
        client.close()

    await asyncio.gather(*(program(number) for number in range(50)))
    await until(lambda: not rig.plane._connections)
    await until(lambda: not rig.plane._tasks)
    assert len(rig.provider.requests) > 10_000
    assert rig.provider.open <= pool.PER_ORIGIN
    rig.gate.purchases.clear()
    gc.collect()
    kinds = {"Downstream", "Call", "Relay", "Collector", "Body", "Keeper", "Answer"}
    found = [type(thing) for thing in gc.get_objects() if type(thing).__name__ in kinds]
    left = [kind.__name__ for kind in found if str(kind.__module__).startswith("proxy.wire.")]
    assert len(left) < 20, left


async def test_closing_down_lets_requests_finish() -> None:
    async with rig(Limits()) as it:
        going = asyncio.Event()

        async def slow(connection: Connection, request: Request) -> None:
            going.set()
            await asyncio.sleep(0.2)
            await connection.send(ok(b"late"))

        it.at(b"/slow", slow)
        client: Client = await it.client()
        await client.send(it.request(b"/slow"))
        await going.wait()
        answer, _ = await asyncio.gather(client.answer(), it.plane.close(grace=2))
        assert answer.body == b"late"
