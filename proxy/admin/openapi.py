"""The API's own description (OpenAPI 3.1), made of the routes and their marks."""

import asyncio
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from http import HTTPStatus
from inspect import getdoc
from typing import Any

from aiohttp import web
from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from proxy import __version__
from proxy.admin.answers import answer
from proxy.admin.places import PLACES
from proxy.admin.rights import Mark, anyone, mark_of
from proxy.admin.shapes import Given

_TEXT = {"type": "string"}
_PROBLEM = {
    "type": "object",
    "required": ["type", "title", "status", "code", "detail"],
    "properties": {
        "type": _TEXT,
        "title": _TEXT,
        "status": {"type": "integer"},
        "code": {**_TEXT, "description": "stable, for programs"},
        "detail": _TEXT,
    },
    "examples": [
        {
            "type": "urn:autopay:problem:no_such_agent",
            "title": "Not Found",
            "status": 404,
            "code": "no_such_agent",
            "detail": "There is no agent 'shopper'.",
        }
    ],
}
_TAG = {"type": "string", "pattern": '^"[0-9]{1,18}"$', "examples": ['"17"']}
_IF_MATCH = {
    "name": "If-Match",
    "in": "header",
    "required": False,
    "schema": _TAG,
    "description": "only if this is the version still; else 412",
}

_Schemas = Mapping[Any, dict[str, Any]]
"""By (model, mode)."""


class Document(Given):
    """OpenAPI 3.1."""

    openapi: str
    info: dict[str, Any]
    paths: dict[str, Any]
    components: dict[str, Any]


def routes(described: Sequence[web.RouteDef]) -> list[web.RouteDef]:
    """The route that tells of all `described`, and of itself."""

    making = asyncio.Lock()

    @cache
    def document() -> dict[str, Any]:
        return openapi([*described, route])

    @anyone(gives=Document)
    async def tell(_: web.Request) -> web.Response:
        """This document."""
        # The first who asks waits for it, a fifth of a second, so that no start does.
        async with making:
            return answer(await asyncio.to_thread(document))

    route = web.get("/openapi.json", tell)
    return [route]


def openapi(described: Sequence[web.RouteDef]) -> dict[str, Any]:
    """The document. Every handler's mark says what it takes and gives, its docstring what it is."""
    marks = [_mark(route) for route in described]
    schemas, components = models_json_schema(
        sorted(set(_models(marks)), key=lambda one: (one[0].__name__, one[1])),
        ref_template="#/components/schemas/{model}",
    )
    named = {key: _resolved(schema, components["$defs"]) for key, schema in schemas.items()}
    paths: dict[str, dict[str, Any]] = {}
    for route, mark in zip(described, marks, strict=True):
        operation = _operation(route, mark, named, schemas)
        paths.setdefault(_path(route), {})[route.method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {"title": "autopay", "version": __version__},
        "paths": paths,
        "components": {
            "securitySchemes": {
                "key": {"type": "http", "scheme": "bearer"},
                "agent": {"type": "http", "scheme": "basic"},
                "token": {"type": "http", "scheme": "bearer"},
            },
            "schemas": {"Problem": _PROBLEM, **components["$defs"]},
        },
    }


def _mark(route: web.RouteDef) -> Mark:
    mark = mark_of(route.handler)
    assert mark is not None, "the application has refused it"
    return mark


def _models(marks: Iterable[Mark]) -> Iterable[tuple[type[BaseModel], JsonSchemaMode]]:
    for mark in marks:
        for taken in (mark.query, mark.body):
            if taken is not None:
                yield taken, "validation"
        if mark.gives is not None and not isinstance(mark.gives, str):
            yield mark.gives, "serialization"


def _resolved(schema: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """What a reference stands for."""
    found: dict[str, Any] = definitions[schema["$ref"].rpartition("/")[2]]
    return found


def _path(route: web.RouteDef) -> str:
    return re.sub(r"{(\w+)[^}]*}", r"{\1}", route.path)


def _operation(
    route: web.RouteDef, mark: Mark, named: _Schemas, schemas: _Schemas
) -> dict[str, Any]:
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": dict(PLACES[name].schema)}
        for name in re.findall(r"{(\w+)", route.path)
    ]
    if mark.query is not None:
        parameters += _parameters(named[mark.query, "validation"])
    changes = mark.tagged and route.method != "GET"
    if changes:
        parameters.append(_IF_MATCH)
    operation: dict[str, Any] = {
        "operationId": f"{route.method.lower()}{re.sub(r'[^a-z0-9]+', '_', _path(route))}",
        "summary": " ".join((getdoc(route.handler) or "").split()),
        "tags": [_path(route).removeprefix("/v1").split("/")[1]],
        "parameters": parameters,
        "responses": {str(mark.status): _given(mark, schemas)}
        | {str(status): _refused(status) for status in _refusals(route, mark, changes=changes)},
    }
    if mark.agents:
        operation["security"] = [{"agent": []}, {"token": []}]
        operation["x-role"] = "agent"
    if mark.least is not None:
        operation["security"] = [*operation.get("security", []), {"key": []}]
        operation["x-role"] = mark.least
    if mark.body is not None:
        operation["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": schemas[mark.body, "validation"]}},
        }
    return operation


def _parameters(schema: dict[str, Any]) -> list[dict[str, Any]]:
    required = schema.get("required", [])
    return [
        {
            "name": name,
            "in": "query",
            "required": name in required,
            "schema": one,
            **({"description": one["description"]} if "description" in one else {}),
        }
        for name, one in schema["properties"].items()
    ]


def _given(mark: Mark, schemas: _Schemas) -> dict[str, Any]:
    response: dict[str, Any] = {"description": HTTPStatus(mark.status).phrase}
    if isinstance(mark.gives, str):
        response["content"] = {mark.gives: {"schema": _TEXT}}
    elif mark.gives is not None:
        response["content"] = {"application/json": {"schema": schemas[mark.gives, "serialization"]}}
    if mark.tagged and mark.gives is not None:
        response["headers"] = {"ETag": {"schema": _TAG, "required": True}}
    return response


def _refusals(route: web.RouteDef, mark: Mark, *, changes: bool) -> list[int]:
    """The statuses of its problems: what the marks of all routes bring with them, and its own."""
    statuses = {400, 421, 500, 503, *mark.refuses}
    if mark.least is not None or mark.agents:
        statuses |= {401, 403}
    if "{" in route.path:
        statuses.add(404)
    if mark.body is not None:
        statuses |= {413, 415}
    if changes:
        statuses.add(412)
    return sorted(statuses)


def _refused(status: int) -> dict[str, Any]:
    return {
        "description": HTTPStatus(status).phrase,
        "content": {
            "application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}
        },
    }
