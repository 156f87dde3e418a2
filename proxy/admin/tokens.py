"""The tokens of an agent: issued, rotated, made to end. What is secret is shown once."""

from datetime import timedelta
from typing import Annotated
from uuid import UUID

from aiohttp import web
from pydantic import ConfigDict, Field

from proxy.admin.agents import Token, handed
from proxy.admin.answers import answer
from proxy.admin.behalf import signed
from proxy.admin.parts import Parts
from proxy.admin.rights import needs, sent
from proxy.admin.roles import Role
from proxy.admin.shapes import Body, Moment, Session, items_of, shape
from proxy.ledger import agents, tokens
from proxy.ledger.tokens import UnknownToken
from proxy.records import as_fields

_LONGEST = 3650 * 86_400

Seconds = Annotated[
    int, Field(ge=1, le=_LONGEST, description="it ends by itself after so many seconds")
]


class NewToken(Body):
    """`session`: all that is done with it counts against that session's budget."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"session": "run-7", "expires_in": 3600}]}
    )

    session: Session | None = None
    expires_in: Seconds | None = None


class Rotation(Body):
    """A new token in place of the others."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"grace_seconds": 300}]})

    grace_seconds: Annotated[
        int, Field(ge=0, le=30 * 86_400, description="for so long the others still hold")
    ] = 0
    expires_in: Seconds | None = None


class Ending(Body):
    """When a token ends by itself; null: only when it is revoked."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"expires_at": "2027-01-31T08:00:00Z"}]}, strict=False
    )

    expires_at: Moment | None


def routes(parts: Parts) -> list[web.RouteDef]:
    database, vault = parts.database, parts.vault

    @needs(Role.OPERATOR, gives=items_of(tokens.Token))
    async def list_tokens(request: web.Request) -> web.Response:
        """The tokens that hold, without what is secret of them; the newest first."""
        found = await tokens.of_agent(database, request.match_info["agent"])
        return answer({"items": [as_fields(one) for one in found]})

    @needs(Role.ADMIN, body=NewToken, gives=Token, status=201)
    async def issue(request: web.Request) -> web.Response:
        """One more token; the others stay as they are."""
        new = sent(request, NewToken)
        details = {"expires_in": new.expires_in}
        made = await agents.issue_token(
            signed(request, database, details),
            vault,
            request.match_info["agent"],
            session=new.session,
            lives=_span(new.expires_in),
        )
        return handed(made)

    @needs(Role.ADMIN, body=Rotation, gives=Token, status=201)
    async def rotate(request: web.Request) -> web.Response:
        """A new token; all others end, at once or after a grace."""
        wanted = sent(request, Rotation)
        made = await agents.rotate_token(
            signed(request, database, wanted.model_dump()),
            vault,
            request.match_info["agent"],
            grace=timedelta(seconds=wanted.grace_seconds),
            lives=_span(wanted.expires_in),
        )
        return handed(made)

    @needs(Role.ADMIN, body=Ending, gives=shape(tokens.Token))
    async def expire(request: web.Request) -> web.Response:
        """Sets when a token ends by itself."""
        at = sent(request, Ending).expires_at
        details = {"expires_at": None if at is None else at.isoformat()}
        changed = await tokens.expire(
            signed(request, database, details), request.match_info["agent"], _id(request), at
        )
        return answer(as_fields(changed))

    @needs(Role.OPERATOR)
    async def revoke(request: web.Request) -> web.Response:
        """Ends a token, at once and for good."""
        await tokens.revoke(signed(request, database), request.match_info["agent"], _id(request))
        return web.Response(status=204)

    return [
        web.get("/v1/agents/{agent}/tokens", list_tokens),
        web.post("/v1/agents/{agent}/tokens", issue),
        web.post("/v1/agents/{agent}/tokens/rotate", rotate),
        web.patch("/v1/agents/{agent}/tokens/{token}", expire),
        web.delete("/v1/agents/{agent}/tokens/{token}", revoke),
    ]


def _span(seconds: int | None) -> timedelta | None:
    return None if seconds is None else timedelta(seconds=seconds)


def _id(request: web.Request) -> UUID:
    try:
        return UUID(request.match_info["token"])
    except ValueError:
        raise UnknownToken("this agent has no such token, or it ended before") from None
