"""What the data plane costs: requests per second and CPU, through the proxy and around it.

`python -m bench.wire [--seconds S] [--rounds N]`. The upstream, the proxies and the load each have
a process; the ways are taken in turns within a round, and the medians of the rounds are printed.
Where the processes share few cores, requests per second understate: the proxy's own CPU per
request is the number to compare, and only within one run.
"""

import argparse
import asyncio
import os
import socket
import statistics
import sys
import time
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path

import uvloop

from proxy.wire.egress import Leave
from proxy.wire.gate import (
    Agent,
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

BODY = bytes(1024)
SMALL = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 1024\r\n\r\n" + BODY
GIGABYTE = 1 << 30
PIECE = bytes(1 << 20)
CREDENTIAL = b"Proxy-Authorization: Basic " + b64encode(b"bench:bench")
LEAVE = Leave(((ip_network("127.0.0.0/8"), None),))
TICKS = os.sysconf("SC_CLK_TCK")


# --- the processes around the load


class Responder(asyncio.Protocol):
    """Answers every request at once: 1 KiB, or a gigabyte for /big."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.left = 0
        self.paused = False

    def data_received(self, data: bytes) -> None:
        if data.startswith(b"GET /big "):
            head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % GIGABYTE
            self.transport.write(head)  # type: ignore[attr-defined]
            self.left = GIGABYTE
            self.pump()
        else:
            self.transport.write(SMALL * data.count(b"\r\n\r\n"))  # type: ignore[attr-defined]

    def pump(self) -> None:
        while self.left and not self.paused:
            self.left -= len(PIECE)
            self.transport.write(PIECE)  # type: ignore[attr-defined]

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        self.pump()


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


async def upstream() -> int:
    server = await asyncio.get_running_loop().create_server(Responder, "127.0.0.1", 0)
    return int(server.sockets[0].getsockname()[1])


async def proxy() -> int:
    tune_malloc()
    gate = Open()
    return (await DataPlane(gate, Limits()).listen("127.0.0.1", 0, ForwardRouter(gate)))[1]


ROLES = {"upstream": (upstream, uvloop.new_event_loop)} | {
    f"proxy-{name}": (proxy, factory)
    for name, factory in (("asyncio", asyncio.new_event_loop), ("uvloop", uvloop.new_event_loop))
}


def play(role: str) -> None:
    """Run one role in this process until it is killed; its port is the first line it prints."""
    start, factory = ROLES[role]
    with asyncio.Runner(loop_factory=factory) as runner:
        sys.stdout.write(f"{runner.run(start())}\n")
        sys.stdout.flush()
        runner.run(asyncio.Event().wait())  # type: ignore[arg-type]


@dataclass
class Process:
    pid: int
    port: int

    def cpu(self) -> float:
        """Seconds of CPU used so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS


# --- the load


class Asker(asyncio.Protocol):
    """Asks again as soon as it is answered."""

    def __init__(self, request: bytes, done: Callable[[float], None]) -> None:
        self.request = request
        self.done = done
        self.missing = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.ask()

    def ask(self) -> None:
        self.began = time.perf_counter()
        self.transport.write(self.request)  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        if not self.missing:
            self.missing = data.index(b"\r\n\r\n") + 4 + len(BODY)
        self.missing -= len(data)
        if self.missing == 0:
            self.done(time.perf_counter() - self.began)
            self.ask()


@dataclass
class Sample:
    rps: float
    p50_us: float
    p99_us: float
    cpu_us: float


async def load(
    port: int, request: bytes, width: int, seconds: float, cpu: Callable[[], float]
) -> Sample:
    loop = asyncio.get_running_loop()
    times: list[float] = []
    askers = [
        (await loop.create_connection(lambda: Asker(request, times.append), "127.0.0.1", port))[0]
        for _ in range(width)
    ]
    await asyncio.sleep(seconds / 5)  # warm
    times.clear()
    began, used = time.perf_counter(), cpu()
    await asyncio.sleep(seconds)
    took, used = time.perf_counter() - began, cpu() - used
    for asker in askers:
        asker.abort()
    times.sort()
    count = len(times)
    return Sample(
        count / took, times[count // 2] * 1e6, times[count * 99 // 100] * 1e6, used / count * 1e6
    )


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


def report(title: str, samples: dict[str, list[Sample]]) -> None:
    sys.stdout.write(
        f"\n{title}\n{'':16}{'rps':>9}{'ratio':>8}{'p50 us':>9}{'p99 us':>9}{'cpu us':>9}\n"
    )
    base = statistics.median(sample.rps for sample in samples["direct"])
    for name, found in samples.items():
        rps, p50, p99, cpu = (
            statistics.median(getattr(sample, field) for sample in found)
            for field in ("rps", "p50_us", "p99_us", "cpu_us")
        )
        sys.stdout.write(f"{name:16}{rps:9.0f}{rps / base:8.3f}{p50:9.0f}{p99:9.0f}{cpu:9.1f}\n")


async def spawn(role: str) -> tuple[asyncio.subprocess.Process, Process]:
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.wire", "--play", role, stdout=asyncio.subprocess.PIPE
    )
    assert child.stdout is not None
    return child, Process(child.pid, int(await child.stdout.readline()))


async def bench(seconds: float, rounds: int) -> None:
    spawned = {role: await spawn(role) for role in ROLES}
    try:
        up = spawned["upstream"][1]
        ways = {"direct": up} | {name: it for name, (_, it) in spawned.items() if it is not up}
        host = b"127.0.0.1:%d" % up.port

        def request(way: str, path: bytes) -> bytes:
            target = path if way == "direct" else b"http://" + host + path
            return b"GET %b HTTP/1.1\r\nHost: %b\r\n%b\r\n\r\n" % (target, host, CREDENTIAL)

        for width in (1, 32):
            samples: dict[str, list[Sample]] = {way: [] for way in ways}
            for _ in range(rounds):
                for way, it in ways.items():
                    raw = request(way, b"/small")
                    samples[way].append(await load(it.port, raw, width, seconds, it.cpu))
            report(f"1 KiB, keep-alive, {width} connection(s)", samples)
        samples = {way: [] for way in ways}
        for _ in range(rounds):
            for way, it in ways.items():
                samples[way].append(gigabyte(it.port, request(way, b"/big"), it.cpu))
        report("1 GiB in one answer (rps: MB/s; cpu us: for the whole GiB)", samples)
    finally:
        for child, _ in spawned.values():
            child.kill()
            await child.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each sample")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--play", choices=sorted(ROLES), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.play:
        play(arguments.play)
    else:
        uvloop.run(bench(arguments.seconds, arguments.rounds))


if __name__ == "__main__":
    main()
