"""Five sellers of one thing, of whom three misbehave, and three ways to get it from them."""

import asyncio
import json
import random
from contextlib import AsyncExitStack
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from proxy.localnet import Localnet
from tests.e2e.house import Answer, House, house
from tests.e2e.seller import Seen
from tests.procurement.market import HOST, asks
from tests.providers.faulty import Act, faulty, refusing, settles, status

WIDTH = 4
NAMES = ("down", "liar", "flaky", "honest", "dearer")
PRICES = {"liar": 500, "flaky": 800, "honest": 1_000, "dearer": 1_500}
WANTED = {"content_type": "application/json", "fields": ["goods"]}


@dataclass(frozen=True)
class Result:
    """Of one way: how many wishes there were, how many were served, micro-USD that left, those of
    them that brought something, requests that were made of sellers, seconds."""

    way: str
    wishes: int
    served: int
    spent: int
    useful: int
    attempts: int
    seconds: float

    @property
    def share(self) -> float:
        return self.served / self.wishes

    @property
    def lost(self) -> int:
        return self.spent - self.useful


async def contest(
    dsn: str, folder: Path, way: str, wishes: int, seed: int, *, breakers: bool = True
) -> Result:
    """`way`: "procurement", "first candidate always" (each of the five is first for a fifth of the
    wishes), or "round robin"."""
    chance = random.Random(seed)
    async with AsyncExitStack() as stack:
        net = await stack.enter_async_context(Localnet(slot_seconds=0.1))
        urls = {"down": stack.enter_context(refusing())}
        for name, act in _acts(net, chance).items():
            urls[name] = (await stack.enter_async_context(faulty(act))).url
        urls = {name: urls[name] for name in NAMES}
        home = await stack.enter_async_context(
            house(
                net,
                dsn,
                folder,
                # So short that every seller gets its chance over and over again, as in a year.
                breaker={"open_seconds": 1, "enabled": breakers},
                retries={"attempts": 0},
                providers={name: {"upstream": url, "expect": WANTED} for name, url in urls.items()},
                intents={
                    "quote": {
                        "candidates": [{"id": n, "url": f"{u}/quote"} for n, u in urls.items()]
                    }
                },
            )
        )
        await home.set_policy(daily_limit=1_000_000_000)
        return await _run(home, urls, way, wishes)


def _acts(net: Localnet, chance: random.Random) -> dict[str, Act]:
    def sometimes(share: float, act: Act, other: Act) -> Act:
        async def either(seen: Seen, writer: asyncio.StreamWriter) -> None:
            await (act if chance.random() < share else other)(seen, writer)

        return either

    def late(act: Act) -> Act:
        async def slow(seen: Seen, writer: asyncio.StreamWriter) -> None:
            await asyncio.sleep(0.1)
            await act(seen, writer)

        return slow

    lies = settles(body=b"<h1>Welcome!</h1>", kind=b"text/html")
    flaky = late(sometimes(0.6, settles(500), settles()))
    return {
        "liar": asks(net, lies, PRICES["liar"]),
        "flaky": sometimes(0.5, status(503), asks(net, flaky, PRICES["flaky"])),
        "honest": asks(net, settles(), PRICES["honest"]),
        "dearer": asks(net, settles(), PRICES["dearer"]),
    }


async def _run(home: House, urls: dict[str, str], way: str, wishes: int) -> Result:
    served = useful = attempts = 0
    waiting = iter(range(wishes))
    loop = asyncio.get_running_loop()
    begun = loop.time()

    async def program() -> None:
        nonlocal served, useful, attempts
        for number in waiting:
            answer = await home.ask(f"{_url(urls, way, number, wishes)}?wish={number}")
            attempts += int(answer.headers.get("Autopay-Attempts", "1"))
            if _is_good(answer):
                served += 1
                useful += _micros(answer.headers.get("Autopay-Amount", "0"))

    async with asyncio.TaskGroup() as programs:
        for _ in range(WIDTH):
            programs.create_task(program())
    seconds = loop.time() - begun
    return Result(way, wishes, served, sum(await home.counters()), useful, attempts, seconds)


def _url(urls: dict[str, str], way: str, number: int, wishes: int) -> str:
    if way == "procurement":
        return HOST
    place = number * len(urls) // wishes if way == "first candidate always" else number % len(urls)
    return f"{urls[NAMES[place]]}/quote"


def _is_good(answer: Answer) -> bool:
    try:
        return answer.status == 200 and bool(json.loads(answer.body)["goods"])
    except (ValueError, KeyError, TypeError):
        return False


def _micros(amount: str) -> int:
    return int(Decimal(amount.partition(" ")[0]) * 1_000_000)
