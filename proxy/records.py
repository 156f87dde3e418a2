"""Records as JSON: amounts as exact dollars, times in UTC, ids as text."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, date, datetime
from typing import Any
from uuid import UUID

from policies import format_usd


def as_fields(record: Any, *, money: Sequence[str] = ()) -> dict[str, Any]:
    """A dataclass as a dict. The fields of `money`, in micro-USD, become exact dollars: `price`
    1000 is `"price_usd": "0.001"`."""
    fields: dict[str, Any] = {}
    for name, value in asdict(record).items():
        if name in money:
            fields[f"{name}_usd"] = None if value is None else format_usd(value)
        else:
            fields[name] = value
    return fields


def plain(value: object) -> str:
    """For `json.dumps(default=...)`. Raises TypeError for what has no place in an answer."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, UUID):
        return str(value)
    raise TypeError(f"{type(value).__name__} in an answer")
