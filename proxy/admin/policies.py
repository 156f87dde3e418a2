"""The book of policies: looked at whole or layer by layer, and changed while agents run.

A change is made to one version of the book and makes the next. Whoever wants to be sure that
nobody has changed it since sends the version he saw as If-Match.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Any

from aiohttp import web
from pydantic import BaseModel, Field

from policies import Book, LayerKey, Rules, parse_provider
from policies.rules import KEYS
from proxy.admin.answers import answer
from proxy.admin.behalf import origin_of, signed
from proxy.admin.layers import BookDocument, Defaults, OfAgent, OfProvider, plain
from proxy.admin.rights import asked, caller, needs, sent
from proxy.admin.roles import Role
from proxy.admin.shapes import Given, Name, Query, Text
from proxy.ledger import Database, policies
from proxy.ledger.agents import UnknownAgent
from proxy.ledger.policies import Applied, PolicyConflict
from proxy.wire.problem import Problem

_TAG = re.compile(r'"([0-9]{1,18})"')
_TRIES = 20


class Why(Query):
    """`note`: for whoever reads the history."""

    note: Annotated[Text, Field(max_length=500)] = ""


class LayerGiven(Given):
    """One layer. Keys that are missing say nothing."""

    layer: str
    agent: Name | None
    provider: str | None
    version: int
    rules: OfAgent  # type: ignore[valid-type]


class ChangedLayer(Given):
    """A layer that was changed; null where there is none."""

    layer: str
    agent: Name | None
    provider: str | None
    before: dict[str, Any] | None
    after: dict[str, Any] | None


class Changed(Given):
    """The version that holds now, and what was changed to get there: nothing, maybe."""

    version: int
    changes: list[ChangedLayer]


def routes(database: Database) -> list[web.RouteDef]:
    return [*_book(database), *_layers(database), *_freezes(database)]


def _book(database: Database) -> list[web.RouteDef]:
    @needs(Role.READER, gives=BookDocument, tagged=True)
    async def get_book(_: web.Request) -> web.Response:
        """Every layer of every agent and provider, at one version."""
        book = await policies.load(database)
        return tagged(book.to_json(), book.version)

    @needs(Role.OPERATOR, query=Why, body=BookDocument, gives=Changed, refuses=(422,), tagged=True)
    async def replace(request: web.Request) -> web.Response:
        """Makes the book this one, whole: layers that are not in it are taken away. Agents stay."""
        return await _apply(database, request, prune=True)

    @needs(Role.OPERATOR, query=Why, body=BookDocument, gives=Changed, refuses=(422,), tagged=True)
    async def merge(request: web.Request) -> web.Response:
        """Replaces the layers that are in it; the others stay as they are."""
        return await _apply(database, request, prune=False)

    return [
        web.get("/v1/policies", get_book),
        web.put("/v1/policies", replace),
        web.patch("/v1/policies", merge),
    ]


def _layers(database: Database) -> list[web.RouteDef]:
    @needs(Role.READER, gives=LayerGiven, refuses=(404,), tagged=True)
    async def get_layer(request: web.Request) -> web.Response:
        """One layer, and the version of the book."""
        book, key = await policies.load(database), _key(request)
        return _layer(book, key, _there(book, key))

    def changing(model: type[BaseModel]) -> tuple[Any, Any]:
        marked = needs(
            Role.OPERATOR, query=Why, body=model, gives=LayerGiven, refuses=(404,), tagged=True
        )

        @marked
        async def put_layer(request: web.Request) -> web.Response:
            """Makes a layer say this, and nothing else."""
            rules = Rules.from_json(plain(sent(request, model)))
            await _set(database, request, rules, expected(request))
            return await _now(database, request)

        @marked
        async def patch_layer(request: web.Request) -> web.Response:
            """Changes the rules that are named; null takes one away. Lists and tables are replaced
            whole: an empty one says nothing, as if it were not there."""
            await _patch(database, request, sent(request, model))
            return await _now(database, request)

        return put_layer, patch_layer

    @needs(Role.OPERATOR, query=Why, refuses=(404,), tagged=True)
    async def delete_layer(request: web.Request) -> web.Response:
        """Takes a layer away. An agent's own then says nothing, and the defaults hold."""
        key, seen = _key(request), expected(request)
        book = await policies.load(database)
        _there(book, key)
        await _set(database, request, None, seen)
        return web.Response(status=204)

    found: list[web.RouteDef] = []
    for path, model in (
        ("/v1/policies/defaults", Defaults),
        ("/v1/policies/providers/{provider}", OfProvider),
        ("/v1/policies/agents/{agent}", OfAgent),
        ("/v1/policies/agents/{agent}/providers/{provider}", OfProvider),
    ):
        put_layer, patch_layer = changing(model)
        found += [
            web.get(path, get_layer),
            web.put(path, put_layer),
            web.patch(path, patch_layer),
            web.delete(path, delete_layer),
        ]
    return found


