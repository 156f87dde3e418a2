"""A connection for a paid request is tried for again, as long as no byte has left."""

import asyncio
import time
from itertools import pairwise

import pytest
from wire_rig import PAYMENT, Rig, demand, ok, rig, sold

from proxy.wire.dial import DialError
from proxy.wire.gate import NotSent, PaymentRequired, Purchase, Reply
from proxy.wire.problem import Problem
from proxy.wire.retrying import RetryRules


def failing(it: Rig, times: int, error: DialError | None = None) -> list[float]:
    """The pool's dialling fails `times` times from now on; when it was tried."""
    dial, tried = it.plane.pool.dial, []

    async def unlucky(*args, **kwargs):  # type: ignore[no-untyped-def]
        tried.append(time.monotonic())
        if len(tried) <= times:
            raise error or DialError("no connection: try 1 2 3")
        return await dial(*args, **kwargs)

    it.plane.pool.dial = unlucky  # type: ignore[method-assign]
    return tried


def buying(it: Rig, times: int, error: DialError | None = None) -> list[list[float]]:
    tried: list[list[float]] = []

    async def answering(purchase: Purchase, _: PaymentRequired) -> Reply:
        it.plane.pool._idle.clear()
        tried.append(failing(it, times, error))
        try:
            return it.gate.paid(await purchase.attempt(PAYMENT))
        except NotSent as error_:
            return Problem(502, "not_sent", str(error_))

    it.gate.answering = answering
    it.at(b"/p", sold(ok(b"goods")))
    return tried


@pytest.mark.parametrize("times", [0, 1, 2, 3])
async def test_it_connects_in_the_end(rig: Rig, times: int) -> None:
    buying(rig, times)
    assert (await rig.ask(b"/p")).body == b"goods"
    notes = rig.gate.retries
    assert [note.number for note in notes] == list(range(1, times + 1))
    assert [note.ok for note in notes] == [False] * (times - 1) + [True] * (times > 0)
    assert [bool(note.error) for note in notes] == [not note.ok for note in notes]
    assert [r.all(PAYMENT[0]) for r in rig.provider.requests] == [[], [PAYMENT[1]]]


async def test_three_times_and_no_more_each_later_than_the_one_before() -> None:
    async with rig() as it:
        it.plane.retries.usual = RetryRules(backoff=0.05)
        tried = buying(it, 9)
        answer = await it.ask(b"/p")
        assert (answer.status, b"no connection: try 1 2 3" in answer.body) == (502, True)
        (times,) = tried
        waits = [later - sooner for sooner, later in pairwise(times)]
        assert len(waits) == 3
        for wait, base, note in zip(waits, (0.05, 0.1, 0.2), it.gate.retries, strict=True):
            assert 0.8 * base <= note.delay_seconds <= 1.2 * base
            assert note.delay_seconds - 0.01 <= wait < note.delay_seconds + 0.1
            assert (note.ok, note.error) == (False, "no connection: try 1 2 3")
        assert [r.all(PAYMENT[0]) for r in it.provider.requests] == [[]]


@pytest.mark.parametrize(
    "rules",
    [RetryRules(attempts=0), RetryRules(total=0.0, backoff=0.01), RetryRules(budget=0.0, floor=0)],
    ids=["off", "no time left", "no budget"],
)
async def test_not_at_all(rules: RetryRules) -> None:
    async with rig(retries=rules) as it:
        tried = buying(it, 9)
        assert (await it.ask(b"/p")).status == 502
        assert len(tried[0]) == 1
        assert not it.gate.retries


async def test_what_will_be_the_same_is_not_tried_again(rig: Rig) -> None:
    tried = buying(rig, 9, DialError("its certificate is not valid", "tls_failed"))
    assert (await rig.ask(b"/p")).status == 502
    assert len(tried[0]) == 1


@pytest.mark.parametrize("how", ["half", "close", "reset"])
async def test_the_program_hangs_up_while_we_wait(how: str) -> None:
    ended = asyncio.Event()
    async with rig() as it:
        it.plane.retries.usual = RetryRules(backoff=30.0, total=100.0)
        it.at(b"/p", demand())
        said: list[str] = []

        async def answering(purchase: Purchase, _: PaymentRequired) -> Reply:
            it.plane.pool._idle.clear()
            failing(it, 9)
            began = time.monotonic()
            with pytest.raises(NotSent) as error:
                await purchase.attempt(PAYMENT)
            said.append(str(error.value))
            assert purchase.gone
            assert time.monotonic() - began < 1
            ended.set()
            return Problem(408, "program_hung_up", "Gone.")

        it.gate.answering = answering
        client = await it.client()
        await client.send(it.request(b"/p"))
        await asyncio.sleep(0.1)
        {"half": client.half_close, "close": client.close, "reset": client.reset}[how]()
        async with asyncio.timeout(2):
            await ended.wait()
        assert said == ["the program hung up"]
        assert not it.gate.retries


async def test_a_server_that_comes_back(rig: Rig) -> None:
    """Nothing made up: nobody listens, then somebody does."""

    async def answering(purchase: Purchase, _: PaymentRequired) -> Reply:
        assert rig.provider.server is not None
        rig.plane.pool.close()
        rig.provider.server.close()

        async def back() -> None:
            await asyncio.sleep(0.3)
            rig.provider.server = await asyncio.start_server(
                rig.provider.serve, "127.0.0.1", rig.provider.port, limit=1 << 20
            )

        returning = asyncio.create_task(back())
        paid = rig.gate.paid(await purchase.attempt(PAYMENT))
        await returning
        return paid

    rig.plane.retries.usual = RetryRules(backoff=0.1)
    rig.gate.answering = answering
    rig.at(b"/p", sold(ok(b"goods")))
    assert (await rig.ask(b"/p")).body == b"goods"
    assert rig.gate.retries[-1].ok
    assert "Connect call failed" in rig.gate.retries[0].error
    rig.provider.server.close()  # type: ignore[union-attr]
