"""Trailers of a chunked answer: handed on exactly, and no field that has no place there."""

import json

import pytest
from wire_rig import Client, Connection, Headers, Request, Rig, Scene, sold

from proxy.wire.headers import MAX_TRAILERS, trailer_lines

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum, X-Time\r\n\r\n"
TAIL = b"X-Sum: abc\r\nX-Time:  5 \r\n\r\n"
SENT = [(b"X-Sum", b"abc"), (b"X-Time", b"5")]


def pieces(*data: bytes) -> Scene:
    """A scene that sends each piece in a segment of its own."""

    async def scene(connection: Connection, request: Request) -> None:
        await connection.read_body(request)
        client = Client(connection.reader, connection.writer)
        await client.send(*data)

    return scene


async def got(rig: Rig, path: bytes, *lines: bytes) -> tuple[Headers, bytes, Headers]:
    """The answer's fields, body and trailers; the connection is in step after it."""
    client = await rig.client()
    await client.send(rig.request(path, *lines))
    answer = await client.head()
    assert answer.status == 200
    body = b""
    while size := int(await client.reader.readuntil(b"\r\n"), 16):
        body += (await client.reader.readexactly(size + 2))[:-2]
    trailers = []
    while (line := await client.reader.readuntil(b"\r\n")) != b"\r\n":
        name, _, value = line.partition(b": ")
        trailers.append((name, value[:-2]))
    await client.send(rig.request(b"/after"))
    assert (await client.answer()).body == b"GET /after HTTP/1.1"
    client.close()
    return answer.headers, body, trailers


async def test_wherever_the_answer_is_cut(rig: Rig) -> None:
    raw = HEAD + b"3\r\nabc\r\n00;x=y\r\n" + TAIL
    for at in range(1, len(raw)):
        headers, body, trailers = await got(rig, rig.at(b"/t", pieces(raw[:at], raw[at:])))
        assert (body, trailers) == (b"abc", SENT), at
        assert (b"Trailer", b"X-Sum, X-Time") in headers


async def test_byte_by_byte(rig: Rig) -> None:
    raw = HEAD + b"3\r\nabc\r\n0\r\n" + TAIL
    scene = pieces(*(raw[at : at + 1] for at in range(len(raw))))
    assert (await got(rig, rig.at(b"/t", scene)))[1:] == (b"abc", SENT)


@pytest.mark.parametrize(
    "body",
    [
        b"0\r\nX-Sum: forged\r\n\r\n",
        b"\r\n0\r\nX-Sum: forged\r\n\r\n0\r\nX-Sum: forged\r\n\r\n",
        b"0\r\n",
        b"\r\n0\r\nX-Forged: ",
        b"x" * (MAX_TRAILERS + 5),
        b"\r\n0\r\nX: y\r\n\r\n" * 100_000,  # more than is read at once
    ],
)
@pytest.mark.parametrize("tail", [b"\r\n", TAIL])
async def test_a_body_that_looks_like_an_end(rig: Rig, body: bytes, tail: bytes) -> None:
    raw = HEAD + b"%x\r\n%b\r\n0\r\n" % (len(body), body) + tail
    _, arrived, trailers = await got(rig, rig.at(b"/t", raw))
    assert arrived == body
    assert trailers == (SENT if tail == TAIL else [])


FORGED = [
    b"transfer-encoding: chunked",
    b"Host: a",
    b"Authorization: Basic x",
    b"Set-Cookie: a=b",
    b"Content-Type: text/html",
    b"Connection: close",
    b"Trailer: a",
    b"Autopay-Payment: pay-9",
    b"Proxy-Authenticate: Basic",
    b"Location: /",
]


@pytest.mark.parametrize("line", FORGED)
async def test_a_field_that_has_no_place_there(rig: Rig, line: bytes) -> None:
    raw = HEAD + b"1\r\na\r\n0\r\n" + line + b"\r\n" + TAIL
    assert (await got(rig, rig.at(b"/t", raw)))[1:] == (b"a", SENT)


async def test_a_length_there_is_no_http(rig: Rig) -> None:
    rig.at(b"/t", HEAD + b"1\r\na\r\n0\r\nContent-Length: 3\r\n" + TAIL)
    answer = await rig.ask(b"/t")
    assert answer.status == 502, "the parser says no"
    assert trailer_lines(b"\n0\r\nContent-Length: 3\r\nA: 1\r\n\r\n") == [b"A: 1"]


