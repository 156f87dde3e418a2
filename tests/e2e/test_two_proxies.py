"""The same request without a key, at two proxies on one database: beside each other two purchases,
one after the other one. The balance on the chain is the judge."""

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from proxy.localnet import Localnet
from tests.campaign.database import Relay
from tests.e2e.house import House, house, until
from tests.e2e.seller import Seller
from tests.e2e.test_idempotency import another
from tests.e2e.till import till

PATIENCE = 20.0


@dataclass
class Two:
    home: House
    other: str
    """The URL of the other proxy."""
    relay: Relay
    """The other one's way to the database."""


@pytest.fixture
async def two(net: Localnet, dsn: str, tmp_path: Path) -> AsyncIterator[Two]:
    async with two_proxies(net, dsn, tmp_path) as two:
        yield two


@asynccontextmanager
async def two_proxies(net: Localnet, dsn: str, tmp_path: Path) -> AsyncIterator[Two]:
    async with house(net, dsn, tmp_path, paid={"wait": 0.5}) as home, Relay(dsn) as relay:
        env = {"AUTOPAY_DATABASE_URL": relay.dsn}
        async with another(home, tmp_path, **env) as (_, url):
            yield Two(home, url, relay)


async def asks_and_leaves(home: House, proxy: str, url: str, seller: Seller) -> None:
    """A program whose connection ends as soon as its payment has reached the seller."""
    where = urlsplit(proxy)
    before = len(seller.payments)
    _, writer = await asyncio.open_connection(where.hostname, where.port)
    credential = base64.b64encode(f"{home.agent}:{home.token}".encode()).decode()
    writer.write(
        f"GET {url} HTTP/1.1\r\nHost: x\r\nProxy-Authorization: Basic {credential}\r\n\r\n".encode()
    )
    await until(lambda: len(seller.payments) > before, PATIENCE)
    writer.close()


async def kept(home: House) -> None:
    async with asyncio.timeout(PATIENCE):
        while not await home.rows("SELECT 1 FROM kept_answers WHERE sealed IS NOT NULL"):
            await asyncio.sleep(0.02)


async def test_beside_each_other_each_pays_for_itself(
    two: Two, net: Localnet, seller: Seller
) -> None:
    till(net, seller)
    seller.hold = asyncio.Event()
    asking = []
    for number in range(8):
        proxy = two.other if number % 2 else two.home.proxy
        asking.append(asyncio.create_task(two.home.ask(seller.url, proxy=proxy)))
        await until(lambda sent=number: len(seller.payments) > sent, PATIENCE)  # type: ignore[misc]
    seller.hold.set()
    answers = await asyncio.gather(*asking)
    assert {answer.status for answer in answers} == {200}
    assert len({answer.body for answer in answers}) == 8
    assert two.home.paid_on_chain() == 8000
    assert (await two.home.ask(seller.url, proxy=two.other)).status == 200
    assert two.home.paid_on_chain() == 9000


@pytest.mark.parametrize("where", ["the same", "the other"])
async def test_who_hung_up_and_asks_again_is_not_paid_for_twice(
    two: Two, net: Localnet, seller: Seller, where: str
) -> None:
    home = two.home
    till(net, seller)
    seller.hold = asyncio.Event()
    await asks_and_leaves(
        home, home.proxy if where == "the same" else two.other, seller.url, seller
    )
    waits = await home.ask(seller.url)
    assert (waits.status, waits.json["code"]) == (409, "request_in_progress")
    assert len(seller.payments) == 1
    seller.hold.set()
    await kept(home)
    answer = await home.ask(seller.url)
    assert (answer.status, answer.headers["Autopay-Replayed"]) == (200, "true")
    assert len(seller.payments) == 1
    assert home.paid_on_chain() == 1000
    # It has its answer: the next one is a purchase of its own.
    assert (await home.ask(seller.url, headers={"X": "y"}, method="POST")).status == 200
    assert home.paid_on_chain() == 2000


async def test_a_doubt_that_is_not_on_disk_yet(two: Two, net: Localnet, seller: Seller) -> None:
    home = two.home
    till(net, seller, "ignore")
    seller.hold = asyncio.Event()
    asking = asyncio.create_task(home.ask(seller.url, proxy=two.other))
    await until(lambda: len(seller.payments) == 1, PATIENCE)
    two.relay.stall()
    seller.hold.set()
    lost = await asking  # it can't be written down, and the program is told all the same
    assert (lost.status, lost.json["code"]) == (502, "payment_in_doubt")
    row = await home.row("SELECT status::text AS status, in_doubt_since FROM payments")
    assert row == {"status": "SIGNED", "in_doubt_since": None}

    again = await home.ask(seller.url)
    assert (again.status, again.json["code"]) == (409, "request_in_progress")
    assert again.json["payment"] == lost.json["payment"]
    assert len(seller.payments) == 1

    two.relay.mend()
    answer: Any = None
    async with asyncio.timeout(PATIENCE):
        while answer is None or answer.status == 409:
            answer = await home.ask(seller.url)
    assert (answer.status, answer.headers["Autopay-Payment"]) == (200, lost.json["payment"])
    assert len(set(seller.payments)) == 1
    assert home.paid_on_chain() == 1000
