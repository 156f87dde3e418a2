"""What the API says: JSON, with amounts in exact dollars and times in UTC."""

import json
from collections.abc import Sequence
from typing import Any

from aiohttp import web

from proxy.records import plain
from proxy.wire.problem import Problem


def answer(document: Any, status: int = 200) -> web.Response:
    """`document` as JSON; datetimes, dates and UUIDs in it as text."""
    return web.json_response(document, status=status, dumps=_dumps)


def told(problem: Problem) -> web.Response:
    """A refusal or a fault, as a problem document (RFC 9457)."""
    return web.Response(
        status=problem.status,
        body=problem.body(),
        content_type="application/problem+json",
        headers=[(name.decode(), value.decode()) for name, value in problem.headers],
    )


def listed(items: Sequence[Any], next_page: str | None) -> web.Response:
    """One page of a list: `next` is what `before` must be for the page behind it."""
    return answer({"items": list(items), "next": next_page})


def _dumps(document: Any) -> str:
    return json.dumps(document, default=plain)
