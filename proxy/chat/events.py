"""Server-sent events, as far as they were received (WHATWG HTML, "event stream interpretation")."""

import json
import re
from collections.abc import Iterator
from typing import Any

_LINES = re.compile("\r\n|\n|\r")


def documents(stream: bytes) -> Iterator[dict[str, Any]]:
    """The JSON object that each event of `stream` carries, in order.

    Events that carry anything else (`[DONE]`, a comment) are left out. An event that was cut off
    counts where its data came whole: what it says was received.
    """
    data: list[str] = []
    text = stream.decode("utf-8", "replace").removeprefix("\ufeff")
    for line in [*_LINES.split(text), ""]:
        field, _, value = line.partition(":")
        if field == "data":
            data.append(value.removeprefix(" "))
        elif not line:
            document = _document("\n".join(data)) if data else None
            data.clear()
            if document is not None:
                yield document


def _document(data: str) -> dict[str, Any] | None:
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None
