"""Paid data and header fields as they are stored."""

import base64
import gzip
import json

import pytest

from proxy.capture.headers import kept_headers
from proxy.capture.stored import stored
from proxy.wire.tap import Copy

LIMIT = 100


def shape(body: bytes, kind: bytes = b"application/json", *, truncated: bool = False) -> str | None:
    return stored([(b"Content-Type", kind)], Copy(body, truncated), LIMIT)


@pytest.mark.parametrize(
    "body",
    [b'{"a": [1.10, 12345678901234567890123, "\xc3\xa9"]}', b"null", b"[]", b'"x"', b'"\\u00e9"'],
)
def test_json_is_itself(body: bytes) -> None:
    assert shape(body) == body.decode()
    assert shape(body, b"text/html") == body.decode()


@pytest.mark.parametrize(
    ("body", "kind", "entry"),
    [
        (b"plain", b"text/plain", {"text": "plain"}),
        (b"plain", b"", {"text": "plain"}),
        (b"\xff\x00", b"image/png", {"base64": base64.b64encode(b"\xff\x00").decode()}),
        (b"\xff", b"text/plain", {"base64": "/w=="}),
        (b"PK", b"application/zip", {"base64": "UEs="}),
        (b'{"a":NaN}', b"application/json", {"text": '{"a":NaN}'}),
        (b'"\\u0000"', b"application/json", {"text": '"\\u0000"'}),
        (b'"\\ud800"', b"application/json", {"text": '"\\ud800"'}),
        (b"a\0b", b"text/plain", {"base64": "YQBi"}),
        (b"[" * 90, b"application/json", {"text": "[" * 90}),
        (b"x" * 101, b"text/plain", {"text": "x" * 100, "truncated": True}),
        (
            b"[1," + b"1" * 100 + b"]",
            b"application/json",
            {"text": "[1," + "1" * 97, "truncated": True},
        ),
        (b"x" * 99 + "é".encode(), b"text/plain", {"text": "x" * 99, "truncated": True}),
    ],
)
def test_what_is_wrapped(body: bytes, kind: bytes, entry: dict[str, object]) -> None:
    found = shape(body, kind)
    assert found is not None
    assert json.loads(found) == entry


def test_what_was_cut_on_the_way() -> None:
    assert json.loads(shape(b"[1]", truncated=True) or "") == {"text": "[1]", "truncated": True}
    assert shape(b"") is None


def test_beneath_a_coding() -> None:
    headers = [(b"content-type", b"application/json"), (b"Content-Encoding", b"gzip")]
    assert stored(headers, Copy(gzip.compress(b'{"a": 1}'), False), LIMIT) == '{"a": 1}'
    bomb = Copy(gzip.compress(bytes(10_000_000)), False)
    assert json.loads(stored(headers, bomb, LIMIT) or "")["truncated"] is True


def test_only_fields_that_hold_no_secret() -> None:
    raw = [
        (b"Content-Type", b"text/plain"),
        (b"Vary", b"a"),
        (b"vary", b"b"),
        *((name, b"s3cret") for name in (b"Authorization", b"Cookie", b"Set-Cookie", b"X-Api-Key")),
        *((name, b"s3cret") for name in (b"X-Payment", b"Payment-Signature", b"X-Nobody-Knows")),
        *((name, b"s3cret") for name in (b"Proxy-Authorization", b"Autopay-Token", b"Location")),
        (b"Server", b"x" * 2000),
        (b"ETag", b"nul\0"),
    ]
    kept = kept_headers(raw)
    assert kept == {
        "content-type": "text/plain",
        "vary": "a, b",
        "server": "x" * 1000,
        "etag": "nul\ufffd",
    }
    assert "s3cret" not in json.dumps(kept)
