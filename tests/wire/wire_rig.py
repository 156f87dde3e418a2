"""The data plane under test, between raw sockets: a scripted provider, a gate that records, and a
client that sees every byte."""

import asyncio
import contextlib
import functools
import ssl
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_network
from pathlib import Path

import pytest

from proxy.wire.agent import Agent
from proxy.wire.chain import Chain
from proxy.wire.dial import Resolver
from proxy.wire.egress import Leave
from proxy.wire.gate import (
    Delivery,
    Lost,
    NotSent,
    Paid,
    PaidAnswer,
    PassThrough,
    PaymentRequired,
    Purchase,
    Reply,
    RetryNote,
    TurnedAway,
)
from proxy.wire.limits import Limits
from proxy.wire.origin import Origin
from proxy.wire.plane import DataPlane
from proxy.wire.problem import Problem
from proxy.wire.retrying import RetryRules
from proxy.wire.routes import ForwardRouter, MountRouter
from proxy.wire.tap import Tap

TOKEN = "token-of-ann-7f3a"
CREDENTIAL = b"Proxy-Authorization: Basic " + b64encode(f"ann:{TOKEN}".encode())
PAYMENT = (b"PAYMENT-SIGNATURE", b"c2lnbmVk")
RECEIPT = (b"Autopay-Payment", b"pay-1")
PATIENCE = 5.0
LOOPBACK = Leave(  # where the tests' providers are
    ((ip_network("127.0.0.0/8"), None), (ip_network("::1"), None))
)

Headers = list[tuple[bytes, bytes]]


def values(headers: Sequence[tuple[bytes, bytes]], name: bytes) -> list[bytes]:
    """Every value of `name`, in order."""
    return [value for key, value in headers if key.lower() == name.lower()]


def split_head(raw: bytes) -> tuple[bytes, Headers]:
    """A head without its last blank line: the first line, and the fields exactly as sent."""
    first, *lines = raw.split(b"\r\n")
    fields = []
    for line in lines:
        assert not line.startswith((b" ", b"\t")), line
        name, colon, value = line.partition(b":")
        assert colon, line
        assert b"\n" not in line, line
        assert b"\r" not in line, line
        fields.append((name, value.strip()))
    return first, fields


async def read_chunked(reader: asyncio.StreamReader, trailers: Headers) -> bytes:
    """A chunked body, strictly. Its trailers go into `trailers`."""
    body = bytearray()
    while True:
        line = await reader.readuntil(b"\r\n")
        size = int(line[:-2], 16)
        if not size:
            while (line := await reader.readuntil(b"\r\n")) != b"\r\n":
                name, colon, value = line[:-2].partition(b": ")
                assert colon, line
                trailers.append((name, value))
            return bytes(body)
        chunk = await reader.readexactly(size + 2)
        assert chunk.endswith(b"\r\n")
        body += chunk[:-2]


# --- the provider


@dataclass
class Request:
    """What arrived at the provider."""

    line: bytes
    headers: Headers
    body: bytes = b""
    trailers: Headers = field(default_factory=list)

    @property
    def path(self) -> bytes:
        return self.line.split(b" ")[1]

    def all(self, name: bytes) -> list[bytes]:
        return values(self.headers, name)


