"""From a stranger's bytes to plain JSON values, within bounds.

Real servers send challenges as padded, unpadded and URL-safe base64 and as raw JSON; hostile ones
send bombs. Everything that cannot be decoded ends as the one exception `DecodeError`.
"""

import base64
import binascii
import json
import math
from collections.abc import Sequence
from typing import Any

MAX_BYTES = 64 * 1024
"""The most that is decoded of one answer: payment headers and body together."""

_MAX_DEPTH = 64
_URLSAFE_TO_STANDARD = bytes.maketrans(b"-_", b"+/")


class DecodeError(ValueError):
    """These bytes are not JSON that this program is ready to handle."""


def decode_json(raw: bytes) -> Any:
    """Parse UTF-8 JSON. Raises DecodeError for anything that could not be echoed faithfully:
    NaN and infinities, duplicate keys, absurd depth or integers, and everything that is not JSON.
    """
    try:
        value = json.loads(
            raw.decode("utf-8-sig"),
            object_pairs_hook=_object_without_duplicates,
            parse_constant=_refuse_constant,
            parse_float=_finite_float,
        )
    except (ValueError, RecursionError) as error:
        raise DecodeError("not acceptable JSON") from error
    # A document with few brackets cannot be deep; only the others are walked.
    if raw.count(b"{") + raw.count(b"[") > _MAX_DEPTH and _is_too_deep(value):
        raise DecodeError("nested too deeply")
    return value


def decode_header(value: bytes) -> Any:
    """Decode a payment header: base64 in any dress (alphabet, padding, folds) or raw JSON."""
    text = b"".join(value.split())
    if not text:
        raise DecodeError("empty header")
    if text[:1] in (b"{", b"["):
        return decode_json(value)
    text = text.translate(_URLSAFE_TO_STANDARD).rstrip(b"=")
    try:
        raw = base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
    except binascii.Error as error:
        raise DecodeError("neither base64 nor JSON") from error
    return decode_json(raw)


def plain_text(value: object, limit: int = 300) -> str:
    """A server's text made safe to store and to show: one line, printable, bounded; "" if none.

    Control characters, terminal escapes, bidirectional overrides and lone surrogates become spaces.
    """
    if not isinstance(value, str):
        return ""
    head = value[: limit * 4]
    return " ".join("".join(c if c.isprintable() else " " for c in head).split())[:limit]


def header_values(headers: Sequence[tuple[bytes, bytes]], name: bytes) -> list[bytes]:
    """Every value of one header, in order; `name` in lower case."""
    return [value for key, value in headers if len(key) == len(name) and key.lower() == name]


def _object_without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        # Two readers of such an object may see two different prices.
        raise ValueError("duplicate key")
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _finite_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("number out of range")
    return value


def _is_too_deep(value: Any) -> bool:
    layer = [value]
    for _ in range(_MAX_DEPTH):
        layer = [
            child
            for parent in layer
            if isinstance(parent, (dict, list))
            for child in (parent.values() if isinstance(parent, dict) else parent)
        ]
        if not layer:
            return False
    return True
