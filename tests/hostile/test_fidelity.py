"""The same exchanges, direct and through the proxy: what the server sees and what the client sees
must be equal, byte for byte, but for what `_request` and `_answer` below leave out or put in order.
"""

import asyncio
import gzip
import zlib
from dataclasses import dataclass

import pytest

from tests.hostile.arena import PLAIN, WAYS, Arena
from tests.wire.wire_rig import Answer, Client, Headers, Request, ok

pytestmark = pytest.mark.asyncio(loop_scope="module")

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
BINARY = bytes(range(256)) * 40
LATIN = b"X-Latin: caf\xe9 \xfc\xdf"

# --- the documented differences, all of them

HOP_BY_HOP = {b"connection", b"keep-alive", b"te", b"trailer", b"transfer-encoding", b"upgrade"}
"""Belong to one connection (RFC 9110 section 7.6.1), each side has its own."""
FOR_THE_PROXY = (b"proxy-", b"autopay-")
"""Between the program and us."""


def _travelling(headers: Headers) -> Headers:
    return [
        (name, b"%d" % int(value) if name.lower() == b"content-length" else value)  # never `010`
        for name, value in headers
        if name.lower() not in HOP_BY_HOP and not name.lower().startswith(FOR_THE_PROXY)
    ]


def _request(request: Request) -> tuple[bytes, Headers, bytes]:
    """As it has to arrive. Host comes first, spelled so, and names the provider. We speak HTTP/1.1
    whatever the program speaks. Where chunks end is not looked at, and trailers are not."""
    method, target, _ = request.line.split(b" ")
    others = [
        (name, value) for name, value in _travelling(request.headers) if name.lower() != b"host"
    ]
    return method + b" " + target, others, request.body


def _answer(answer: Answer) -> tuple[bytes, Headers, bytes]:
    """As it has to arrive. The version is ours. A body without a length comes in chunks."""
    return answer.line.partition(b" ")[2], _travelling(answer.headers), answer.body


# --- the exchanges


@dataclass(frozen=True)
class Exchange:
    name: str
    answer: bytes = ok(b"hello")
    method: bytes = b"GET"
    target: bytes = b"/f"
    lines: bytes = b""
    body: bytes = b""
    version: bytes = b"1.1"


def sends(
    name: str, body: bytes, *lines: bytes, method: bytes = b"POST", **more: bytes
) -> Exchange:
    fields = b"".join(line + b"\r\n" for line in (*lines, b"Content-Length: %d" % len(body)))
    return Exchange(name, method=method, lines=fields, body=body, **more)


