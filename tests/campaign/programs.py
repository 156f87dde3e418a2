"""Programs that buy, near the limits of every budget, and try again when something broke."""

import asyncio
import itertools
import json
import random
from collections import Counter
from dataclasses import dataclass

import aiohttp

from tests.campaign.market import Market
from tests.campaign.replicas import Replica

PRICES = (500, 700, 1_000, 1_500, 2_000, 3_300)
TRIES = 6
BIG = 300_000  # bytes: more than a socket's buffers hold, so that a kill cuts it in two


@dataclass(frozen=True, slots=True)
class Buyer:
    """An agent, and what it may spend."""

    name: str
    token: str


@dataclass(frozen=True, slots=True)
class Order:
    """One request of a program: it wants this once, however often it has to ask."""

    id: str
    keyed: bool
    """It says so, by an Idempotency-Key."""
    agent: str
    session: str
    trace: str
    provider: str
    price: int


class Programs:
    """`run` some of them; what they ordered is in `orders`, by id."""

    def __init__(
        self,
        market: Market,
        replicas: list[Replica],
        rng: random.Random,
        keyed: float,
    ) -> None:
        """`keyed`: the share of requests that come under a key of their own."""
        self.orders: dict[str, Order] = {}
        self.asked: Counter[str] = Counter()
        """How often each was sent to a proxy."""
        self.heard: Counter[str] = Counter()
        self._market = market
        self._replicas = replicas
        self.buyers: list[Buyer] = []
        self.season = 0
        self._rng = rng
        self._keyed = keyed
        self._numbers = itertools.count()

    async def run(self, count: int) -> None:
        """Until it is cancelled."""
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        timeout = aiohttp.ClientTimeout(total=6)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            await asyncio.gather(*(self._program(session) for _ in range(count)))

    async def _program(self, session: aiohttp.ClientSession) -> None:
        rng = self._rng
        while True:
            buyer = rng.choice(self.buyers)
            order = Order(
                id=f"r{next(self._numbers)}",
                keyed=rng.random() < self._keyed,
                agent=buyer.name,
                session=f"{buyer.name}-s{rng.randrange(3)}",
                trace=f"{buyer.name}-t{rng.randrange(4)}",
                provider=rng.choice(self._market.providers),
                price=rng.choice(PRICES),
            )
            self.orders[order.id] = order
            await self._buy(session, buyer, order)

    async def _buy(self, session: aiohttp.ClientSession, buyer: Buyer, order: Order) -> None:
        rng = self._rng
        body = bytes(BIG) if rng.random() < 0.05 else None
        headers = {"Autopay-Session": order.session, "Autopay-Trace": order.trace}
        if order.keyed:
            headers["Idempotency-Key"] = order.id
        for _ in range(TRIES):
            alive = [replica for replica in self._replicas if replica.up]
            if not alive:
                await asyncio.sleep(0.1)
                continue
            replica = rng.choice(alive)
            self.asked[order.id] += 1
            try:
                async with session.request(
                    "GET" if body is None else "POST",
                    f"{order.provider}/{order.id}/{order.price}",
                    data=body,
                    proxy=f"http://{buyer.name}:{buyer.token}@127.0.0.1:{replica.port}",
                    headers=headers,
                ) as response:
                    answer = await response.read()
                    heard = _word(response, answer)
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                heard = type(error).__name__
            self.heard[heard] += 1
            if heard == "paid":
                return
            if heard.startswith("over_"):
                await asyncio.sleep(0.1)
                return
            if rng.random() < 0.2:  # one that gives up
                return
            await asyncio.sleep(rng.uniform(0.02, 0.5))


def _word(response: aiohttp.ClientResponse, answer: bytes) -> str:
    state = response.headers.get("Autopay-State")
    if state is not None:
        return state
    if response.content_type == "application/problem+json":
        return str(json.loads(answer)["code"])
    return str(response.status)
