"""A provider that fails is left alone, tried once, and taken back; all of it at the socket."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from proxy.localnet import Localnet
from tests.e2e.house import House, house, until
from tests.e2e.seller import Hang, HangUp, Seller, challenge, offer, pays_once, raises, reply


@pytest.fixture
async def home(net: Localnet, dsn: str, tmp_path: Path) -> Any:
    async with house(net, dsn, tmp_path, breaker={"failures": 3, "open_seconds": 1}) as home:
        yield home


async def open_it(home: House, seller: Seller) -> None:
    seller.answer = lambda _: reply(500, body=b"broken")
    for _ in range(3):
        assert (await home.ask(seller.url)).status == 500
    seller.seen.clear()


async def elapsed(home: House, seller: Seller) -> None:
    """Its time is over, by the database's clock and by the proxy's."""
    over = "SELECT 1 FROM x402_procurement_provider_stats WHERE circuit_open_until <= now()"
    async with asyncio.timeout(20):
        while not await home.rows(over):
            await asyncio.sleep(0.05)
    await until(lambda: home.service.providers.left_alone(seller.url) is None)


async def test_it_opens_answers_probes_once_and_closes(home: House, seller: Seller) -> None:
    await open_it(home, seller)
    answer = await home.ask(seller.url)
    assert (answer.status, answer.json["code"]) == (503, "breaker_open")
    assert 1 <= int(answer.headers["Retry-After"]) <= 2
    assert "500" in answer.json["last_error"]
    assert seller.seen == []

    await elapsed(home, seller)
    seller.answer = lambda _: reply(200, body=b"well again")
    seller.hold_all = asyncio.Event()
    asking = [asyncio.create_task(home.ask(seller.url)) for _ in range(20)]
    await until(lambda: len(seller.seen) == 1 and sum(task.done() for task in asking) == 19)
    seller.hold_all.set()
    statuses = [answer.status for answer in await asyncio.gather(*asking)]
    assert sorted(statuses) == [200] + [503] * 19
    assert (await home.ask(seller.url)).status == 200


async def test_a_failed_probe_opens_it_again(home: House, seller: Seller) -> None:
    await open_it(home, seller)
    await elapsed(home, seller)
    assert (await home.ask(seller.url)).status == 500
    assert (await home.ask(seller.url)).json["code"] == "breaker_open"


async def test_404_and_402_are_no_failures(home: House, seller: Seller) -> None:
    for status in (404, 402, 429):
        seller.answer = lambda _, status=status: reply(status)
        for _ in range(4):
            assert (await home.ask(seller.url)).status == status


@pytest.mark.parametrize("way", ["refused", "hung up"])
async def test_no_connection_and_no_answer_count(home: House, seller: Seller, way: str) -> None:
    url = "http://127.0.0.1:1/" if way == "refused" else seller.url
    seller.answer = raises(HangUp)
    for _ in range(3):
        answer = await home.ask(url)
        assert (answer.status, answer.json["code"]) == (502, "upstream_unreachable")
    assert (await home.ask(url)).json["code"] == "breaker_open"


async def test_broken_payments_count(home: House, net: Localnet, seller: Seller) -> None:
    entry = offer(str(net.seller.pubkey()), str(net.fee_payer.pubkey()))
    seller.answer = pays_once(challenge(entry), raises(HangUp))
    for number in range(3):
        answer = await home.ask(f"{seller.url}/{number}")
        assert (answer.status, answer.json["code"]) == (502, "payment_in_doubt")
    assert (await home.ask(seller.url)).json["code"] == "breaker_open"
    assert await home.counters() == (0, 3000)  # a breaker never touches held money


async def test_a_program_that_leaves_is_no_failure(home: House, seller: Seller) -> None:
    seller.answer = raises(Hang)
    for _ in range(5):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await home.ask(seller.url)
    seller.answer = lambda _: reply(200)
    assert (await home.ask(seller.url)).status == 200


async def test_it_is_remembered_with_its_numbers(
    home: House, net: Localnet, seller: Seller, dsn: str, tmp_path: Path
) -> None:
    seller.answer = lambda _: reply(200)
    await home.ask(seller.url)
    await open_it(home, seller)
    async with asyncio.timeout(20):
        while True:
            rows = await home.rows(
                "SELECT * FROM x402_procurement_provider_stats WHERE id = $1", seller.url
            )
            if rows and rows[0]["failures"] == 3:
                break
            await asyncio.sleep(0.05)
    assert (rows[0]["calls"], rows[0]["successes"], rows[0]["consecutive_failures"]) == (4, 1, 3)
    assert rows[0]["circuit_open_until"] is not None
    assert rows[0]["last_status"] == 500