class Connection:
    """The provider's end of one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def read_head(self) -> Request:
        raw = await self.reader.readuntil(b"\r\n\r\n")
        return Request(*split_head(raw[:-4]))

    async def read_body(self, request: Request) -> bytes:
        if request.all(b"transfer-encoding"):
            assert request.all(b"transfer-encoding") == [b"chunked"]
            assert not request.all(b"content-length")
            request.body = await read_chunked(self.reader, request.trailers)
        elif lengths := request.all(b"content-length"):
            assert len(lengths) == 1
            request.body = await self.reader.readexactly(int(lengths[0]))
        return request.body

    async def send(self, data: bytes) -> None:
        if self.writer.is_closing():  # uvloop has a RuntimeError for it
            raise ConnectionResetError
        self.writer.write(data)
        await self.writer.drain()

    def close(self) -> None:
        self.writer.close()

    def reset(self) -> None:
        self.writer.transport.abort()


Scene = Callable[[Connection, Request], Awaitable[None]]


@dataclass
class Provider:
    """A server that plays a scene per path. The default scene echoes the request line.

    A scene that is bytes is sent after the request was read whole. A coroutine function gets the
    connection right after the head; it reads the body itself if it wants one.
    """

    scenes: dict[bytes, bytes | Scene] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    connections: int = 0
    open: int = 0
    host: str = "127.0.0.1"
    port: int = 0
    scheme: str = "http"
    server: asyncio.Server | None = None

    @property
    def authority(self) -> bytes:
        return f"{self.host}:{self.port}".encode()

    @property
    def url(self) -> bytes:
        return f"{self.scheme}://{self.host}:{self.port}".encode()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        connection = Connection(reader, writer)
        # The proxy, or the end of the test, may close the connection at any point.
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
            try:
                while not writer.is_closing():
                    await self.play(connection)
            finally:
                self.open -= 1
                writer.close()

    async def play(self, connection: Connection) -> None:
        request = await connection.read_head()
        scene = self.scenes.get(request.path.partition(b"?")[0], ok(request.line))
        self.requests.append(request)
        if callable(scene):
            await scene(connection, request)
        else:
            await connection.read_body(request)
            head_only = request.line.startswith(b"HEAD ")
            await connection.send(
                scene.partition(b"\r\n\r\n")[0] + b"\r\n\r\n" if head_only else scene
            )


def ok(body: bytes, *lines: bytes, status: bytes = b"200 OK") -> bytes:
    """An answer with a Content-Length."""
    fields = b"".join(line + b"\r\n" for line in lines)
    return b"HTTP/1.1 %b\r\nContent-Length: %d\r\n%b\r\n%b" % (status, len(body), fields, body)


def demand(body: bytes = b'{"x402Version":1}', *lines: bytes) -> bytes:
    """A 402."""
    return ok(body, *lines, status=b"402 Payment Required")


def sold(answer: bytes | Scene, challenge: bytes = b"") -> Scene:
    """A scene that wants a payment for `answer`."""

    async def scene(connection: Connection, request: Request) -> None:
        await connection.read_body(request)
        if not request.all(PAYMENT[0]):
            await connection.send(challenge or demand())
        elif callable(answer):
            await answer(connection, request)
        else:
            await connection.send(answer)

    return scene


@contextlib.asynccontextmanager
async def provider(
    scenes: Mapping[bytes, bytes | Scene] | None = None,
    *,
    tls: ssl.SSLContext | None = None,
    host: str = "127.0.0.1",
) -> AsyncIterator[Provider]:
    it = Provider(dict(scenes or {}), host=host, scheme="https" if tls else "http")
    server = await asyncio.start_server(it.serve, "127.0.0.1", 0, ssl=tls, limit=1 << 20)
    it.server = server
    it.port = server.sockets[0].getsockname()[1]
    try:
        yield it
    finally:
        server.close()


# --- the gate


@dataclass
class Ann:
    name: str = "ann"
    leave: Leave = LOOPBACK


@dataclass
class Ticket:
    """Writes down what was said about a call; only the first word counts."""

    said: list[str] = field(default_factory=list)

    def about(self, endpoint: str) -> None: ...
    def costs(self, micros: int) -> None: ...

    def success(self, *, latency_ms: float, status: int) -> None:
        assert latency_ms >= 0
        self.said.append(f"success {status}")

    def failure(self, error: str, *, status: int | None = None, paid: bool = False) -> None:
        self.said.append(f"failure {status or error}")

    def neutral(self) -> None:
        self.said.append("neutral")


Answering = Callable[[Purchase, PaymentRequired], Awaitable[Reply]]


@dataclass
class Gate:
    """Knows one agent, admits everybody, and answers a 402 as the test says."""

    ann: Ann = field(default_factory=Ann)
    tickets: list[Ticket] = field(default_factory=list)
    closed: Problem | None = None
    probe: asyncio.Event | None = None
    """Leave must be waited for until this is set."""
    answering: Answering | None = None
    purchases: list[Purchase] = field(default_factory=list)
    challenges: list[PaymentRequired] = field(default_factory=list)
    deliveries: list[Delivery] = field(default_factory=list)
    refused: list[TurnedAway] = field(default_factory=list)
    retries: list[RetryNote] = field(default_factory=list)
    withheld: int = 0
    tripped: bool = False
    rejections: list[tuple[str, str]] = field(default_factory=list)
    tapping: Callable[[str, bytes], Tap | None] = lambda method, target: None

    def by_credentials(self, name: str, token: str) -> Ann | None:
        return self.ann if (name, token) == ("ann", TOKEN) else None

    def by_token(self, token: str) -> Ann | None:
        return self.ann if token == TOKEN else None

    def holder(self, token: str) -> Callable[[], Ann | None]:
        return lambda: self.by_token(token)

    def admit(self, origin: Origin) -> Ticket | Awaitable[Ticket]:
        return self._admit() if self.probe is None else self._ask_to_try(self.probe)

    def _admit(self) -> Ticket:
        if self.closed is not None:
            raise self.closed
        self.tickets.append(Ticket())
        return self.tickets[-1]

    async def _ask_to_try(self, asking: asyncio.Event) -> Ticket:
        await asking.wait()
        return self._admit()

    def leave(self, agent: Agent) -> Leave:
        assert isinstance(agent, Ann)
        return agent.leave

    def turned_away(self, what: TurnedAway) -> None:
        self.refused.append(what)

    def certificate_rejected(self, agent: Agent, origin: Origin, why: str, seconds: float) -> None:
        self.rejections.append((origin.key, why))

    def tap(
        self, agent: Agent, method: str, origin: Origin, target: bytes, mount: str | None
    ) -> Tap | None:
        return self.tapping(method, target)

    def breaker_closed(self, origin: Origin) -> bool:
        return not self.tripped

    def retried(self, note: RetryNote) -> None:
        self.retries.append(note)

    def retry_withheld(self, origin: Origin) -> None:
        self.withheld += 1

    async def standing(
        self, agent: Agent, session: str | None, trace: str | None
    ) -> Mapping[str, object]:
        return {"agent": agent.name, "session": session, "trace": trace}

    async def pay(self, purchase: Purchase, challenge: PaymentRequired) -> Reply:
        self.purchases.append(purchase)
        self.challenges.append(challenge)
        if self.answering is None:
            return PassThrough([(b"Autopay-Unpaid", b"not_today")])
        return await self.answering(purchase, challenge)

    async def buy(self, purchase: Purchase, challenge: PaymentRequired) -> Reply:
        """An `answering` that pays."""
        try:
            return self.paid(await purchase.attempt(PAYMENT))
        except (NotSent, Lost) as error:
            return Problem(502, "payment_in_doubt", str(error))

    def paid(self, answer: PaidAnswer) -> Paid:
        return Paid(answer, [RECEIPT], self.record)

    async def record(self, delivery: Delivery) -> None:
        self.deliveries.append(delivery)


# --- the program


@dataclass
class Answer:
    """What a program got, parsed strictly."""

    status: int
    line: bytes
    headers: Headers
    body: bytes = b""
    trailers: Headers = field(default_factory=list)

    def all(self, name: bytes) -> list[bytes]:
        return values(self.headers, name)

    def one(self, name: bytes) -> bytes | None:
        found = self.all(name)
        assert len(found) <= 1, found
        return found[0] if found else None


class Client:
    """A program's end of one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, *data: bytes) -> None:
        """Each piece in a segment of its own."""
        for piece in data:
            self.writer.write(piece)
            await self.writer.drain()
            if len(data) > 1:
                await asyncio.sleep(0.002)

    async def head(self) -> Answer:
        async with asyncio.timeout(PATIENCE):
            raw = await self.reader.readuntil(b"\r\n\r\n")
        line, headers = split_head(raw[:-4])
        return Answer(int(line.split(b" ")[1]), line, headers)

    async def answer(self, *, head_only: bool = False) -> Answer:
        """The next final answer, read to its end."""
        answer = await self.head()
        assert answer.status >= 200, answer
        if head_only or answer.status in {204, 304}:
            return answer
        async with asyncio.timeout(PATIENCE):
            if answer.one(b"transfer-encoding"):
                assert answer.one(b"transfer-encoding") == b"chunked"
                assert not answer.all(b"content-length")
                answer.body = await read_chunked(self.reader, answer.trailers)
            elif (length := answer.one(b"content-length")) is not None:
                answer.body = await self.reader.readexactly(int(length))
            else:
                answer.body = await self.reader.read(-1)
        return answer

    async def rest(self) -> tuple[bytes, str]:
        """Everything until the connection ends, and how it ended: eof, reset, or still open."""
        got = b""
        try:
            async with asyncio.timeout(PATIENCE):
                while data := await self.reader.read(1 << 16):
                    got += data
        except ConnectionError:
            return got, "reset"
        except TimeoutError:
            return got, "open"
        return got, "eof"

    async def silent(self, seconds: float = 0.1) -> bool:
        """Whether nothing comes, not even an end."""
        try:
            async with asyncio.timeout(seconds):
                got = await self.reader.read(1)
        except TimeoutError:
            return True
        assert got == b"", got
        return False

    def half_close(self) -> None:
        self.writer.write_eof()

    def close(self) -> None:
        self.writer.close()

    def reset(self) -> None:
        """Go away at once, and let the other end know."""
        linger(self.writer)
        self.writer.transport.abort()


