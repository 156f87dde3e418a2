"""What the data plane costs: requests per second and CPU, through the proxy and around it.

`python -m bench.wire [--seconds S] [--rounds N]`. The upstream, the proxies and the load each have
a process; the ways are taken in turns within a round, and the medians of the rounds are printed.
Where the processes share few cores, requests per second understate: the proxy's own CPU per
request is the number to compare, and only within one run.
"""

import argparse
import asyncio
import socket
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from ipaddress import ip_network

import uvloop

from bench.load import GIGABYTE, Sample, asked, report, take_turns, upstream
from bench.processes import play, spawned
from proxy.wire.agent import Agent
from proxy.wire.egress import Leave
from proxy.wire.gate import (
    PassThrough,
    PaymentRequired,
    Purchase,
    Reply,
    RetryNote,
    TurnedAway,
)
from proxy.wire.limits import Limits
from proxy.wire.origin import Origin
from proxy.wire.plane import DataPlane, tune_malloc
from proxy.wire.routes import ForwardRouter

LEAVE = Leave(((ip_network("127.0.0.0/8"), None),))


class Open:
    """A gate and a ticket that know one agent and never pay."""

    name = "bench"

    def by_credentials(self, name: str, token: str) -> "Open | None":
        return self if (name, token) == ("bench", "bench") else None

    def by_token(self, token: str) -> "Open | None":
        return None

    def holder(self, token: str) -> Callable[[], "Open | None"]:
        return lambda: self

    def admit(self, origin: Origin) -> "Open":
        return self

    def leave(self, agent: Agent) -> Leave:
        return LEAVE

    def turned_away(self, what: TurnedAway) -> None: ...
    def certificate_rejected(
        self, agent: Agent, origin: Origin, why: str, seconds: float
    ) -> None: ...

    def tap(
        self, agent: Agent, method: str, origin: Origin, target: bytes, mount: str | None
    ) -> None: ...

    def breaker_closed(self, origin: Origin) -> bool:
        return True

    def retried(self, note: RetryNote) -> None: ...
    def retry_withheld(self, origin: Origin) -> None: ...

    async def standing(self, *_: object) -> dict[str, object]:
        return {}

    async def pay(self, purchase: Purchase, challenge: PaymentRequired) -> Reply:
        return PassThrough()

    def about(self, endpoint: str) -> None: ...
    def costs(self, micros: int) -> None: ...
    def success(self, *, latency_ms: float, status: int) -> None: ...
    def failure(self, error: str, *, status: int | None = None, paid: bool = False) -> None: ...
    def neutral(self) -> None: ...


async def proxy() -> int:
    tune_malloc()
    gate = Open()
    return (await DataPlane(gate, Limits()).listen("127.0.0.1", 0, ForwardRouter(gate)))[1]


PARTS = {
    "upstream": (upstream, uvloop.new_event_loop),
    "proxy-asyncio": (proxy, asyncio.new_event_loop),
    "proxy-uvloop": (proxy, uvloop.new_event_loop),
}


def gigabyte(port: int, request: bytes, cpu: Callable[[], float]) -> Sample:
    """One gigabyte; `rps` is MB/s here, and `cpu_us` microseconds of CPU."""
    buffer = bytearray(1 << 20)
    with socket.create_connection(("127.0.0.1", port)) as sock:
        began, used, left = time.perf_counter(), cpu(), GIGABYTE
        sock.sendall(request)
        while left > 0:
            left -= sock.recv_into(buffer)
        took, used = time.perf_counter() - began, cpu() - used
    return Sample(GIGABYTE / 1e6 / took, 0, 0, used * 1e6)


async def bench(seconds: float, rounds: int) -> None:
    async with AsyncExitStack() as stack:
        parts = {
            part: await stack.enter_async_context(spawned("bench.wire", part)) for part in PARTS
        }
        up = parts.pop("upstream")
        ways = {"direct": up} | parts
        await take_turns(ways, up.port, seconds=seconds, rounds=rounds)
        samples: dict[str, list[Sample]] = {way: [] for way in ways}
        for _ in range(rounds):
            for way, it in ways.items():
                samples[way].append(gigabyte(it.port, asked(way, up.port, b"/big"), it.cpu))
        report("1 GiB in one answer (rps: MB/s; cpu us: for the whole GiB)", samples)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each sample")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--play", choices=sorted(PARTS), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.play:
        start, factory = PARTS[arguments.play]
        play(start(), factory)
    else:
        uvloop.run(bench(arguments.seconds, arguments.rounds))


if __name__ == "__main__":
    main()
