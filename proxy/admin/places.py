"""What the braces of a route's path may hold. What does not fit is nowhere: 404.

A path's text arrives decoded: a provider that is a whole origin is written with %2F for slashes.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from proxy.wire.problem import Problem


@dataclass(frozen=True, slots=True)
class Place:
    """One name in braces, by its JSON schema; `shape`: what it must look like."""

    schema: Mapping[str, Any]
    shape: re.Pattern[str]


def _text(pattern: str, description: str, example: str) -> Place:
    schema = {
        "type": "string",
        "pattern": f"^{pattern}$",
        "description": description,
        "examples": [example],
    }
    return Place(schema, re.compile(pattern))


def _uuid(description: str) -> Place:
    schema = {"type": "string", "format": "uuid", "description": description}
    return Place(schema, re.compile(r"[^\0]+"))  # the route itself tells what it has none of


_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}"
PLACES: Mapping[str, Place] = {
    "agent": _text(_NAME, "an agent's name", "shopper"),
    "key": _text(_NAME, "the name of an API key", "grafana"),
    "run": _text(
        r"[!-~]([ -~]{0,198}[!-~])?", "a session, as the Autopay-Session header names it", "run-7"
    ),
    "provider": _text(
        r"((https?://)?(\*\.)?|https?%3A%2F%2F)[A-Za-z0-9\[][A-Za-z0-9.:\]_-]{0,280}",
        "a host, *.domain for all hosts below it, or a whole origin",
        "api.example.com",
    ),
    "id": _uuid("an id"),
    "session": _uuid("a chat session's id"),
    "token": _uuid("a token's id"),
}


def check(request: web.Request) -> None:
    """Raises Problem where a part of the path is none of its kind."""
    for name, text in request.match_info.items():
        if PLACES[name].shape.fullmatch(text) is None:
            raise Problem(
                404, "not_found", f"The path's {name} is not {PLACES[name].schema['description']}."
            )
