"""What was decided, what was paid, and who spends."""

from typing import Any
from uuid import UUID

from aiohttp import web

from policies import format_usd
from proxy.admin.answers import answer
from proxy.admin.paging import AgentPage, Page, paged
from proxy.admin.rights import asked, needs
from proxy.admin.roles import Role
from proxy.ledger import Database, agents, history
from proxy.ledger.agents import AgentInfo
from proxy.ledger.history import Position
from proxy.receipts.export import proof_of
from proxy.records import as_fields
from proxy.wire.problem import Problem

_LISTS = (
    *("allowed_endpoints", "allowed_pay_to", "allowed_assets", "allowed_networks"),
    *("allowed_targets", "allowed_ports"),
)


def routes(database: Database) -> list[web.RouteDef]:
    @needs(Role.READER, query=AgentPage)
    async def decisions(request: web.Request) -> web.Response:
        """What was allowed and denied, and why."""
        page = asked(request, AgentPage)
        found = await history.decisions(database, page.agent, page.limit + 1, page.position)
        return paged(found, page, position=_position, shown=_fields)

    @needs(Role.READER, query=AgentPage)
    async def payments(request: web.Request) -> web.Response:
        """Every payment and what became of it: those under way and in doubt too."""
        page = asked(request, AgentPage)
        found = await history.payments(database, page.agent, page.limit + 1, page.position)
        return paged(found, page, position=_position, shown=_fields)

    @needs(Role.READER, query=AgentPage)
    async def receipts(request: web.Request) -> web.Response:
        """What was paid."""
        page = asked(request, AgentPage)
        found = await history.receipts(database, page.agent, page.limit + 1, page.position)
        return paged(found, page, position=_position, shown=_fields)

    @needs(Role.AUDITOR)
    async def receipt(request: web.Request) -> web.Response:
        """One receipt as links of its chain, with signatures and the keys to check them."""
        try:
            proof = await proof_of(database, UUID(request.match_info["id"]))
        except ValueError:
            proof = None
        if proof is None:
            raise Problem(404, "no_such_receipt", "There is no receipt of this id.")
        return answer(proof)

    @needs(Role.READER, query=Page)
    async def agents_(request: web.Request) -> web.Response:
        """The agents and what each may spend."""
        page = asked(request, Page)
        everyone = sorted(await agents.list_all(database), key=_joined, reverse=True)
        if (before := page.position) is not None:
            everyone = [info for info in everyone if _joined(info) < before]
        return paged(everyone, page, position=_joined, shown=_agent)

    return [
        web.get("/v1/decisions", decisions),
        web.get("/v1/payments", payments),
        web.get("/v1/receipts", receipts),
        web.get("/v1/receipts/{id}", receipt),
        web.get("/v1/agents", agents_),
    ]


def _position(record: history.Decision | history.Payment | history.Receipt) -> Position:
    return record.created_at, record.id


def _fields(record: history.Decision | history.Payment | history.Receipt) -> dict[str, Any]:
    return as_fields(record, money=record.MONEY)


def _joined(info: AgentInfo) -> Position:
    return info.created_at, info.agent.id


def _agent(info: AgentInfo) -> dict[str, Any]:
    policy = info.policy
    return {
        "id": info.agent.id,
        "agent": info.agent.name,
        "active": info.is_active,
        "created_at": info.created_at,
        "frozen": policy.frozen,
        "per_call_usd": format_usd(policy.per_call_limit),
        "daily_usd": format_usd(policy.daily_limit),
        "session_usd": format_usd(policy.session_limit),
        "trace_usd": format_usd(policy.trace_limit),
        **{name: list(getattr(policy, name)) for name in _LISTS},
        "policy_version": policy.version,
    }
