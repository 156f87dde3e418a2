"""Which header lines may travel on (RFC 9110 section 7.6.1), and what we read off them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from proxy.wire.parsers import RawHeaders

HOP_BY_HOP = frozenset(
    (
        b"connection",
        b"keep-alive",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    )
)
# A Connection header may not strip these: `Connection: content-length` would turn a body into the
# next request, and losing Host or Authorization would change who is asked, and by whom.
NEVER_LISTED = frozenset(
    (b"close", b"keep-alive", b"", b"content-length", b"host", b"authorization")
)
LOCAL = (b"autopay-", b"proxy-")
"""Headers between the program and us: they go neither to a provider nor, from one, to a program."""

# What says how a message is framed, routed, kept, allowed or read has no place behind its body
# (RFC 9110 section 6.5.1): whoever merged it into the head would be told something else too late.
_NO_TRAILER = HOP_BY_HOP | frozenset(
    (
        *(b"content-length", b"content-type", b"content-encoding", b"content-range", b"host"),
        *(b"authorization", b"www-authenticate", b"cookie", b"set-cookie", b"location"),
        *(b"cache-control", b"expires", b"pragma", b"age", b"vary", b"date", b"retry-after"),
        *(b"expect", b"max-forwards", b"range", b"clear-site-data", b"strict-transport-security"),
    )
)
# A payment that the gate has not seen, in a place where nobody looks for one.
_PAYMENT = frozenset((b"payment-signature", b"x-payment"))
_NO_REQUEST_TRAILER = _PAYMENT | {b"te"}
_LAST_CHUNK = re.compile(rb"0+[ \t]*(;.*)?")
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\t\x20-\x7e\x80-\xff]*?)[ \t]*")
_TRACEPARENT = re.compile(rb"[0-9a-f]{2}-((?!0{32})[0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")
_HEEDED = frozenset((b"traceparent", b"idempotency-key", b"prefer", *_PAYMENT))
_WAIT = re.compile(rb"(?:^|[,;])\s*wait\s*=\s*\"?(\d{1,9})", re.IGNORECASE)
MAX_TRAILERS = 16 * 1024


@dataclass(slots=True)
class RequestFields:
    """A request's header lines, sorted: what goes on, and what was for us."""

    lines: list[bytes]
    content_length: int | None = None
    transfer_encoding: bytes | None = None
    upgrade: bytes | None = None
    trailers: bool = False
    """Whether the program says that it reads trailers."""
    announced: list[bytes] = field(default_factory=list)
    """Its Trailer lines: what will come behind a chunked body."""
    proxy_authorization: bytes | None = None
    authorization: bytes | None = None
    token: bytes | None = None
    session: str | None = None
    trace: str | None = None
    tool: str | None = None
    idempotency_key: bytes | None = None
    """Ours goes before the standard one, which belongs to the provider too."""
    parent: str | None = None
    """The trace that W3C's traceparent names, which belongs to the provider too."""
    wait: int | None = None
    """Seconds that the program says it waits (Prefer: wait, RFC 7240)."""
    pays: bool = False
    """Whether it carries a payment of the program's own."""


def read_request_fields(raw: RawHeaders) -> RequestFields:
    """Sort a request's headers. Case, order and repeats of what goes on are kept.

    Host is left out: the request target says where the request goes (RFC 9112 section 3.2.2).
    """
    lines: list[bytes] = []
    fields = RequestFields(lines)
    listed = _listed(raw)
    for name, value in raw:
        key = name.lower()
        if key in HOP_BY_HOP:
            if key == b"transfer-encoding":
                fields.transfer_encoding = value
            elif key == b"upgrade":
                fields.upgrade = value
            elif key == b"trailer":
                fields.announced.append(name + b": " + value)
            elif key == b"te":
                fields.trailers = fields.trailers or b"trailers" in codings(value)
        elif key == b"host" or key in listed:
            continue
        elif key == b"content-length":
            fields.content_length = int(value)  # the parser saw digits; `010` becomes `10`
            lines.append(name + b": %d" % fields.content_length)
        elif key == b"authorization":
            fields.authorization = value
            lines.append(name + b": " + value)
        elif key.startswith(LOCAL):
            _read_local(fields, key, value)
        else:
            if key in _HEEDED:
                _heed(fields, key, value)
            lines.append(name + b": " + value)
    return fields


