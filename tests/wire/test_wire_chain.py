"""A chained proxy: what goes through it and how, what does not, and what its refusals become."""

import asyncio
import contextlib
import json
import ssl
from base64 import b64encode
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from wire_rig import CREDENTIAL, PAYMENT, Answer, Connection, Headers, Rig, demand, ok, sold
from wire_rig import rig as open_rig
from wire_tls import Authority

from proxy.wire.chain import Chain
from proxy.wire.egress import Leave
from proxy.wire.gate import NotSent, PaymentRequired, Purchase, Reply
from proxy.wire.problem import Problem

SHOP = "shop.example"  # only the chained proxy knows where that is
OURS = b"Basic " + b64encode(b"corp user:p@ss:word")


@dataclass
class Corporate:
    """A forwarding proxy that knows every name as 127.0.0.1, and wants a credential."""

    port: int = 0
    refuses: int | None = None
    silent: bool = False
    lines: list[bytes] = field(default_factory=list)
    heads: list[Headers] = field(default_factory=list)
    connections: int = 0
    origins: dict[Connection, Connection] = field(default_factory=dict)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        program = Connection(reader, writer)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            try:
                await self._serve(program)
            finally:
                writer.close()
                if origin := self.origins.pop(program, None):
                    origin.close()

    async def _serve(self, program: Connection) -> None:
        while True:
            request = await program.read_head()
            self.lines.append(request.line)
            self.heads.append(request.headers)
            method, target, _ = request.line.split(b" ")
            if self.silent:
                return
            if self.refuses or request.all(b"proxy-authorization") != [OURS]:
                await program.send(ok(b"no", status=b"%d No" % (self.refuses or 407)))
                return
            where = target if method == b"CONNECT" else target.split(b"/")[2]
            origin = self.origins.get(program)
            if origin is None:
                port = int(where.rpartition(b":")[2])
                origin = Connection(*await asyncio.open_connection("127.0.0.1", port))
                self.origins[program] = origin
            if method == b"CONNECT":
                await self._tunnel(program, origin)
                return
            await program.read_body(request)
            fields = [f for f in request.headers if f[0].lower() != b"proxy-authorization"]
            path = target.removeprefix(b"http://" + where) or b"*"
            head = [method + b" " + path + b" HTTP/1.1", *(n + b": " + v for n, v in fields)]
            await origin.send(b"\r\n".join([*head, b"\r\n"]) + request.body)
            answer = await origin.read_head()
            await origin.read_body(answer)
            lines = [answer.line, *(n + b": " + v for n, v in answer.headers), b"\r\n"]
            await program.send(b"\r\n".join(lines) + answer.body)

    async def _tunnel(self, program: Connection, origin: Connection) -> None:
        async def pipe(near: Connection, far: Connection) -> None:
            with contextlib.suppress(ConnectionError):
                while data := await near.reader.read(65536):
                    await far.send(data)
            far.close()

        greeting = b""
        with contextlib.suppress(TimeoutError):  # one that speaks first: sent with the answer
            greeting = await asyncio.wait_for(origin.reader.read(100), 0.02)
        await program.send(b"HTTP/1.1 200 Fine\r\nX-Via: corp\r\n\r\n" + greeting)
        await asyncio.gather(pipe(program, origin), pipe(origin, program))


@dataclass
class Chained:
    rig: Rig
    corporate: Corporate


@contextlib.asynccontextmanager
async def chained(
    *bypass: str,
    user: str = "corp%20user:p%40ss%3Aword@",
    tls: ssl.SSLContext | None = None,
    ca_file: Path | None = None,
    host: str = SHOP,
) -> AsyncIterator[Chained]:
    corporate = Corporate()
    server = await asyncio.start_server(corporate.serve, "127.0.0.1", 0)
    corporate.port = server.sockets[0].getsockname()[1]
    chain = Chain(f"http://{user}127.0.0.1:{corporate.port}", bypass)
    try:
        async with open_rig(tls=tls, ca_file=ca_file, host=host, chain=chain) as rig:
            # Public names alone: this machine is left to the mounts.
            rig.gate.ann.leave = Leave()
            yield Chained(rig, corporate)
    finally:
        server.close()


