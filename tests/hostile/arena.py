"""A proxy with both ways through it, plain and intercepted, a provider behind each, and a census of
what the process holds: nothing may be left when all of it is closed."""

import asyncio
import contextlib
import gc
import os
import resource
import ssl
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from proxy.authority import Authority, Leaves
from proxy.wire.agent import Agent
from proxy.wire.intercept import TunnelRules
from proxy.wire.limits import Limits
from proxy.wire.origin import Origin
from proxy.wire.plane import DataPlane, tune_malloc
from proxy.wire.retrying import RetryRules
from proxy.wire.routes import ForwardRouter
from tests.wire.wire_rig import CREDENTIAL, Client, Gate, Provider, provider, until
from tests.wire.wire_tls import Authority as Issuer

PLAIN, TUNNEL = "plain", "tunnel"
WAYS = (PLAIN, TUNNEL)
GROWTH = 64 << 20
"""Bytes by which the process may have grown after everything."""

LIMITS = Limits(
    connections=300,
    connect=3.0,
    response=0.8,
    paid_response=0.8,
    idle=0.8,
    client_header=0.8,
    challenge=0.3,
)


@dataclass(frozen=True)
class Census:
    """What this process holds."""

    descriptors: Counter[str]
    tasks: int
    resident: int

    @classmethod
    def take(cls) -> Self:
        gc.collect()
        kinds: Counter[str] = Counter()
        for entry in Path("/proc/self/fd").iterdir():
            with contextlib.suppress(OSError):  # the listing's own descriptor
                name = str(entry.readlink())
                kinds[name.partition(":")[0] if name.startswith("socket:") else name] += 1
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return cls(kinds, len(asyncio.all_tasks()), pages * resource.getpagesize())


@dataclass
class Doorman(Gate):
    """Also hears who did not like our certificate."""

    rejected: list[str] = field(default_factory=list)

    def certificate_rejected(self, agent: Agent, origin: Origin, why: str, seconds: float) -> None:
        self.rejected.append(f"{origin.key}: {why}")


@dataclass
class Arena:
    """`plain` is reached by absolute URLs, `secret` through an intercepted CONNECT to localhost."""

    plane: DataPlane
    gate: Doorman
    plain: Provider
    secret: Provider
    port: int
    trust: ssl.SSLContext
    faults: list[object] = field(default_factory=list)
    clients: list[Client] = field(default_factory=list)
    kept: Client | None = None

    def provider(self, way: str) -> Provider:
        return self.plain if way == PLAIN else self.secret

    async def raw(self) -> Client:
        """A bare connection to the proxy."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 21)
        self.clients.append(Client(reader, writer))
        return self.clients[-1]

    async def tunnel(self, host: bytes, port: int) -> Client:
        """What a program has after its CONNECT was answered."""
        client = await self.raw()
        await client.send(
            b"CONNECT %b:%d HTTP/1.1\r\nHost: x\r\n%b\r\n\r\n" % (host, port, CREDENTIAL)
        )
        assert (await client.head()).status == 200
        return client

    async def connect(self, way: str, port: int | None = None) -> Client:
        """A connection on which requests are sent: plain, or inside an intercepted tunnel."""
        if way == PLAIN:
            return await self.raw()
        client = await self.tunnel(b"localhost", port or self.secret.port)
        async with asyncio.timeout(5):
            await client.writer.start_tls(self.trust, server_hostname="localhost")
        return client

    def fill(self, way: str, raw: bytes, port: int | None = None) -> bytes:
        """`{url}`, `{host}` and `{auth}` of a case, as they are on this way."""
        if way == PLAIN:
            host = b"127.0.0.1:%d" % (port or self.plain.port)
            url, auth = b"http://" + host, CREDENTIAL + b"\r\n"
        else:
            host, url, auth = b"localhost:%d" % (port or self.secret.port), b"", b""
        return raw.replace(b"{url}", url).replace(b"{host}", host).replace(b"{auth}", auth)

    async def serves(self) -> None:
        """A program that does nothing wrong is answered: on a new connection, and on a tunnel
        that has been open through all of it."""
        get = b"GET {url}/still-here HTTP/1.1\r\nHost: {host}\r\n{auth}\r\n"
        client = await self.raw()
        await client.send(self.fill(PLAIN, get))
        answer = await client.answer()
        assert (answer.status, answer.body) == (200, b"GET /still-here HTTP/1.1")
        self.leave(client)
        kept, self.kept = self.kept, None
        if kept is None or kept.reader.at_eof() or kept.writer.is_closing():
            kept = await self.connect(TUNNEL)
        await kept.send(self.fill(TUNNEL, get))
        assert (await kept.answer()).body == b"GET /still-here HTTP/1.1"
        self.kept = kept

    def leave(self, client: Client) -> None:
        client.writer.transport.abort()
        self.clients.remove(client)

    async def quiet(self) -> None:
        """Nothing is under way any more, and nothing went wrong unseen."""
        await until(
            lambda: (
                not self.plane._tasks
                and all(connection._call is None for connection in self.plane._connections)
            )
        )
        faults, self.faults[:] = list(self.faults), []
        assert not faults, faults


@contextlib.asynccontextmanager
async def arena(folder: Path) -> AsyncIterator[Arena]:
    """Open it all; when it is closed, nothing may be left."""
    tune_malloc()
    issuer = Issuer(folder)
    authority = Authority.create(folder / "ca")
    trust = ssl.create_default_context(cadata=authority.certificate_pem.decode())
    faults: list[object] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: faults.append(context))
    gate = Doorman()
    async with (
        provider() as plain,
        provider(tls=issuer.context("localhost"), host="localhost") as secret,
    ):
        await asyncio.sleep(0)
        plane = DataPlane(gate, LIMITS, ca_file=issuer.ca_file)
        plane.retries.usual = RetryRules(attempts=0)  # each fault is shown once
        plane.intercept(Leaves(authority), TunnelRules())
        _, port = await plane.listen("127.0.0.1", 0, ForwardRouter(gate))
        it = Arena(plane, gate, plain, secret, port, trust, faults)
        await it.serves()
        before = Census.take()
        try:
            yield it
        finally:
            for client in list(it.clients):
                if client is not it.kept:
                    it.leave(client)
            await it.serves()
            plane.pool.close()
            await until(lambda: not (plain.open or secret.open))
            await it.serves()
            await until(lambda: plain.open + secret.open <= 2)
            await until(lambda: len(asyncio.all_tasks()) <= before.tasks)
            after = Census.take()
            if it.kept is not None:
                it.leave(it.kept)
            await plane.close(grace=0.5)
    await until(lambda: not (plain.open or secret.open or plane._connections))
    assert after.descriptors == before.descriptors
    assert after.tasks <= before.tasks
    grown = after.resident - before.resident
    assert grown < GROWTH, f"{grown >> 20} MiB more"
    assert not faults, faults
    print(f"{os.getpid()}: {grown / 2**20:+.1f} MiB, {sum(after.descriptors.values())} descriptors")
