"""What is wrong behind something whole: the whole is served, and what follows ends it."""

import pytest
from wire_rig import Connection, Request, Rig, ok, until

GARBAGE = b"garbage\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    "garbage", [GARBAGE, b"\x16\x03\x01\x02\x00", b"GET / HTTP/1.1\r\nA b\r\n"]
)
@pytest.mark.parametrize("kind", ["none", "length", "chunked", "three"])
async def test_a_whole_request_and_garbage_in_one_segment(
    rig: Rig, kind: str, garbage: bytes
) -> None:
    raw = {
        "none": rig.request(b"/1"),
        "length": rig.request(b"/1", method=b"POST", body=b"abc"),
        "chunked": rig.request(b"/1", b"Transfer-Encoding: chunked", method=b"POST")
        + b"3\r\nabc\r\n0\r\n\r\n",
        "three": rig.request(b"/1") + rig.request(b"/2", method=b"PUT", body=b"x")
        + rig.request(b"/3"),
    }[kind]  # fmt: skip
    client = await rig.client()
    await client.send(raw + garbage)
    for _ in range(3 if kind == "three" else 1):
        assert (await client.answer()).status == 200
    refusal = await client.answer()
    assert (refusal.status, refusal.one(b"connection")) == (400, b"close")
    assert (await client.rest())[0] == b""
    assert len(rig.provider.requests) == (3 if kind == "three" else 1)


async def test_a_broken_body_is_no_whole_request(rig: Rig) -> None:
    client = await rig.client()
    raw = rig.request(b"/2", b"Transfer-Encoding: chunked", method=b"POST") + b"zz\r\n"
    await client.send(rig.request(b"/1") + raw)
    assert (await client.answer()).body == b"GET /1 HTTP/1.1"
    assert (await client.answer()).status == 400
    assert [request.path for request in rig.provider.requests] == [b"/1"]


ANSWERS = {
    "length": (ok(b"goods\r\n"), b"goods\r\n"),
    "chunked": (CHUNKED + b"5\r\ngoods\r\n0\r\n\r\n", b"goods"),
    "trailers": (CHUNKED + b"5\r\ngoods\r\n0\r\nA: b\r\n\r\n", b"goods"),
    "empty": (ok(b""), b""),
    "no body": (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
    "close": (ok(b"goods", b"Connection: close"), b"goods"),
    "1xx": (b"HTTP/1.1 103 Early\r\nLink: a\r\n\r\n" + ok(b"goods"), b"goods"),
    "bare LF": (b"HTTP/1.1 200 OK\nContent-Length: 5\n\ngoods", b"goods"),
}


@pytest.mark.parametrize("garbage", [GARBAGE, b"\r\n\x00", b"HTTP/1.1 garbage\r\n\r\n"])
@pytest.mark.parametrize("cut", [None, 9, -1])
@pytest.mark.parametrize("kind", ANSWERS)
async def test_a_whole_answer_and_garbage_in_one_segment(
    rig: Rig, kind: str, garbage: bytes, cut: int | None
) -> None:
    raw, body = ANSWERS[kind]

    async def scene(connection: Connection, request: Request) -> None:
        from wire_rig import Client

        writer = Client(connection.reader, connection.writer)
        whole = raw + garbage
        at = len(raw) + cut if cut is not None and cut < 0 else cut
        await writer.send(*((whole[:at], whole[at:]) if at else (whole,)))

    client = await rig.client()
    await client.send(rig.request(rig.at(b"/a", scene)))
    if kind == "1xx":
        assert (await client.head()).status == 103
    answer = await client.answer()
    assert (answer.status, answer.body) == (204 if kind == "no body" else 200, body)
    await client.send(rig.request(b"/after"))
    assert (await client.answer()).body == b"GET /after HTTP/1.1"
    assert rig.provider.connections == 2, "it is not used again"
    await until(lambda: rig.provider.open == 1)
    assert rig.gate.tickets[0].said[0].startswith("success")


async def test_a_head_that_has_a_body_behind_it(rig: Rig) -> None:
    async def scene(connection: Connection, request: Request) -> None:
        await connection.send(ok(b"not to be sent"))

    answer = await rig.ask(rig.at(b"/a", scene), method=b"HEAD")
    assert answer.status == 200
    assert (await rig.ask(b"/after")).body == b"GET /after HTTP/1.1"
    assert rig.provider.connections == 2


@pytest.mark.parametrize(
    "raw",
    [
        CHUNKED + b"5\r\ngoodsX",
        CHUNKED + b"zz\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nBad header\r\n\r\ngoods",
        b"HTTP/1.1 103 Early\r\n\r\ngarbage\r\n\r\n",
        GARBAGE,
    ],
)
async def test_what_is_not_whole_is_no_answer(rig: Rig, raw: bytes) -> None:
    async def scene(connection: Connection, request: Request) -> None:
        await connection.send(raw)

    client = await rig.client()
    await client.send(rig.request(rig.at(b"/a", scene)))
    while (answer := await client.head()).status < 200:
        pass
    assert answer.status == 502


async def test_a_paid_answer_and_garbage(rig: Rig) -> None:
    from wire_rig import sold

    rig.gate.answering = rig.gate.buy
    answer = await rig.ask(rig.at(b"/p", sold(ok(b"goods") + GARBAGE)))
    assert (answer.status, answer.body) == (200, b"goods")
    assert [delivery.complete for delivery in rig.gate.deliveries] == [True]


async def test_a_402_and_garbage(rig: Rig) -> None:
    from wire_rig import demand

    assert (await rig.ask(rig.at(b"/p", demand(b"{}") + GARBAGE))).body == b"{}"
    assert rig.gate.challenges[0].body == b"{}"
