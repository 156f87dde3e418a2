"""Trailers of a chunked request: handed on exactly, whatever is pipelined around it."""

import asyncio
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wire_rig import Connection, Request, Rig, demand, ok, sold

from proxy.wire.framing import Framing
from proxy.wire.headers import MAX_TRAILERS
from proxy.wire.parsers import EMPTY_PAYLOAD

TAIL = b"X-Sum: abc\r\nX-Time:5 \r\n\r\n"
SENT = [(b"X-Sum", b"abc"), (b"X-Time", b"5")]
CHUNKS = b"3\r\nabc\r\n00;x=y\r\n"


def post(rig: Rig, path: bytes, body: bytes, *lines: bytes) -> bytes:
    return rig.request(path, b"Transfer-Encoding: chunked", *lines, method=b"POST") + body


async def test_wherever_the_request_is_cut(rig: Rig) -> None:
    raw = post(rig, b"/t", CHUNKS + TAIL, b"Trailer: X-Sum, X-Time")
    after = rig.request(b"/after")
    for at in range(len(raw) - 80, len(raw) + 30):
        client = await rig.client()
        await client.send((raw + after)[:at], (raw + after)[at:])
        assert (await client.answer()).body == b"POST /t HTTP/1.1"
        assert (await client.answer()).body == b"GET /after HTTP/1.1"
        sent, following = rig.provider.requests[-2:]
        assert (sent.body, sent.trailers) == (b"abc", SENT), at
        assert sent.all(b"trailer") == [b"X-Sum, X-Time"]
        assert following.headers == [(b"Host", rig.provider.authority)], "a trailer is no field"
        client.close()


async def test_nobody_has_to_announce_them(rig: Rig) -> None:
    client = await rig.client()
    await client.send(post(rig, b"/t", CHUNKS + TAIL))
    await client.answer()
    assert rig.seen.trailers == SENT
    assert not rig.seen.all(b"trailer")


@pytest.mark.parametrize("size", [1, 3, 7, 50, 5000])
async def test_pipelined_between_requests_of_every_framing(rig: Rig, size: int) -> None:
    raw, dice = b"", random.Random(size)
    for number in range(40):  # more than are parsed ahead
        path = b"/%d" % number
        kind = dice.choice(["chunked", "length", "none"])
        if kind == "chunked":
            body = b"\r\n0\r\nX: forged\r\n\r\n" * dice.randrange(3)
            chunk = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
            raw += post(rig, path, chunk + b"0\r\nX-Number: %d\r\n\r\n" % number)
        elif kind == "length":
            raw += rig.request(path, method=b"POST", body=b"0\r\nX: forged\r\n\r\n")
        else:
            raw += rig.request(path)
    client = await rig.client()
    for at in range(0, len(raw), size):
        client.writer.write(raw[at : at + size])
        if size > 1 or at % 64 == 0:
            await client.writer.drain()
    for number in range(40):
        assert b" /%d " % number in (await client.answer()).body
    assert len(rig.provider.requests) == 40
    for number, request in enumerate(rig.provider.requests):
        chunked = bool(request.all(b"transfer-encoding"))
        assert request.trailers == ([(b"X-Number", b"%d" % number)] if chunked else [])
        assert not request.all(b"x-number")


@pytest.mark.parametrize(
    "line",
    [
        b"Authorization: Bearer x",
        b"Proxy-Authorization: Basic x",
        b"Autopay-Session: other",
        b"Autopay-Token: x",
        b"PAYMENT-SIGNATURE: x",
        b"X-PAYMENT: x",
        b"Cookie: a=b",
        b"Connection: close",
        b"TE: trailers",
        b"Trailer: y",
        b"Upgrade: websocket",
        b"Content-Type: text/html",
        b"Content-Range: bytes 0-1/2",
        b"Max-Forwards: 0",
        b"Expect: 100-continue",
    ],
)
async def test_a_field_that_has_no_place_there(rig: Rig, line: bytes) -> None:
    client = await rig.client()
    raw = post(rig, b"/t", b"0\r\n" + line + b"\r\n" + TAIL)
    await client.send(raw + post(rig, b"/u", b"0\r\n" + TAIL[:-2] + line + b"\r\n\r\n"))
    await client.send(rig.request(b"/after"))
    for _ in range(3):
        assert (await client.answer()).status == 200
    first, second, after = rig.provider.requests
    assert first.trailers == second.trailers == SENT
    assert after.headers == [(b"Host", rig.provider.authority)]


async def test_a_host_there_is_nobodys(rig: Rig) -> None:
    client = await rig.client()
    raw = post(rig, b"/t", b"0\r\n" + TAIL[:-2] + b"Host: elsewhere\r\n\r\n")
    await client.send(raw + rig.request(b"/after"))
    assert [(await client.answer()).status for _ in range(2)] == [200, 200]
    assert rig.provider.requests[0].trailers == SENT
    await client.send(post(rig, b"/t", b"0\r\nHost: elsewhere\r\n" + TAIL))
    assert (await client.answer()).status == 400, "the parser says no"


