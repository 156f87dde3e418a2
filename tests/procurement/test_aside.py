"""A call of our own: collected, bounded, and paid for like every other."""

import asyncio
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from proxy.ledger import Agent
from proxy.localnet import Localnet
from proxy.wire.aside import Cut, Onward, Request, _Aside, fetch
from proxy.wire.gate import Errand, Whole
from proxy.wire.problem import Problem
from proxy.wire.routes import origin_of
from tests.e2e.conftest import home
from tests.e2e.house import House, until
from tests.e2e.seller import Seen
from tests.procurement.market import asks, market, settles_late
from tests.providers.faulty import GOODS, JSON, faulty, good, hangs, resets, settles, stalls

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


# --- given up


@pytest.mark.parametrize(
    ("body", "kind", "head"),
    [(GOODS, b"text/event-stream", False), (b"x" * 900_000, JSON, True)],
    ids=["stream", "long"],
)
async def test_what_is_late_does_not_get_into_the_next_ones_answer(
    net: Localnet, dsn: str, tmp_path: Path, body: bytes, kind: bytes, head: bool
) -> None:
    """It is paid for, so it is read on; and its end is in the books."""
    late, then = asyncio.Event(), asyncio.Event()

    async def waits(seen: Seen, writer: asyncio.StreamWriter) -> None:
        await then.wait()
        await good()(seen, writer)

    acts = {"late": asks(net, settles_late(late, body, kind, head=head)), "next": waits}
    async with market(net, dsn, tmp_path, acts, intent={"seconds": 6}) as quotes:
        procurement = quotes.home.service.procurement
        procurement.intents = {"quote": replace(procurement.intents["quote"], collected=460_000)}
        asking = asyncio.create_task(quotes.want())
        await until(lambda: bool(quotes.sellers["next"].seen))
        late.set()
        async with asyncio.timeout(5.5):
            while not [row for row in await quotes.rows() if row["payment_id"] is not None]:
                await asyncio.sleep(0.02)
        then.set()
        answer = await asking
        assert (answer.status, answer.body) == (200, GOODS)
        assert answer.headers["Autopay-Candidate"] == "next"


async def test_what_comes_in_the_tick_of_its_deadline_is_late() -> None:
    loop = asyncio.get_running_loop()
    said: list[str] = []
    reply = SimpleNamespace(head=lambda *_, **__: said.append("a head"), data=said.append)
    onward = Onward(cast(Any, SimpleNamespace(reply=reply)), cast(Any, None), lambda *_: [])
    aside = _Aside(loop, 10, onward, head_only=False)

    async def wait() -> None:
        async with asyncio.timeout(60) as aside.patience:
            await aside.fetched

    def comes() -> None:
        try:
            lines = [b"Content-Type: text/event-stream"]
            aside.head(200, b"OK", lines, has_body=True, length_known=False)
        except RuntimeError as error:
            said.append(str(error))

    waiting = asyncio.create_task(wait())
    await asyncio.sleep(0)
    assert aside.patience is not None
    aside.patience.reschedule(loop.time())
    loop.call_soon(comes)  # behind the timer, before it wakes up who waits
    with pytest.raises(TimeoutError):
        await waiting
    assert not said


async def test_only_a_silent_provider_is_blamed(net: Localnet, dsn: str, tmp_path: Path) -> None:
    """Not one that takes its time, one that waits for us, or one that only an agent asked for."""
    acts = {"long": stalls(), "priced": asks(net, settles()), "mute": hangs()}
    async with market(
        net, dsn, tmp_path, acts, intent={"seconds": 0.4}, breaker={"failures": 1}
    ) as quotes:
        service = quotes.home.service
        procurement, pay = service.procurement, service.procurement._plane.gate.pay

        async def slowly(*of: Any) -> Any:
            await asyncio.sleep(1)
            return await pay(*of)

        procurement._plane.gate.pay = slowly  # type: ignore[method-assign, assignment]
        trusted = procurement.intents["quote"]
        for intent, blamed in ((replace(trusted, trusted=False), []), (trusted, ["mute"])):
            procurement.intents = {"quote": intent}
            answer = await quotes.want()
            assert [one["status"] for one in answer.json["attempts"]] == [200, 599, 599]
            alone = service.providers.left_alone
            assert [n for n, one in quotes.sellers.items() if alone(one.url)] == blamed
