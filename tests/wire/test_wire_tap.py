"""Somebody looks on: copies, bounded, of what passed; and nothing of it is felt."""

import asyncio
from dataclasses import dataclass, field

import pytest
from wire_rig import PAYMENT, RECEIPT, Connection, Request, Rig, demand, ok, sold, until

from proxy.wire.gate import PaymentRequired, Purchase, Reply
from proxy.wire.problem import Problem
from proxy.wire.tap import Copy, Overheard, Stock, Tap

SIZE = 1_000_000


@dataclass
class Listener:
    """Wants to know everything."""

    request_bytes: int = 100
    answer_bytes: int = 100
    stock: Stock = field(default_factory=lambda: Stock(SIZE))
    heard: list[Overheard] = field(default_factory=list)
    fault: bool = False

    def tap(self, method: str, target: bytes) -> Tap:
        return Tap(self.request_bytes, self.answer_bytes, self.stock, self.done)

    def done(self, what: Overheard) -> None:
        self.heard.append(what)
        if self.fault:
            raise ValueError("of the listener's own")

    @property
    def one(self) -> Overheard:
        (what,) = self.heard
        return what


@pytest.fixture
def listener(rig: Rig) -> Listener:
    listener = Listener()
    rig.gate.tapping = listener.tap
    return listener


async def test_a_request_and_its_answer(rig: Rig, listener: Listener) -> None:
    rig.at(b"/a", ok(b"the answer", b"X-Y: z"))
    lines = (b"X-A: b", b"Autopay-Session: s", b"Autopay-Trace: t")
    answer = await rig.ask(b"/a?q=1", *lines, method=b"POST", body=b"the question")
    assert answer.body == b"the answer"
    what = listener.one
    assert (what.agent, what.method, what.path, what.mount) == (rig.gate.ann, "POST", "/a", None)
    assert what.origin.authority == rig.provider.authority
    assert (what.session, what.trace, what.status, what.complete) == ("s", "t", 200, True)
    assert what.request == Copy(b"the question", False)
    assert what.answer == Copy(b"the answer", False)
    assert (b"X-A", b"b") in what.request_headers
    assert (b"X-Y", b"z") in what.headers
    assert listener.stock.left == SIZE - what.size


async def test_a_mounts_and_several_on_a_connection(rig: Rig, listener: Listener) -> None:
    rig.at(b"/m", ok(b"x"))
    client = await rig.mounted()
    for _ in range(3):
        await client.send(
            b"GET /shop/m HTTP/1.1\r\nHost: h\r\nAutopay-Token: token-of-ann-7f3a\r\n\r\n"
        )
        await client.answer()
    assert [(what.mount, what.path) for what in listener.heard] == [("shop", "/m")] * 3


