"""What the cache of paid answers costs: a hit beside a request that goes on, and a provider with a
cache beside one without.

`python -m bench.cache [--seconds S] [--rounds N]`. As in `bench.wire`: the upstream, each proxy and
the load have a process of their own, the ways take turns, and only ratios within one run count. The
upstream asks for no money: what is compared with a hit is the cheapest request there is.

plain: no cache at all. elsewhere: there is one, for another provider. passes: there is one for this
provider, and the request goes on all the same (its answer was free). hit: it is served from it.
"""

import argparse
import asyncio
import sys
import time
from contextlib import AsyncExitStack
from uuid import UUID

import uvloop

from bench.load import BODY, take_turns, upstream
from bench.processes import play, spawned
from bench.wire import LEAVE, Open
from policies import Ask, Policy
from proxy.cache import PaidCache, Savings, Shelves, Terms
from proxy.cache.rules import Life
from proxy.cache.shelves import Key, Stored
from proxy.ledger import Agent, new_id
from proxy.metrics import Counts
from proxy.wire.gate import Bought
from proxy.wire.limits import Limits
from proxy.wire.origin import Origin
from proxy.wire.plane import DataPlane, tune_malloc
from proxy.wire.routes import ForwardRouter

AGENT = Agent(UUID(int=1), "bench")
WAYS = ("plain", "elsewhere", "passes", "hit")


class Gate(Open):
    """Knows one agent of the ledger's kind."""

    def by_credentials(self, name: str, token: str) -> Agent | None:  # type: ignore[override]
        return AGENT


class Everything:
    """Policies that allow it, as a new agent's do."""

    active = frozenset((AGENT.id,))

    def policy_at(self, agent: Agent, place: Origin) -> Policy:
        return POLICY


POLICY = Policy("bench")


def stored(origin: Origin) -> Stored:
    """What /small answers, as if it had been paid for."""
    ask = Ask(
        method="GET",
        scheme=origin.scheme,
        host=origin.host,
        port=origin.port,
        path="/small",
        pay_to="p",
        asset="a",
        symbol="USDC",
        network="solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1",
        price=1000,
    )
    return Stored(
        Key(AGENT.id, b"", origin, b"/small"),
        "GET",
        200,
        b"OK",
        ((b"Content-Type", b"text/plain"), (b"Content-Length", b"%d" % len(BODY))),
        BODY,
        Life(86_400, 0.0, True, False, False, False),
        asyncio.get_running_loop().time(),
        (),
        Bought(new_id(), 1000, b"0.001 USDC", ask),
        None,
    )


async def proxy(way: str, port: int) -> int:
    tune_malloc()
    gate = Gate()
    plane = DataPlane(gate, Limits())
    origin = Origin("http", "127.0.0.1", port)
    if way != "plain":
        where = Origin("http", "elsewhere.example", 80) if way == "elsewhere" else origin
        shelves = Shelves(1 << 26, 1000)
        if way == "hit":
            shelves.put(stored(origin))
        savings = Savings(None, Counts())  # type: ignore[arg-type] - nothing is written
        plane.cache = PaidCache(
            {}, {where: Terms()}, shelves, savings, Everything(), lambda agent: LEAVE, wait=30
        )
    return (await plane.listen("127.0.0.1", 0, ForwardRouter(gate)))[1]


async def bench(seconds: float, rounds: int) -> None:
    async with AsyncExitStack() as stack:
        up = await stack.enter_async_context(spawned("bench.cache", "upstream"))
        ways = {"direct": up}
        for way in WAYS:
            options = (way, "--port", str(up.port))
            ways[way] = await stack.enter_async_context(spawned("bench.cache", *options))
        await take_turns(ways, up.port, seconds=seconds, rounds=rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each sample")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--play", help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, default=0, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.play:
        way, port = arguments.play, arguments.port
        play(upstream() if way == "upstream" else proxy(way, port))
    else:
        began = time.monotonic()
        uvloop.run(bench(arguments.seconds, arguments.rounds))
        sys.stdout.write(f"\n{time.monotonic() - began:.0f} s\n")


if __name__ == "__main__":
    main()
