"""Where a message ends, in both directions: RFC 9112 sections 6 and 9."""

import asyncio
import time

import pytest
from wire_rig import Connection, Request, Rig, ok, until

BODY = b"2\r\nok\r\n0\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


async def sse(connection: Connection, _: Request) -> None:
    await connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    for _ in range(5):
        event = b"data: %.6f\n\n" % time.monotonic()
        await connection.send(b"%x\r\n%b\r\n" % (len(event), event))
        await asyncio.sleep(0.02)
    await connection.send(b"0\r\n\r\n")


async def until_close(connection: Connection, _: Request) -> None:
    await connection.send(b"HTTP/1.1 200 OK\r\n\r\nuntil ")
    await asyncio.sleep(0.01)
    await connection.send(b"close")
    connection.close()


async def test_keep_alive_serves_one_connection_with_one_connection(rig: Rig) -> None:
    client = await rig.client()
    for number in range(5):
        await client.send(rig.request(b"/%d" % number))
        assert (await client.answer()).body == b"GET /%d HTTP/1.1" % number
    assert rig.provider.connections == 1


async def test_pipelined_requests_are_answered_in_order(rig: Rig) -> None:
    async def slow(connection: Connection, request: Request) -> None:
        await asyncio.sleep(0.03)
        await connection.send(ok(request.line))

    rig.at(b"/0", slow)
    client = await rig.client()
    await client.send(b"".join(rig.request(b"/%d" % number) for number in range(3)))
    for number in range(3):
        assert (await client.answer()).body == b"GET /%d HTTP/1.1" % number
    assert await client.silent()


async def test_more_pipelined_requests_than_the_parser_queues(rig: Rig) -> None:
    client = await rig.client()
    total = 100
    await client.send(b"".join(rig.request(b"/%d" % number) for number in range(total)))
    for number in range(total):
        assert (await client.answer()).body == b"GET /%d HTTP/1.1" % number


async def test_a_large_body_may_wait_behind_a_slow_request(rig: Rig) -> None:
    async def slow(connection: Connection, request: Request) -> None:
        await asyncio.sleep(0.1)
        await connection.send(ok(b"slow"))

    rig.at(b"/slow", slow)
    client = await rig.client()
    body = bytes(range(256)) * 8192
    sending = asyncio.create_task(
        client.send(rig.request(b"/slow"), rig.request(b"/b", method=b"POST", body=body))
    )
    assert (await client.answer()).body == b"slow"
    assert (await client.answer()).status == 200
    await sending
    assert rig.seen.body == body


async def test_a_half_closed_program_gets_its_answers(rig: Rig) -> None:
    client = await rig.client()
    await client.send(rig.request(b"/1") + rig.request(b"/2", method=b"POST", body=b"abc"))
    client.half_close()
    assert (await client.answer()).body == b"GET /1 HTTP/1.1"
    assert (await client.answer()).body == b"POST /2 HTTP/1.1"
    assert await client.rest() == (b"", "eof")


async def test_half_a_request_is_no_request(rig: Rig) -> None:
    client = await rig.client()
    await client.send(rig.request(b"/a", b"Content-Length: 5", method=b"POST") + b"abc")
    await until(lambda: rig.provider.requests)
    client.half_close()
    assert (await client.rest())[0] == b""
    await until(lambda: rig.gate.tickets[0].said)
    assert rig.gate.tickets[0].said == ["neutral"]


