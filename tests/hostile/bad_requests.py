"""What no program should send. `{url}`, `{host}` and `{auth}` are filled in per way (arena.fill).

A case is a name, the bytes, and the answer's status. After an answer that refuses the framing the
connection ends; the request /smuggled that hides in many of them never reaches a provider.
"""

from dataclasses import dataclass

from tests.hostile.arena import PLAIN, TUNNEL, WAYS

SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
ENDS, GOES_ON = True, False


@dataclass(frozen=True)
class Case:
    name: str
    raw: bytes
    status: int
    ends: bool = ENDS
    ways: tuple[str, ...] = WAYS
    body: bytes | None = None
    """What the provider must have got, where it gets anything."""
    then: int | None = None
    """The status of a second answer."""


def post(lines: bytes, body: bytes = b"0\r\n\r\n" + SMUGGLED) -> bytes:
    return b"POST {url}/x HTTP/1.1\r\nHost: {host}\r\n{auth}" + lines + b"\r\n" + body


def chunks(body: bytes, lines: bytes = b"") -> bytes:
    return post(b"Transfer-Encoding: chunked\r\n" + lines, body)


def get(target: bytes, rest: bytes = b" HTTP/1.1\r\nHost: {host}\r\n{auth}\r\n") -> bytes:
    return b"GET " + target + rest


def connect(target: bytes, lines: bytes = b"") -> bytes:
    return b"CONNECT " + target + b" HTTP/1.1\r\nHost: x\r\n{auth}" + lines + b"\r\n"


FRAMING = [
    Case(name, post(lines), 400)
    for name, lines in {
        "CL, TE": b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
        "TE, CL": b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n",
        "CL twice": b"Content-Length: 3\r\nContent-Length: 3\r\n",
        "CL twice, differing": b"Content-Length: 3\r\nContent-Length: 4\r\n",
        "CL as a list": b"Content-Length: 3, 3\r\n",
        "CL with a plus": b"Content-Length: +3\r\n",
        "CL in hex": b"Content-Length: 0x3\r\n",
        "CL negative": b"Content-Length: -1\r\n",
        "CL empty": b"Content-Length:\r\n",
        "CL with underscores": b"Content-Length: 1_0\r\n",
        "CL of 2^64": b"Content-Length: 18446744073709551616\r\n",
        "CL with a fraction": b"Content-Length: 3.0\r\n",
        "CL, space before colon": b"Content-Length : 3\r\n",
        "TE, space before colon": b"Transfer-Encoding : chunked\r\n",
        "TE, tab before colon": b"Transfer-Encoding\t: chunked\r\n",
        "TE xchunked": b"Transfer-Encoding: xchunked\r\n",
        "TE after a vertical tab": b"Transfer-Encoding:\x0bchunked\r\n",
        "TE after a NUL": b"Transfer-Encoding: \x00chunked\r\n",
        "TE quoted": b'Transfer-Encoding: "chunked"\r\n',
        "TE chunked, identity": b"Transfer-Encoding: chunked, identity\r\n",
        "TE chunked, then identity": b"Transfer-Encoding: chunked\r\n"
        b"Transfer-Encoding: identity\r\n",
        "TE identity, then chunked": b"Transfer-Encoding: identity\r\n"
        b"Transfer-Encoding: chunked\r\n",
        "TE identity": b"Transfer-Encoding: identity\r\n",
        "TE behind an obs-fold": b"X: y\r\n Transfer-Encoding: chunked\r\n",
        "TE itself folded": b"Transfer-Encoding:\r\n chunked\r\n",
        "TE behind a bare LF": b"X: a\nTransfer-Encoding: chunked\r\n",
        "TE behind a bare CR": b"X: a\rTransfer-Encoding: chunked\r\n",
        "obs-fold": b"X: a\r\n b\r\n",
        "NUL in a name": b"X\x00: a\r\n",
        "NUL in a value": b"X: a\x00b\r\n",
        "control character": b"X: a\x07b\r\n",
        "no name": b": a\r\n",
        "no colon": b"X\r\n",
        "name with a bracket": b"X[]: a\r\n",
        "name not ASCII": b"X\xe4: a\r\n",
        "a first field folded": b" X: a\r\n",
        "a second Host": b"Host: b\r\n",
    }.items()
]