def leaked(rig: Rig) -> bool:
    return any(
        name.lower().startswith(b"proxy-") or OURS in value
        for request in rig.provider.requests
        for name, value in request.headers
    )


def fault(answer: Answer) -> str:
    assert answer.status == 502, answer
    document = json.loads(answer.body)
    assert document["code"] == "upstream_proxy_failed"
    assert "upstream proxy 127.0.0.1" in document["detail"]
    assert "p@ss" not in document["detail"]
    return str(document["detail"])


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


async def test_http_goes_in_absolute_form_with_our_credential() -> None:
    async with chained() as it:
        rig, corporate = it.rig, it.corporate
        client = await rig.client()
        for _ in range(2):
            await client.send(rig.request(b"/a?b=//c", method=b"POST", body=b"abc"))
            answer = await client.answer()
            assert (answer.status, answer.body) == (200, b"POST /a?b=//c HTTP/1.1")
        assert corporate.lines == [b"POST " + rig.provider.url + b"/a?b=//c HTTP/1.1"] * 2
        assert corporate.connections == 1, "kept for the next request"
        assert rig.seen.body == b"abc"
        assert rig.seen.all(b"host") == [rig.provider.authority]
        assert not leaked(rig)
        assert CREDENTIAL.partition(b": ")[2] not in str(corporate.heads).encode()
        await client.send(rig.request(b"", method=b"OPTIONS"))
        await client.answer()
        assert corporate.lines[-1] == b"OPTIONS " + rig.provider.url + b" HTTP/1.1"
        assert rig.seen.path == b"*"
        other = rig.request(b"/a").replace(b"shop.example", b"other.example")
        await client.send(other)
        await client.answer()
        assert corporate.connections == 2, "another origin, another connection"


async def test_https_is_tunnelled_and_verified(authority: Authority) -> None:
    async with chained(tls=authority.context(SHOP), ca_file=authority.ca_file) as it:
        for _ in range(2):
            assert (await it.rig.ask(b"/a")).body == b"GET /a HTTP/1.1"
        where = it.rig.provider.authority
        assert it.corporate.lines == [b"CONNECT " + where + b" HTTP/1.1"]
        assert not leaked(it.rig)
    async with chained(tls=authority.context("other.example"), ca_file=authority.ca_file) as it:
        answer = await it.rig.ask(b"/a")
        assert answer.status == 502
        assert "certificate is not valid" in json.loads(answer.body)["detail"]
        assert not it.rig.provider.requests


