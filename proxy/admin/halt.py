"""The kill switch: nothing is paid by anybody until further notice."""

from datetime import datetime
from typing import Annotated

from aiohttp import web
from pydantic import ConfigDict, Field

from proxy.admin.answers import answer
from proxy.admin.behalf import signed
from proxy.admin.rights import caller, needs, sent
from proxy.admin.roles import Role
from proxy.admin.shapes import Body, Given, Text
from proxy.ledger import Database, audit


class Halt(Body):
    """Why."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"reason": "strange payments since noon"}]}
    )

    reason: Annotated[Text, Field(min_length=1, max_length=500)]


class Spending(Given):
    """Whether anything may be paid at all."""

    halted: bool
    reason: str | None
    by: str | None
    since: datetime


def routes(database: Database) -> list[web.RouteDef]:
    @needs(Role.READER, gives=Spending)
    async def spending(_: web.Request) -> web.Response:
        """Whether spending is halted, since when, by whom, and why."""
        return await _spending(database)

    @needs(Role.OPERATOR, body=Halt, gives=Spending)
    async def halt(request: web.Request) -> web.Response:
        """Stops all spending, of every agent, in every proxy. Once this is answered nothing is
        granted. Requests that need no payment still flow."""
        reason = sent(request, Halt).reason
        details = {"reason": reason}
        await audit.halt(signed(request, database, details), reason, by=caller(request).name)
        return await _spending(database)

    @needs(Role.OPERATOR, gives=Spending)
    async def resume(request: web.Request) -> web.Response:
        """Lets agents spend again."""
        await audit.resume(signed(request, database), by=caller(request).name)
        return await _spending(database)

    return [
        web.get("/v1/halt", spending),
        web.put("/v1/halt", halt),
        web.delete("/v1/halt", resume),
    ]


async def _spending(database: Database) -> web.Response:
    now = await audit.spending(database)
    return answer({"halted": now.halted, "reason": now.reason, "by": now.by, "since": now.since})
