"""A paid answer that is to be kept: who has it in the end, and what it takes meanwhile."""

import asyncio

import pytest

from proxy.wire.gate import Keep, Paid, PaymentRequired, Purchase, Replayed, Reply, Whole
from proxy.wire.limits import Limits
from tests.wire.wire_rig import PAYMENT, Connection, Request, Rig, Scene, demand, ok, rig, until


def keeps(rig: Rig, *, most: int = 10_000, always: bool = False) -> list[tuple[Whole, bool]]:
    """From here on every 402 is paid, and what is kept is in the list."""
    kept: list[tuple[Whole, bool]] = []

    async def save(whole: Whole, reached: bool) -> None:
        kept.append((whole, reached))

    async def promise() -> None: ...

    async def buy(purchase: Purchase, _: PaymentRequired) -> Reply:
        answer = await purchase.attempt(PAYMENT)
        return Paid(answer, [], rig.gate.record, Keep(most, 5.0, always, promise, save))

    rig.gate.answering = buy
    return kept


def halves(first: bytes, rest: bytes, go_on: asyncio.Event) -> Scene:
    async def scene(connection: Connection, request: Request) -> None:
        if not request.all(PAYMENT[0]):
            await connection.send(demand())
            return
        await connection.send(ok(first + rest)[: -len(rest)])
        await go_on.wait()
        await connection.send(rest)

    return scene


@pytest.mark.parametrize("memory", [10_000, 500])
async def test_a_program_that_resets_in_mid_body(memory: int) -> None:
    """Kept whole, or, where there is no memory for a copy, not at all."""
    async with rig(Limits(keep_memory_bytes=memory)) as it:
        kept, go_on = keeps(it), asyncio.Event()
        it.at(b"/a", halves(b"a" * 600, b"b" * 600, go_on))
        client = await it.client()
        await client.send(it.request())
        await client.head()
        client.reset()
        await until(lambda: it.gate.purchases[0].gone)
        go_on.set()
        await until(lambda: it.gate.deliveries)
        (delivery,) = it.gate.deliveries
        await until(lambda: it.plane.copies.left == memory)
        if memory == 500:
            assert (kept, delivery.complete) == ([], False)
            return
        ((whole, reached),) = kept
        assert (whole.status, whole.body, reached) == (200, b"a" * 600 + b"b" * 600, False)
        assert delivery.complete
        assert delivery.error == "the program hung up; its answer is kept"


async def test_what_arrives_is_kept_only_where_it_always_is() -> None:
    async with rig() as it:
        kept = keeps(it)
        it.at(b"/a", halves(b"a", b"b", _set()))
        assert (await it.ask()).body == b"ab"
        assert kept == []
        kept = keeps(it, always=True)
        assert (await it.ask()).body == b"ab"
        ((whole, reached),) = kept
        assert (whole.body, reached) == (b"ab", True)
        kept = keeps(it, always=True, most=1)
        assert (await it.ask()).body == b"ab"
        assert kept == []
        await until(lambda: it.plane.copies.left == Limits().keep_memory_bytes)


async def test_a_program_that_leaves_while_its_receipt_is_written() -> None:
    """Everything but the last byte is on its way to a program that is not there any more."""
    async with rig() as it:
        kept, written = keeps(it), asyncio.Event()

        async def record(_: object) -> None:
            await written.wait()

        it.gate.record = record  # type: ignore[assignment, method-assign]
        kept = keeps(it)
        it.at(b"/a", halves(b"a", b"b", _set()))
        client = await it.client()
        await client.send(it.request())
        await client.head()
        client.reset()
        await until(lambda: it.gate.purchases[0].gone)
        written.set()
        await until(lambda: kept)
        ((whole, reached),) = kept
        assert (whole.body, reached) == (b"ab", False)


@pytest.mark.parametrize(
    ("method", "status", "body"),
    [(b"GET", 200, b"goods"), (b"GET", 200, b""), (b"HEAD", 200, b""), (b"GET", 204, b"")],
)
async def test_a_replay_is_framed_anew(method: bytes, status: int, body: bytes) -> None:
    fields = [(b"Transfer-Encoding", b"chunked"), (b"Set-Cookie", b"a=b"), (b"Autopay-State", b"x")]

    async def replays(_: Purchase, __: PaymentRequired) -> Reply:
        return Replayed(Whole(status, b"Fine", fields, (), body), [(b"Autopay-Replayed", b"true")])

    async with rig() as it:
        it.gate.answering = replays
        it.at(b"/a", demand())
        client = await it.client()
        for _ in range(2):  # the connection is as good as before
            await client.send(it.request(method=method))
            answer = await client.answer(head_only=method == b"HEAD")
            assert (answer.status, answer.body) == (status, body)
            assert answer.one(b"autopay-replayed") == b"true"
            assert answer.one(b"set-cookie") == b"a=b"
            assert answer.one(b"autopay-state") is None
            length = None if method == b"HEAD" or status == 204 else b"%d" % len(body)
            assert answer.one(b"content-length") == length
        for ticket in it.gate.tickets:
            ticket.neutral()


def _set() -> asyncio.Event:
    event = asyncio.Event()
    event.set()
    return event
