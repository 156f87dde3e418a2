"""The lists, page by page, and what they do not tell."""

import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from proxy.admin import Role
from proxy.ledger import Database, agents, history
from proxy.localnet import Localnet
from tests.admin.desk import Desk
from tests.e2e.house import until
from tests.e2e.seller import HangUp, Seller, challenge, offer, pays_once, raises, settled

LISTS = ["/v1/decisions", "/v1/payments", "/v1/receipts", "/v1/agents"]


async def spend(desk: Desk, net: Localnet, seller: Seller) -> None:
    """Three paid, one denied, one in doubt."""
    pay_to, fee_payer = str(net.seller.pubkey()), str(net.fee_payer.pubkey())

    def asks(amount: int) -> bytes:
        return challenge(offer(pay_to, fee_payer, amount))

    seller.answer = pays_once(asks(1_000), lambda _: settled())
    for number in range(3):
        url = f"{seller.url}/{number}?token=hidden"
        assert (await desk.home.ask(url)).headers["Autopay-State"] == "paid"
    seller.answer = pays_once(asks(90_000), lambda _: settled())
    assert (await desk.home.ask(seller.url)).status == 403
    seller.answer = pays_once(asks(2_000), raises(HangUp))
    assert (await desk.home.ask(seller.url)).status == 502
    await until(lambda: desk.home.service.ledger.waiting == 0)


async def test_what_is_told(desk: Desk, net: Localnet, seller: Seller) -> None:
    await spend(desk, net, seller)

    decisions = await desk.items("/v1/decisions")
    assert [(one["decision"], one["reason"]) for one in decisions] == [
        ("allow", "ok"),
        ("deny", "over_per_call_limit"),
        *[("allow", "ok")] * 3,
    ]
    assert (decisions[1]["price_usd"], decisions[1]["limit_usd"]) == ("0.09", "0.05")
    assert decisions[1]["payment_id"] is None

    payments = await desk.items("/v1/payments")
    assert [(one["status"], one["in_doubt"]) for one in payments] == [
        ("SIGNED", True),
        *[("CONFIRMED", False)] * 3,
    ]
    assert (payments[0]["price_usd"], payments[0]["amount"]) == ("0.002", "2000")
    assert (payments[0]["doubt_reason"], payments[0]["provider"]) == ("answer_lost", seller.url)
    assert payments[0]["id"] == decisions[0]["payment_id"]
    at = datetime.fromisoformat(payments[0]["created_at"])
    assert at.tzinfo == UTC and payments[0]["created_at"].endswith("Z")

    receipts = await desk.items("/v1/receipts")
    assert [one["price_usd"] for one in receipts] == ["0.001"] * 3
    assert receipts[0]["endpoint"].startswith(f"{seller.url}/2")
    assert "hidden" not in str(decisions + payments + receipts)

    status = (await desk.ask("/v1/status", Role.READER)).json
    assert status["in_doubt"] == {"payments": 1, "held_usd": "0.002"}
    (today,) = [one for one in status["today"] if one["agent"] == "shopper"]
    assert (today["spent_usd"], today["held_usd"], today["paid_calls"]) == ("0.003", "0.002", 3)
    assert all(network["well"] for network in status["networks"].values())
    assert status["unwritten"] == 0


async def test_agents_without_what_is_secret(desk: Desk) -> None:
    answer = await desk.ask("/v1/agents", Role.READER)
    (shopper,) = [one for one in answer.json["items"] if one["agent"] == "shopper"]
    assert (shopper["active"], shopper["frozen"], shopper["daily_usd"]) == (True, False, "1.00")
    assert shopper["allowed_targets"] == ["127.0.0.0/8"]
    said = answer.body.decode()
    assert desk.home.token not in said and "token" not in said and "sha256" not in said


@pytest.mark.parametrize("path", LISTS)
async def test_page_by_page(desk: Desk, net: Localnet, seller: Seller, path: str) -> None:
    await spend(desk, net, seller)
    for number in range(3):
        await agents.add(desk.home.operator, desk.home.service.store.vault, f"extra-{number}")
    whole = await desk.items(path)
    assert len(whole) >= 3
    pages: list[dict[str, Any]] = []
    cursor, asked = "", 0
    while True:
        before = f"&before={cursor}" if cursor else ""
        page = (await desk.ask(f"{path}?limit=2{before}", Role.READER)).json
        assert 1 <= len(page["items"]) <= 2
        pages += page["items"]
        asked += 1
        if page["next"] is None:
            break
        cursor = page["next"]
    assert pages == whole  # none twice, none left out
    assert asked == -(-len(whole) // 2)
    moments = [one["created_at"] for one in whole]
    assert moments == sorted(moments, reverse=True)


async def test_of_one_agent(desk: Desk, net: Localnet, seller: Seller) -> None:
    await spend(desk, net, seller)
    for path in LISTS[:3]:
        assert await desk.items(f"{path}?agent=nobody") == []
        assert len(await desk.items(f"{path}?agent=shopper")) >= 3


class Overheard(Database):
    """Keeps what it was asked, and finds nothing."""

    def __init__(self) -> None:
        self.asked: tuple[str, tuple[object, ...]] = ("", ())

    async def fetch(self, sql: str, *args: object) -> list[Any]:
        self.asked = (sql, args)
        return []


@pytest.mark.parametrize("question", [history.decisions, history.payments, history.receipts])
async def test_a_page_is_found_by_an_index(dsn: str, question: Callable[..., Any]) -> None:
    """However long the books are: nothing is read but the page, wherever it is."""
    database = Overheard()
    await question(database, None, 50, (datetime.now(UTC), uuid4()))
    sql, args = database.asked
    connection = await asyncpg.connect(dsn)
    await connection.execute("SET enable_seqscan = off; SET enable_sort = off")
    plan = "\n".join(row[0] for row in await connection.fetch(f"EXPLAIN {sql}", *args))
    await connection.close()
    assert "Index Cond: ((created_at <= " in plan, plan
    assert not re.search(r"^\W*Sort ", plan, re.MULTILINE) or "Incremental Sort" in plan, plan
