"""Who spends: agents made, looked at, and ended. To forget one is left to `autopay agent erase`."""

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from aiohttp import web
from pydantic import ConfigDict, Field

from policies import Policy, format_usd
from proxy.admin.answers import answer
from proxy.admin.behalf import signed
from proxy.admin.paging import Page, paged
from proxy.admin.parts import Parts
from proxy.admin.rights import asked, caller, needs, sent
from proxy.admin.roles import Role
from proxy.admin.shapes import Body, Given, Name, Usd, page_of
from proxy.ledger import agents
from proxy.ledger.agents import AgentInfo, NewAgent
from proxy.ledger.history import Position

_LISTS = (
    *("allowed_endpoints", "allowed_pay_to", "allowed_assets", "allowed_networks"),
    *("allowed_targets", "allowed_ports"),
)


class Agent(Given):
    """An agent and its own policy. Layers of the book may take away from it: /v1/policies."""

    id: UUID
    agent: Name
    active: bool
    created_at: datetime
    capture_chat: bool
    frozen: bool
    per_call_usd: Usd
    daily_usd: Usd
    session_usd: Usd
    trace_usd: Usd
    allowed_endpoints: list[str]
    allowed_pay_to: list[str]
    allowed_assets: list[str]
    allowed_networks: list[str]
    allowed_targets: list[str]
    allowed_ports: list[int]
    policy_version: int


class Token(Given):
    """A new token, which is shown this once: the password of the proxy's credential."""

    agent: Name
    token_id: UUID
    token: str
    session: str | None
    expires_at: datetime | None


class NewAgentAsked(Body):
    """An agent under the default policy; /v1/policies changes it."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"agent": "shopper"}]})

    agent: Name
    capture_chat: bool = False
    frozen: Annotated[bool, Field(description="until its policy is set")] = False


class AgentChange(Body):
    """What is not its policy."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"capture_chat": True}]})

    capture_chat: Annotated[
        bool, Field(description="whether what it says to chat endpoints is kept")
    ]


def routes(parts: Parts) -> list[web.RouteDef]:
    database = parts.database

    @needs(Role.READER, query=Page, gives=page_of(Agent))
    async def list_agents(request: web.Request) -> web.Response:
        """The agents, removed ones too, and what each may spend."""
        page = asked(request, Page)
        everyone = sorted(await agents.list_all(database), key=_joined, reverse=True)
        if (before := page.position) is not None:
            everyone = [info for info in everyone if _joined(info) < before]
        return paged(everyone, page, position=_joined, shown=_shown)

    @needs(Role.READER, gives=Agent)
    async def get_agent(request: web.Request) -> web.Response:
        """One agent."""
        return answer(_shown(await agents.find(database, request.match_info["agent"])))

    @needs(Role.ADMIN, body=NewAgentAsked, gives=Token, status=201, refuses=(409,))
    async def add(request: web.Request) -> web.Response:
        """A new agent, with its first token. One that was removed comes back with its books."""
        new = sent(request, NewAgentAsked)
        made = await agents.add(
            signed(request, database, agent=new.agent),
            parts.vault,
            new.agent,
            parts.new_policy(new.agent, frozen=new.frozen),
            by=caller(request).name,
            capture_chat=new.capture_chat,
        )
        return handed(made)

    @needs(Role.ADMIN, body=AgentChange, gives=Agent)
    async def change(request: web.Request) -> web.Response:
        """Changes what is not its policy."""
        name, wanted = request.match_info["agent"], sent(request, AgentChange)
        await agents.set_capture_chat(
            signed(request, database, {"capture_chat": wanted.capture_chat}),
            name,
            wanted.capture_chat,
        )
        return answer(_shown(await agents.find(database, name)))

    @needs(Role.ADMIN)
    async def remove(request: web.Request) -> web.Response:
        """Ends an agent and its tokens. Its books stay."""
        await agents.remove(signed(request, database), request.match_info["agent"])
        return web.Response(status=204)

    return [
        web.get("/v1/agents", list_agents),
        web.post("/v1/agents", add),
        web.get("/v1/agents/{agent}", get_agent),
        web.patch("/v1/agents/{agent}", change),
        web.delete("/v1/agents/{agent}", remove),
    ]


def handed(new: NewAgent) -> web.Response:
    """A new token."""
    return answer(
        {
            "agent": new.agent.name,
            "token_id": new.token_id,
            "token": new.token,
            "session": new.agent.session,
            "expires_at": new.expires_at,
        },
        201,
    )


def _joined(info: AgentInfo) -> Position:
    return info.created_at, info.agent.id


def _shown(info: AgentInfo) -> dict[str, Any]:
    policy: Policy = info.policy
    return {
        "id": info.agent.id,
        "agent": info.agent.name,
        "active": info.is_active,
        "created_at": info.created_at,
        "capture_chat": info.agent.capture_chat,
        "frozen": policy.frozen,
        "per_call_usd": format_usd(policy.per_call_limit),
        "daily_usd": format_usd(policy.daily_limit),
        "session_usd": format_usd(policy.session_limit),
        "trace_usd": format_usd(policy.trace_limit),
        **{name: list(getattr(policy, name)) for name in _LISTS},
        "policy_version": policy.version,
    }
