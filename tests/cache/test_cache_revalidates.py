"""A stale answer whose provider says that it has not changed: for nothing, or for money."""

import asyncio
from typing import Any

import pytest

from tests.cache.stall import FRESH, PRICE, Stall, paid, state
from tests.e2e.house import House, until
from tests.e2e.seller import Seen, b64, reply

CHANGED = b"Wed, 01 Jan 2020 00:00:00 GMT"
STALE = [FRESH, (b"Age", b"60"), (b"ETag", b'"1"'), (b"Last-Modified", CHANGED), (b"X-Old", b"1")]


def asks_about(seen: Seen, tag: str = '"1"') -> bool:
    return seen.headers.get("if-none-match") == tag


def taken(headers: list[tuple[bytes, bytes]]) -> bytes:
    """A 304 for money."""
    receipt = {"success": True, "transaction": "", "network": "n", "payer": "p"}
    return reply(304, [(b"PAYMENT-RESPONSE", b64(receipt)), *headers])


async def test_not_modified_is_free_and_freshens(home: House, stall: Stall) -> None:
    stall.goods = lambda seen: paid(STALE)
    first = await home.ask(f"{stall.url}/a")
    new = [(b"Cache-Control", b"max-age=90"), (b"ETag", b'"1"'), (b"X-Old", b"2")]
    stall.free = lambda seen: reply(304, new) if asks_about(seen) else None
    again = await home.ask(f"{stall.url}/a")
    assert (state(again), again.body) == ((200, "cached"), b"goods")
    assert again.headers["Autopay-Payment"] == first.headers["Autopay-Payment"]
    assert again.headers["Autopay-Saved"] == "0.001 USDC"
    assert again.headers["Cache-Status"].startswith("autopay; fwd=stale; fwd-status=304; ttl=")
    assert again.headers.getall("X-Old") == ["2"]
    assert stall.asked[-1].headers["if-modified-since"] == CHANGED.decode()
    third = await home.ask(f"{stall.url}/a")
    assert third.headers["Cache-Status"].startswith("autopay; hit")
    assert (third.headers["X-Old"], len(stall.asked), stall.sold) == ("2", 3, 1)
    assert await home.counters() == (PRICE, 0)
    cache = home.service.cache
    assert cache is not None and cache.entries == 1


async def test_head_asks_about_the_whole_answer(home: House, stall: Stall) -> None:
    stall.goods = lambda seen: paid(STALE)
    await home.ask(f"{stall.url}/a")
    stall.free = lambda seen: reply(304, [FRESH]) if asks_about(seen) else None
    head = await home.ask(f"{stall.url}/a", "HEAD")
    assert (state(head), head.body) == ((200, "cached"), b"")
    assert state(await home.ask(f"{stall.url}/a")) == (200, "cached")
    assert stall.sold == 1


async def test_not_modified_for_money_is_told_as_paid(home: House, stall: Stall) -> None:
    stall.goods = lambda seen: paid(STALE)
    first = await home.ask(f"{stall.url}/a")
    stall.goods = lambda seen: taken([FRESH]) if asks_about(seen) else paid()
    again = await home.ask(f"{stall.url}/a")
    assert (state(again), again.body) == ((200, "paid"), b"goods")
    assert again.headers["Autopay-Payment"] != first.headers["Autopay-Payment"]
    assert "Autopay-Saved" not in again.headers
    assert home.service.counts.saved_micros.sums() == []
    third = await home.ask(f"{stall.url}/a")
    assert state(third) == (200, "cached")
    # The one that brought the bytes.
    assert third.headers["Autopay-Payment"] == first.headers["Autopay-Payment"]
    assert (stall.sold, await home.counters()) == (2, (2 * PRICE, 0))
    rows = await home.rows("SELECT status FROM x402_procurement_receipts ORDER BY created_at")
    assert [row["status"] for row in rows] == [200, 304]


@pytest.mark.parametrize("settings", [{"paid": {"keep_bytes": 5}}, {"paid": {"keep_bytes": 4}}])
async def test_not_modified_for_money_is_kept_as_what_it_stands_for(
    home: House, stall: Stall, settings: dict[str, Any]
) -> None:
    stall.goods = lambda seen: paid(STALE)
    await home.ask(f"{stall.url}/a")
    # It stays stale: nothing but what is kept of the payment can serve it.
    stall.goods = lambda seen: taken([(b"Cache-Control", b"max-age=0")])
    stall.seller.hold = asyncio.Event()
    program = asyncio.create_task(home.ask(f"{stall.url}/a"))
    await until(lambda: stall.sold == 2)
    program.cancel()
    await asyncio.gather(program, return_exceptions=True)
    stall.seller.hold.set()
    again = await home.ask(f"{stall.url}/a")
    assert (state(again), again.body) == ((200, "paid"), b"goods")
    if settings["paid"]["keep_bytes"] < len(b"goods"):  # too large to be kept: bought anew
        assert (stall.sold, again.headers.get("Autopay-Replayed")) == (3, None)
        return
    assert (stall.sold, again.headers.get("Autopay-Replayed")) == (2, "true")
    newest = await home.row("SELECT id FROM payments ORDER BY created_at DESC LIMIT 1")
    assert again.headers["Autopay-Payment"] == str(newest["id"])


