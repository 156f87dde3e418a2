"""What became of wishes and of each attempt, and what was lost, as /metrics tells it."""

import asyncio
from pathlib import Path

import aiohttp

from proxy.localnet import Localnet
from tests.admin.desk import Desk
from tests.e2e.house import until
from tests.procurement.market import asks, market
from tests.providers.faulty import good, hangs, hangs_up, settles, status

EXECUTE = "/v1/procure/execute"


async def counted(desk: Desk) -> dict[str, dict[tuple[str, ...], float]]:
    """What is told of intents, by metric: values of its labels → number."""
    found: dict[str, dict[tuple[str, ...], float]] = {"wishes": {}, "attempts": {}, "lost": {}}
    for (name, *labels), number in (await desk.metrics()).items():
        for word, numbers in found.items():
            if name.startswith(f"autopay_intent_{word}"):
                numbers[tuple(labels)] = number
    return found


async def test_every_outcome_is_counted(net: Localnet, dsn: str, tmp_path: Path) -> None:
    acts = {"liar": asks(net, settles(500)), "honest": asks(net, settles())}
    async with market(net, dsn, tmp_path, acts) as quotes:
        desk, home = Desk(quotes.home), quotes.home
        assert await counted(desk) == {"wishes": {}, "attempts": {}, "lost": {}}
        assert (await quotes.want()).status == 200
        assert await counted(desk) == {
            "wishes": {("quote", "served"): 1},
            "attempts": {("quote", "lost"): 1, ("quote", "served"): 1},
            "lost": {("quote",): 1_000},
        }
        for seller in quotes.sellers.values():
            seller.act = status(503)
        assert (await quotes.want()).status == 502
        for seller in quotes.sellers.values():
            seller.act = asks(net, hangs_up())
        assert (await quotes.want()).status == 502
        denied = [f"{seller.url}/*" for seller in quotes.sellers.values()]
        await home.set_rules(home.agent, None, denied_endpoints=denied)
        assert (await quotes.want()).status == 503
        assert await counted(desk) == {
            "wishes": {("quote", "served"): 1, ("quote", "unserved"): 2, ("quote", "refused"): 1},
            "attempts": {
                ("quote", "lost"): 1,
                ("quote", "served"): 1,
                ("quote", "failed"): 2,
                ("quote", "in_doubt"): 2,
            },
            "lost": {("quote",): 1_000},
        }


async def test_the_same_key_counts_its_payments_once(
    net: Localnet, dsn: str, tmp_path: Path
) -> None:
    acts = {"liar": asks(net, settles(500)), "honest": asks(net, settles())}
    async with market(net, dsn, tmp_path, acts) as quotes:
        for _ in range(2):
            assert (await quotes.want(headers={"Idempotency-Key": "k"})).status == 200
        assert await counted(Desk(quotes.home)) == {
            "wishes": {("quote", "served"): 2},
            "attempts": {("quote", "lost"): 1, ("quote", "served"): 1},
            "lost": {("quote",): 1_000},
        }


async def test_intents_that_agents_make_have_no_name(
    net: Localnet, dsn: str, tmp_path: Path
) -> None:
    async with market(net, dsn, tmp_path, {"good": good()}) as quotes:
        desk, url = Desk(quotes.home), quotes.sellers["good"].url
        for number in range(3):
            wish = {"intent": f"mine-{number}", "candidates": [{"url": url}]}
            answer = await desk.ask(EXECUTE, quotes.home.token, "POST", json=wish)
            assert answer.status == 200, answer.body
        unknown = {"intent": "unheard-of"}
        assert (await desk.ask(EXECUTE, quotes.home.token, "POST", json=unknown)).status == 404
        assert await counted(desk) == {
            "wishes": {("", "served"): 3},
            "attempts": {("", "served"): 3},
            "lost": {},
        }


async def test_a_program_that_leaves(net: Localnet, dsn: str, tmp_path: Path) -> None:
    acts = {"liar": asks(net, settles(500)), "slow": hangs()}
    async with market(net, dsn, tmp_path, acts) as quotes:
        desk, home = Desk(quotes.home), quotes.home
        async with aiohttp.ClientSession() as program:
            bearer = {"Authorization": f"Bearer {home.token}"}
            wish = {"intent": "quote"}
            asking = asyncio.create_task(
                program.post(desk.url + EXECUTE, json=wish, headers=bearer)
            )
            await until(lambda: bool(quotes.sellers["slow"].seen))
            asking.cancel()
        async with asyncio.timeout(20):
            while not (found := await counted(desk))["wishes"]:
                await asyncio.sleep(0.05)
        assert found == {
            "wishes": {("quote", "abandoned"): 1},
            "attempts": {("quote", "lost"): 1},
            "lost": {("quote",): 1_000},
        }