def _freezes(database: Database) -> list[web.RouteDef]:
    @needs(Role.OPERATOR, query=Why)
    async def freeze(request: web.Request) -> web.Response:
        """Nothing is paid there from now on: once this is answered, nothing is granted."""
        return await _freeze(database, request, frozen=True)

    @needs(Role.OPERATOR, query=Why)
    async def unfreeze(request: web.Request) -> web.Response:
        """Takes the freeze away."""
        return await _freeze(database, request, frozen=False)

    return [
        route
        for path in (
            "agents/{agent}",
            "providers/{provider}",
            "agents/{agent}/providers/{provider}",
        )
        for route in (
            web.put(f"/v1/{path}/freeze", freeze),
            web.delete(f"/v1/{path}/freeze", unfreeze),
        )
    ]


def expected(request: web.Request) -> int | None:
    """The version that If-Match demands, if it demands one. Raises Problem."""
    text = request.headers.get("If-Match")
    if text is None or text.strip() == "*":
        return None
    match = _TAG.fullmatch(text.strip())
    if match is None:
        raise Problem(400, "bad_query", 'If-Match must be a version, like "17".')
    return int(match[1])


def tagged(document: Mapping[str, Any], version: int) -> web.Response:
    """The answer about one version of the book."""
    response = answer(document)
    response.headers["ETag"] = f'"{version}"'
    return response


def changed(applied: Applied) -> web.Response:
    """What a change has done."""
    changes = [
        {
            "layer": str(one.key),
            "agent": one.key.agent,
            "provider": one.key.provider,
            "before": None if one.before is None else one.before.to_json(),
            "after": None if one.after is None else one.after.to_json(),
        }
        for one in applied.changes
    ]
    return tagged({"version": applied.version, "changes": changes}, applied.version)


def given_by(request: web.Request, note: str) -> dict[str, Any]:
    """Who changes the book, from where, and why."""
    return {"by": caller(request).name, "origin": origin_of(request), "note": note}


async def _apply(database: Database, request: web.Request, *, prune: bool) -> web.Response:
    document = sent(request, BookDocument)
    seen = expected(request)
    try:
        applied = await policies.apply(
            signed(request, database),
            Book.from_json(plain(document)),
            **given_by(request, asked(request, Why).note),
            expected=document.version if seen is None else seen,
            prune=prune,
        )
    except UnknownAgent as error:
        raise Problem(422, "no_such_agent", f"{error}.") from None
    return changed(applied)


async def _set(
    database: Database, request: web.Request, rules: Rules | None, seen: int | None
) -> None:
    await policies.set_rules(
        signed(request, database),
        *_key(request),
        rules,
        **given_by(request, asked(request, Why).note),
        expected=seen,
    )


async def _patch(database: Database, request: web.Request, change: BaseModel) -> None:
    key, seen = _key(request), expected(request)
    named = {name for name in change.model_fields_set if name in KEYS}
    for last in (*[False] * (_TRIES - 1), True):
        book = await policies.load(database)
        if key.agent is not None and key.agent not in book.agents:
            raise UnknownAgent(f"there is no agent {key.agent!r}")
        now = dict(book.layers()).get(key, Rules()).to_json()
        kept = {name: value for name, value in now.items() if name not in named}
        rules = Rules.from_json(kept | plain(change))
        try:
            await _set(database, request, rules, book.version if seen is None else seen)
        except PolicyConflict:
            if seen is not None or last:
                raise
        else:
            return


async def _freeze(database: Database, request: web.Request, *, frozen: bool) -> web.Response:
    await policies.freeze(
        signed(request, database),
        *_key(request),
        frozen,
        **given_by(request, asked(request, Why).note),
    )
    return web.Response(status=204)


def _key(request: web.Request) -> LayerKey:
    provider = request.match_info.get("provider")
    return LayerKey(
        request.match_info.get("agent"),
        None if provider is None else parse_provider(provider).text,
    )


def _there(book: Book, key: LayerKey) -> Rules:
    if key.agent is not None and key.agent not in book.agents:
        raise UnknownAgent(f"there is no agent {key.agent!r}")
    found = dict(book.layers()).get(key)
    if found is None and key.provider is not None:
        raise Problem(404, "no_such_layer", f"There is no layer {key}.")
    return found or Rules()


async def _now(database: Database, request: web.Request) -> web.Response:
    book, key = await policies.load(database), _key(request)
    return _layer(book, key, dict(book.layers()).get(key, Rules()))


def _layer(book: Book, key: LayerKey, rules: Rules) -> web.Response:
    return tagged(
        {
            "layer": str(key),
            "agent": key.agent,
            "provider": key.provider,
            "version": book.version,
            "rules": rules.to_json(),
        },
        book.version,
    )
