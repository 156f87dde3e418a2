"""A call of our own: collected, bounded, and paid for like every other."""

import asyncio
from typing import Any

from proxy.ledger import Agent
from proxy.localnet import Localnet
from proxy.wire.aside import Cut, Request, fetch
from proxy.wire.gate import Errand, Whole
from proxy.wire.problem import Problem
from proxy.wire.routes import origin_of
from tests.e2e.conftest import home
from tests.e2e.house import House, until
from tests.procurement.market import asks
from tests.providers.faulty import GOODS, faulty, good, hangs, resets, settles

__all__ = ["home"]


async def fetched(home: House, url: str, **options: Any) -> Any:
    """(what came, the tab)"""
    agent = home.service.directory.by_token(home.token)
    assert isinstance(agent, Agent)
    errand = Errand("quote", 1, options.pop("ceiling", None))
    request = Request(options.pop("method", "GET"), origin_of(url), b"/", **options.pop("how", {}))
    plane = home.service.procurement._plane
    bounds = {"limit": 1000, "seconds": 15.0, **options}
    return await fetch(plane, agent, request, errand, **bounds), errand.tab


async def test_what_comes_of_it(home: House, net: Localnet) -> None:
    async with faulty(good()) as seller:
        whole, tab = await fetched(home, seller.url)
        assert isinstance(whole, Whole)
        assert (whole.status, whole.body, whole.ours, tab.price) == (200, GOODS, [], 0)
        assert (b"Content-Type", b"application/json") in whole.headers
        whole, _ = await fetched(home, seller.url, method="HEAD")
        assert isinstance(whole, Whole) and whole.status == 200
        seller.act = asks(net, settles())
        whole, tab = await fetched(home, seller.url)
        assert isinstance(whole, Whole)
        assert (b"Autopay-State", b"paid") in whole.ours
        assert (tab.price, tab.paid) == (1_000, True)
        row = await home.row(
            "SELECT id, intent FROM payments p JOIN LATERAL (SELECT intent FROM"
            " x402_procurement_receipts r WHERE r.payment_id = p.id) r ON true"
        )
        assert (row["id"], row["intent"]) == (tab.payment_id, "quote")
        problem, tab = await fetched(home, seller.url, ceiling=999)
        assert isinstance(problem, Problem)
        assert (problem.code, tab.price) == ("over_intent_cap", 0)
        assert len(seller.payments) == 1


async def test_bounds(home: House, net: Localnet) -> None:
    async with faulty(good(b"x" * 5_000)) as seller:
        cut, _ = await fetched(home, seller.url)
        assert isinstance(cut, Cut) and cut.large
        assert (cut.status, cut.body) == (200, b"x" * 1000)
        seller.act = resets()
        cut, _ = await fetched(home, seller.url)
        assert isinstance(cut, Cut) and (cut.large, cut.late) == (False, False)
        seller.act = hangs()
        cut, _ = await fetched(home, seller.url, seconds=0.2)
        assert isinstance(cut, Cut) and (cut.late, cut.status) == (True, 0)


async def test_a_payment_that_left_is_on_the_tab(home: House, net: Localnet) -> None:
    async with faulty(asks(net, hangs())) as seller:
        asking = asyncio.create_task(fetched(home, seller.url, seconds=1.0))
        await until(lambda: bool(seller.payments))
        cut, tab = await asking
        assert isinstance(cut, Cut) and cut.late
        assert (tab.price, tab.paid) == (1_000, False)
        assert await home.counters() == (0, 1_000)
        seller.act = good()


async def test_refusals_are_problems(home: House) -> None:
    problem, _ = await fetched(home, "http://127.0.0.1:1")
    assert isinstance(problem, Problem) and problem.code == "upstream_unreachable"
    await home.set_policy(allowed_targets=())
    problem, _ = await fetched(home, "http://127.0.0.1:1")
    assert isinstance(problem, Problem) and problem.code == "egress_loopback"