async def test_a_blind_tunnel_goes_through_with_what_is_said_first() -> None:
    async with chained() as it:
        rig = it.rig

        async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"220 hello\n")
            writer.write(b"you said " + await reader.readline())
            writer.close()

        server = await asyncio.start_server(greet, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        client = await rig.client()
        await client.send(
            b"CONNECT mail.example:%d HTTP/1.1\r\nHost: x\r\n%b\r\n\r\n" % (port, CREDENTIAL)
        )
        assert (await client.head()).status == 200
        assert await client.reader.readline() == b"220 hello\n"
        await client.send(b"quit\n")
        assert await client.reader.readline() == b"you said quit\n"
        assert it.corporate.heads[0] == [
            (b"Host", b"mail.example:%d" % port),
            (b"Proxy-Authorization", OURS),
        ]
        server.close()


async def test_a_websocket_over_http_is_tunnelled() -> None:
    async with chained() as it:
        rig = it.rig

        async def scene(connection: Connection, request: object) -> None:
            head = b"HTTP/1.1 101 Up\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhi"
            await connection.send(head)
            connection.close()

        rig.at(b"/ws", scene)
        await rig.ask(b"/a")  # a connection to be had, but one that the proxy reads
        client = await rig.client()
        await client.send(rig.request(b"/ws", b"Connection: Upgrade", b"Upgrade: websocket"))
        assert (await client.head()).status == 101
        assert await client.reader.readexactly(2) == b"hi"
        assert it.corporate.lines[-1].startswith(b"CONNECT shop.example:")


@pytest.mark.parametrize("status", [407, 403, 502, 301])
@pytest.mark.parametrize("way", ["https", "connect", "http"])
async def test_its_refusal_is_named(status: int, way: str, authority: Authority) -> None:
    tls = authority.context(SHOP) if way == "https" else None
    async with chained(tls=tls, ca_file=authority.ca_file) as it:
        it.corporate.refuses = status
        client = await it.rig.client()
        if way == "connect":
            line = b"CONNECT a.example:443 HTTP/1.1\r\nHost: x\r\n"
            await client.send(line + CREDENTIAL + b"\r\n\r\n")
        else:
            await client.send(it.rig.request(b"/a"))
        answer = await client.answer()
        if way == "http" and status != 407:
            assert answer.status == status, "who it is from, nobody can tell"
            return
        assert f"with {status}" in fault(answer)
        assert ("another user or password" in fault(answer)) == (status == 407)
        assert all(ticket.said == ["neutral"] for ticket in it.rig.gate.tickets)


async def test_without_a_credential_none_is_sent() -> None:
    async with chained(user="") as it:
        assert "with 407" in fault(await it.rig.ask(b"/a"))
        assert b"proxy-authorization" not in {n.lower() for n, _ in it.corporate.heads[0]}


async def test_a_proxy_that_is_not_there_or_says_nothing(authority: Authority) -> None:
    async with chained(tls=authority.context(SHOP), ca_file=authority.ca_file) as it:
        it.corporate.silent = True
        assert "gave no answer to CONNECT" in fault(await it.rig.ask(b"/a"))
    async with open_rig(host=SHOP, chain=Chain("http://u:p@127.0.0.1:1")) as rig:
        assert "no connection to the upstream proxy" in fault(await rig.ask(b"/a"))
        assert rig.gate.tickets[0].said == ["neutral"]


async def test_a_proxy_that_is_autopay_itself() -> None:
    chain = Chain("http://127.0.0.1:1")
    async with open_rig(host=SHOP, chain=chain) as rig:
        chain.port = rig.forward
        answer = await rig.ask(b"/a")
        assert answer.status == 502
        assert "is autopay itself" in json.loads(answer.body)["detail"]


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_paid_request(scheme: str, authority: Authority) -> None:
    tls = authority.context(SHOP) if scheme == "https" else None
    async with chained(tls=tls, ca_file=authority.ca_file) as it:
        rig = it.rig
        rig.gate.answering = rig.gate.buy
        rig.at(b"/p", sold(ok(b"goods")))
        answer = await rig.ask(b"/p", method=b"POST", body=b"order")
        assert (answer.status, answer.body) == (200, b"goods")
        assert rig.seen.all(PAYMENT[0]) == [PAYMENT[1]]
        assert rig.seen.body == b"order"
        assert not leaked(rig)


@pytest.mark.parametrize(
    ("scheme", "outcome"), [("https", "NotSent"), ("http", "Lost")], ids=["https", "http"]
)
async def test_what_is_known_of_a_paid_request(
    scheme: str, outcome: str, authority: Authority
) -> None:
    """A refused CONNECT: nothing has left. A request that the proxy has in its hands: who knows."""
    tls = authority.context(SHOP) if scheme == "https" else None
    async with chained(tls=tls, ca_file=authority.ca_file) as it:
        rig = it.rig
        rig.at(b"/p", demand().replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1))
        raised: list[Exception] = []

        async def answering(purchase: Purchase, challenge: PaymentRequired) -> Reply:
            it.corporate.refuses, it.corporate.silent = 403, scheme == "http"
            try:
                await purchase.attempt(PAYMENT)
            except Exception as error:
                raised.append(error)
            return Problem(502, "told", "x")

        rig.gate.answering = answering
        assert (await rig.ask(b"/p")).status == 502
        assert [type(error).__name__ for error in raised] == [outcome]
        if isinstance(raised[0], NotSent):
            assert "answered CONNECT with 403" in str(raised[0])


