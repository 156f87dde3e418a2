"""What is not a request gets a 4xx or 5xx and is never passed on, whole or in part."""

import asyncio

import pytest
from wire_rig import CREDENTIAL, TOKEN, Rig, ok, until

AUTH = b"Autopay-Token: " + TOKEN.encode() + b"\r\n"
WAITS = None

# The cases of uNetworking's h1spec: what a server must wait for, accept, or refuse.
H1SPEC = [
    (b"G", WAITS),
    (b"GET ", WAITS),
    (b"GET /shop", WAITS),
    (b"GET /shop ", WAITS),
    (b"GET /shop HTTP", WAITS),
    (b"GET /shop HTTP/1.1", WAITS),
    (b"GET /shop HTTP/1.1\r", WAITS),
    (b"GET /shop HTTP/1.1\r\n", WAITS),
    (b"GET /shop HTTP/1.1\r\nHos", WAITS),
    (b"GET /shop HTTP/1.1\r\nHost:", WAITS),
    (b"GET /shop HTTP/1.1\r\nHost: ", WAITS),
    (b"GET /shop HTTP/1.1\r\nHost: localhost", WAITS),
    (b"GET /shop HTTP/1.1\r\nHost: localhost\r", WAITS),
    (b"GET /shop HTTP/1.1\r\nHost: localhost\r\n", WAITS),
    (b"GET /shop HTTP/1.1\r\nHost: localhost\r\n\r", WAITS),
    (b"GET /shop \r\n\r\n", 400),
    (b"GET /shop HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n" + AUTH + b"\r\n", 200),
    (b"GET /shop HTTP/1.1\r\nHost: a\r\n" + AUTH + b"\r\n", 200),
    (b"GET /shop HTTP/1.1\r\nhoSt:\ta\r\nempty:\r\n" + AUTH + b"\r\n", 200),
    (b"GET /shop HTTP/1.1\r\nHost: a\r\nX-Invalid[]: test\r\n\r\n", 400),
    (b"GET /shop HTTP/1.1\r\nContent-Length: 5\r\n\r\n", 400),
    (b"GET /shop HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
    (b"GET /shop HTTP/1.1\r\nHost: a\r\nContent-Length: -123456789123456789123456789\r\n\r\n", 400),
    (b"GET /shop HTTP/1.1\r\nHost: a\r\nContent-Length: -1234\r\n\r\n", 400),
    (b"GET /shop HTTP/1.1\r\nHost: a\r\nContent-Length: abc\r\n\r\n", 400),
    (b"GET /shop HTTP/1.1\r\nHost: a\r\nX-Empty: \r\n" + AUTH + b"\r\n", 200),
    (b"GET /shop HTTP/1.1\r\nHost: a\r\nX-Bad: test\x07\r\n\r\n", 400),
    (b"GET /shop HTTP/9.9\r\nHost: a\r\n\r\n", 400),
    (b"Extra lineGET /shop HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    (b"GET /shop HTTP/1.1\r\nHost: a\r\n\rSome-Header: x\r\n\r\n", 400),
    (b"POST /shop HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n" + AUTH + b"\r\nhello", 200),
    (
        b"GET /shop HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n",
        400,
    ),
]


@pytest.mark.parametrize(("raw", "status"), H1SPEC)
async def test_h1spec(rig: Rig, raw: bytes, status: int | None) -> None:
    client = await rig.mounted()
    await client.send(raw)
    if status is WAITS:
        assert await client.silent(0.05)
    else:
        assert (await client.answer()).status == status


def post(rig: Rig, lines: bytes, body: bytes = b"") -> bytes:
    return b"POST %b/x HTTP/1.1\r\nHost: a\r\n%b\r\n%b\r\n%b" % (
        rig.provider.url,
        CREDENTIAL,
        lines,
        body,
    )


SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.mark.parametrize(
    "lines",
    [
        b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n",
        b"Content-Length: 3\r\nContent-Length: 4\r\n",
        b"Content-Length: 3\r\nContent-Length: 3\r\n",
        b"Content-Length: 3, 3\r\n",
        b"Content-Length: +3\r\n",
        b"Content-Length: 0x3\r\n",
        b"Content-Length: 3 3\r\n",
        b"Content-Length:\r\n",
        b"Content-Length : 3\r\n",
        b" Content-Length: 3\r\n",
        b"Content-Length: 99999999999999999999999\r\n",
        b"Transfer-Encoding: xchunked\r\n",
        b"Transfer-Encoding : chunked\r\n",
        b"Transfer-Encoding:\x0bchunked\r\n",
        b"Transfer-Encoding: \x00chunked\r\n",
        b"Transfer-Encoding: chunked, identity\r\n",
        b"Transfer-Encoding: identity\r\n",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n",
        b'Transfer-Encoding: "chunked"\r\n',
        b"Transfer_Encoding: a\r\nX: y\r\n Transfer-Encoding: chunked\r\n",
        b"X: a\r\n b\r\n",
        b"X: a\nTransfer-Encoding: chunked\r\n",
        b"X: a\rTransfer-Encoding: chunked\r\n",
        b"X\x00: a\r\n",
        b": a\r\n",
        b"X\r\n",
    ],
)
async def test_ambiguous_framing_is_refused(rig: Rig, lines: bytes) -> None:
    client = await rig.client()
    await client.send(post(rig, lines, b"0\r\n\r\n" + SMUGGLED))
    answer = await client.answer()
    assert answer.status == 400
    assert answer.one(b"connection") == b"close"
    assert await client.rest() == (b"", "eof")
    assert not rig.provider.requests


async def test_a_coding_we_do_not_know_is_refused(rig: Rig) -> None:
    client = await rig.client()
    await client.send(post(rig, b"Transfer-Encoding: gzip, chunked\r\n", b"1\r\nx\r\n0\r\n\r\n"))
    assert (await client.answer()).status == 501
    assert not rig.provider.requests


@pytest.mark.parametrize(
    "chunks",
    [
        b"g\r\nhello\r\n0\r\n\r\n",
        b"-1\r\nhello\r\n0\r\n\r\n",
        b"0x5\r\nhello\r\n0\r\n\r\n",
        b"5\r\nhello0\r\n\r\n",
        b"5\r\nhelloX\r\n0\r\n\r\n",
        b"5\nhello\r\n0\r\n\r\n",
        b"5 \r\nhello\r\n0\r\n\r\n",
        b"ffffffffffffffffff\r\nhello",
        b"5;a=\x00\r\nhello\r\n0\r\n\r\n",
        b"\r\n5\r\nhello\r\n0\r\n\r\n",
    ],
)
@pytest.mark.parametrize("split", [False, True])
async def test_broken_chunks_are_refused(rig: Rig, chunks: bytes, split: bool) -> None:
    client = await rig.client()
    head = post(rig, b"Transfer-Encoding: chunked\r\n")
    await (client.send(head, chunks) if split else client.send(head + chunks))
    assert (await client.answer()).status == 400
    assert await client.rest() == (b"", "eof")
    await until(lambda: not rig.provider.open)
    assert not [request for request in rig.provider.requests if request.body]


async def test_chunks_of_any_size_arrive_as_one_body(rig: Rig) -> None:
    client = await rig.client()
    head = post(rig, b"Transfer-Encoding: chunked\r\n")
    await client.send(
        head, b"3;x=y\r\nab", b"c\r\n000A\r\n0123", b"456789\r\n0", b"\r\nT: 1\r\n\r", b"\n"
    )
    assert (await client.answer()).status == 200
    assert rig.seen.body == b"abc0123456789"
    assert rig.seen.trailers == [(b"T", b"1")]
    assert not rig.seen.all(b"t")


@pytest.mark.parametrize(
    "raw",
    [
        b"GET %b/x HTTP/1.1\nHost: a\n\n",
        b"GET %b/\tx HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET %b/\x00x HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET %b/\xff HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET %b/x HTTP/1.1 \r\nHost: a\r\n\r\n",
        b"GET %b/x http/1.1\r\nHost: a\r\n\r\n",
        b"GET %b/x HTTP/1.1\r\n\r\n",
        b"get %b/x HTTP/1.1\r\nHost: a\r\n\r\n",
        b"G\x00T %b/x HTTP/1.1\r\nHost: a\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 %b",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n %b",
    ],
)
async def test_a_broken_head_is_refused(rig: Rig, raw: bytes) -> None:
    client = await rig.client()
    await client.send(raw % rig.provider.url)
    answer = await client.answer()
    assert answer.status == 400
    assert await client.rest() == (b"", "eof")
    assert not rig.provider.requests


@pytest.mark.parametrize("version", [b" HTTP/0.9", b" HTTP/2.0", b""])
async def test_another_version_is_refused(rig: Rig, version: bytes) -> None:
    client = await rig.client()
    await client.send(b"GET " + rig.provider.url + b"/x" + version + b"\r\nHost: a\r\n\r\n")
    assert (await client.answer()).status in {400, 505}
    assert not rig.provider.requests


async def test_what_came_whole_before_the_garbage_is_answered_first(rig: Rig) -> None:
    client = await rig.client()
    await client.send(rig.request(b"/1") + rig.request(b"/2"), b"garbage\r\n\r\n" + SMUGGLED)
    assert (await client.answer()).body == b"GET /1 HTTP/1.1"
    assert (await client.answer()).body == b"GET /2 HTTP/1.1"
    assert (await client.answer()).status == 400
    assert await client.rest() == (b"", "eof")
    assert len(rig.provider.requests) == 2


async def test_newlines_between_requests_are_nothing(rig: Rig) -> None:
    client = await rig.client()
    await client.send(b"\r\n" + rig.request(b"/1", method=b"POST", body=b"x") + b"\r\n\r\n")
    assert (await client.answer()).status == 200
    await client.send(rig.request(b"/2") + b"\r\n")
    assert (await client.answer()).status == 200
    assert await client.silent()


async def test_one_field_of_60_kib_passes_both_ways(rig: Rig) -> None:
    large = b"X-Large: " + b"a" * 60 * 1024
    rig.at(b"/large", ok(b"ok", large))
    answer = await rig.ask(b"/large", large)
    assert rig.seen.all(b"x-large") == [b"a" * 60 * 1024]
    assert answer.one(b"x-large") == b"a" * 60 * 1024


@pytest.mark.parametrize(
    "lines",
    [
        [b"X: " + b"a" * 70 * 1024],
        [b"X%d: %b" % (number, b"a" * 1000) for number in range(200)],
        [b"X%d: y" % number for number in range(300)],
    ],
)
async def test_a_header_too_large_is_refused_both_ways(rig: Rig, lines: list[bytes]) -> None:
    client = await rig.client()
    request = rig.request(b"/x", *lines)
    pieces = [request[at : at + 40_000] for at in range(0, len(request), 40_000)]
    await client.send(*pieces)
    answer = await client.answer()
    assert answer.status == 431
    assert not rig.provider.requests

    async def scene(connection, request) -> None:  # type: ignore[no-untyped-def]
        raw = ok(b"ok", *lines)
        for at in range(0, len(raw), 40_000):
            await connection.send(raw[at : at + 40_000])
            await asyncio.sleep(0.002)

    rig.at(b"/large", scene)
    assert (await rig.ask(b"/large")).status == 502


async def test_a_header_that_never_ends_is_refused(rig: Rig) -> None:
    client = await rig.client()
    client.writer.write(rig.request()[:-2] + b"X: y\r\n" * 100_000)
    assert (await client.answer()).status == 431


async def test_too_many_programs_at_once(rig: Rig) -> None:
    from dataclasses import replace

    rig.plane.limits = replace(rig.plane.limits, connections=2)
    good = [await rig.client(), await rig.client()]
    for client in good:
        await client.send(rig.request())
        await client.answer()
    more = await rig.client()
    assert (await more.answer()).status == 503
    assert (await more.rest())[1] == "eof"
    more.close()
    good.pop().close()
    await until(lambda: len(rig.plane._connections) == 1)
    assert (await rig.ask()).status == 200
