"""Figures for dashboards: ratings, use, spending."""

from typing import Annotated

from aiohttp import web
from pydantic import Field

from proxy.admin.answers import answer
from proxy.admin.rights import asked, needs
from proxy.admin.roles import Role
from proxy.admin.shapes import Name, Query, items_of, shape
from proxy.chat import dashboard
from proxy.ledger import Database
from proxy.records import as_fields
from proxy.wire.problem import Problem


class Days(Query):
    """The last days, today's UTC day included."""

    days: Annotated[int, Field(ge=1, le=366)] = 30


class AgentDays(Days):
    """The same, of one agent or of all."""

    agent: Name | None = None


def routes(database: Database) -> list[web.RouteDef]:
    @needs(
        Role.READER,
        query=AgentDays,
        gives=items_of(dashboard.AgentFigures, rating_percent=int | None),
        refuses=(404,),
    )
    async def agents(request: web.Request) -> web.Response:
        """How agents are rated, how fast they are answered, how often they are used."""
        query = asked(request, AgentDays)
        found = await dashboard.agent_figures(database, query.days, query.agent)
        if query.agent is not None and not found:
            raise Problem(404, "no_such_agent", "There is no agent of this name.")
        return answer({"items": [_rated(one) for one in found]})

    @needs(Role.READER, query=Days, gives=shape(dashboard.Stats))
    async def stats(request: web.Request) -> web.Response:
        """Everything in one line."""
        found = await dashboard.stats(database, asked(request, Days).days)
        return answer(as_fields(found, money=found.MONEY))

    @needs(Role.READER, query=Days, gives=items_of(dashboard.Day))
    async def activity(request: web.Request) -> web.Response:
        """Messages, paid calls and spending, day by day."""
        found = await dashboard.activity(database, asked(request, Days).days)
        return answer({"items": [as_fields(day, money=day.MONEY) for day in found]})

    @needs(Role.READER, query=AgentDays, gives=items_of(dashboard.Spend))
    async def spend(request: web.Request) -> web.Response:
        """What was spent, by agent and provider, the dearest first."""
        query = asked(request, AgentDays)
        found = await dashboard.spend(database, query.days, query.agent)
        return answer({"items": [as_fields(one, money=one.MONEY) for one in found]})

    return [
        web.get("/v1/dashboard/agents", agents),
        web.get("/v1/dashboard/stats", stats),
        web.get("/v1/dashboard/activity", activity),
        web.get("/v1/dashboard/spend", spend),
    ]


def _rated(figures: dashboard.AgentFigures) -> dict[str, object]:
    """With the share of thumbs up in whole percent; none without a rating."""
    rated = figures.positive + figures.negative
    percent = round(100 * figures.positive / rated) if rated else None
    return {**as_fields(figures), "rating_percent": percent}