@pytest.mark.parametrize(
    ("bypass", "host", "covered"),
    [
        ((), "shop.example", True),
        (("shop.example",), "shop.example", False),
        (("shop.example",), "shop.example.", False),
        (("shop.example",), "a.shop.example", True),
        (("*.example",), "a.shop.example", False),
        (("*.shop.example",), "shop.example", True),
        (("*.example",), "badexample", True),
        (("10.0.0.0/8",), "10.1.2.3", False),
        (("10.0.0.0/8",), "11.1.2.3", True),
        (("10.0.0.0/8",), "10.example", True),
        (("10.1.2.3",), "10.1.2.3", False),
        (("2001:db8::/32",), "2001:db8::1", False),
        ((), "localhost", False),
        ((), "a.localhost", False),
        ((), "localhost.example", True),
        ((), "127.0.0.1", False),
        ((), "127.1", False),
        ((), "0x7f000001", False),
        ((), "2130706433", False),
        ((), "::1", False),
        ((), "::ffff:127.0.0.1", False),
        ((), "0.0.0.0", False),
        ((), "169.254.169.254", False),
        ((), "8.8.8.8", True),
    ],
)
def test_what_it_covers(bypass: tuple[str, ...], host: str, covered: bool) -> None:
    assert Chain("http://proxy.example:3128", bypass).covers(host) is covered


async def test_the_bypass_list_leads_past_it() -> None:
    async with chained("127.0.0.0/8", "*.internal", host="127.0.0.1") as it:
        it.rig.gate.ann = replace(it.rig.gate.ann, leave=Leave(everywhere=True))
        assert (await it.rig.ask(b"/a")).status == 200
        assert it.corporate.connections == 0


@pytest.mark.parametrize(
    ("authority", "code"),
    [
        ("127.0.0.1:80", "egress_loopback"),
        ("localhost:80", "egress_loopback"),
        ("10.0.0.1:443", "egress_private"),
        ("10.0.0.1.:443", "egress_private"),
        ("[::ffff:10.0.0.1]:443", "egress_private"),
        ("169.254.169.254:80", "egress_metadata"),
        ("[fd00::1]:443", "egress_private"),
        ("shop.example:22", "egress_port"),
        ("shop.example:5432", "egress_port"),
    ],
)
async def test_what_a_host_says_by_itself_is_judged(authority: str, code: str) -> None:
    async with chained() as it:
        client = await it.rig.client()
        await client.send(
            f"CONNECT {authority} HTTP/1.1\r\nHost: x\r\n".encode() + CREDENTIAL + b"\r\n\r\n"
        )
        answer = await client.answer()
        assert (answer.status, json.loads(answer.body)["code"]) == (403, code)
        assert it.corporate.connections == 0
        (refused,) = it.rig.gate.refused
        assert refused.address != "0.0.0.0", "that is no answer"


@pytest.mark.parametrize(
    ("authority", "status"),
    [
        *((f"{host}:443", 400) for host in ("127.1", "0x0a000001", "012.1", "010.8.8.8", "1")),
        ("8.8.8.999:443", 502),
    ],
)
async def test_what_may_be_read_in_two_ways_is_not_asked(authority: str, status: int) -> None:
    async with chained() as it:
        client = await it.rig.client()
        await client.send(
            f"CONNECT {authority} HTTP/1.1\r\nHost: x\r\n".encode() + CREDENTIAL + b"\r\n\r\n"
        )
        assert (await client.answer()).status == status
        assert it.corporate.connections == 0


def test_the_credential_is_not_in_its_name() -> None:
    chain = Chain("http://user:SECRET@proxy.example")
    assert chain.name == "proxy.example:80"
    assert "SECRET" not in repr(chain) + str(chain.refusal(407, "CONNECT"))
