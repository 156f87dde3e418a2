"""A body beneath its content coding, bounded: what a 402 says when it came compressed.

Bodies are relayed as they came; this is only for reading one ourselves.
"""

import zlib

import brotli

from proxy.wire.headers import header
from proxy.wire.parsers import RawHeaders


def decoded(headers: RawHeaders, body: bytes, limit: int) -> bytes:
    """The body without its Content-Encoding (gzip, deflate or br), at most `limit` + 1 bytes.

    A coding that is unknown, doubled or broken leaves the body as it is: then it will not be
    understood, which is the right answer to it. One byte over the limit tells that it was cut.
    """
    coding = (header(headers, b"content-encoding") or b"").strip().lower()
    try:
        if coding in (b"gzip", b"x-gzip"):
            return zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(body, limit + 1)
        if coding == b"deflate":
            return _inflated(body, limit + 1)
        if coding == b"br":
            inflated: bytes = brotli.Decompressor().process(body, output_buffer_limit=limit + 1)
            return inflated[: limit + 1]
    except (zlib.error, brotli.error):
        pass
    return body


def _inflated(body: bytes, limit: int) -> bytes:
    """RFC 9110 means the zlib format by "deflate"; some servers send the bare stream."""
    try:
        return zlib.decompressobj().decompress(body, limit)
    except zlib.error:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(body, limit)