@pytest.mark.parametrize("pieces", [1, 7, 64])
async def test_an_answer_in_pieces(rig: Rig, listener: Listener, pieces: int) -> None:
    async def scene(connection: Connection, request: Request) -> None:
        await connection.read_body(request)
        connection.writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for at in range(0, 64, 64 // pieces):
            data = bytes(range(64))[at : at + 64 // pieces]
            connection.writer.write(b"%x\r\n%b\r\n" % (len(data), data))
            await connection.writer.drain()
            await asyncio.sleep(0)
        connection.writer.write(b"0\r\n\r\n")

    answer = await rig.ask(rig.at(b"/s", scene))
    assert answer.body == listener.one.answer.data[: len(answer.body)]
    assert listener.one.answer.truncated is (len(answer.body) > 64)


async def test_more_than_is_copied(rig: Rig, listener: Listener) -> None:
    rig.at(b"/a", ok(b"a" * 101))
    answer = await rig.ask(b"/a", method=b"POST", body=b"r" * 200_000)
    assert len(answer.body) == 101
    assert len(rig.seen.body) == 200_000
    assert listener.one.request == Copy(b"r" * 100, True)
    assert listener.one.answer == Copy(b"a" * 100, True)


async def test_exactly_as_much_as_is_copied(rig: Rig, listener: Listener) -> None:
    rig.at(b"/a", ok(b"a" * 100))
    await rig.ask(b"/a", method=b"POST", body=b"r" * 100)
    assert listener.one.request == Copy(b"r" * 100, False)
    assert listener.one.answer == Copy(b"a" * 100, False)


async def test_an_empty_stock(rig: Rig, listener: Listener) -> None:
    listener.stock.left = 3
    rig.at(b"/a", ok(b"answer"))
    assert (await rig.ask(b"/a", method=b"POST", body=b"re")).body == b"answer"
    assert listener.one.request == Copy(b"re", False)
    assert listener.one.answer == Copy(b"a", True)
    assert listener.stock.left == 0


async def test_a_paid_answer_with_its_receipt(rig: Rig, listener: Listener) -> None:
    rig.at(b"/p", sold(ok(b"the goods", b"Autopay-Payment: forged")))
    rig.gate.answering = rig.gate.buy
    answer = await rig.ask(b"/p", method=b"POST", body=b"the question")
    assert answer.body == b"the goods"
    assert rig.seen.all(PAYMENT[0])
    what = listener.one
    assert [value for name, value in what.headers if name == RECEIPT[0]] == [RECEIPT[1]]
    assert what.request == Copy(b"the question", False)  # though it was sent twice
    assert what.answer == Copy(b"the goods", False)


async def test_a_402_that_is_passed_on_and_a_refusal(rig: Rig, listener: Listener) -> None:
    rig.at(b"/p", demand(b"pay me"))
    await rig.ask(b"/p")
    assert (listener.one.status, listener.one.answer) == (402, Copy(b"pay me", False))

    async def answering(_: Purchase, __: PaymentRequired) -> Reply:
        return Problem(403, "over_daily_limit", "Spent.")

    rig.gate.answering = answering
    answer = await rig.ask(b"/p")
    assert (listener.heard[1].status, listener.heard[1].answer.data) == (403, answer.body[:100])


async def test_an_answer_that_breaks_off(rig: Rig, listener: Listener) -> None:
    async def scene(connection: Connection, request: Request) -> None:
        connection.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhalf")
        await connection.writer.drain()
        connection.writer.close()

    client = await rig.client()
    await client.send(rig.request(rig.at(b"/b", scene)))
    await client.rest()
    assert listener.one.answer == Copy(b"half", True)
    assert listener.one.complete is False


@pytest.mark.parametrize("paid", [False, True])
async def test_a_program_that_hangs_up(rig: Rig, listener: Listener, paid: bool) -> None:
    async def scene(connection: Connection, request: Request) -> None:
        if paid and not request.all(PAYMENT[0]):
            connection.writer.write(b"HTTP/1.1 402 Pay\r\nContent-Length: 2\r\n\r\n{}")
            return
        connection.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhalf")
        await connection.reader.read()

    rig.gate.answering = rig.gate.buy
    client = await rig.client()
    await client.send(rig.request(rig.at(b"/h", scene)))
    await client.reader.readuntil(b"half")
    client.reset()
    await until(lambda: listener.heard)
    assert listener.one.answer == Copy(b"half", True)
    assert listener.one.complete is False


async def test_a_request_that_was_not_read_whole(rig: Rig, listener: Listener) -> None:
    async def scene(connection: Connection, request: Request) -> None:
        connection.writer.write(ok(b"enough"))
        await connection.writer.drain()

    client = await rig.client()
    await client.send(
        rig.request(rig.at(b"/e", scene), b"Content-Length: 90", method=b"POST") + b"some"
    )
    await client.answer()
    await until(lambda: listener.heard)
    assert listener.one.request.truncated


async def test_a_listener_that_fails(
    rig: Rig, listener: Listener, caplog: pytest.LogCaptureFixture
) -> None:
    listener.fault = True
    rig.at(b"/a", ok(b"fine"))
    assert (await rig.ask(b"/a")).body == b"fine"
    assert "what passed by was not taken" in caplog.text

    def tapping(method: str, target: bytes) -> Tap:
        raise ValueError("of the listener's own")

    rig.gate.tapping = tapping
    assert (await rig.ask(b"/a")).body == b"fine"
    assert "nobody looks on" in caplog.text
    assert len(listener.heard) == 1