CODINGS = [
    Case("TE gzip, chunked", chunks(b"").replace(b": chunked", b": gzip, chunked"), 501),
    Case("TE chunked twice in one", chunks(b"").replace(b": chunked", b": chunked, chunked"), 400),
    Case(
        "trailers that pay",
        chunks(b"3\r\nabc\r\n0\r\nAuthorization: z\r\nPAYMENT-SIGNATURE: y\r\n\r\n"),
        200,
        GOES_ON,
        body=b"abc",
    ),
    Case(
        "trailers that name a host",
        chunks(b"3\r\nabc\r\n0\r\nHost: b\r\n\r\n"),
        200,
        GOES_ON,
        body=b"abc",
    ),
    Case("trailers that frame", chunks(b"3\r\nabc\r\n0\r\nContent-Length: 9\r\n\r\n"), 400),
    Case(
        "chunk size with zeros",
        chunks(b"0000000003\r\nabc\r\n000\r\n\r\n"),
        200,
        GOES_ON,
        body=b"abc",
    ),
    Case(
        "Connection: content-length",
        post(b"Content-Length: 3\r\nConnection: content-length, host\r\n", b"abc"),
        200,
        GOES_ON,
        body=b"abc",
    ),
    Case("CL with zeros", post(b"Content-Length: 0000003\r\n", b"abc"), 200, GOES_ON, body=b"abc"),
]

CHUNKS = [
    Case("chunks: " + name, chunks(body + SMUGGLED), 400)
    for name, body in {
        "no hex": b"g\r\nhello\r\n0\r\n\r\n",
        "negative": b"-1\r\nhello\r\n0\r\n\r\n",
        "plus": b"+5\r\nhello\r\n0\r\n\r\n",
        "0x prefix": b"0x5\r\nhello\r\n0\r\n\r\n",
        "2^64": b"10000000000000000\r\nhello",
        "far over 2^64": b"ffffffffffffffffffff\r\nhello",
        "empty size": b"\r\nhello\r\n0\r\n\r\n",
        "extension only": b";x=y\r\nhello\r\n0\r\n\r\n",
        "no CRLF behind the data": b"5\r\nhello0\r\n\r\n",
        "other bytes behind the data": b"5\r\nhelloXX0\r\n\r\n",
        "bare LF": b"5\nhello\r\n0\r\n\r\n",
        "bare CR": b"5\rhello\r\n0\r\n\r\n",
        "space behind the size": b"5 \r\nhello\r\n0\r\n\r\n",
        "space before the size": b" 5\r\nhello\r\n0\r\n\r\n",
        "NUL in an extension": b"5;a=\x00\r\nhello\r\n0\r\n\r\n",
        "LF in an extension": b"5;a\nhello\r\n0\r\n\r\n",
        "bare LF at the end": b"5\r\nhello\r\n0\n\n",
    }.items()
]

