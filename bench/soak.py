"""What the proxy holds: memory and descriptors after many requests, and per idle tunnel.

`python -m bench.soak [--requests N] [--tunnels N]`. The proxy has a process of its own; the
providers (http and https) and the load share another. A quarter of the requests each: http,
intercepted https, paid http, paid https; every tenth on a connection of its own. Half of the idle
tunnels are joined blind (a socket on either side), half were intercepted and used once.
"""

import argparse
import asyncio
import contextlib
import resource
import ssl
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import uvloop

from bench.load import BODY, CREDENTIAL
from bench.processes import play, spawned
from bench.wire import Open
from proxy.authority import Authority, Leaves
from proxy.wire.gate import Delivery, Paid, PaymentRequired, Purchase, Reply
from proxy.wire.intercept import TunnelRules
from proxy.wire.limits import Limits
from proxy.wire.plane import DataPlane, tune_malloc
from proxy.wire.routes import ForwardRouter

PAYMENT = (b"PAYMENT-SIGNATURE", b"c2lnbmVk")
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 1024\r\n\r\n" + BODY
DEMAND = b"HTTP/1.1 402 Payment Required\r\nContent-Length: 2\r\n\r\n{}"
WIDTH = 20


# --- the proxy


class Payer(Open):
    """Pays for everything, with nothing."""

    async def pay(self, purchase: Purchase, challenge: PaymentRequired) -> Reply:
        async def finish(_: Delivery) -> None: ...

        return Paid(await purchase.attempt(PAYMENT), [], finish)


async def proxy(folder: Path) -> int:
    tune_malloc()
    gate = Payer()
    plane = DataPlane(gate, Limits(connections=5000), ca_file=folder / "theirs.pem")
    leaves = Leaves(Authority.load(folder / "ours"))
    plane.intercept(leaves, TunnelRules(tunnel=("127.0.0.1",)))
    return (await plane.listen("127.0.0.1", 0, ForwardRouter(gate)))[1]


# --- the providers


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            unpaid = b" /paid " in head and PAYMENT[0] not in head
            writer.write(DEMAND if unpaid else ANSWER)
    writer.close()


# --- the load


@dataclass
class Load:
    proxy: int
    plain: int
    secret: int
    trust: ssl.SSLContext

    async def tunnel(self, host: bytes, *, tls: bool) -> "Way":
        reader, writer = await asyncio.open_connection("127.0.0.1", self.proxy)
        where = b"%b:%d" % (host, self.secret)
        writer.write(b"CONNECT %b HTTP/1.1\r\nHost: %b\r\n%b\r\n\r\n" % (where, where, CREDENTIAL))
        head = await reader.readuntil(b"\r\n\r\n")
        if b" 200 " not in head:
            raise RuntimeError(head)
        if tls:
            await writer.start_tls(self.trust, server_hostname=host.decode())
        return Way(reader, writer, b"", b"Host: " + where)

    async def way(self, *, secret: bool) -> "Way":
        if secret:
            return await self.tunnel(b"localhost", tls=True)
        reader, writer = await asyncio.open_connection("127.0.0.1", self.proxy)
        host = b"127.0.0.1:%d" % self.plain
        return Way(reader, writer, b"http://" + host, b"Host: " + host + b"\r\n" + CREDENTIAL)


@dataclass
class Way:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    base: bytes
    lines: bytes

    async def ask(self, path: bytes) -> None:
        self.writer.write(b"GET %b%b HTTP/1.1\r\n%b\r\n\r\n" % (self.base, path, self.lines))
        head = await self.reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(head)
        await self.reader.readexactly(len(BODY))

    def close(self) -> None:
        self.writer.transport.abort()


async def requests(load: Load, total: int) -> None:
    async def worker(count: int) -> None:
        ways = {secret: await load.way(secret=secret) for secret in (False, True)}
        for turn in range(count):
            secret, path = bool(turn % 2), b"/paid" if turn % 4 >= 2 else b"/free"
            if turn % 10 == 9:
                once = await load.way(secret=secret)
                await once.ask(path)
                once.close()
            else:
                await ways[secret].ask(path)
        for way in ways.values():
            way.close()

    await asyncio.gather(*(worker(total // WIDTH) for _ in range(WIDTH)))


# --- what is measured


@dataclass(frozen=True)
class Held:
    kib: int
    descriptors: int

    @classmethod
    def by(cls, pid: int) -> "Held":
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        return cls(
            pages * resource.getpagesize() // 1024, len(list(Path(f"/proc/{pid}/fd").iterdir()))
        )


def say(what: str, held: Held, more: str = "") -> None:
    sys.stdout.write(f"{what:34}{held.kib / 1024:9.1f} MiB {held.descriptors:6} fds  {more}\n")


async def soak(total: int, tunnels: int) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ours, theirs = Authority.create(folder / "ours"), Authority.create(folder / "theirs")
        (folder / "theirs.pem").write_bytes(theirs.certificate_pem)
        tls = await Leaves(theirs).context_for("localhost")
        plain = await asyncio.start_server(serve, "127.0.0.1", 0)
        secret = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls, backlog=1000)
        ports = [server.sockets[0].getsockname()[1] for server in (plain, secret)]
        trust = ssl.create_default_context(cadata=ours.certificate_pem.decode())
        async with spawned("bench.soak", name) as house:
            load = Load(house.port, *ports, trust)
            await measure(load, total, tunnels, lambda: Held.by(house.pid))


async def measure(load: Load, total: int, tunnels: int, held: Callable[[], Held]) -> None:
    say("started", held())
    await requests(load, total // 10)
    await asyncio.sleep(1.5)
    warm = held()
    say(f"after {total // 10} requests", warm, "(warm)")
    await requests(load, total)
    await asyncio.sleep(1.5)
    after = held()
    say(f"after {total} more", after, f"{after.kib - warm.kib:+} KiB")
    for kind, host in (("blind", b"127.0.0.1"), ("intercepted", b"localhost")):
        before, ways = held(), []
        for _ in range(tunnels // 2):
            way = await load.tunnel(host, tls=kind == "intercepted")
            if kind == "intercepted":
                await way.ask(b"/free")
            ways.append(way)
        await asyncio.sleep(4)
        now = held()
        each = (now.kib - before.kib) / len(ways)
        say(f"with {len(ways)} idle {kind} tunnels", now, f"{each:.1f} KiB each")
        for way in ways:
            way.close()
        await asyncio.sleep(2.5)
        say("those closed", held())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--tunnels", type=int, default=1000)
    parser.add_argument("--play", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.play:
        play(proxy(arguments.play))
    else:
        uvloop.run(soak(arguments.requests, arguments.tunnels))


if __name__ == "__main__":
    main()
