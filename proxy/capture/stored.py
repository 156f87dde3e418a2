"""Paid data as it is stored: JSON as it is, text and bytes wrapped (pure)."""

import base64
import json
from typing import Any, NoReturn

from proxy.wire.content import decoded
from proxy.wire.headers import header
from proxy.wire.parsers import RawHeaders
from proxy.wire.tap import Copy

_TEXTUAL = (b"text/", b"application/xml", b"application/x-www-form-urlencoded")


def stored(headers: RawHeaders, copy: Copy, limit: int) -> str | None:
    """A body as JSON text for a jsonb column, None if it is empty; beneath its content coding, and
    at most `limit` bytes of it.

    A whole JSON body is itself. Others are {"text": …} or {"base64": …}, with "truncated": true if
    there was more.
    """
    if not copy.data:
        return None
    body = decoded(headers, copy.data, limit)
    truncated = copy.truncated or len(body) > limit
    body = body[:limit]
    if not truncated and (document := _json(body)) is not None:
        return document
    kind = (header(headers, b"content-type") or b"").strip().lower()
    text = _text(body, cut=truncated)
    entry: dict[str, Any]
    if text is not None and (b"json" in kind or kind.startswith(_TEXTUAL) or not kind):
        entry = {"text": text}
    else:
        entry = {"base64": base64.b64encode(body).decode()}
    if truncated:
        entry["truncated"] = True
    return json.dumps(entry)


def _json(body: bytes) -> str | None:
    """The text of a JSON document that jsonb takes, digit by digit as it came."""
    try:
        text = body.decode()
        document = json.loads(text, parse_constant=_refuse, parse_float=str)
        if "\\u" in text:  # an escape may stand for NUL or half a pair, which jsonb refuses
            json.dumps(document, ensure_ascii=False).encode()
            return None if "\\u0000" in text else text
    except (ValueError, RecursionError):
        return None
    return text


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _text(body: bytes, *, cut: bool) -> str | None:
    """UTF-8 text without NUL; a character that was cut in half at the end is left out."""
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        if not cut or error.end < len(body) or error.reason != "unexpected end of data":
            return None
        text = body[: error.start].decode()
    return None if "\0" in text else text
