"""A 402, the gate's answer to it, and the one paid attempt."""

import asyncio
import hashlib
import json
import logging

import pytest
from wire_rig import (
    PAYMENT,
    RECEIPT,
    Connection,
    Request,
    Rig,
    demand,
    ok,
    provider,
    rig,
    sold,
    until,
)

from proxy.wire.gate import (
    Delivery,
    Lost,
    NotSent,
    Paid,
    PassThrough,
    PaymentRequired,
    Purchase,
    Reply,
)
from proxy.wire.limits import Limits
from proxy.wire.problem import Problem

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def paid_requests(it: Rig) -> list[Request]:
    return [request for request in it.provider.requests if request.all(PAYMENT[0])]


async def test_a_402_is_paid_and_the_paid_answer_delivered(rig: Rig) -> None:
    rig.at(b"/p", sold(ok(b"the goods", b"X-Y: z", b"Autopay-Payment: forged")))
    rig.gate.answering = rig.gate.buy
    answer = await rig.ask(b"/p?q", b"X-A: b")
    assert (answer.status, answer.body) == (200, b"the goods")
    assert answer.all(RECEIPT[0]) == [RECEIPT[1]]
    assert answer.one(b"x-y") == b"z"
    first, second = rig.provider.requests
    assert second.headers == [*first.headers, PAYMENT]
    assert second.line == first.line == b"GET /p?q HTTP/1.1"
    (delivery,) = rig.gate.deliveries
    assert delivery.sha256 == hashlib.sha256(b"the goods").hexdigest()
    assert (delivery.status, delivery.size, delivery.complete) == (200, 9, True)
    assert delivery.error is None
    assert 0 <= delivery.first_byte_ms <= delivery.total_ms < 1000
    assert rig.gate.challenges[0].body == b'{"x402Version":1}'
    assert rig.provider.connections == 1  # the connection that brought the 402 brings the payment


async def test_a_402_that_is_not_paid_comes_as_it_is(rig: Rig) -> None:
    rig.at(b"/p", demand(b"pay me", b"PAYMENT-REQUIRED: e30=", b"WWW-Authenticate: X402"))
    client = await rig.client()
    for _ in range(2):
        await client.send(rig.request(b"/p"))
        answer = await client.answer()
        assert (answer.status, answer.body) == (402, b"pay me")
        assert answer.one(b"payment-required") == b"e30="
        assert answer.one(b"autopay-unpaid") == b"not_today"
    assert not paid_requests(rig)


async def test_a_refusal_of_ours(rig: Rig) -> None:
    async def answering(_: Purchase, __: PaymentRequired) -> Reply:
        return Problem(403, "over_daily_limit", "Spent.", {"limit": 5}, ((b"Retry-After", b"9"),))

    rig.at(b"/p", demand())
    rig.gate.answering = answering
    client = await rig.client()
    await client.send(rig.request(b"/p"))
    answer = await client.answer()
    assert (answer.status, answer.one(b"retry-after")) == (403, b"9")
    assert answer.one(b"content-type") == b"application/problem+json"
    assert json.loads(answer.body)["limit"] == 5
    await client.send(rig.request(b"/a"))
    assert (await client.answer()).status == 200
    await client.send(rig.request(b"/p", method=b"HEAD"))
    assert (await client.answer(head_only=True)).status == 403
    assert await client.silent()


