"""`kill -9` at every named point of one payment: what is left is told by the chain."""

import asyncio
import os
from collections import Counter

import aiohttp
import pytest

from proxy.crashpoints import POINTS, SURE, armed
from tests.campaign.campaign import Site, built
from tests.campaign.database import Server
from tests.campaign.market import Till
from tests.campaign.programs import Order
from tests.campaign.replicas import Replica

# What a payment is right after the end, and when everything is proved. The provider is honest: what
# reaches it lands.
LEFT = {
    "reserve.before": (None, None),
    "tick.after": ("SIGNED", "FAILED"),
    "reserve.after": ("SIGNED", "FAILED"),
    "send.midway": ("SIGNED", "VERIFIED"),
    "answer.head": ("SIGNED", "VERIFIED"),
    "settle.after": ("CONFIRMED", "VERIFIED"),
}


async def ask(site: Site, point: str, replica: Replica | None = None) -> str:
    """One request, through the first replica or another. What the program heard."""
    replica = replica or site.replicas[0]
    buyer = site.programs.buyers[0]
    provider = site.market.providers[0]
    order = Order(point, True, buyer.name, f"{buyer.name}-s0", f"{buyer.name}-t0", provider, 1000)
    site.programs.orders[point] = order
    site.programs.asked[point] += 1
    proxy = f"http://{buyer.name}:{buyer.token}@127.0.0.1:{replica.port}"
    try:
        async with (
            aiohttp.ClientSession() as session,
            session.get(
                f"{provider}/{point}/1000", proxy=proxy, headers={"Idempotency-Key": point}
            ) as response,
        ):
            await response.read()
            return response.headers.get("Autopay-State", str(response.status))
    except aiohttp.ClientError as error:
        return type(error).__name__


async def statuses(site: Site) -> dict[str, str]:
    """By the request's name."""
    async with site.operator() as operator:
        rows = await operator.fetch("SELECT endpoint, status::text FROM payments")
    return {row["endpoint"].split("/")[-2]: row["status"] for row in rows}


@pytest.mark.timeout(180)
async def test_every_point_of_a_payment(machine: Server) -> None:
    async with built(1, server=machine) as site:
        await site.next_season()
        site.market.only(Till.honest)
        replica = site.replicas[0]
        for point, (left, _) in LEFT.items():
            replica.start(at=f"{point}:1")
            await replica.ready()
            await ask(site, point)
            await replica.ended()
            assert (await statuses(site)).get(point) == left, point
        assert replica.kills == Counter(LEFT.keys())
        await site.heal(patience=30)
        assert await statuses(site) == {name: end for name, (_, end) in LEFT.items() if end}
        verdict = await site.judged()
        assert verdict.kept, verdict
        assert (verdict.landed, verdict.recovered, verdict.taken_back) == (3, 2, 2)

        # Whoever asks again has each of them once, and not a second time.
        replica.start()
        await replica.ready()
        heard = {point: await ask(site, point) for point in LEFT}
        await site.heal(patience=30)
        verdict = await site.judged()
        assert verdict.kept, (verdict, heard)
        assert verdict.landed == len(LEFT), heard
        assert await site.complaints() == []


# Of a request that is asked again after its first payment came to nothing; and of one whose answer
# is to be kept.
LEFT_AGAIN = {
    "present.before": ({"SIGNED"}, "FAILED"),
    "present.noted": ({"CONFIRMED"}, "VERIFIED"),
    "keep.before": ({"SIGNED", "CONFIRMED"}, "VERIFIED"),  # it is booked beside that
    "keep.after": ({"SIGNED", "CONFIRMED"}, "VERIFIED"),
}


@pytest.mark.timeout(180)
async def test_every_point_of_the_same_request_again(machine: Server) -> None:
    async with built(1, server=machine) as site:
        await site.next_season()
        replica = site.replicas[0]
        names: dict[str, str] = {}
        for point, (left, _) in LEFT_AGAIN.items():
            replica.start(at=f"{point}:1")
            await replica.ready()
            for turn in range(
                9
            ):  # on a slow machine its blockhash is too old before it is asked again
                name = names[point] = f"{point}-{turn}"
                if point.startswith("present"):
                    site.market.only(Till.asks_again)
                    assert await ask(site, name) == "502"
                site.market.only(Till.honest)
                if await ask(site, name) != "409":
                    break
            async with asyncio.timeout(20):
                await replica.ended()
            assert (await statuses(site))[name] in left, point
        assert replica.kills == Counter(LEFT_AGAIN.keys())
        await site.heal(patience=30)
        ends = await statuses(site)
        assert {point: ends[names[point]] for point in LEFT_AGAIN} == {
            point: end for point, (_, end) in LEFT_AGAIN.items()
        }
        replica.start()
        await replica.ready()
        heard = {point: await ask(site, names[point]) for point in LEFT_AGAIN}
        # The first was not paid for before. What was lost with the process is not to be had any
        # more, and is not paid for again.
        assert heard["present.before"] == heard["keep.after"] == "paid"
        assert heard["keep.before"] == "409"
        assert heard["present.noted"] in ("409", "paid")  # it is kept beside that
        await site.heal(patience=30)
        verdict = await site.judged()
        assert verdict.kept, (verdict, heard)
        assert verdict.landed == len(LEFT_AGAIN)
        assert await site.complaints() == []


def test_unarmed_it_does_nothing() -> None:
    """Either variable alone is no order."""
    for environ in ({}, {"CRASHPOINT": "reserve.after:1"}, {"CRASHPOINT_ARMED": SURE}):
        for point in POINTS:
            armed(environ)(point)
    assert "CRASHPOINT" not in os.environ


def test_a_point_that_is_none() -> None:
    with pytest.raises(ValueError, match="nowhere"):
        armed({"CRASHPOINT": "nowhere:1", "CRASHPOINT_ARMED": SURE})