def codings(transfer_encoding: bytes) -> list[bytes]:
    """The codings a Transfer-Encoding names, in lower case."""
    return [name for token in transfer_encoding.split(b",") if (name := token.strip().lower())]


def response_lines(raw: RawHeaders, *, chunked: bool) -> list[bytes]:
    """An answer's header lines that may travel on, Content-Length included unless `chunked`."""
    listed = _listed(raw)
    if chunked:
        listed = listed | {b"content-length"}
    lines = []
    for name, value in raw:
        key = name.lower()
        if key in HOP_BY_HOP or key in listed or key.startswith(LOCAL):
            continue
        if key == b"content-length":
            lines.append(name + b": %d" % int(value))  # never `010`
        else:
            lines.append(name + b": " + value)
    return lines


def trailer_lines(end: bytes) -> Sequence[bytes]:
    """The trailers that may travel on, of a chunked body that ends where `end` does.

    Read from behind, line by line, to the last chunk, for which no field can be taken. None of
    them if that line is not in `end`: then they are more than MAX_TRAILERS, or something follows.
    """
    found: list[bytes] = []
    # What is before the first line's end may be half a line.
    lines = [line.removesuffix(b"\r") for line in end.split(b"\n")[1:]]
    if lines[-2:] != [b"", b""]:
        return ()
    for line in reversed(lines[:-2]):
        if _LAST_CHUNK.fullmatch(line):
            return found[::-1]
        field = _FIELD.fullmatch(line)
        if field is None:
            return ()
        if _may_trail(field[1].lower()):
            found.append(field[1] + b": " + field[2])
    return ()


def request_trailers(lines: Sequence[bytes]) -> list[bytes]:
    """Those of a request's trailer lines that may travel on."""
    fields = [field for line in lines if (field := _FIELD.fullmatch(line)) is not None]
    return [
        field[1] + b": " + field[2]
        for field in fields
        if _may_trail(key := field[1].lower()) and key not in _NO_REQUEST_TRAILER
    ]


def _may_trail(key: bytes) -> bool:
    return key not in _NO_TRAILER and not key.startswith(LOCAL)


def header(raw: RawHeaders, name: bytes) -> bytes | None:
    """The first value of the header `name` (lower case), or None."""
    for key, value in raw:
        if key.lower() == name:
            return value
    return None


def _listed(raw: RawHeaders) -> frozenset[bytes] | set[bytes]:
    listed: frozenset[bytes] | set[bytes] = frozenset()
    for name, value in raw:
        if len(name) == 10 and name.lower() == b"connection":
            listed = listed | {token.strip().lower() for token in value.split(b",")} - NEVER_LISTED
    return listed


def _heed(fields: RequestFields, key: bytes, value: bytes) -> None:
    """What is the provider's, and says something to us too."""
    if key == b"idempotency-key":
        fields.idempotency_key = fields.idempotency_key or value or None
    elif key in _PAYMENT:
        fields.pays = True
    elif key == b"prefer":
        if fields.wait is None and (wait := _WAIT.search(value)) is not None:
            fields.wait = int(wait[1])
    elif (parent := _TRACEPARENT.fullmatch(value)) is not None:
        fields.parent = parent[1].decode()


def _read_local(fields: RequestFields, key: bytes, value: bytes) -> None:
    if key == b"proxy-authorization":
        fields.proxy_authorization = value
    elif key == b"autopay-token":
        fields.token = value
    elif key == b"autopay-session":
        fields.session = value.decode("utf-8", "replace")[:200]
    elif key == b"autopay-trace":
        fields.trace = value.decode("utf-8", "replace")[:200]
    elif key == b"autopay-idempotency-key":
        fields.idempotency_key = value or fields.idempotency_key
    elif key == b"autopay-tool":
        fields.tool = value.decode("utf-8", "replace")[:200]
