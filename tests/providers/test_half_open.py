"""A provider that is tried again: by one call, whoever asks and at whichever proxy; and never with
money that is held."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from proxy.localnet import Localnet
from tests.campaign.database import Relay
from tests.e2e.house import Answer, House, house, until
from tests.e2e.seller import (
    HangUp,
    Seller,
    challenge,
    offer,
    pays_once,
    raises,
    reply,
    selling,
    settled,
    vanishing,
)
from tests.e2e.test_idempotency import another

BREAKER: dict[str, Any] = {"failures": 3, "successes": 1}
TABLE = "x402_procurement_provider_stats"


@pytest.fixture
async def seller() -> AsyncIterator[Seller]:
    async with selling() as seller:
        yield seller


@pytest.fixture
async def home(net: Localnet, dsn: str, tmp_path: Path) -> AsyncIterator[House]:
    async with house(net, dsn, tmp_path, breaker=BREAKER, retries={"attempts": 0}) as home:
        yield home


def priced(net: Localnet, then: Callable[[Any], bytes] = lambda _: settled()) -> Any:
    entry = offer(str(net.seller.pubkey()), str(net.fee_payer.pubkey()))
    return pays_once(challenge(entry), then)


async def half_open(home: House, seller: Seller, *proxies: str) -> None:
    """Its breaker was opened, and its time is over, as every proxy knows: either it was waited for,
    or made to be over."""
    seller.answer = lambda _: reply(500)
    for _ in range(3):
        assert (await home.ask(seller.url)).status == 500
    for proxy in proxies or (home.proxy,):
        async with asyncio.timeout(20):
            while (await home.ask(seller.url, proxy=proxy)).status != 503:
                await asyncio.sleep(0.02)
    if not proxies:
        await elapse(home)
    async with asyncio.timeout(20):
        while not await home.rows(f"SELECT 1 FROM {TABLE} WHERE circuit_open_until <= now()"):
            await asyncio.sleep(0.02)
    seller.seen.clear()


async def elapse(home: House) -> None:
    """The time of every open breaker is over, as the proxy knows."""
    async with asyncio.timeout(20):
        while not await home.rows(
            f"UPDATE {TABLE} SET circuit_open_until = now()"
            " WHERE circuit_open_until IS NOT NULL RETURNING id"
        ):
            await asyncio.sleep(0.02)
    providers = home.service.providers
    await until(lambda: all(one.seconds == 0 for one in providers.tripped()))


async def ask_all(home: House, seller: Seller, *proxies: str) -> list[Answer]:
    """A hundred calls, held where they arrive until all the others have an answer."""
    proxies = proxies or (home.proxy,)
    asking = [
        asyncio.create_task(home.ask(f"{seller.url}/{n}", proxy=proxies[n % len(proxies)]))
        for n in range(100)
    ]
    async with asyncio.timeout(60):
        while sum(task.done() for task in asking) < 99:
            await asyncio.sleep(0.01)
    for held in (seller.hold, seller.hold_all):
        if held is not None:
            held.set()
    return await asyncio.gather(*asking)


async def test_a_hundred_calls_one_probe(home: House, seller: Seller) -> None:
    await half_open(home, seller)
    seller.answer = lambda _: reply(200, body=b"well again")
    seller.hold_all = asyncio.Event()
    answers = await ask_all(home, seller)
    assert len(seller.seen) == 1
    assert sorted(answer.status for answer in answers) == [200] + [503] * 99
    refused = next(answer for answer in answers if answer.status == 503)
    assert refused.headers["Content-Type"] == "application/problem+json"
    assert refused.headers["Retry-After"] == "1"
    assert refused.json["last_error"] == "answered 500"
    assert refused.json["retry_at"].endswith("Z")
    assert (await home.ask(seller.url)).status == 200


async def test_a_hundred_calls_at_three_processes_one_probe(
    net: Localnet, dsn: str, tmp_path: Path, seller: Seller
) -> None:
    breaker = {**BREAKER, "open_seconds": 1}
    env = {f"AUTOPAY_BREAKER__{key.upper()}": str(value) for key, value in breaker.items()}
    async with AsyncExitStack() as stack:
        home = await stack.enter_async_context(house(net, dsn, tmp_path, breaker=breaker))
        urls = [home.proxy]
        for _ in range(2):
            _, url = await stack.enter_async_context(another(home, tmp_path, **env))
            urls.append(url)
        for what in ("free", "paid"):
            await half_open(home, seller, *urls)
            if what == "free":
                seller.answer = lambda _: reply(200)
                seller.hold_all = asyncio.Event()
            else:
                seller.answer, seller.hold = priced(net), asyncio.Event()
            answers = await ask_all(home, seller, *urls)
            assert len(seller.payments) == (what == "paid")
            assert len(seller.seen) == (1 if what == "free" else 2)
            assert sorted(answer.status for answer in answers) == [200] + [503] * 99
            seller.hold_all = seller.hold = None
            # Closed for all of them, in a moment.
            for url in urls:
                async with asyncio.timeout(20):
                    while (await home.ask(seller.url, proxy=url)).status == 503:
                        await asyncio.sleep(0.02)


async def test_a_probe_that_meets_a_402_pays_once_and_no_other_pays(
    home: House, seller: Seller, net: Localnet
) -> None:
    await half_open(home, seller)
    seller.answer, seller.hold = priced(net), asyncio.Event()
    answers = await ask_all(home, seller)
    assert len(seller.payments) == 1
    assert [seen.payment is None for seen in seller.seen] == [True, False], "unpaid first"
    assert sorted(answer.status for answer in answers) == [200] + [503] * 99
    await until(lambda: home.service.ledger.waiting == 0)
    assert await home.counters() == (1000, 0)
    rows = await home.rows("SELECT 1 FROM payments")
    assert len(rows) == 1


async def test_a_probe_that_is_not_paid_for_leaves_it_half_open(
    home: House, seller: Seller, net: Localnet
) -> None:
    await half_open(home, seller)
    seller.answer = priced(net)
    await home.set_policy(per_call_limit=1)
    for _ in range(3):
        assert (await home.ask(seller.url)).json["code"] == "over_per_call_limit"
    rows = await home.rows(f"SELECT circuit_open_until FROM {TABLE}")
    assert rows[0]["circuit_open_until"] is not None
    await home.set_policy()
    answer = await home.ask(seller.url)
    assert (answer.status, len(seller.payments)) == (200, 1)


async def test_a_paid_probe_that_fails_opens_it_and_pays_no_more(
    home: House, seller: Seller, net: Localnet
) -> None:
    await half_open(home, seller)
    seller.answer = priced(net, lambda _: settled(status=500))
    answer = await home.ask(seller.url)
    assert (answer.status, answer.headers["Autopay-State"]) == (500, "paid")
    for n in range(10):
        assert (await home.ask(f"{seller.url}/{n}")).json["code"] == "breaker_open"
    assert len(seller.payments) == 1
    await until(lambda: home.service.ledger.waiting == 0)
    assert await home.counters() == (1000, 0), "what it took is told as taken"


async def test_a_program_that_hangs_up_on_the_probe_leaves_it_to_the_next(
    home: House, seller: Seller
) -> None:
    await half_open(home, seller)
    seller.answer, seller.hold_all = lambda _: reply(200), asyncio.Event()
    task = asyncio.create_task(home.ask(seller.url))
    await until(lambda: len(seller.seen) == 1)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    seller.hold_all.set()
    async with asyncio.timeout(20):
        while (await home.ask(seller.url)).status != 200:
            await asyncio.sleep(0.02)


async def test_a_breaker_never_touches_held_money(
    home: House, seller: Seller, net: Localnet
) -> None:
    """Not when it opens on doubts, nor while a payment is under way, nor when it closes."""
    seller.answer = priced(net, raises(HangUp))
    for number in range(2):
        answer = await home.ask(f"{seller.url}/{number}")
        assert answer.json["code"] == "payment_in_doubt"
    seller.answer, seller.hold = priced(net), asyncio.Event()
    under_way = asyncio.create_task(home.ask(f"{seller.url}/slow"))
    await until(lambda: len(seller.payments) == 3)
    assert await home.counters() == (0, 3000)
    seller.answer = lambda seen: reply(500) if seen.payment is None else settled()
    assert (await home.ask(seller.url)).status == 500
    assert (await home.ask(seller.url)).json["code"] == "breaker_open"
    assert await home.counters() == (0, 3000)

    seller.hold.set()
    answer = await under_way
    assert (answer.status, answer.headers["Autopay-State"]) == (200, "paid")
    await until(lambda: home.service.ledger.waiting == 0)
    assert await home.counters() == (1000, 2000)
    assert (await home.ask(seller.url)).json["code"] == "breaker_open", "a late word of before"

    seller.answer = lambda _: reply(200)
    await elapse(home)
    assert (await home.ask(seller.url)).status == 200
    assert await home.counters() == (1000, 2000)
    rows = await home.rows("SELECT status::text AS status FROM payments")
    assert sorted(row["status"] for row in rows) == ["CONFIRMED", "SIGNED", "SIGNED"]


async def test_who_is_gone_when_the_money_comes_has_failed(home: House, net: Localnet) -> None:
    """And the money is back: not a byte of it left."""
    entry = offer(str(net.seller.pubkey()), str(net.fee_payer.pubkey()))
    url = await vanishing(challenge(entry))
    assert (await home.ask(url)).status == 502
    for _ in range(2):
        assert (await home.ask(url)).json["code"] == "upstream_unreachable"
    assert (await home.ask(url)).json["code"] == "breaker_open"
    assert await home.counters() == (0, 0)


async def test_each_provider_has_settings_of_its_own(
    net: Localnet, dsn: str, tmp_path: Path
) -> None:
    async with selling() as quick, selling() as never, selling() as usual:
        providers = {
            "quick": {"upstream": f"{quick.url}/v1", "breaker": {"failures": 1}},
            "again": {"upstream": f"{quick.url}/v2", "breaker": {"open_seconds": 60}},
            "plain": {"upstream": quick.url},
            "never": {"upstream": never.url, "breaker": {"enabled": False}},
        }
        for one in (quick, never, usual):
            one.answer = lambda _: reply(500)
        async with house(net, dsn, tmp_path, breaker=BREAKER, providers=providers) as home:
            for n in range(5):
                assert (await home.ask(usual.url)).status == (500 if n < 3 else 503)
                assert (await home.ask(never.url)).status == 500
            # By its mount as in forward mode, and whatever is not set as for all.
            mount = f"{home.mounts}/~{home.token}/quick"
            assert (await home.ask(mount, proxy=None)).status == 500
            for url, proxy in ((mount, None), (quick.url, home.proxy)):
                answer = await home.ask(url, proxy=proxy)
                assert answer.json["code"] == "breaker_open"
                assert 30 < int(answer.headers["Retry-After"]) <= 60
            answer = await home.ask(usual.url)
            assert 100 < int(answer.headers["Retry-After"]) <= 180


async def test_a_database_that_is_away_neither_fails_nor_delays_a_call(
    net: Localnet, dsn: str, tmp_path: Path, seller: Seller
) -> None:
    breaker = {**BREAKER, "open_seconds": 3}
    async with Relay(dsn) as relay, house(net, relay.dsn, tmp_path, breaker=breaker) as home:
        seller.answer, seller.hold = priced(net), asyncio.Event()
        paying = asyncio.create_task(home.ask(seller.url))
        await until(lambda: len(seller.payments) == 1)
        relay.stall()
        seller.answer = lambda seen: reply(500) if seen.payment is None else settled()
        for _ in range(3):
            assert (await home.ask(seller.url)).status == 500
        refusal = await home.ask(seller.url)
        assert refusal.json["code"] == "breaker_open"

        # A payment that was sent is answered, whatever the breaker has become.
        seller.hold.set()
        answer = await paying
        assert (answer.status, answer.body) == (200, b"goods")

        seller.answer = lambda _: reply(200, body=b"well again")
        slowest = 0.0
        async with asyncio.timeout(30):
            while True:
                began = time.perf_counter()
                answer = await home.ask(seller.url)
                slowest = max(slowest, time.perf_counter() - began)
                if answer.status == 200:
                    break
                await asyncio.sleep(0.1)
        assert slowest < 10, "the probe asks for a second; the others do not ask"
        relay.mend()
        await until(lambda: home.service.ledger.waiting == 0, 30)
        assert await home.counters() == (1000, 0)