async def test_too_many_are_none(rig: Rig) -> None:
    fields = b"".join(b"X-%d: %b\r\n" % (n, b"v" * 1000) for n in range(MAX_TRAILERS // 1000 + 1))
    client = await rig.client()
    await client.send(post(rig, b"/t", b"0\r\n" + fields + b"\r\n") + rig.request(b"/after"))
    await client.answer()
    assert (await client.answer()).body == b"GET /after HTTP/1.1"
    assert [request.trailers for request in rig.provider.requests] == [[], []]


async def test_an_endless_chunk_extension_ends_the_connection_with_its_request(rig: Rig) -> None:
    client = await rig.client()
    raw = post(rig, b"/t", b"3;" + b"x" * 200_000 + b"\r\nabc\r\n0\r\nX: y\r\n\r\n")
    raw += rig.request(b"/after")
    await client.send(*(raw[at : at + 10_000] for at in range(0, len(raw), 10_000)))
    assert (await client.answer()).status == 200
    assert await client.rest() == (b"", "eof")
    assert all(request.path == b"/t" for request in rig.provider.requests)


async def test_the_paid_request_has_them_too(rig: Rig) -> None:
    rig.gate.answering = rig.gate.buy
    rig.at(b"/p", sold(ok(b"goods")))
    for split in (False, True):
        client = await rig.client()
        raw = post(rig, b"/p", CHUNKS + TAIL)
        await client.send(*((raw[:-20], raw[-20:]) if split else (raw,)))
        assert (await client.answer()).body == b"goods"
        unpaid, paid = rig.provider.requests[-2:]
        assert (unpaid.body, unpaid.trailers) == (paid.body, paid.trailers) == (b"abc", SENT)


async def test_a_payment_that_is_made_before_the_body_has_ended(rig: Rig) -> None:
    """The 402 comes at once; what is sent again ends with trailers that were not here then."""

    async def shop(connection: Connection, request: Request) -> None:
        if request.all(b"payment-signature"):
            await connection.read_body(request)
            await connection.send(ok(b"goods"))
        else:
            await connection.send(demand())
            await connection.read_body(request)

    rig.gate.answering = rig.gate.buy
    rig.at(b"/p", shop)
    client = await rig.client()
    raw = post(rig, b"/p", CHUNKS + TAIL)
    client.writer.write(raw[: -len(CHUNKS + TAIL) + 4])
    await asyncio.sleep(0.05)
    client.writer.write(raw[-len(CHUNKS + TAIL) + 4 :])
    assert (await client.answer()).body == b"goods"
    assert (rig.seen.body, rig.seen.trailers) == (b"abc", SENT)


class Head:
    """As much of a parsed head as Framing looks at."""

    def __init__(self, chunked: bool, length: int) -> None:
        self.chunked = chunked
        self.raw_headers = ((b"Content-Length", b"%d" % length),)


requests = st.one_of(
    st.just((None, b"")),
    st.binary(min_size=1, max_size=40).map(lambda body: ("length", body)),
    st.lists(st.binary(min_size=1, max_size=20), max_size=4).map(
        lambda chunks: (
            "chunked",
            b"".join(b"%x\r\n%b\r\n" % (len(c), c) for c in chunks) + b"0\r\nA: 1\r\n\r\n",
        )
    ),
)


@given(st.lists(requests, min_size=1, max_size=5), st.randoms(use_true_random=False))
def test_every_cut_is_where_a_head_or_a_body_ends(
    messages: list[tuple[str | None, bytes]], dice: random.Random
) -> None:
    head = b"\r\nGET / HTTP/1.1\r\nA: b\r\n\r\n"
    raw = b"".join(head + body for _, body in messages)
    ends = set()
    at = 0
    for _, body in messages:
        ends |= {at + len(head), at + len(head) + len(body)}
        at += len(head) + len(body)
    framing, at, cuts, heads, lists = Framing(), 0, set(), iter(messages), []
    begun = 0
    while at < len(raw):
        piece = raw[at : at + dice.randint(1, 30)]
        start = 0
        while start < len(piece):
            start = framing.cut(piece, start)
            if at + start in ends:
                cuts.add(at + start)
            if begun < len(messages) and at + start == sum(
                len(head) + len(b) for _, b in messages[:begun]
            ) + len(head):
                kind, body = next(heads)
                begun += 1
                payload = EMPTY_PAYLOAD if kind is None else object()
                lists.append(framing.begin(Head(kind == "chunked", len(body)), payload))  # type: ignore[arg-type]
        at += len(piece)
    assert cuts == ends
    assert lists == [[b"A: 1"] if kind == "chunked" else [] for kind, _ in messages]