async def test_a_fault_of_the_gate_is_a_500(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    async def answering(purchase: Purchase, _: PaymentRequired) -> Reply:
        await purchase.attempt(PAYMENT)
        raise RuntimeError("a bug")

    rig.at(b"/p", sold(ok(bytes(1 << 20))))
    rig.gate.answering = answering
    with caplog.at_level(logging.CRITICAL):
        assert (await rig.ask(b"/p")).status == 500


async def test_a_second_402_is_an_answer_like_any_other(rig: Rig) -> None:
    async def answering(purchase: Purchase, _: PaymentRequired) -> Reply:
        answer = await purchase.attempt(PAYMENT)
        assert answer.status == 402
        assert await answer.read(5) == b"no mo"
        answer.close()
        return Problem(502, "payment_in_doubt", "Asked twice.")

    rig.at(b"/p", sold(demand(b"no more"), demand()))
    rig.gate.answering = answering
    assert (await rig.ask(b"/p")).status == 502
    assert len(rig.provider.requests) == 2
    with pytest.raises(AssertionError):
        await rig.gate.purchases[0].attempt(PAYMENT)


async def test_an_answer_that_nobody_reads_is_dropped(rig: Rig) -> None:
    async def answering(purchase: Purchase, _: PaymentRequired) -> Reply:
        await purchase.attempt(PAYMENT)
        return PassThrough()

    rig.at(b"/p", sold(ok(bytes(5 << 20))))
    rig.gate.answering = answering
    assert (await rig.ask(b"/p")).status == 402
    await until(lambda: not rig.provider.open)


async def test_read_does_not_fail_when_the_body_breaks_off(rig: Rig) -> None:
    async def answering(purchase: Purchase, _: PaymentRequired) -> Reply:
        answer = await purchase.attempt(PAYMENT)
        assert await answer.read(1000) == b"half"
        return Problem(502, "x", "y")

    async def half(connection: Connection, _: Request) -> None:
        await connection.send(b"HTTP/1.1 500 No\r\nContent-Length: 9\r\n\r\nhalf")
        connection.close()

    rig.at(b"/p", sold(half))
    rig.gate.answering = answering
    assert (await rig.ask(b"/p")).status == 502


@pytest.mark.parametrize("how", ["down", "close", "reset", "garbage", "slow"])
async def test_not_sent_and_lost(quick_watch: None, how: str) -> None:
    """No byte written: NotSent. Anything else that leaves no answer: Lost."""
    caught: list[Exception] = []

    async def shop(connection: Connection, request: Request) -> None:
        if not request.all(PAYMENT[0]):
            head, _, body = demand().partition(b"\r\n\r\n")
            await connection.send(head + b"\r\nConnection: close\r\n\r\n" + body)
            connection.close()
        elif how == "close":
            connection.close()
        elif how == "reset":
            connection.reset()
        elif how == "garbage":
            await connection.send(b"garbage\r\n\r\n")

    async with rig(Limits(paid_response=0.15)) as it:

        async def answering(purchase: Purchase, _: PaymentRequired) -> Reply:
            if how == "down":
                it.provider.server.close()
            try:
                await purchase.attempt(PAYMENT)
            except (NotSent, Lost) as error:
                caught.append(error)
            return Problem(502, "payment_in_doubt", "Gone.")

        it.at(b"/p", shop)
        it.gate.answering = answering
        assert (await it.ask(b"/p")).status == 502
    assert [type(error) for error in caught] == [NotSent if how == "down" else Lost]
    assert str(caught[0])


@pytest.mark.parametrize(
    "answer",
    [
        ok(b"x" * 100),
        ok(b""),
        CHUNKED + b"3\r\nabc\r\n0\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 500 Sorry\r\nContent-Length: 2\r\n\r\nno",
    ],
)
async def test_the_last_byte_waits_for_the_record(rig: Rig, answer: bytes) -> None:
    recorded = asyncio.Event()

    async def finish(_: Delivery) -> None:
        await recorded.wait()

    async def answering(purchase: Purchase, _: PaymentRequired) -> Reply:
        return Paid(await purchase.attempt(PAYMENT), [RECEIPT], finish)

    rig.at(b"/p", sold(answer))
    rig.gate.answering = answering
    client = await rig.client()
    await client.send(rig.request(b"/p"))
    task = asyncio.create_task(client.answer())
    await asyncio.sleep(0.1)
    assert not task.done()
    recorded.set()
    assert (await task).all(RECEIPT[0])


async def test_the_wait_for_the_record_is_bounded() -> None:
    done = asyncio.Event()

    async def finish(_: Delivery) -> None:
        await asyncio.sleep(0.3)
        done.set()

    async def answering(purchase: Purchase, _: PaymentRequired) -> Reply:
        return Paid(await purchase.attempt(PAYMENT), [RECEIPT], finish)

    async with rig(Limits(receipt_wait=0.05)) as it:
        it.at(b"/p", sold(ok(b"abc")))
        it.gate.answering = answering
        assert (await it.ask(b"/p")).body == b"abc"
        assert not done.is_set()
    assert done.is_set()  # and it was not cancelled


async def test_a_record_that_fails_does_not_take_the_answer(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    async def finish(_: Delivery) -> None:
        raise RuntimeError("the database is gone")

    async def answering(purchase: Purchase, _: PaymentRequired) -> Reply:
        return Paid(await purchase.attempt(PAYMENT), [RECEIPT], finish)

    rig.at(b"/p", sold(ok(b"abc")))
    rig.gate.answering = answering
    with caplog.at_level(logging.CRITICAL):
        assert (await rig.ask(b"/p")).body == b"abc"


async def test_paid_events_are_not_held_back(rig: Rig) -> None:
    going = asyncio.Event()

    async def events(connection: Connection, _: Request) -> None:
        await connection.send(CHUNKED + b"3\r\none\r\n")
        await going.wait()
        await connection.send(b"3\r\ntwo\r\n0\r\n\r\n")

    rig.at(b"/p", sold(events))
    rig.gate.answering = rig.gate.buy
    client = await rig.client()
    await client.send(rig.request(b"/p"))
    assert (await client.head()).status == 200
    assert await asyncio.wait_for(client.reader.readexactly(8), 1) == b"3\r\none\r\n"
    going.set()
    assert await client.reader.readexactly(13) == b"3\r\ntwo\r\n0\r\n\r\n"
    assert rig.gate.deliveries[0].sha256 == hashlib.sha256(b"onetwo").hexdigest()


async def test_a_paid_head_request(rig: Rig) -> None:
    async def shop(connection: Connection, request: Request) -> None:
        raw = ok(b"x" * 9) if request.all(PAYMENT[0]) else demand()
        await connection.send(raw.partition(b"\r\n\r\n")[0] + b"\r\n\r\n")

    rig.at(b"/p", shop)
    rig.gate.answering = rig.gate.buy
    client = await rig.client()
    await client.send(rig.request(b"/p", method=b"HEAD"))
    answer = await client.answer(head_only=True)
    assert (answer.status, answer.one(b"content-length")) == (200, b"9")
    assert rig.gate.deliveries[0].complete
    await client.send(rig.request(b"/a"))
    assert (await client.answer()).status == 200


async def test_a_paid_answer_that_breaks_off(rig: Rig) -> None:
    async def half(connection: Connection, _: Request) -> None:
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
        await asyncio.sleep(0.02)
        connection.close()

    rig.at(b"/p", sold(half))
    rig.gate.answering = rig.gate.buy
    client = await rig.client()
    await client.send(rig.request(b"/p"))
    got, end = await client.rest()
    assert (got[-4:], end) == (b"half", "reset")
    (delivery,) = rig.gate.deliveries
    assert (delivery.size, delivery.complete) == (4, False)
    assert delivery.error
    assert "closed the connection" in delivery.error


@pytest.mark.parametrize("how", ["reset", "close"])
async def test_a_program_that_went_before_the_payment_is_not_paid_for(rig: Rig, how: str) -> None:
    asked = asyncio.Event()
    outcome: list[str] = []

    async def answering(purchase: Purchase, _: PaymentRequired) -> Reply:
        asked.set()
        await until(lambda: purchase.gone)
        try:
            await purchase.attempt(PAYMENT)
        except NotSent:
            outcome.append("not sent")
        return PassThrough()

    rig.at(b"/p", sold(ok(b"x")))
    rig.gate.answering = answering
    client = await rig.client()
    await client.send(rig.request(b"/p"))
    await asked.wait()
    client.reset() if how == "reset" else client.close()
    await until(lambda: outcome)
    assert not paid_requests(rig)


async def test_a_program_that_goes_during_the_paid_attempt(rig: Rig) -> None:
    """The money has left: the answer is awaited, and written down."""
    arrived, going = asyncio.Event(), asyncio.Event()

    async def goods(connection: Connection, _: Request) -> None:
        arrived.set()
        await going.wait()
        await connection.send(ok(b"goods"))

    rig.at(b"/p", sold(goods))
    rig.gate.answering = rig.gate.buy
    client = await rig.client()
    await client.send(rig.request(b"/p", method=b"POST", body=b"abc"))
    await arrived.wait()
    client.reset()
    await until(lambda: rig.gate.purchases[0].gone)
    going.set()
    await until(lambda: rig.gate.deliveries)
    (delivery,) = rig.gate.deliveries
    assert (delivery.status, delivery.complete) == (200, False)
    assert delivery.error == "the program hung up"


async def test_a_program_that_goes_while_it_owes_the_body(rig: Rig) -> None:
    lost: list[str] = []

    async def shop(connection: Connection, request: Request) -> None:
        if request.all(PAYMENT[0]):
            await connection.read_body(request)
        else:
            await connection.send(demand())

    async def answering(purchase: Purchase, _: PaymentRequired) -> Reply:
        try:
            await purchase.attempt(PAYMENT)
        except Lost as error:
            lost.append(str(error))
        return PassThrough()

    rig.at(b"/p", shop)
    rig.gate.answering = answering
    client = await rig.client()
    await client.send(rig.request(b"/p", b"Content-Length: 10", method=b"POST") + b"abc")
    await until(lambda: paid_requests(rig))
    client.reset()
    await until(lambda: lost)
    assert lost == ["the program hung up"]


async def test_a_program_that_goes_while_the_answer_streams(rig: Rig) -> None:
    async def endless(connection: Connection, _: Request) -> None:
        await connection.send(CHUNKED)
        while True:
            await connection.send(b"5\r\nhello\r\n")
            await asyncio.sleep(0.001)

    rig.at(b"/p", sold(endless))
    rig.gate.answering = rig.gate.buy
    client = await rig.client()
    await client.send(rig.request(b"/p"))
    await client.head()
    client.reset()
    await until(lambda: rig.gate.deliveries)
    (delivery,) = rig.gate.deliveries
    assert not delivery.complete
    assert delivery.error == "the program hung up"
    await until(lambda: not rig.provider.open)


@pytest.mark.parametrize("paying", [False, True])
async def test_redirects_are_the_programs_business(rig: Rig, paying: bool) -> None:
    """No redirect is followed, and a payment goes to nobody but who asked for it."""
    async with provider() as other:
        moved = ok(b"", b"Location: " + other.url + b"/", status=b"307 Elsewhere")
        rig.at(b"/p", sold(moved) if paying else moved)
        rig.gate.answering = rig.gate.buy
        answer = await rig.ask(b"/p", method=b"POST", body=b"x")
        assert (answer.status, answer.one(b"location")) == (307, other.url + b"/")
        assert not other.connections
    assert len(paid_requests(rig)) == (1 if paying else 0)


@pytest.mark.parametrize("framing", ["length", "chunks"])
async def test_a_402_over_64_kib_is_decided_on_by_its_beginning(rig: Rig, framing: str) -> None:
    body = b"y" * 0x8000 * 40
    pieces = b"".join(b"8000\r\n" + b"y" * 0x8000 + b"\r\n" for _ in range(40))
    chunked = CHUNKED.replace(b"200 OK", b"402 Pay") + pieces + b"0\r\n\r\n"
    large = demand(body) if framing == "length" else chunked
    rig.at(b"/p", sold(ok(b"goods"), large))

    answer = await rig.ask(b"/p")
    assert (answer.status, answer.body) == (402, body)  # all of it, though not all was read first
    assert 64 * 1024 < len(rig.gate.challenges[-1].body) < 1024 * 1024

    rig.gate.answering = rig.gate.buy
    answer = await rig.ask(b"/p")
    assert (answer.status, answer.body) == (200, b"goods")


async def test_a_slow_402_is_decided_on_by_what_has_come() -> None:
    async def slow(connection: Connection, request: Request) -> None:
        if request.all(PAYMENT[0]):
            await connection.send(ok(b"goods"))
            return
        await connection.send(b"HTTP/1.1 402 Pay\r\nContent-Length: 6\r\n\r\nabc")
        await asyncio.sleep(0.3)
        await connection.send(b"def")

    async with rig(Limits(challenge=0.1)) as it:
        it.at(b"/p", slow)
        answer = await it.ask(b"/p")
        assert (answer.status, answer.body) == (402, b"abcdef")
        assert it.gate.challenges[-1].body == b"abc"
        it.gate.answering = it.gate.buy
        answer = await it.ask(b"/p")
        assert (answer.status, answer.body) == (200, b"goods")


async def test_a_402_that_breaks_off_is_a_502(rig: Rig) -> None:
    async def half(connection: Connection, _: Request) -> None:
        await connection.send(b"HTTP/1.1 402 Pay\r\nContent-Length: 6\r\n\r\nabc")
        connection.close()

    rig.at(b"/p", half)
    assert (await rig.ask(b"/p")).status == 502
    assert not rig.gate.purchases


async def test_pipelined_purchases_are_answered_in_order(rig: Rig) -> None:
    rig.at(b"/1", sold(ok(b"one")))
    rig.at(b"/2", sold(ok(b"two")))
    rig.gate.answering = rig.gate.buy
    client = await rig.client()
    await client.send(rig.request(b"/1") + rig.request(b"/a") + rig.request(b"/2"))
    assert [(await client.answer()).body for _ in range(3)] == [b"one", b"GET /a HTTP/1.1", b"two"]
    assert len(paid_requests(rig)) == 2


async def test_a_paid_interim_answer_passes(rig: Rig) -> None:
    rig.at(b"/p", sold(b"HTTP/1.1 103 Early\r\nLink: </a>\r\n\r\n" + ok(b"x")))
    rig.gate.answering = rig.gate.buy
    client = await rig.client()
    await client.send(rig.request(b"/p"))
    assert (await client.head()).status == 103
    assert (await client.answer()).body == b"x"


async def test_a_slow_reader_of_a_paid_answer_slows_the_provider(rig: Rig) -> None:
    sent = 0

    async def flood(connection: Connection, _: Request) -> None:
        nonlocal sent
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n")
        for _ in range(100):
            await connection.send(bytes(1_000_000))
            sent += 1_000_000

    rig.at(b"/p", sold(flood))
    rig.gate.answering = rig.gate.buy
    client = await rig.client()
    client.writer.transport.pause_reading()
    await client.send(rig.request(b"/p"))
    await asyncio.sleep(0.3)
    assert sent < 30_000_000
    client.reset()
    await until(lambda: rig.gate.deliveries)
    assert not rig.gate.deliveries[0].complete
