"""The routes joined: who may pass, what was sent, and each refusal and fault as a document."""

import json
import logging
from collections.abc import Iterable

from aiohttp import web
from aiohttp.typedefs import Middleware
from pydantic import BaseModel, ValidationError

from proxy.admin import places
from proxy.admin.answers import told
from proxy.admin.askers import agent_of, nobody
from proxy.admin.hosts import Hosts
from proxy.admin.keys import Key, Keys
from proxy.admin.refusals import of_the_ledger
from proxy.admin.rights import ASKER, BODY, CALLER, QUERY, Handler, key_of, mark_of
from proxy.admin.roles import Role
from proxy.ledger import Directory
from proxy.wire.problem import Problem

log = logging.getLogger(__name__)

BODY_BYTES = 256 * 1024

_CHALLENGE = ((b"WWW-Authenticate", b'Bearer realm="autopay"'),)
_INVALID = ((b"WWW-Authenticate", b'Bearer realm="autopay", error="invalid_token"'),)


class UnmarkedRoute(Exception):
    """A route does not say who may use it: a mistake of ours, found at the start."""


def application(
    keys: Keys, routes: Iterable[web.RouteDef], hosts: Hosts, agents: Directory | None = None
) -> web.Application:
    """Serves `routes`, each to those that its mark names, asked for by one of `hosts`. Without
    `agents` there are none.

    Raises UnmarkedRoute."""
    guard = _guard(keys, hosts, agents)
    app = web.Application(client_max_size=BODY_BYTES, middlewares=[guard])
    for route in routes:
        if mark_of(route.handler) is None:
            raise UnmarkedRoute(f"{route.method} {route.path} does not say who may use it")
        app.add_routes([route])
    return app


def _guard(keys: Keys, hosts: Hosts, agents: Directory | None) -> Middleware:
    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            hosts.check(request)
            response = await _pass(keys, agents, request, handler)
        except Exception as error:
            # Of a stream under way nothing can be taken back: it is cut off.
            if request.writer is not None and request.writer.output_size > 0:
                raise
            response = told(_problem(request, error))
            if response.status == 413:
                response.force_close()
        if not response.prepared:
            response.headers["Server"] = "autopay"
            response.headers["Cache-Control"] = "no-store"
            response.headers["X-Content-Type-Options"] = "nosniff"
        return response

    return guard


async def _pass(
    keys: Keys, agents: Directory | None, request: web.Request, handler: Handler
) -> web.StreamResponse:
    if (request.content_length or 0) > BODY_BYTES:
        raise _too_large()
    mark = mark_of(request.match_info.handler)
    if mark is None:  # 404 and 405 are handlers too, and the only ones without a mark
        return await handler(request)
    agent = agent_of(request, agents) if mark.agents and agents is not None else None
    if agent is not None:
        request[ASKER] = agent
    elif mark.agents and (mark.least is None or not key_of(request)):
        raise nobody()
    elif mark.least is not None:
        request[CALLER] = await _identify(keys, request, mark.least)
    places.check(request)
    if mark.query is not None:
        request[QUERY] = _fitting(mark.query, _parameters(request), "bad_query")
    if mark.body is not None:
        request[BODY] = _fitting(mark.body, await _document(request), "bad_body")
    return await handler(request)


async def _identify(keys: Keys, request: web.Request, least: Role) -> Key:
    text = key_of(request)
    if not text:
        raise Problem(
            401,
            "api_key_required",
            "This needs a key: send `Authorization: Bearer apk_…`. `autopay key create` makes one.",
            headers=_CHALLENGE,
        )
    key = await keys.find(text)
    if key is None:
        raise Problem(
            401,
            "api_key_invalid",
            "This key is unknown, was revoked, or has expired.",
            headers=_INVALID,
        )
    if not key.role.may(least):
        raise Problem(
            403,
            "role_not_allowed",
            f"The role of this key is {key.role}; this needs {least} or more.",
            {"role": key.role, "needed": least},
        )
    return key


def _parameters(request: web.Request) -> dict[str, str]:
    if len(request.query) != len(set(request.query)):
        raise Problem(400, "bad_query", "A parameter is given more than once.")
    return dict(request.query)


async def _document(request: web.Request) -> object:
    if request.content_type != "application/json":
        raise Problem(415, "json_required", "The body must be application/json.")
    try:
        return json.loads(await request.read())
    except (ValueError, RecursionError):
        raise Problem(400, "bad_body", "The body is not valid JSON.") from None


def _fitting(model: type[BaseModel], values: object, code: str) -> BaseModel:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        faults = [
            # Their words only: what was sent is not repeated.
            {"where": ".".join(map(str, one["loc"]))[:100], "why": one["msg"][:200]}
            for one in error.errors(include_url=False, include_input=False, include_context=False)
        ][:10]
        first = faults[0]
        detail = f"{first['where']}: {first['why']}." if first["where"] else f"{first['why']}."
        raise Problem(400, code, detail, {"errors": faults}) from None


def _problem(request: web.Request, error: Exception) -> Problem:
    if isinstance(error, Problem):
        return error
    if isinstance(error, web.HTTPException) and error.status < 500:
        return _http_problem(error)
    if known := of_the_ledger(error):
        return known
    log.error("%s %s failed", request.method, request.path, exc_info=error)
    return Problem(500, "internal_error", "autopay failed to answer. See its log.")


def _http_problem(error: web.HTTPException) -> Problem:
    """What aiohttp has to say by itself."""
    if isinstance(error, web.HTTPRequestEntityTooLarge):
        return _too_large()
    if isinstance(error, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(error.allowed_methods))
        return Problem(
            405,
            "method_not_allowed",
            f"This understands {allowed}.",
            headers=((b"Allow", allowed.encode()),),
        )
    if isinstance(error, web.HTTPNotFound):
        return Problem(404, "not_found", "There is nothing here; see /openapi.json.")
    return Problem(400, "bad_request", "Not a valid request.")


def _too_large() -> Problem:
    return Problem(413, "content_too_large", f"A body may have {BODY_BYTES} bytes at most.")
