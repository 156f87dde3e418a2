"""A program that goes away in the middle of an answer and asks again at another proxy, before the
rest is here; and a fault of ours in mid-answer."""

import asyncio
from pathlib import Path

import aiohttp
import pytest

from proxy.localnet import Localnet
from proxy.wire.delivering import Delivering
from tests.e2e.house import House, house
from tests.e2e.seller import Seller
from tests.e2e.test_idempotency import another
from tests.e2e.test_outliving import leave, recorded, streaming
from tests.e2e.test_two_proxies import two_proxies
from tests.e2e.till import Till, till

PROMISED = "SELECT 1 FROM kept_answers WHERE sealed IS NULL"


class Halves:
    """A seller that keeps the second half of its answers back until `go_on`."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()
        self.sent = 0

    async def __call__(self, writer: asyncio.StreamWriter, answer: bytes) -> None:
        self.sent += 1
        writer.write(answer[:1000])
        await self.go_on.wait()
        writer.write(answer[1000:])


async def promised(home: House) -> None:
    async with asyncio.timeout(20):
        while not await home.rows(PROMISED):
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("first", ["ours", "the other"])
async def test_it_gets_the_rest_wherever_it_asks(
    net: Localnet, dsn: str, tmp_path: Path, first: str, reset: bool
) -> None:
    halves, goods = Halves(), b"a" * 50_000
    async with (
        house(net, dsn, tmp_path) as home,
        another(home, tmp_path) as (_, other),
        streaming(Till(net, goods=goods), halves) as url,
    ):
        by, then = (home.proxy, other) if first == "ours" else (other, home.proxy)
        await leave(home, url, b"aaa", reset=reset, by=by)
        await promised(home)
        again = asyncio.create_task(home.ask(url, proxy=then))
        await asyncio.sleep(0.3)
        assert not again.done()
        halves.go_on.set()
        answer = await again
        assert (answer.status, answer.headers["Autopay-Replayed"]) == (200, "true")
        assert answer.body.startswith(goods)
        assert (halves.sent, home.paid_on_chain()) == (1, 1000)
        assert await home.rows(PROMISED) == []


async def test_a_database_that_is_away_when_it_leaves(
    net: Localnet, dsn: str, tmp_path: Path
) -> None:
    """What is written after the outage says that there is more to come, too."""
    halves, arrived, head = Halves(), asyncio.Event(), asyncio.Event()

    async def scene(writer: asyncio.StreamWriter, answer: bytes) -> None:
        arrived.set()
        await head.wait()
        await halves(writer, answer)

    async with (
        two_proxies(net, dsn, tmp_path) as two,
        streaming(Till(net, goods=b"a" * 50_000), scene) as url,
    ):
        home = two.home
        program = asyncio.create_task(leave(home, url, b"aaa", by=two.other))
        await asyncio.wait_for(arrived.wait(), 20)
        two.relay.stall()
        head.set()
        await program
        await asyncio.sleep(0.3)
        assert await home.rows("SELECT 1 FROM kept_answers") == []
        two.relay.mend()
        async with asyncio.timeout(30):
            while not await home.rows("SELECT 1 FROM payments WHERE status = 'CONFIRMED'"):
                await asyncio.sleep(0.02)
        again = await home.ask(url)
        assert (again.status, again.json["code"]) == (409, "request_in_progress")
        halves.go_on.set()
        async with asyncio.timeout(30):
            while (again := await home.ask(url)).status == 409:
                await asyncio.sleep(0.1)
        assert (again.status, again.headers["Autopay-Replayed"]) == (200, "true")
        assert (halves.sent, home.paid_on_chain()) == (1, 1000)


async def test_it_waits_for_the_rest_only_so_long(net: Localnet, dsn: str, tmp_path: Path) -> None:
    halves = Halves()
    async with (
        house(net, dsn, tmp_path, paid={"wait": 0.3}) as home,
        another(home, tmp_path) as (_, other),
        streaming(Till(net, goods=b"a" * 50_000), halves) as url,
    ):
        await leave(home, url, b"aaa", by=other)
        await promised(home)
        late = await home.ask(url)
        assert (late.status, late.json["code"]) == (409, "request_in_progress")
        # Under a key of its own it is another request.
        halves.go_on.set()
        own = await home.ask(url, headers={"Idempotency-Key": "mine"})
        assert own.status == 200 and home.paid_on_chain() == 2000


async def test_what_its_process_took_with_it_is_not_waited_for(
    net: Localnet, dsn: str, tmp_path: Path
) -> None:
    halves = Halves()
    async with (
        house(net, dsn, tmp_path) as home,
        streaming(Till(net, goods=b"a" * 50_000), halves) as url,
    ):
        async with another(home, tmp_path) as (process, other):
            await leave(home, url, b"aaa", by=other)
            await promised(home)
            process.kill()
            await process.wait()
        halves.go_on.set()
        async with asyncio.timeout(20):  # less than paid.wait
            answer = await home.ask(url)
        assert answer.status == 200 and "Autopay-Replayed" not in answer.headers
        assert home.paid_on_chain() == 2000


async def test_a_fault_of_ours_is_on_record_and_holds_up_nobody(
    home: House, net: Localnet, seller: Seller, monkeypatch: pytest.MonkeyPatch
) -> None:
    till(net, seller)

    def fails(_: Delivering, __: float) -> None:
        raise RuntimeError("a fault of ours")

    with monkeypatch.context() as broken:
        broken.setattr(Delivering, "_verdict", fails)
        with pytest.raises(aiohttp.ClientError):
            await home.ask(seller.url)
    row = await recorded(home)
    assert row["error"] == "autopay failed in the middle of it (see its log)"
    assert row["size_bytes"] > 0
    async with asyncio.timeout(10):  # less than paid.wait
        assert (await home.ask(seller.url)).status == 200
