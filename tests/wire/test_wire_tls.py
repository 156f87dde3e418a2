"""Providers behind TLS: whom we trust, and what we say when we do not."""

import asyncio
import json
import ssl
from pathlib import Path

import pytest
from wire_rig import Connection, Request, ok, rig, sold
from wire_tls import Authority

from proxy.wire.limits import Limits

MIB = 1 << 20


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="session")
def good(authority: Authority) -> ssl.SSLContext:
    return authority.context("127.0.0.1", "localhost")


async def test_https_in_absolute_form(authority: Authority, good: ssl.SSLContext) -> None:
    async with rig(tls=good, ca_file=authority.ca_file) as it:
        client = await it.client()
        for _ in range(3):
            await client.send(it.request(b"/x"))
            assert (await client.answer()).body == b"GET /x HTTP/1.1"
        assert it.provider.connections == 1
        it.at(b"/p", sold(ok(b"goods")))
        it.gate.answering = it.gate.buy
        assert (await it.ask(b"/p", method=b"POST", body=bytes(3 * MIB))).body == b"goods"
        assert it.seen.body == bytes(3 * MIB)
        assert it.gate.purchases[0].origin.scheme == "https"


async def test_a_mounted_https_provider(authority: Authority, good: ssl.SSLContext) -> None:
    async with rig(tls=good, ca_file=authority.ca_file, host="localhost") as it:
        client = await it.mounted()
        await client.send(
            b"GET /shop/x HTTP/1.1\r\nHost: a\r\nAutopay-Token: token-of-ann-7f3a\r\n\r\n"
        )
        assert (await client.answer()).body == b"GET /x HTTP/1.1"
        assert it.seen.all(b"host") == [it.provider.authority]


@pytest.mark.parametrize(
    ("names", "days", "trusted", "fault"),
    [
        (["127.0.0.1"], 1, False, "unable to get local issuer certificate"),
        (["127.0.0.1"], -1, True, "certificate has expired"),
        (["other.example"], 1, True, "IP address mismatch"),
    ],
)
async def test_a_certificate_that_is_not_valid_is_named(
    authority: Authority, tmp_path: Path, names: list[str], days: int, trusted: bool, fault: str
) -> None:
    ca_file = authority.ca_file if trusted else Authority(tmp_path).ca_file
    async with rig(tls=authority.context(*names, days=days), ca_file=ca_file) as it:
        answer = await it.ask(b"/x")
        assert answer.status == 502
        assert fault in json.loads(answer.body)["detail"]
        assert not it.provider.requests


async def test_tls_to_a_plain_port_and_plain_to_a_tls_port(good: ssl.SSLContext) -> None:
    async with rig(Limits(connect=0.2)) as it:
        client = await it.client()
        await client.send(it.request().replace(b"http://", b"https://", 1))
        assert (await client.answer()).status == 504  # it waits for the end of a header
    async with rig(tls=good) as it:
        client = await it.client()
        await client.send(it.request().replace(b"https://", b"http://", 1))
        assert (await client.answer()).status == 502


@pytest.mark.parametrize("how", ["chunked", "length"])
async def test_a_truncated_answer_over_tls(
    authority: Authority, good: ssl.SSLContext, how: str
) -> None:
    frame = b"Transfer-Encoding: chunked" if how == "chunked" else b"Content-Length: 100"

    async def cut(connection: Connection, _: Request) -> None:
        await connection.send(b"HTTP/1.1 200 OK\r\n" + frame + b"\r\n\r\n5\r\nhello\r\n")
        await asyncio.sleep(0.02)
        connection.close()

    async with rig(tls=good, ca_file=authority.ca_file) as it:
        it.at(b"/cut", cut)
        client = await it.client()
        await client.send(it.request(b"/cut"))
        assert (await client.rest())[1] == "reset"


async def test_backpressure_over_tls(authority: Authority, good: ssl.SSLContext) -> None:
    sent = 0

    async def flood(connection: Connection, _: Request) -> None:
        nonlocal sent
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (64 * MIB))
        for _ in range(64):
            await connection.send(bytes(MIB))
            sent += 1

    async with rig(tls=good, ca_file=authority.ca_file) as it:
        it.at(b"/flood", flood)
        client = await it.client()
        client.writer.transport.pause_reading()
        await client.send(it.request(b"/flood"))
        await asyncio.sleep(0.3)
        assert sent < 30
        client.writer.transport.resume_reading()
        await client.head()
        assert len(await client.reader.readexactly(64 * MIB)) == 64 * MIB
        await client.send(it.request(b"/next"))  # a held connection was let go of
        assert (await client.answer()).status == 200
