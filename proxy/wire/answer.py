"""A provider's answer head, as the program gets to see it."""

from collections.abc import Sequence

from proxy.wire.call import Call
from proxy.wire.headers import header, response_lines
from proxy.wire.parsers import ResponseHead
from proxy.wire.routes import rewrite_location
from proxy.wire.tunnel import TunnelEnd
from proxy.wire.upstream import Upstream


def reason_bytes(head: ResponseHead) -> bytes:
    return head.reason.encode("utf-8", "surrogateescape")


def answer_lines(head: ResponseHead, call: Call) -> list[bytes]:
    """The answer's fields for this program."""
    lines = response_lines(head.raw_headers, chunked=bool(head.chunked))
    if head.chunked and call.reply.takes_trailers:
        lines += [n + b": " + value for n, value in head.raw_headers if n.lower() == b"trailer"]
    if call.mount_point is not None:
        lines = rewrite_location(lines, call.mount_point)
    return lines


def switch(
    call: Call,
    head: ResponseHead,
    early: bytes,
    upstream: Upstream,
    extra: Sequence[bytes] = (),
) -> None:
    """A 101: join the program and the provider."""
    protocol = (header(head.raw_headers, b"upgrade") or b"websocket").strip()
    lines = [
        b"HTTP/1.1 101 " + reason_bytes(head),
        *answer_lines(head, call),
        *extra,
        b"Connection: Upgrade",
        b"Upgrade: " + protocol,
        b"\r\n",
    ]
    far = TunnelEnd()
    far.early = early
    if upstream.transport is not None:
        far.connection_made(upstream.transport)
        upstream.transport.set_protocol(far)
    upstream.transport = None
    call.on_gone = None
    call.reply.switch(b"\r\n".join(lines), far)
