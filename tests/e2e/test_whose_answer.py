"""One agent that speaks for several people: what was bought with the credential of one is never
handed to another, nor is anything paid for twice by mistake."""

import asyncio
from pathlib import Path

import pytest

from proxy.localnet import Localnet
from tests.e2e.house import House, house, until
from tests.e2e.seller import Seller
from tests.e2e.test_outliving import kept
from tests.e2e.till import till

ANN = {"Authorization": "Bearer ann"}
BEN = {"Authorization": "Bearer ben"}
KEY = {"Idempotency-Key": "order-1"}


@pytest.mark.parametrize("name", ["Authorization", "Cookie", "X-Api-Key"])
async def test_what_a_program_hung_up_on_is_for_its_credential_only(
    home: House, net: Localnet, seller: Seller, name: str
) -> None:
    till(net, seller)
    seller.hold = asyncio.Event()
    ann, ben = {name: "ann"}, {name: "ben"}
    program = asyncio.create_task(home.ask(seller.url, headers=ann))
    await until(lambda: bool(seller.payments))
    program.cancel()
    await asyncio.gather(program, return_exceptions=True)
    seller.hold.set()
    await kept(home)
    for other in (ben, {}):
        refused = await home.ask(seller.url, headers=other)
        assert (refused.status, refused.json["code"]) == (409, "already_paid")
        assert "credential" in refused.json["detail"]
    assert home.paid_on_chain() == 1000
    answer = await home.ask(seller.url, headers=ann)
    assert (answer.status, answer.headers["Autopay-Replayed"]) == (200, "true")
    # What the refusal says to do next.
    own = await home.ask(seller.url, headers=ben | KEY)
    assert own.status == 200 and "Autopay-Replayed" not in own.headers
    assert own.body != answer.body
    assert home.paid_on_chain() == 2000


async def test_under_one_key_it_is_paid_once_and_shown_to_one(
    home: House, net: Localnet, seller: Seller
) -> None:
    till(net, seller)
    first = await home.ask(seller.url, headers=ANN | KEY)
    refused = await home.ask(seller.url, headers=BEN | KEY)
    assert (refused.status, refused.json["code"]) == (409, "already_paid")
    assert refused.json["payment"] == first.headers["Autopay-Payment"]
    assert (await home.ask(seller.url, headers=ANN | KEY)).body == first.body
    assert home.paid_on_chain() == 1000


async def test_a_shared_answer_is_shared_with_its_credential_only(
    net: Localnet, seller: Seller, dsn: str, tmp_path: Path
) -> None:
    till(net, seller)
    async with house(net, dsn, tmp_path) as home:
        await home.set_rules(None, "127.0.0.1", share_identical=True)
        seller.hold = asyncio.Event()
        asking = []
        people = [
            {"Authorization": f"Bearer {name}"} for name in ("eve", "kim", "lee", "max", "sue")
        ]
        for number, who in enumerate((ANN, ANN, BEN, *people)):
            asking.append(asyncio.create_task(home.ask(seller.url, headers=who)))
            await until(lambda asked=number: len(seller.seen) >= asked + 2)  # type: ignore[misc]
        seller.hold.set()
        first, second, bens, *others = await asyncio.gather(*asking)
        assert {answer.status for answer in (first, second, bens, *others)} == {200}
        assert len({answer.body for answer in (bens, *others)}) == 6
        assert first.body == second.body != bens.body
        assert "Autopay-Replayed" not in bens.headers
        assert home.paid_on_chain() == 7000
