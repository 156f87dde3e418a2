"""https through the proxy: opened with our certificate, paid for, or let be."""

import asyncio
import base64
import os
import re
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from proxy.authority import Authority
from proxy.ledger import agents
from proxy.localnet import Localnet
from proxy.wire.routes import origin_of
from tests.e2e.house import House, house, until
from tests.e2e.seller import Seller, challenge, offer, pays_once, reply, selling, settled
from tests.wire.wire_tls import Authority as Issuer


@dataclass
class Shop:
    """An https seller behind a CA that only the proxy knows, and our own CA."""

    seller: Seller
    home: House
    ours: Path
    theirs: Path

    async def curl(self, *arguments: str, trust: Path | None = None) -> tuple[int, str]:
        """(exit status, what it printed), through HTTPS_PROXY."""
        process = await asyncio.create_subprocess_exec(
            "curl", "-sS", "--http1.1", "-m", "10", "--cacert", str(trust or self.ours), *arguments,
            env={"HTTPS_PROXY": self.home.proxy, "PATH": os.environ["PATH"]},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        out, _ = await process.communicate()
        return process.returncode or 0, out.decode()


@pytest.fixture
def settings() -> dict[str, Any]:
    return {}


@pytest.fixture
async def shop(
    net: Localnet, dsn: str, tmp_path: Path, settings: dict[str, Any]
) -> AsyncIterator[Shop]:
    issuer = Issuer(tmp_path)
    authority = Authority.create(tmp_path / "ca")
    ours = tmp_path / "ours.pem"
    ours.write_bytes(authority.certificate_pem)
    entry = offer(str(net.seller.pubkey()), str(net.fee_payer.pubkey()))
    async with (
        selling(issuer.context("localhost")) as seller,
        house(net, dsn, tmp_path, tls={"ca_file": str(issuer.ca_file)}, **settings) as home,
    ):
        seller.answer = pays_once(challenge(entry), lambda seen: settled(body=b"got " + seen.body))
        yield Shop(seller, home, ours, issuer.ca_file)


async def test_a_paid_get_and_post_by_curl(shop: Shop) -> None:
    assert await shop.curl(shop.seller.url) == (0, "got ")
    assert await shop.curl("-d", "a body", shop.seller.url) == (0, "got a body")
    assert await shop.home.counters() == (2000, 0)
    payment = (await shop.home.rows("SELECT provider, endpoint FROM payments"))[0]
    assert payment["provider"] == shop.seller.url
    assert all(seen.line.split()[1] == "/" for seen in shop.seller.seen)


async def test_a_dot_at_the_end_of_a_host_is_no_way_past(shop: Shop) -> None:
    """CONNECT has the dot, the handshake's server name has not."""
    url = shop.seller.url.replace("localhost", "localhost.")
    assert await shop.curl(url) == (0, "got ")
    (payment,) = await shop.home.rows("SELECT provider FROM payments")
    assert payment["provider"] == shop.seller.url


async def test_many_requests_on_one_tunnel(shop: Shop) -> None:
    status, out = await shop.curl(*[shop.seller.url] * 5)
    assert (status, out) == (0, "got " * 5)
    assert await shop.home.counters() == (5000, 0)


async def ended(shop: Shop, how: str) -> None:
    """The program's token holds no more, and the proxy has heard of it."""
    home, vault = shop.home, shop.home.service.store.vault
    if how == "revoked":
        await agents.revoke_token(home.operator, home.token)
    elif how == "rotated":  # with a grace: nothing tells when that is over but a clock
        await agents.rotate_token(home.operator, vault, home.agent, grace=timedelta(seconds=1))
    else:
        await agents.remove(home.operator, home.agent)
    await until(lambda: home.service.directory.by_token(home.token) is None)


@pytest.mark.parametrize("tls", [True, False])
@pytest.mark.parametrize("how", ["revoked", "rotated", "removed"])
async def test_no_tunnel_outlives_its_token(
    shop: Shop, net: Localnet, seller: Seller, how: str, tls: bool
) -> None:
    entry = offer(str(net.seller.pubkey()), str(net.fee_payer.pubkey()))
    seller.answer = pays_once(challenge(entry), lambda _: settled(body=b"got "))
    at = shop.seller if tls else seller
    context = ssl.create_default_context(cafile=shop.ours) if tls else None
    tunnels = [await inside(shop, at, context, shop.home.token)]
    if how == "revoked":  # and one that goes on
        vault = shop.home.service.store.vault
        new = await agents.issue_token(shop.home.operator, vault, shop.home.agent)
        await until(lambda: shop.home.service.directory.by_token(new.token) is not None)
        tunnels.append(await inside(shop, at, context, new.token))
    for reader, writer in tunnels:
        assert b" 200 " in await told(reader, writer)
    paid, seen = await shop.home.counters(), len(at.seen)
    await ended(shop, how)
    reader, writer = tunnels[0]
    answer = await told(reader, writer)
    assert answer.startswith(b"HTTP/1.1 407 ")
    assert b"proxy_authentication_required" in answer and b"Connection: close" in answer
    async with asyncio.timeout(15):
        assert await reader.read() == b""
    assert (await shop.home.counters(), len(at.seen)) == (paid, seen)
    for reader, writer in tunnels[1:]:
        assert b" 200 " in await told(reader, writer)
    for _, writer in tunnels:
        writer.close()


async def inside(
    shop: Shop, seller: Seller, context: ssl.SSLContext | None, token: str
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A tunnel to this seller, opened by this token."""
    reader, writer = await connected(shop, int(origin_of(seller.url).port), token)
    if context is not None:
        await writer.start_tls(context, server_hostname="localhost")
    return reader, writer


async def told(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    """The whole answer to one more request of a tunnel."""
    writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    async with asyncio.timeout(15):
        head = await reader.readuntil(b"\r\n\r\n")
        size = re.search(rb"(?i)content-length: (\d+)", head)
        assert size is not None, head
        return head + await reader.readexactly(int(size[1]))


async def test_the_strictest_verifier_is_content(shop: Shop) -> None:
    context = ssl.create_default_context(cafile=shop.ours)
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    answer = await shop.home.ask(shop.seller.url, ssl=context)
    assert (answer.status, answer.headers["Autopay-State"]) == (200, "paid")


async def test_a_denial_is_told_inside_the_tunnel(shop: Shop) -> None:
    await shop.home.set_policy(frozen=True, allowed_targets=("127.0.0.0/8",))
    answer = await shop.home.ask(shop.seller.url, ssl=ssl.create_default_context(cafile=shop.ours))
    assert (answer.status, answer.json["code"]) == (403, "frozen")


async def test_a_program_that_rejects_our_certificate_is_left_alone(shop: Shop) -> None:
    """It trusts the seller's CA only, as a pinning program does."""
    shop.seller.answer = lambda _: reply(200, body=b"free")
    status, out = await shop.curl(shop.seller.url, trust=shop.theirs)
    assert status == 60, out  # curl: the certificate can't be verified
    for _ in range(2):
        assert await shop.curl(shop.seller.url, trust=shop.theirs) == (0, "free")
    async with asyncio.timeout(20):
        while not (rows := await shop.home.rows("SELECT * FROM certificate_rejections")):
            await asyncio.sleep(0.02)
    assert (rows[0]["host"], rows[0]["reason"]) == ("localhost", "unknown ca")


async def test_also_where_connect_names_an_address(shop: Shop) -> None:
    """The name is in the handshake only, and the next CONNECT names the address again."""
    shop.seller.answer = lambda _: reply(200, body=b"free")
    port = shop.seller.url.rpartition(":")[2]
    by_address = ("--connect-to", f"localhost:{port}:127.0.0.1:{port}", shop.seller.url)
    assert await shop.curl(*by_address) == (0, "free")  # opened, by our certificate
    status, _ = await shop.curl(*by_address, trust=shop.theirs)
    assert status == 60
    assert await shop.curl(*by_address, trust=shop.theirs) == (0, "free")


@pytest.mark.parametrize("settings", [{"intercept": {"on_reject": "refuse"}}])
async def test_or_refused_where_the_operator_says_so(shop: Shop) -> None:
    status, _ = await shop.curl(shop.seller.url, trust=shop.theirs)
    assert status == 60
    status, out = await shop.curl("-i", shop.seller.url, trust=shop.theirs)
    assert status == 56 and "403" in out  # curl: CONNECT was refused
    assert shop.seller.seen == []


@pytest.mark.parametrize(
    "settings",
    [
        {"intercept": {"tunnel": ["localhost"]}},
        {"intercept": {"default": "tunnel"}},
        {"intercept": {"default": "tunnel", "intercept": ["localhost"], "tunnel": ["*.other"]}},
    ],
)
async def test_which_hosts_are_opened(shop: Shop, settings: dict[str, Any]) -> None:
    shop.seller.answer = lambda _: reply(200, body=b"free")
    opened = "localhost" in settings["intercept"].get("intercept", [])
    assert await shop.curl(shop.seller.url, trust=shop.ours if opened else shop.theirs) == (
        0,
        "free",
    )


async def test_a_clients_silence_after_the_handshake_counts_when_repeated(shop: Shop) -> None:
    """Node looks at the certificate only then, and hangs up without an alert."""
    shop.seller.answer = lambda _: reply(200, body=b"free")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    port = int(shop.seller.url.rpartition(":")[2])
    for _ in range(2):
        reader, writer = await connected(shop, port)
        await writer.start_tls(context, server_hostname="localhost")
        writer.close()
        del reader
        await asyncio.sleep(0.1)
    assert await shop.curl(shop.seller.url, trust=shop.theirs) == (0, "free")


async def test_plain_http_inside_a_tunnel_is_paid(
    shop: Shop, net: Localnet, seller: Seller
) -> None:
    """undici's EnvHttpProxyAgent does that on port 80."""
    entry = offer(str(net.seller.pubkey()), str(net.fee_payer.pubkey()))
    seller.answer = pays_once(challenge(entry), lambda _: settled())
    status, out = await shop.curl("-p", "-x", shop.home.proxy, seller.url)
    assert (status, out) == (0, "goods")
    assert await shop.home.counters() == (1000, 0)


async def test_another_host_inside_a_tunnel_is_misdirected(shop: Shop) -> None:
    status, out = await shop.curl("-H", "Host: elsewhere.example", shop.seller.url)
    assert status == 0 and "misdirected_request" in out
    assert shop.seller.seen == []


async def test_a_bad_certificate_of_the_provider_is_named(shop: Shop, tmp_path: Path) -> None:
    stranger = Issuer(tmp_path_below(tmp_path))
    async with selling(stranger.context("localhost")) as seller:
        status, out = await shop.curl(seller.url)
    assert status == 0
    assert "upstream_unreachable" in out and "certificate is not valid" in out


async def test_a_protocol_in_which_the_server_speaks_first(shop: Shop) -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 hello\r\n")
        writer.write(await reader.readline())
        writer.close()

    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    reader, writer = await connected(shop, server.sockets[0].getsockname()[1])
    assert await reader.readline() == b"220 hello\r\n"
    writer.write(b"quit\r\n")
    assert await reader.readline() == b"quit\r\n"
    writer.close()
    server.close()


async def connected(
    shop: Shop, port: int, token: str = ""
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A tunnel to localhost:`port`, as a program has it after its CONNECT."""

    reader, writer = await asyncio.open_connection(*shop.home.service.proxy_address)
    user = base64.b64encode(f"{shop.home.agent}:{token or shop.home.token}".encode()).decode()
    head = f"CONNECT localhost:{port} HTTP/1.1\r\nHost: x\r\nProxy-Authorization: Basic {user}"
    writer.write(head.encode() + b"\r\n\r\n")
    assert b" 200 " in await reader.readuntil(b"\r\n\r\n")
    return reader, writer


def tmp_path_below(path: Path) -> Path:
    below = path / "stranger"
    below.mkdir()
    return below