HEADS = [
    Case(
        "a field of 70 KiB",
        get(b"{url}/x", b" HTTP/1.1\r\nHost: {host}\r\n{auth}X: " + b"a" * 70_000 + b"\r\n\r\n"),
        431,
    ),
    Case(
        "a name of 70 KiB",
        get(b"{url}/x", b" HTTP/1.1\r\nHost: {host}\r\n{auth}" + b"a" * 70_000 + b": b\r\n\r\n"),
        431,
    ),
    Case(
        "300 fields",
        get(b"{url}/x", b" HTTP/1.1\r\nHost: {host}\r\n{auth}" + b"X: y\r\n" * 300 + b"\r\n"),
        431,
    ),
    Case(
        "200 KiB of fields",
        get(
            b"{url}/x",
            b" HTTP/1.1\r\nHost: {host}\r\n{auth}"
            + (b"X: " + b"a" * 1000 + b"\r\n") * 200
            + b"\r\n",
        ),
        431,
    ),
    Case("a target over 64 KiB", get(b"{url}/" + b"a" * 66_000), 431),
    Case("a target of 60 KiB", get(b"{url}/" + b"a" * 60_000), 200, GOES_ON),
    Case("a method of 64 KiB", b"A" * 65_536 + b" {url}/ HTTP/1.1\r\nHost: {host}\r\n\r\n", 400),
    Case("a method of lower case", b"get {url}/ HTTP/1.1\r\nHost: {host}\r\n{auth}\r\n", 400),
    Case("a method nobody knows", b"FROBNICATE {url}/ HTTP/1.1\r\nHost: {host}\r\n{auth}\r\n", 400),
    Case("NUL in the method", b"G\x00T {url}/ HTTP/1.1\r\nHost: {host}\r\n\r\n", 400),
    Case("version 0.9", get(b"{url}/x", b" HTTP/0.9\r\nHost: {host}\r\n\r\n"), 505),
    Case("no version", get(b"{url}/x", b"\r\n\r\n"), 505),
    Case("version 2.0", get(b"{url}/x", b" HTTP/2.0\r\nHost: {host}\r\n\r\n"), 505),
    Case("version 1.2", get(b"{url}/x", b" HTTP/1.2\r\nHost: {host}\r\n\r\n"), 400),
    Case("version 11", get(b"{url}/x", b" HTTP/11\r\nHost: {host}\r\n\r\n"), 400),
    Case("version in lower case", get(b"{url}/x", b" http/1.1\r\nHost: {host}\r\n\r\n"), 400),
    Case("space behind the version", get(b"{url}/x", b" HTTP/1.1 \r\nHost: {host}\r\n\r\n"), 400),
    # Passed on with one.
    Case("two spaces before the target", get(b" {url}/x"), 200, GOES_ON),
    Case("no Host", get(b"{url}/x", b" HTTP/1.1\r\n{auth}\r\n"), 400),
    Case("bare LF everywhere", get(b"{url}/x", b" HTTP/1.1\nHost: {host}\n\n"), 400),
    Case("space in the target", get(b"{url}/x y"), 400),
    Case("tab in the target", get(b"{url}/x\ty"), 400),
    Case("NUL in the target", get(b"{url}/x\x00y"), 400),
    Case("bare CR in the target", get(b"{url}/x\ry"), 400),
    Case("target not ASCII", get(b"{url}/\xc3\xa4"), 400),
    Case("h2 by prior knowledge", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    Case("an SSH client", b"SSH-2.0-OpenSSH_9.2p1\r\n", 400),
    Case("random bytes", bytes(range(128, 256)) * 4, 400),
    Case("a TLS hello", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 512, 400),
    Case(
        "garbage behind a request",
        get(b"{url}/1") + b"garbage\r\n\r\n" + SMUGGLED,
        200,
        then=400,
        ends=GOES_ON,
    ),
    Case(
        "Upgrade: h2c",
        get(
            b"{url}/x",
            b" HTTP/1.1\r\nHost: {host}\r\n{auth}"
            b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
            b"HTTP2-Settings: AAMAAABk\r\n\r\n",
        ),
        200,
    ),
    Case(
        "Upgrade: websocket, not taken up",
        get(
            b"{url}/x",
            b" HTTP/1.1\r\nHost: {host}\r\n{auth}Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        )
        + SMUGGLED,
        200,
    ),
    Case(
        "Upgrade with a body",
        post(b"Connection: Upgrade\r\nUpgrade: x\r\nContent-Length: 3\r\n", b"abc"),
        200,
        body=b"abc",
    ),
]

TARGETS = [
    Case("userinfo", get(b"http://user:secret@{host}/x"), 200, GOES_ON, (PLAIN,)),
    Case(
        "userinfo that looks like a host",
        get(b"http://good.example@{host}/x"),
        200,
        GOES_ON,
        (PLAIN,),
    ),
    Case("a fragment", get(b"{url}/x#frag"), 200, GOES_ON, (PLAIN,)),
    Case("an IPv6 zone", get(b"http://[fe80::1%25lo]:80/x"), 400, GOES_ON, (PLAIN,)),
    Case("an unclosed bracket", get(b"http://[::1/x"), 400, ENDS, (PLAIN,)),
    Case("a percent-encoded host", get(b"http://127%2e0%2e0%2e1:9/x"), 502, GOES_ON, (PLAIN,)),
    Case("a host of octal digits", get(b"http://0177.0.0.1:9/x"), 400, GOES_ON, (PLAIN,)),
    Case("a host of 300 letters", get(b"http://" + b"a" * 300 + b"/x"), 502, GOES_ON, (PLAIN,)),
    Case("a host that is a space", get(b"http://%20/x"), 502, GOES_ON, (PLAIN,)),
    Case("no host", get(b"http:///x"), 400, ENDS, (PLAIN,)),
    Case("port 0", get(b"http://127.0.0.1:0/x"), 400, GOES_ON, (PLAIN,)),
    Case("port 65536", get(b"http://127.0.0.1:65536/x"), 400, ENDS, (PLAIN,)),
    Case("port abc", get(b"http://127.0.0.1:abc/x"), 400, ENDS, (PLAIN,)),
    Case("another scheme", get(b"ftp://{host}/x"), 400, GOES_ON, (PLAIN,)),
    Case("a file", get(b"file:///etc/passwd"), 400, GOES_ON, (PLAIN,)),
    Case("origin form", get(b"/x"), 400, GOES_ON, (PLAIN,)),
    Case("the proxy itself", get(b"http://127.0.0.1:{port}/x"), 403, GOES_ON, (PLAIN,)),
    Case("the cloud's metadata", get(b"http://169.254.169.254/latest"), 403, GOES_ON, (PLAIN,)),
    Case("metadata as one number", get(b"http://2852039166/latest"), 400, GOES_ON, (PLAIN,)),
    Case(
        "another host inside",
        get(b"/x", b" HTTP/1.1\r\nHost: elsewhere\r\n\r\n"),
        421,
        GOES_ON,
        (TUNNEL,),
    ),
    Case(
        "an absolute URL elsewhere inside",
        get(b"http://169.254.169.254/x"),
        421,
        GOES_ON,
        (TUNNEL,),
    ),
    Case(
        "a Host that is no host",
        get(b"/x", b" HTTP/1.1\r\nHost: [\r\n\r\n"),
        421,
        GOES_ON,
        (TUNNEL,),
    ),
]

CONNECTS = [
    Case("CONNECT " + name, connect(target), status, ENDS, (PLAIN,))
    for name, target, status in [
        ("without a port", b"127.0.0.1", 400),
        ("to port 0", b"127.0.0.1:0", 400),
        ("to port 65536", b"127.0.0.1:65536", 400),
        ("to port -1", b"127.0.0.1:-1", 400),
        ("to port abc", b"127.0.0.1:abc", 400),
        ("with an empty port", b"127.0.0.1:", 400),
        ("with a path", b"127.0.0.1:443/x", 400),
        ("to a URL", b"http://127.0.0.1:443/", 400),
        ("without a host", b":443", 400),
        ("with userinfo", b"user@127.0.0.1:443", 400),
        ("to nothing", b"", 505),
        ("to an asterisk", b"*", 400),
    ]
] + [
    Case(
        "CONNECT without a credential",
        b"CONNECT localhost:443 HTTP/1.1\r\nHost: x\r\n\r\n" + SMUGGLED,
        407,
        ENDS,
        (PLAIN,),
    ),
    Case("CONNECT inside a tunnel", connect(b"localhost:443") + SMUGGLED, 405, ENDS, (TUNNEL,)),
]

CASES = FRAMING + CODINGS + CHUNKS + HEADS + TARGETS + CONNECTS
