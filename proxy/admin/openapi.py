"""The API's own description (OpenAPI 3.1), made of the routes and their marks."""

import re
from collections.abc import Sequence
from inspect import getdoc
from typing import Any

from aiohttp import web
from pydantic import BaseModel

from proxy import __version__
from proxy.admin.answers import answer
from proxy.admin.rights import Mark, anyone, mark_of

_PROBLEM = {
    "type": "object",
    "required": ["type", "title", "status", "code", "detail"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "code": {"type": "string"},
        "detail": {"type": "string"},
    },
}


def routes(described: Sequence[web.RouteDef]) -> list[web.RouteDef]:
    """The route that tells of all `described`."""
    document = openapi(described)

    @anyone
    async def tell(_: web.Request) -> web.Response:
        """This document."""
        return answer(document)

    return [web.get("/openapi.json", tell)]


def openapi(described: Sequence[web.RouteDef]) -> dict[str, Any]:
    """The document. Every handler's mark says what it takes, its docstring what it is."""
    paths: dict[str, dict[str, Any]] = {}
    for route in described:
        mark = mark_of(route.handler)
        assert mark is not None, "the application has refused it"
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, mark)
    return {
        "openapi": "3.1.0",
        "info": {"title": "autopay", "version": __version__},
        "paths": paths,
        "components": {
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
            "schemas": {"Problem": _PROBLEM},
        },
    }


def _operation(route: web.RouteDef, mark: Mark) -> dict[str, Any]:
    text = " ".join((getdoc(route.handler) or "").split())
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"{(\w+)", route.path)
    ]
    operation: dict[str, Any] = {
        "operationId": f"{route.method.lower()}{re.sub(r'[^a-z0-9]+', '_', route.path)}",
        "summary": text,
        "parameters": parameters + _parameters(mark.query),
        "responses": {
            "2XX": {"description": "done"},
            "default": {
                "description": "refused, or failed",
                "content": {
                    "application/problem+json": {
                        "schema": {"$ref": "#/components/schemas/Problem"},
                    }
                },
            },
        },
    }
    if mark.least is not None:
        operation["security"] = [{"key": []}]
        operation["x-role"] = mark.least
    if mark.body is not None:
        schema = mark.body.model_json_schema()
        operation["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": schema}},
        }
    return operation


def _parameters(query: type[BaseModel] | None) -> list[dict[str, Any]]:
    if query is None:
        return []
    schema = query.model_json_schema()
    required = schema.get("required", [])
    return [
        {"name": name, "in": "query", "required": name in required, "schema": one}
        for name, one in schema["properties"].items()
    ]