def linger(writer: asyncio.StreamWriter) -> None:
    import socket
    import struct

    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


# --- all of it


@dataclass
class Rig:
    plane: DataPlane
    gate: Gate
    provider: Provider
    forward: int = 0
    mounts: int = 0
    clients: list[Client] = field(default_factory=list)

    async def client(self, port: int | None = None) -> Client:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port or self.forward, limit=1 << 20
        )
        self.clients.append(Client(reader, writer))
        return self.clients[-1]

    async def mounted(self) -> Client:
        return await self.client(self.mounts)

    def request(
        self,
        path: bytes = b"/a",
        *lines: bytes,
        method: bytes = b"GET",
        version: bytes = b"1.1",
        body: bytes = b"",
    ) -> bytes:
        """A request in absolute form, with the agent's credential."""
        fields = b"".join(line + b"\r\n" for line in (CREDENTIAL, *lines))
        if body:
            fields += b"Content-Length: %d\r\n" % len(body)
        target = self.provider.url + path
        host = self.provider.authority
        return b"%b %b HTTP/%b\r\nHost: %b\r\n%b\r\n%b" % (
            method,
            target,
            version,
            host,
            fields,
            body,
        )

    async def ask(self, *args: bytes, **kwargs: bytes) -> Answer:
        """One request on a connection of its own."""
        client = await self.client()
        await client.send(self.request(*args, **kwargs))
        answer = await client.answer(head_only=kwargs.get("method") == b"HEAD")
        client.close()
        return answer

    @property
    def seen(self) -> Request:
        """The request that reached the provider last."""
        return self.provider.requests[-1]

    def at(self, path: bytes, scene: bytes | Scene) -> bytes:
        self.provider.scenes[path] = scene
        return path