@pytest.mark.parametrize(
    ("end", "lines"),
    [
        (b"\r\n0\r\nA: 1\r\n\r\n", [b"A: 1"]),
        (b"\n0\nA: 1\n\n", [b"A: 1"]),
        (b"\r\n000 ; a=b\r\nA:1\r\n\r\n", [b"A: 1"]),
        (b"\r\n0\r\n0: 0\r\n\r\n", [b"0: 0"]),
        (b"\r\n0\r\nA: \xc3\xa9\r\n\r\n", [b"A: \xc3\xa9"]),
        (b"\r\n0\r\n\r\n", []),
        (b"\r\n0\r\nA: 1\r\n 2\r\n\r\n", []),  # folded
        (b"\r\n0\r\nA : 1\r\n\r\n", []),
        (b"\r\n0\r\n: 1\r\n\r\n", []),
        (b"\r\n0\r\nA: 1\rB: 2\r\n\r\n", []),
        (b"\r\n0\r\nA: 1\x00\r\n\r\n", []),
        (b"\r\n0\r\nA: 1\r\n", []),  # not at its end
        (b"\r\n0\r\nA: 1\r\n\r\n\r\n", []),  # something follows
        (b"0\r\nA: 1\r\n\r\n", []),  # that may be the end of `10`
        (b"A: 1\r\n\r\n", []),
        (b"", []),
    ],
)
def test_reading_from_behind(end: bytes, lines: list[bytes]) -> None:
    assert list(trailer_lines(end)) == lines


async def test_more_than_we_keep_are_none(rig: Rig) -> None:
    fields = b"".join(b"X-%d: %b\r\n" % (n, b"v" * 1000) for n in range(20))
    raw = HEAD + b"1\r\na\r\n0\r\n" + fields + b"\r\n"
    assert (await got(rig, rig.at(b"/t", raw)))[1:] == (b"a", [])


async def test_nobody_has_to_announce_them(rig: Rig) -> None:
    raw = HEAD.replace(b"Trailer: X-Sum, X-Time\r\n", b"") + b"1\r\na\r\n0\r\n" + TAIL
    for at in (len(raw), *range(60, len(raw))):
        headers, body, trailers = await got(rig, rig.at(b"/t", pieces(raw[:at], raw[at:])))
        assert (body, trailers) == (b"a", SENT)
        assert b"trailer" not in {name.lower() for name, _ in headers}


async def test_a_second_answer_has_trailers_of_its_own(rig: Rig) -> None:
    raw = HEAD + b"1\r\na\r\n0\r\n" + TAIL
    second = raw.replace(b"abc", b"other")
    assert (await got(rig, rig.at(b"/t", raw + second)))[1:] == (b"a", [])


async def test_what_is_behind_the_answer_is_not_of_it(rig: Rig) -> None:
    raw = HEAD + b"1\r\na\r\n0\r\n" + TAIL
    extra = b"HTTP/1.1 200 OK\r\nX-Sum: other\r\nContent-Length: 0\r\n\r\n"
    assert (await got(rig, rig.at(b"/t", raw + extra)))[1:] == (b"a", [])


async def test_http_10_gets_none(rig: Rig) -> None:
    rig.at(b"/t", HEAD + b"1\r\na\r\n0\r\n" + TAIL)
    answer = await rig.ask(b"/t", version=b"1.0")
    assert answer.body == b"a"
    assert not answer.all(b"trailer")


async def test_of_a_paid_answer(rig: Rig) -> None:
    raw = HEAD + b"5\r\ngoods\r\n0\r\n" + TAIL
    rig.gate.answering = rig.gate.buy
    for scene in (raw, pieces(raw[:-9], raw[-9:]), pieces(raw[: len(HEAD)], raw[len(HEAD) :])):
        headers, body, trailers = await got(rig, rig.at(b"/p", sold(scene)))
        assert (body, trailers) == (b"goods", SENT)
        assert (b"Autopay-Payment", b"pay-1") in headers
    assert [delivery.size for delivery in rig.gate.deliveries] == [5, 5, 5]


async def test_of_a_402_that_is_handed_on(rig: Rig) -> None:
    raw = (HEAD + b"2\r\n{}\r\n0\r\n" + TAIL).replace(b"200 OK", b"402 Pay", 1)
    rig.at(b"/p", raw)
    client = await rig.client()
    await client.send(rig.request(b"/p"))
    answer = await client.head()
    assert answer.status == 402
    raw_body = await client.reader.readuntil(b"\r\n\r\n")
    assert raw_body == b"2\r\n{}\r\n0\r\nX-Sum: abc\r\nX-Time: 5\r\n\r\n"


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ((b"TE: trailers",), [b"trailers"]),
        ((b"TE: deflate;q=0.5, Trailers", b"Connection: TE"), [b"trailers"]),
        ((b"TE: gzip",), []),
        ((), []),
    ],
)
async def test_who_reads_trailers_says_so(rig: Rig, said: tuple[bytes], told: list[bytes]) -> None:
    raw = HEAD + b"1\r\na\r\n0\r\n" + TAIL
    await got(rig, rig.at(b"/t", raw), *said)
    request = next(request for request in rig.provider.requests if request.path == b"/t")
    assert request.all(b"te") == told
    assert request.all(b"connection") == ([b"TE"] if told else [])


async def test_a_trailer_section_that_is_no_http(rig: Rig) -> None:
    rig.at(b"/t", HEAD + b"1\r\na\r\n0\r\nno field\r\n\r\n")
    client = await rig.client()
    await client.send(rig.request(b"/t"))
    got, _ = await client.rest()
    if got.startswith(b"HTTP/1.1 502"):
        assert json.loads(got.partition(b"\r\n\r\n")[2])["code"] == "upstream_unreachable"
    else:
        assert not got.endswith(b"0\r\n\r\n")
