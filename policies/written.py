"""A book as the text of a file, which reads back to the same book."""

import json
import re
from typing import Any

from policies.book import Book, LayerKey
from policies.rules import Rules

_BARE = re.compile(r"[A-Za-z0-9_-]+")


def as_toml(book: Book) -> str:
    """Every layer as a table, in the order of `Book.layers`."""
    return "\n".join(_layer(key, rules) for key, rules in book.layers())


def _layer(key: LayerKey, rules: Rules) -> str:
    if key == LayerKey():
        words = ["defaults"]
    else:
        words = [] if key.agent is None else ["agent", key.agent]
        words += [] if key.provider is None else ["provider", key.provider]
    heading = ".".join(word if _BARE.fullmatch(word) else _text(word) for word in words)
    said = "".join(f"{rule} = {_value(value)}\n" for rule, value in rules.to_json().items())
    return f"[{heading}]\n{said}"


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f'"{key}" = {_value(one)}' for key, one in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(_value, value)) + "]"
    return _text(value) if isinstance(value, str) else json.dumps(value)


def _text(value: str) -> str:
    """JSON escapes what TOML wants to be escaped, but for one character."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
