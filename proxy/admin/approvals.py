"""Payments that wait for a yes: looked at, approved, rejected."""

from collections.abc import Awaitable
from datetime import timedelta
from typing import Annotated, Any, Literal
from uuid import UUID

from aiohttp import web
from pydantic import ConfigDict, Field

from proxy.admin.answers import answer
from proxy.admin.behalf import signed
from proxy.admin.paging import MOST
from proxy.admin.rights import asked, caller, needs, sent
from proxy.admin.roles import Role
from proxy.admin.shapes import Body, Name, Query, Text, items_of, shape
from proxy.ledger import Database, approvals
from proxy.ledger.approvals import GOOD_FOR, LONGEST, STATES, Approval, ApprovalError
from proxy.records import as_fields
from proxy.wire.problem import Problem

_MONEY = ("price",)

Note = Annotated[Text, Field(max_length=500, description="for whoever reads the log")]


class ApprovalsAsked(Query):
    """Of one state, of one agent; `limit` of them, the newest."""

    state: Literal[STATES] | None = None  # type: ignore[valid-type]
    agent: Name | None = None
    limit: Annotated[int, Field(ge=1, le=MOST)] = 100


class Yes(Body):
    """For how long the next such request may use it: it pays once."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"good_for_seconds": 3600, "note": "asked for by the team"}]
        }
    )

    good_for_seconds: Annotated[int, Field(ge=1, le=int(LONGEST.total_seconds()))] = int(
        GOOD_FOR.total_seconds()
    )
    note: Note = ""


class No(Body):
    """Why."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"note": "too dear"}]})

    note: Note = ""


def routes(database: Database) -> list[web.RouteDef]:
    @needs(Role.READER, query=ApprovalsAsked, gives=items_of(Approval, money=_MONEY))
    async def list_approvals(request: web.Request) -> web.Response:
        """What waits for a yes, and what was said; the newest first."""
        query = asked(request, ApprovalsAsked)
        found = await approvals.list_(
            database,
            states=[query.state] if query.state else [],
            agent=query.agent,
            limit=query.limit,
        )
        return answer({"items": [_fields(one) for one in found]})

    @needs(Role.READER, gives=shape(Approval, money=_MONEY))
    async def get_approval(request: web.Request) -> web.Response:
        """One of them."""
        approval_id = _id(request)
        found = await approvals.find(database, approval_id)
        if found is None:
            raise ApprovalError(approval_id, "absent")
        return answer(_fields(found))

    @needs(Role.OPERATOR, body=Yes, gives=shape(Approval, money=_MONEY), refuses=(409,))
    async def approve(request: web.Request) -> web.Response:
        """The next such request pays: the same agent, method, URL, body and receiver, at this price
        at most. The same again changes nothing."""
        yes = sent(request, Yes)
        return await _decided(
            approvals.approve(
                signed(request, database),
                _id(request),
                by=caller(request).name,
                good_for=timedelta(seconds=yes.good_for_seconds),
                note=yes.note,
            )
        )

    @needs(Role.OPERATOR, body=No, gives=shape(Approval, money=_MONEY), refuses=(409,))
    async def reject(request: web.Request) -> web.Response:
        """The same is refused for an hour, without being asked for again."""
        no = sent(request, No)
        return await _decided(
            approvals.reject(
                signed(request, database), _id(request), by=caller(request).name, note=no.note
            )
        )

    return [
        web.get("/v1/approvals", list_approvals),
        web.get("/v1/approvals/{id}", get_approval),
        web.post("/v1/approvals/{id}/approve", approve),
        web.post("/v1/approvals/{id}/reject", reject),
    ]


async def _decided(deciding: Awaitable[Approval]) -> web.Response:
    return answer(_fields(await deciding))


def _id(request: web.Request) -> UUID:
    try:
        return UUID(request.match_info["id"])
    except ValueError:
        raise Problem(404, "no_such_approval", "There is no approval of this id.") from None


def _fields(approval: Approval) -> dict[str, Any]:
    return as_fields(approval, money=_MONEY)
