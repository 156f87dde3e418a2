"""Limits set while agents run: ceilings per UTC day above their policies, and for one session."""

from typing import Annotated, Any, Self

from aiohttp import web
from pydantic import ConfigDict, Field, model_validator

from policies import format_usd, parse_usd
from policies.provider import parse_provider
from proxy.admin.answers import answer
from proxy.admin.behalf import signed
from proxy.admin.rights import asked, caller, needs, sent
from proxy.admin.roles import Role
from proxy.admin.shapes import Body, Given, Line, Name, Query, Usd, items_of
from proxy.ledger import Database, agents, ceilings, sessions
from proxy.ledger.ceilings import ALL, Ceiling, Kind
from proxy.records import as_fields
from proxy.wire.problem import Problem

Subject = Annotated[
    Line,
    Field(
        min_length=1,
        max_length=300,
        description="a provider's origin, a wallet's address, or * for each by itself",
        examples=["https://api.example.com"],
    ),
]


class _Named:
    """Which ceiling is meant."""

    kind: Kind
    subject: str
    agent: str | None

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        if self.kind == "fleet_day" and self.subject != ALL:
            raise ValueError("a fleet_day is for everything together: its subject is *")
        if self.kind != "agent_provider_day" and self.agent is not None:
            raise ValueError("only an agent_provider_day is for one agent")
        if self.kind.endswith("provider_day"):
            self.provider()
        return self

    def provider(self) -> str:
        """The subject in its one spelling. Raises ValueError."""
        if self.subject == ALL or not self.kind.endswith("provider_day"):
            return self.subject
        provider = parse_provider(self.subject)
        if provider.scheme is None:
            raise ValueError("a provider is named by its origin, like https://api.example.com")
        return provider.text


class CeilingChange(_Named, Body):
    """At most so much per UTC day: for all together, for a wallet, for a provider, or for one agent
    at a provider. What names its subject goes before what is for each of them."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "kind": "provider_day",
                    "subject": "https://api.example.com",
                    "limit_usd": "5.00",
                },
                {"kind": "fleet_day", "limit_usd": "20.00"},
            ]
        }
    )

    kind: Kind
    subject: Subject = ALL
    agent: Name | None = None
    limit_usd: Usd


class CeilingNamed(_Named, Query):
    """The one that is meant."""

    kind: Kind
    subject: Subject = ALL
    agent: Name | None = None


class SessionChange(Body):
    """At most so much in all, whatever was spent before."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"limit_usd": "0.50"}]})

    limit_usd: Usd


class SessionBudget(Given):
    """`limit_usd`: the session's own; `policy_limit_usd`: that of the agent's policy, which holds
    besides."""

    agent: Name
    session: str
    limit_usd: Usd | None
    policy_limit_usd: Usd
    spent_usd: Usd
    held_usd: Usd
    remaining_usd: Usd
    paid_calls: int


def routes(database: Database) -> list[web.RouteDef]:
    return [*_ceilings(database), *_sessions(database)]


def _ceilings(database: Database) -> list[web.RouteDef]:
    @needs(Role.READER, gives=items_of(Ceiling))
    async def list_ceilings(_: web.Request) -> web.Response:
        """Every ceiling, with what of it is used today: 0 where it is for each of many."""
        found = await ceilings.ceilings(database)
        return answer({"items": [as_fields(one, money=one.MONEY) for one in found]})

    @needs(Role.OPERATOR, body=CeilingChange, refuses=(404,))
    async def set_ceiling(request: web.Request) -> web.Response:
        """Sets or changes one. It holds from the next payment on, in every proxy."""
        wanted = sent(request, CeilingChange)
        await ceilings.set_ceiling(
            signed(request, database, _noted(wanted, wanted.limit_usd), agent=wanted.agent),
            wanted.kind,
            wanted.provider(),
            parse_usd(wanted.limit_usd),
            agent=wanted.agent,
            by=caller(request).name,
        )
        return web.Response(status=204)

    @needs(Role.OPERATOR, query=CeilingNamed, refuses=(404,))
    async def clear_ceiling(request: web.Request) -> web.Response:
        """Takes one away."""
        named = asked(request, CeilingNamed)
        database_ = signed(request, database, _noted(named, None), agent=named.agent)
        if not await ceilings.clear_ceiling(
            database_, named.kind, named.provider(), agent=named.agent
        ):
            raise Problem(404, "no_such_limit", "There is no such limit.")
        return web.Response(status=204)

    return [
        web.get("/v1/limits", list_ceilings),
        web.put("/v1/limits", set_ceiling),
        web.delete("/v1/limits", clear_ceiling),
    ]


def _sessions(database: Database) -> list[web.RouteDef]:
    @needs(Role.READER, gives=SessionBudget)
    async def status(request: web.Request) -> web.Response:
        """What a session may spend, has spent, and has left; of one that was never heard of too."""
        return answer(await _budget(database, request))

    @needs(Role.OPERATOR, body=SessionChange, gives=SessionBudget)
    async def set_limit(request: web.Request) -> web.Response:
        """Limits a session, from its next payment on."""
        limit = sent(request, SessionChange).limit_usd
        await _limit(database, request, parse_usd(limit), {"limit_usd": limit})
        return answer(await _budget(database, request))

    @needs(Role.OPERATOR)
    async def clear_limit(request: web.Request) -> web.Response:
        """Takes a session's own limit away; its agent's policy holds as before."""
        if (await _budget(database, request))["limit_usd"] is None:
            raise Problem(404, "no_such_limit", "This session has no limit of its own.")
        await _limit(database, request, None, {})
        return web.Response(status=204)

    path = "/v1/agents/{agent}/sessions/{run}/limit"
    return [web.get(path, status), web.put(path, set_limit), web.delete(path, clear_limit)]


async def _limit(
    database: Database, request: web.Request, limit: int | None, details: dict[str, Any]
) -> None:
    info = await agents.find_active(database, request.match_info["agent"])
    await sessions.set_limit(
        signed(request, database, details), info.agent, request.match_info["run"], limit
    )


async def _budget(database: Database, request: web.Request) -> dict[str, Any]:
    agent, run = request.match_info["agent"], request.match_info["run"]
    found = await sessions.budget(database, agent, run)
    return {
        "agent": agent,
        "session": run,
        "limit_usd": None if found.limit is None else format_usd(found.limit),
        "policy_limit_usd": format_usd(found.policy_limit),
        "spent_usd": format_usd(found.spent),
        "held_usd": format_usd(found.held),
        "remaining_usd": format_usd(found.remaining),
        "paid_calls": found.paid_calls,
    }


def _noted(ceiling: CeilingChange | CeilingNamed, limit: str | None) -> dict[str, Any]:
    return {"kind": ceiling.kind, "subject": ceiling.provider(), "limit_usd": limit}