async def test_not_modified_with_the_payment_in_doubt_says_so(home: House, stall: Stall) -> None:
    stall.goods = lambda seen: paid(STALE)
    await home.ask(f"{stall.url}/a")
    stall.goods = lambda seen: reply(304, [FRESH])
    again = await home.ask(f"{stall.url}/a")
    assert (state(again), again.body) == ((200, "in_doubt"), b"goods")
    assert await home.counters() == (PRICE, PRICE)
    third = await home.ask(f"{stall.url}/a")  # the same bytes once more, and no other
    assert (state(third), len(set(stall.seller.payments))) == ((200, "in_doubt"), 2)
    assert len(await home.rows("SELECT id FROM payments")) == 2


async def test_what_changed_takes_its_place(home: House, stall: Stall) -> None:
    stall.goods = lambda seen: paid(STALE, b"old")
    await home.ask(f"{stall.url}/a")
    stall.goods = lambda seen: paid([FRESH, (b"ETag", b'"2"')], b"new")
    for how in ("paid", "cached"):
        answer = await home.ask(f"{stall.url}/a")
        assert (state(answer), answer.body) == ((200, how), b"new")
    cache = home.service.cache
    assert cache is not None and cache.entries == 1


async def test_what_became_free_is_not_what_was_paid_for(home: House, stall: Stall) -> None:
    stall.goods = lambda seen: paid(STALE, b"old")
    await home.ask(f"{stall.url}/a")
    stall.free = lambda seen: reply(200, [FRESH], b"free")
    for _ in range(2):
        answer = await home.ask(f"{stall.url}/a")
        assert (state(answer), answer.body) == ((200, None), b"free")
    assert "if-none-match" not in stall.asked[-1].headers


async def test_a_failed_check_keeps_what_there_is(home: House, stall: Stall) -> None:
    stall.goods = lambda seen: paid(STALE)
    await home.ask(f"{stall.url}/a")
    stall.free = lambda seen: reply(503, [], b"later")
    assert (await home.ask(f"{stall.url}/a")).status == 503
    stall.free = lambda seen: reply(304, [FRESH]) if asks_about(seen) else None
    assert state(await home.ask(f"{stall.url}/a")) == (200, "cached")


async def test_a_304_about_another_answer_freshens_nothing(home: House, stall: Stall) -> None:
    stall.goods = lambda seen: paid(STALE)
    await home.ask(f"{stall.url}/a")
    stall.free = lambda seen: reply(304, [FRESH, (b"ETag", b'"9"')]) if asks_about(seen) else None
    assert state(await home.ask(f"{stall.url}/a")) == (200, "cached")
    assert state(await home.ask(f"{stall.url}/a")) == (200, "paid")


async def test_the_programs_own_condition_is_left_alone(home: House, stall: Stall) -> None:
    stall.goods = lambda seen: paid(STALE)
    await home.ask(f"{stall.url}/a")
    stall.free = lambda seen: reply(304, [FRESH]) if asks_about(seen, '"mine"') else None
    answer = await home.ask(f"{stall.url}/a", headers={"If-None-Match": '"mine"'})
    assert state(answer) == (304, None)
    assert "if-modified-since" not in stall.asked[-1].headers


@pytest.mark.parametrize("how", ["no-cache", "max-age=0"])
async def test_no_cache_asks_and_need_not_pay(home: House, stall: Stall, how: str) -> None:
    stall.goods = lambda seen: paid([FRESH, (b"ETag", b'"1"')])
    await home.ask(f"{stall.url}/a")
    stall.free = lambda seen: reply(304) if asks_about(seen) else None
    wanted: dict[str, Any] = {"headers": {"Cache-Control": how}}
    answer = await home.ask(f"{stall.url}/a", **wanted)
    assert (state(answer), answer.body) == ((200, "cached"), b"goods")
    assert "fwd=request; fwd-status=304" in answer.headers["Cache-Status"]
    assert (len(stall.asked), stall.sold) == (3, 1)