async def test_head_204_and_304_have_no_body_and_keep_the_connection(rig: Rig) -> None:
    rig.at(b"/204", b"HTTP/1.1 204 No Content\r\nX: y\r\n\r\n")
    rig.at(b"/304", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 1000\r\nETag: z\r\n\r\n")
    rig.at(b"/head-chunked", CHUNKED)
    client = await rig.client()
    for path in (b"/x", b"/head-chunked"):
        await client.send(rig.request(path, method=b"HEAD"))
        head = await client.answer(head_only=True)
        assert head.status == 200
        assert not head.all(b"transfer-encoding")
    await client.send(rig.request(b"/204") + rig.request(b"/304") + rig.request(b"/last"))
    assert (await client.answer()).one(b"content-length") is None
    answer = await client.answer()
    assert (answer.status, answer.one(b"content-length")) == (304, b"1000")
    assert (await client.answer()).body == b"GET /last HTTP/1.1"
    assert rig.provider.connections == 1


async def test_interim_answers_pass_but_not_to_http10(rig: Rig) -> None:
    hint = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nAutopay-X: forged\r\n\r\n"
    rig.at(b"/103", hint + ok(b"ok"))
    client = await rig.client()
    await client.send(rig.request(b"/103"))
    interim = await client.head()
    assert (interim.status, interim.headers) == (103, [(b"Link", b"</a>")])
    assert (await client.answer()).body == b"ok"
    assert (await rig.ask(b"/103", version=b"1.0")).body == b"ok"


async def test_a_chunked_answer_stays_chunked(rig: Rig) -> None:
    rig.at(b"/c", CHUNKED + b"3;ext=1\r\nabc\r\n2\r\nde\r\n0\r\nX-Trailer: 1\r\n\r\n")
    client = await rig.client()
    for _ in range(2):
        await client.send(rig.request(b"/c"))
        answer = await client.answer()
        assert (answer.one(b"transfer-encoding"), answer.body) == (b"chunked", b"abcde")
        assert answer.trailers == [(b"X-Trailer", b"1")]
    assert rig.provider.connections == 1


async def test_http10_gets_no_chunks(rig: Rig) -> None:
    rig.at(b"/c", CHUNKED + b"3\r\nabc\r\n0\r\n\r\n")
    client = await rig.client()
    await client.send(rig.request(b"/c", b"Connection: keep-alive", version=b"1.0"))
    answer = await client.answer()
    assert not answer.all(b"transfer-encoding")
    assert (answer.one(b"connection"), answer.body) == (b"close", b"abc")
    assert await client.rest() == (b"", "eof")


async def test_http10_keeps_alive_only_when_asked(rig: Rig) -> None:
    client = await rig.client()
    await client.send(rig.request(b"/1", b"Connection: keep-alive", version=b"1.0"))
    assert (await client.answer()).one(b"connection") == b"keep-alive"
    await client.send(rig.request(b"/2", version=b"1.0"))
    assert (await client.answer()).one(b"connection") == b"close"
    assert await client.rest() == (b"", "eof")


async def test_a_body_that_ends_with_the_connection_is_framed_anew(rig: Rig) -> None:
    rig.at(b"/u", until_close)
    client = await rig.client()
    await client.send(rig.request(b"/u"))
    answer = await client.answer()
    assert (answer.one(b"transfer-encoding"), answer.body) == (b"chunked", b"until close")
    await client.send(rig.request(b"/next"))
    assert (await client.answer()).status == 200
    assert (await rig.ask(b"/u", version=b"1.0")).body == b"until close"


async def test_connection_close_is_kept_by_both_sides(rig: Rig) -> None:
    rig.at(b"/c", ok(b"x", b"Connection: close"))
    client = await rig.client()
    await client.send(rig.request(b"/c"))
    assert (await client.answer()).one(b"connection") is None  # the provider's, not ours
    await client.send(rig.request(b"/a", b"Connection: close"))
    assert (await client.answer()).one(b"connection") == b"close"
    assert await client.rest() == (b"", "eof")
    assert rig.provider.connections == 2


@pytest.mark.parametrize(
    "broken",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc",
        CHUNKED + b"5\r\nhello\r\n",
        CHUNKED + b"5\r\nhel",
        CHUNKED + b"5\r\nhello\r\nzz\r\n",
        CHUNKED + b"5\r\nhello!!",
    ],
)
@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
@pytest.mark.parametrize("pause", [0.0, 0.02])
async def test_a_truncated_answer_never_looks_complete(
    rig: Rig, broken: bytes, version: bytes, pause: float
) -> None:
    async def scene(connection: Connection, _: Request) -> None:
        head, _, body = broken.partition(b"\r\n\r\n")
        await connection.send(head + b"\r\n\r\n")
        await asyncio.sleep(pause)
        await connection.send(body)
        connection.close()

    rig.at(b"/t", scene)
    client = await rig.client()
    await client.send(rig.request(b"/t", b"Connection: close", version=version))
    got, end = await client.rest()
    if b" 502 " in got:  # nothing of it had been relayed
        assert (got[-2:], end) == (b"}\n", "eof")
    else:
        assert end == "reset"
        assert not got.endswith(b"0\r\n\r\n")