EXCHANGES = [
    Exchange("GET"),
    Exchange("HEAD", method=b"HEAD"),
    Exchange("HEAD of a chunked answer", CHUNKED, b"HEAD"),
    Exchange("OPTIONS", ok(b"", b"Allow: GET, POST"), b"OPTIONS"),
    Exchange("DELETE", b"HTTP/1.1 204 No Content\r\nX-Gone: yes\r\n\r\n", b"DELETE"),
    Exchange("TRACE", method=b"TRACE"),
    Exchange("PROPFIND", method=b"PROPFIND", lines=b"Depth: 1\r\n"),
    sends("POST of a form", b"a=1&b=%20", b"Content-Type: application/x-www-form-urlencoded"),
    sends("POST of JSON", b'{"a": "\xc3\xa4"}', b"Content-Type: application/json; charset=utf-8"),
    sends("POST of nothing", b""),
    sends("PUT of every byte", BINARY, b"Content-Type: application/octet-stream", method=b"PUT"),
    sends("PATCH", b"[]", method=b"PATCH"),
    sends("POST of 300 KB", BINARY * 30),
    sends("POST of gzip", gzip.compress(BINARY), b"Content-Encoding: gzip"),
    Exchange("a length with zeros", method=b"POST", lines=b"Content-Length: 003\r\n", body=b"abc"),
    Exchange(
        "chunks up",
        method=b"POST",
        lines=b"Transfer-Encoding: chunked\r\n",
        body=b"3\r\nabc\r\n00a\r\n0123456789\r\n0\r\n\r\n",
    ),
    Exchange("chunks down", CHUNKED + b"3\r\nabc\r\n1\r\nd\r\n0\r\n\r\n"),
    Exchange(
        "chunks both ways",
        CHUNKED + b"2\r\nok\r\n0\r\n\r\n",
        b"PUT",
        lines=b"Transfer-Encoding: chunked\r\n",
        body=b"1\r\nx\r\n0\r\n\r\n",
    ),
    Exchange("empty chunked answer", CHUNKED + b"0\r\n\r\n"),
    Exchange("300 KB of chunks", CHUNKED + b"4b000\r\n" + BINARY * 30 + b"\r\n0\r\n\r\n"),
    Exchange(
        "events",
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
        b"Cache-Control: no-cache\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"b\r\ndata: one\n\n\r\nb\r\ndata: two\n\n\r\n0\r\n\r\n",
        lines=b"Accept: text/event-stream\r\nLast-Event-ID: 7\r\n",
    ),
    Exchange(
        "gzip down",
        ok(gzip.compress(BINARY), b"Content-Encoding: gzip", b"Vary: Accept-Encoding"),
        lines=b"Accept-Encoding: gzip, br;q=0.5\r\n",
    ),
    Exchange("deflate down", ok(zlib.compress(BINARY), b"Content-Encoding: deflate")),
    Exchange("a coding nobody knows", ok(b"??", b"Content-Encoding: x-zig")),
    Exchange("every byte down", ok(BINARY)),
    Exchange("201", ok(b"", b"Location: /new?x=1#frag", status=b"201 Created")),
    Exchange(
        "206 of a range",
        ok(
            b"ell",
            b"Content-Range: bytes 1-3/5",
            b"Accept-Ranges: bytes",
            status=b"206 Partial Content",
        ),
        lines=b'Range: bytes=1-3\r\nIf-Range: "e"\r\n',
    ),
    Exchange(
        "301", ok(b"", b"Location: http://elsewhere.example/", status=b"301 Moved Permanently")
    ),
    Exchange(
        "304",
        b'HTTP/1.1 304 Not Modified\r\nETag: W/"a"\r\n'
        b"Cache-Control: max-age=60\r\nContent-Length: 99\r\n\r\n",
        lines=b'If-None-Match: W/"a", "b"\r\n',
    ),
    Exchange(
        "401",
        ok(
            b"",
            b'WWW-Authenticate: Basic realm="a"',
            b"WWW-Authenticate: Bearer",
            status=b"401 Unauthorized",
        ),
        lines=b"Authorization: Basic YTpi\r\n",
    ),
    Exchange("416", ok(b"", b"Content-Range: bytes */5", status=b"416 Range Not Satisfiable")),
    Exchange(
        "418 with a long reason", ok(b"short", status=b"418 I'm a teapot, and (short) & stout!")
    ),
    Exchange("no reason", b"HTTP/1.1 200 \r\nContent-Length: 2\r\n\r\nok"),
    Exchange(
        "503",
        ok(
            b"later",
            b"Retry-After: Fri, 31 Dec 1999 23:59:59 GMT",
            status=b"503 Service Unavailable",
        ),
    ),
    Exchange("599", ok(b"odd", status=b"599 Odd")),
    Exchange(
        "402 of another kind",
        ok(b"{}", b"WWW-Authenticate: L402 x", status=b"402 Payment Required"),
    ),
    Exchange(
        "cookies both ways",
        ok(b"", b"Set-Cookie: a=1; Path=/", b"Set-Cookie: b=2; HttpOnly", b'set-cookie: c="3"'),
        lines=b"Cookie: a=1; b=2\r\nCookie: c=3\r\n",
    ),
    Exchange(
        "cache fields",
        ok(
            b"",
            b"Age: 5",
            b"Date: x",
            b'ETag: "e"',
            b"Expires: 0",
            b"Last-Modified: y",
            b"Vary: *",
            b'Warning: 199 - "w"',
            b"Via: 1.1 cdn",
        ),
        lines=b"Cache-Control: no-store\r\nPragma: no-cache\r\n",
    ),
    Exchange(
        "repeated fields in their order",
        ok(b"", b"X-A: 1", b"X-B: 2", b"x-a: 3"),
        lines=b"X-A: 1\r\nX-B: 2\r\nx-a: 3\r\n",
    ),
    Exchange("odd case", ok(b"", b"x-ODD-cAsE: Yes"), lines=b"aCCept: */*\r\nUSER-AGENT: x\r\n"),
    Exchange(
        "empty values", ok(b"", b"X-Empty:", b"X-Blank:   "), lines=b"X-Empty:\r\nX-Blank:  \r\n"
    ),
    Exchange(
        "60 KiB of a value",
        ok(b"", b"X-Long: " + b"z" * 60 * 1024),
        lines=b"X-Long: " + b"y" * 60 * 1024 + b"\r\n",
    ),
    Exchange(
        "200 fields",
        ok(b"", *(b"X-%d: %d" % (n, n) for n in range(200))),
        lines=b"".join(b"X-%d: y\r\n" % n for n in range(200)),
    ),
    Exchange(
        "Latin-1 and UTF-8",
        ok(b"", LATIN, b"X-Utf: \xe2\x82\xac"),
        lines=LATIN + b"\r\nX-Utf: \xe2\x82\xac\r\n",
    ),
    Exchange(
        "punctuation in names and values",
        ok(b"", b"!#$%&'*+-.^_`|~: \"(),/:;<=>?@[\\]{}"),
        lines=b"!#$%&'*+-.^_`|~: \"(),/:;<=>?@[\\]{}\r\n",
    ),
    Exchange("tabs inside a value", ok(b"", b"X-T: a\tb"), lines=b"X-T: a\tb\r\n"),
    Exchange("percent signs in the target", target=b"/f/%2e%2E/%00?q=%zz&a=b+c;d=[e]&&"),
    Exchange("slashes in the target", target=b"//f///x//?//"),
    Exchange("dots in the target", target=b"/a/../b/./c"),
    Exchange("a bare question mark", target=b"/f?"),
    Exchange("a target of 8 KiB", target=b"/f?" + b"q" * 8192),
    Exchange("HTTP/1.0", version=b"1.0"),
    Exchange("an answer in HTTP/1.0", b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello"),
    Exchange(
        "hop-by-hop fields",
        ok(b"", b"Connection: close", b"Keep-Alive: timeout=5"),
        lines=b"Connection: keep-alive, TE\r\nTE: trailers\r\n",
    ),
    Exchange(
        "103 before the answer",
        b"HTTP/1.1 103 Early Hints\r\nLink: </s.css>; rel=preload\r\nLink: </t>\r\n\r\n"
        + ok(b"late"),
    ),
    Exchange(
        "100 and 102 before the answer",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n" + ok(b"late"),
    ),
]


async def exchanged(
    ring: Arena, it: Exchange, way: str, *, direct: bool
) -> tuple[tuple[bytes, Headers, bytes], list[tuple[bytes, Headers, bytes]]]:
    """What the server saw, and what the client saw (1xx first)."""
    shop = ring.plain if direct else ring.provider(way)
    shop.scenes[it.target.partition(b"?")[0]] = it.answer
    shop.requests.clear()
    if direct:
        client = Client(*await asyncio.open_connection("127.0.0.1", shop.port, limit=1 << 21))
        ring.clients.append(client)
        head = b"%b %b HTTP/%b\r\nHost: %b\r\n" % (it.method, it.target, it.version, shop.authority)
    else:
        client = await ring.connect(way)
        head = ring.fill(
            way,
            b"%b {url}%b HTTP/%b\r\nHost: {host}\r\n{auth}" % (it.method, it.target, it.version),
        )
    await client.send(head + it.lines + b"\r\n" + it.body)
    interims = []
    if it.answer[9:10] == b"1":
        while b" 200 " not in (head_answer := await client.head()).line:
            interims.append(_answer(head_answer))
        head_answer.body = await client.reader.readexactly(
            int(head_answer.all(b"content-length")[0])
        )
        last = head_answer
    else:
        last = await client.answer(head_only=it.method == b"HEAD")
    ring.leave(client)
    request = shop.requests[-1]
    if not direct:
        assert request.headers[0] == (b"Host", shop.authority)
    return _request(request), [*interims, _answer(last)]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("it", EXCHANGES, ids=lambda it: it.name)
async def test_nothing_is_changed(ring: Arena, it: Exchange, way: str) -> None:
    direct = await exchanged(ring, it, PLAIN, direct=True)
    through = await exchanged(ring, it, way, direct=False)
    if b"402" in it.answer[:15]:  # our word that it was not paid is all that is added
        through[1][-1][1][:] = [
            pair for pair in through[1][-1][1] if not pair[0].startswith(b"Autopay")
        ]
    assert through == direct
    await ring.quiet()
