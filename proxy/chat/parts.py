"""What a message's `content` says, in any of the shapes that clients and servers give it.

Nothing here trusts a type: what is not understood says nothing.
"""

from collections.abc import Iterator
from typing import Any

from proxy.urls import shown_url

MAX_PREVIEW = 32 * 1024
_IMAGE_PARTS = frozenset(("image_url", "input_image"))


def items(value: Any) -> Iterator[dict[str, Any]]:
    """The objects of a list; nothing of anything else."""
    if isinstance(value, list):
        yield from (item for item in value if isinstance(item, dict))


def text_of(content: Any) -> str:
    """The text of a `content`: a string, or the text parts of a list, a line each."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "\n".join(filter(None, map(_part, content)))
    return ""


def image_of(content: Any) -> str | None:
    """The first image of a `content`, fit to be shown: a URL without the secrets in it, or a small
    data: URL. Of a large one only its type and size are told."""
    for part in items(content):
        if part.get("type") in _IMAGE_PARTS:
            image = part.get("image_url")
            url = image.get("url") if isinstance(image, dict) else image
            if isinstance(url, str) and url:
                return _preview(url)
    return None


def called(function: Any) -> str:
    """A call of a tool, as text; "" if it has no name."""
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        return ""
    arguments = function.get("arguments")
    return f"[tool call] {function['name']}({arguments if isinstance(arguments, str) else ''})"


def joined(*texts: str) -> str:
    """What there is of them, a line each."""
    return "\n".join(filter(None, texts))


def _part(part: Any) -> str:
    if isinstance(part, str):
        return part
    if not isinstance(part, dict):
        return ""
    kind = part.get("type")
    for name in ("text", "refusal"):
        if isinstance(part.get(name), str):
            return str(part[name])
    if kind == "input_audio":
        return "[audio]"
    return "[file]" if kind in ("file", "input_file") else ""


def _preview(url: str) -> str:
    if url[:5].lower() != "data:":
        try:
            return shown_url(url)
        except ValueError:  # no URL at all
            return "[image]"
    if len(url) <= MAX_PREVIEW:
        return url
    kind = url[5:].partition(",")[0].partition(";")[0][:100]
    return f"[{kind or 'image'}, {len(url)} bytes]"