@pytest.mark.parametrize("end", ["close", "reset"])
async def test_a_provider_that_dies_without_an_answer_is_a_502(rig: Rig, end: str) -> None:
    async def scene(connection: Connection, _: Request) -> None:
        connection.close() if end == "close" else connection.reset()

    rig.at(b"/d", scene)
    answer = await rig.ask(b"/d")
    assert answer.status == 502
    assert b"Nothing was paid" in answer.body


@pytest.mark.parametrize(
    "poison", [ok(b"poison"), ok(b"poison")[:-1], b"HTTP/1.1 200 OK\r\nX-Swallow: "]
)
async def test_what_follows_an_answer_reaches_nobody(rig: Rig, poison: bytes) -> None:
    rig.at(b"/two", ok(b"ok") + poison)
    client = await rig.client()
    await client.send(rig.request(b"/two"))
    assert (await client.answer()).body == b"ok"
    await client.send(rig.request(b"/a"))
    answer = await client.answer()
    assert answer.status == 502 or answer.body == b"GET /a HTTP/1.1"
    assert b"poison" not in answer.body
    assert not answer.all(b"x-swallow")


async def test_bytes_on_an_idle_connection_end_it(rig: Rig) -> None:
    async def scene(connection: Connection, request: Request) -> None:
        await connection.send(ok(b"ok"))
        await asyncio.sleep(0.02)
        await connection.send(ok(b"poison"))

    rig.at(b"/late", scene)
    client = await rig.client()
    await client.send(rig.request(b"/late"))
    assert (await client.answer()).body == b"ok"
    await until(lambda: not rig.provider.open)
    await client.send(rig.request(b"/a"))
    assert (await client.answer()).body == b"GET /a HTTP/1.1"


@pytest.mark.parametrize(
    "bad",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n" + BODY,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n" + BODY,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1, 1\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nX y: z\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\rAutopay-Payment: b\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 99 Low\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 101 Unasked\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nraw",
        b"HTTP/1.1 101 Unasked\r\n\r\n",
        b"ICY 200 OK\r\n\r\n",
        b"garbage\r\n\r\n",
    ],
)
async def test_an_answer_out_of_form_is_a_502(rig: Rig, bad: bytes) -> None:
    rig.at(b"/bad", bad)
    client = await rig.client()
    await client.send(rig.request(b"/bad"))
    assert (await client.answer()).status == 502
    await client.send(rig.request(b"/good"))
    assert (await client.answer()).body == b"GET /good HTTP/1.1"
    assert rig.provider.connections == 2


async def test_a_lenient_answer_is_relayed_in_strict_form(rig: Rig) -> None:
    rig.at(
        b"/lax",
        b"HTTP/1.1 200 Fine\nX-A: a\n\tfolded\nAutopay-Payment: forged\nContent-Length: 002\n\nok",
    )
    answer = await rig.ask(b"/lax")
    assert answer.headers[:2] == [(b"X-A", b"a\tfolded"), (b"Content-Length", b"2")]
    assert answer.body == b"ok"


async def test_events_are_relayed_as_they_come(rig: Rig) -> None:
    rig.at(b"/sse", sse)
    client = await rig.client()
    await client.send(rig.request(b"/sse"))
    await client.head()
    lags = []
    for _ in range(5):
        size = int(await client.reader.readline(), 16)
        event = await client.reader.readexactly(size + 2)
        lags.append(time.monotonic() - float(event.split()[1]))
    assert sorted(lags)[2] < 0.02, lags


async def test_an_answer_of_many_small_and_odd_chunks(rig: Rig) -> None:
    pieces = [b"x" * (1 + number % 97) for number in range(3000)]
    wire = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
    rig.at(b"/many", CHUNKED + wire)
    assert (await rig.ask(b"/many")).body == b"".join(pieces)
