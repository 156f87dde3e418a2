"""Both ends of a proxy that is measured: a provider that answers at once, and programs that ask
again at once; and what they saw, as a table."""

import asyncio
import statistics
import sys
import time
from base64 import b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from bench.processes import Process

BODY = bytes(1024)
SMALL = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 1024\r\n\r\n" + BODY
GIGABYTE = 1 << 30
PIECE = bytes(1 << 20)
CREDENTIAL = b"Proxy-Authorization: Basic " + b64encode(b"bench:bench")


# --- the provider


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


async def upstream() -> int:
    server = await asyncio.get_running_loop().create_server(Responder, "127.0.0.1", 0)
    return int(server.sockets[0].getsockname()[1])


# --- the programs


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


async def take_turns(
    ways: Mapping[str, Process], port: int, *, seconds: float, rounds: int
) -> None:
    """Ask for 1 KiB by each of the `ways` to the provider at `port`, one way after the other, and
    report."""
    for width in (1, 32):
        samples: dict[str, list[Sample]] = {way: [] for way in ways}
        for _ in range(rounds):
            for way, it in ways.items():
                raw = asked(way, port, b"/small")
                samples[way].append(await load(it.port, raw, width, seconds, it.cpu))
        report(f"1 KiB, keep-alive, {width} connection(s)", samples)


def asked(way: str, port: int, path: bytes) -> bytes:
    """The request for the provider at `port`, as it is sent by this way."""
    host = b"127.0.0.1:%d" % port
    target = path if way == "direct" else b"http://" + host + path
    return b"GET %b HTTP/1.1\r\nHost: %b\r\n%b\r\n\r\n" % (target, host, CREDENTIAL)


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
