"""How good each provider is, and why; and its breaker, turned by hand."""

from datetime import datetime
from typing import Annotated, Any

from aiohttp import web
from pydantic import ConfigDict, Field

from proxy.admin.answers import answer
from proxy.admin.behalf import signed
from proxy.admin.parts import Parts
from proxy.admin.rights import asked, caller, needs, sent
from proxy.admin.roles import Role
from proxy.admin.shapes import Body, Given, Line, Query, SignedUsd, items_of, shape
from proxy.providers.by_hand import MOST_SECONDS, turn
from proxy.providers.names import named
from proxy.providers.scores import Why
from proxy.records import as_fields
from proxy.wire.problem import Problem

MOST = 1_000


class Known(Query):
    """How many: the last used."""

    limit: Annotated[int, Field(ge=1, le=MOST)] = 100


class OfEndpoint(Query):
    """Which endpoint: method, and URL without its query; without it, the provider as a whole."""

    endpoint: Annotated[Line, Field(min_length=1, max_length=2000)] | None = None


class Standing(Given):
    """One provider: its score, its breaker, what was paid to it and what of that was lost."""

    provider: str
    score: float
    state: str
    calls: int
    successes: int
    failures: int
    paid_failures: int
    paid_usd: SignedUsd
    lost_usd: SignedUsd
    last_status: int | None
    last_error: str | None
    last_seen_at: datetime | None


class EndpointStanding(Given):
    """One endpoint of a provider."""

    endpoint: str
    score: float
    calls: int


class KeptOff(Body):
    """For how long nobody calls the provider; then it is tried by one call at a time."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"seconds": 600}]})

    seconds: Annotated[int, Field(ge=1, le=MOST_SECONDS)]


class Breaker(Given):
    """`turned`: it was otherwise before. `open_until`: null if it is closed."""

    provider: str
    turned: bool
    open_until: datetime | None


def routes(parts: Parts) -> list[web.RouteDef]:
    providers = parts.providers

    @needs(Role.AUDITOR, query=Known, gives=items_of(Standing))
    async def list_providers(request: web.Request) -> web.Response:
        """The providers of which something is known, the last used first."""
        keys = providers.met()[: asked(request, Known).limit]
        return answer({"items": [_standing(providers.why(key)) for key in keys]})

    @needs(
        Role.AUDITOR,
        query=OfEndpoint,
        gives=shape(Why, endpoints=list[EndpointStanding]),
        refuses=(404,),
    )
    async def provider(request: web.Request) -> web.Response:
        """One provider, or one endpoint of it: its score, the shares that add up to it, and what
        they are made of."""
        key = named(request.match_info["provider"], providers.met())
        if key is None:
            raise Problem(404, "no_such_provider", "Nothing is known of this provider.")
        endpoint = asked(request, OfEndpoint).endpoint
        known = providers.endpoints(key)
        if endpoint is not None and endpoint not in known:
            raise Problem(404, "no_such_endpoint", "Nothing is known of this endpoint.")
        found = as_fields(providers.why(key, endpoint or ""), money=Why.MONEY)
        return answer(
            found
            | {"endpoints": [] if endpoint else [_part(providers.why(key, one)) for one in known]}
        )

    @needs(Role.OPERATOR, body=KeptOff, gives=Breaker, refuses=(404,))
    async def open_breaker(request: web.Request) -> web.Response:
        """Opens the provider's breaker, at all proxies: nobody calls it for so many seconds."""
        return await _turned(request, sent(request, KeptOff).seconds)

    @needs(Role.OPERATOR, gives=Breaker, refuses=(404,))
    async def close_breaker(request: web.Request) -> web.Response:
        """Closes the provider's breaker, at all proxies: it is called again."""
        return await _turned(request, None)

    async def _turned(request: web.Request, seconds: int | None) -> web.Response:
        key, done = await turn(
            signed(request, parts.database, {"seconds": seconds}),
            request.match_info["provider"],
            seconds,
            by=caller(request).name,
        )
        return answer({"provider": key, "turned": done.turned, "open_until": done.open_until})

    return [
        web.get("/v1/providers", list_providers),
        web.get("/v1/providers/{provider}", provider),
        web.put("/v1/providers/{provider}/breaker", open_breaker),
        web.delete("/v1/providers/{provider}/breaker", close_breaker),
    ]


def _standing(why: Why) -> dict[str, Any]:
    told = as_fields(why, money=Why.MONEY)
    return {name: told[name] for name in Standing.model_fields}


def _part(why: Why) -> dict[str, Any]:
    return {"endpoint": why.endpoint, "score": why.score, "calls": why.calls}
