"""One text for one value: JSON as RFC 8785 (JCS) writes it, and the hash of it.

Only what receipts are made of: objects, arrays, text, whole numbers below 2^53, true, false, null.
Fractions, whose canonical form is the hard part of the RFC, are refused.
"""

import json
from hashlib import sha256
from typing import Any

_EXACT = 2**53


def canonical(value: Any) -> str:
    """Raises ValueError for what has no canonical form here."""
    return json.dumps(_checked(value), separators=(",", ":"), ensure_ascii=False)


def digest(text: str) -> bytes:
    """SHA-256 of the UTF-8 bytes. Raises ValueError for a text with half a surrogate pair."""
    return sha256(text.encode()).digest()


def read_canonical(text: str) -> dict[str, Any]:
    """The object that `text` is the one and only form of. Raises ValueError."""
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError("nested too deep") from None
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    # Whoever repeats a name, or writes a number or a blank of his own, has another text than this.
    if canonical(value) != text:
        raise ValueError("not in canonical form")
    return value


def _checked(value: Any) -> Any:
    if isinstance(value, dict):
        names = sorted(value, key=_utf16)
        return {name: _checked(value[name]) for name in names}
    if isinstance(value, list):
        return [_checked(item) for item in value]
    if isinstance(value, str):
        _utf16(value)
        return value
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int) and -_EXACT < value < _EXACT:
        return value
    raise ValueError(f"{value!r:.40} has no canonical form")


def _utf16(text: str) -> bytes:
    """The order of names in the RFC. Raises ValueError for half a surrogate pair."""
    return text.encode("utf-16-be")