@contextlib.asynccontextmanager
async def rig(
    limits: Limits | None = None,
    *,
    tls: ssl.SSLContext | None = None,
    ca_file: Path | None = None,
    host: str = "127.0.0.1",
    base: str = "",
    resolver: Resolver | None = None,
    chain: Chain | None = None,
    retries: RetryRules | None = None,
) -> AsyncIterator[Rig]:
    """A data plane in front of one provider, which is also mounted at /shop. Whatever a test does,
    nothing may be left behind, and nothing may have gone wrong unseen."""
    loop = asyncio.get_running_loop()
    faults: list[object] = []
    loop.set_exception_handler(lambda _, context: faults.append(context))
    before = asyncio.all_tasks()
    gate = Gate()
    async with provider(tls=tls, host=host) as shop:
        with pytest.MonkeyPatch.context() as patch:
            if ca_file is None:  # 20 ms a test
                patch.setattr(ssl, "create_default_context", system_roots)
            plane = DataPlane(
                gate,
                limits or Limits(),
                ca_file=ca_file,
                resolver=resolver,
                chain=chain,
                retries=retries or RetryRules(backoff=0.01),
            )
        it = Rig(plane, gate, shop)
        _, it.forward = await plane.listen("127.0.0.1", 0, ForwardRouter(gate))
        upstreams = {"shop": shop.url.decode() + base}
        _, it.mounts = await plane.listen("127.0.0.1", 0, MountRouter(gate, upstreams))
        try:
            yield it
        finally:
            for client in it.clients:
                client.close()
            await plane.close(grace=0.5)
    async with asyncio.timeout(PATIENCE):
        while (
            shop.open
            or asyncio.all_tasks() - before - {asyncio.current_task()}
            or plane._connections
            or [upstream for upstream in plane.pool.open if upstream.transport is not None]
        ):
            await asyncio.sleep(0.005)
    assert not faults, faults
    for ticket in gate.tickets:
        assert gate.challenges or ticket.said, "a ticket was never given back"


@functools.cache
def system_roots() -> ssl.SSLContext:
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


async def until(check: Callable[[], object], seconds: float = PATIENCE) -> None:
    """Wait for something to become true."""
    async with asyncio.timeout(seconds):
        while not check():
            await asyncio.sleep(0.005)
