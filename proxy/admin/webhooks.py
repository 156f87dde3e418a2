"""Who is told of what happens: webhooks made, changed and tried, and what became of their messages.

A URL's path and query are often a secret of its receiver: nobody is shown more than where it leads.
"""

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from aiohttp import web
from pydantic import ConfigDict, Field

from proxy.admin.answers import answer
from proxy.admin.behalf import origin_of, signed
from proxy.admin.paging import Page, paged
from proxy.admin.parts import Parts
from proxy.admin.rights import asked, caller, needs, sent
from proxy.admin.roles import Role
from proxy.admin.shapes import Body, Given, items_of, page_of, shape
from proxy.ledger.history import Position
from proxy.notices import webhooks
from proxy.notices.messages import TYPES, USUAL
from proxy.notices.post import Outcome
from proxy.notices.webhooks import STATES, Delivery, UnknownWebhook
from proxy.records import as_fields

_TYPES = tuple(TYPES)

Types = Annotated[
    list[Literal[_TYPES]],  # type: ignore[valid-type]
    Field(min_length=1, max_length=50, description="the types of events that it is told of"),
]

Place = Annotated[str, Field(pattern=r"^https?://[!-~]{1,1990}$")]


class Webhook(Given):
    """`leads_to`: its URL's origin. `waiting`: messages that were not delivered yet; `dropped`:
    those for which there was no room. `reason`: why it was stopped, where nobody asked for it."""

    id: UUID
    leads_to: str
    types: list[str]
    private: bool
    active: bool
    reason: str | None
    dropped: int
    created_by: str
    created_at: datetime
    waiting: int
    last_error: str | None


class WebhookSecret(Given):
    """What its messages are signed with, which is shown this once."""

    id: UUID
    secret: str


class NewWebhookAsked(Body):
    """Where messages go. `private`: it may lead to loopback or a private network, by http too."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"url": "https://example.com/hooks/autopay", "types": ["alarm"]}]
        }
    )

    url: Place
    types: Annotated[Types, Field(default_factory=lambda: list(USUAL))]
    private: bool = False


class WebhookChange(Body):
    """What is not given stays. What happens while it is not active is never sent; what waits goes
    to the new `url`. Its secret is never changed."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"active": False}]})

    active: bool | None = None
    types: Types | None = None
    url: Place | None = None
    private: bool | None = None


class DeliveriesAsked(Page):
    """Messages of one webhook, or in one state."""

    webhook: UUID | None = None
    state: Literal[STATES] | None = None  # type: ignore[valid-type]


def routes(parts: Parts) -> list[web.RouteDef]:
    database = parts.database

    @needs(Role.READER, gives=items_of(Webhook))
    async def list_webhooks(_: web.Request) -> web.Response:
        """The webhooks, the oldest first, without what is secret of them."""
        found = await webhooks.all_of(database)
        return answer({"items": [_shown(one) for one in found]})

    @needs(Role.READER, gives=Webhook)
    async def get_webhook(request: web.Request) -> web.Response:
        """One of them."""
        return answer(_shown(await webhooks.find(database, _id(request))))

    @needs(Role.AUDITOR, query=DeliveriesAsked, gives=page_of(Delivery))
    async def deliveries(request: web.Request) -> web.Response:
        """The messages of the last 30 days, and what became of them."""
        page = asked(request, DeliveriesAsked)
        found = await webhooks.deliveries(
            database,
            page.webhook,
            state=page.state,
            before=page.position,
            limit=page.limit + 1,
        )
        return paged(found, page, position=_position, shown=as_fields)

    @needs(Role.ADMIN, body=NewWebhookAsked, gives=WebhookSecret, status=201, refuses=(409,))
    async def add(request: web.Request) -> web.Response:
        """A new webhook: it is told of what happens from now on."""
        new = sent(request, NewWebhookAsked)
        details = {
            "leads_to": webhooks.leads_to(new.url),
            "types": new.types,
            "private": new.private,
        }
        made = await webhooks.add(
            signed(request, database, details),
            parts.vault,
            new.url,
            new.types,
            private=new.private,
            by=caller(request).name,
            origin=origin_of(request),
        )
        return answer(as_fields(made), 201)

    @needs(Role.ADMIN, body=WebhookChange, gives=Webhook)
    async def change(request: web.Request) -> web.Response:
        """Pauses it, lets it go on, tells it of other types of events, or has it lead elsewhere."""
        wanted, webhook_id = sent(request, WebhookChange), _id(request)
        details = wanted.model_dump(exclude_none=True, exclude={"url"})
        if wanted.url is not None:
            details["leads_to"] = webhooks.leads_to(wanted.url)
        await webhooks.change(
            signed(request, database, details),
            webhook_id,
            active=wanted.active,
            types=wanted.types,
            url=wanted.url,
            private=wanted.private,
            by=caller(request).name,
            origin=origin_of(request),
        )
        return answer(_shown(await webhooks.find(database, webhook_id)))

    @needs(Role.ADMIN)
    async def remove(request: web.Request) -> web.Response:
        """Ends a webhook, with all that waits for it and what is known of its messages."""
        await webhooks.remove(
            signed(request, database),
            _id(request),
            by=caller(request).name,
            origin=origin_of(request),
        )
        return web.Response(status=204)

    @needs(Role.ADMIN, gives=shape(Outcome))
    async def test(request: web.Request) -> web.Response:
        """Sends it a message of the type webhook.test, once, now, from this proxy. `status`: what
        it answered, if anything; `error`: empty if the message was taken."""
        outcome = await webhooks.test(database, parts.vault, parts.poster, _id(request))
        return answer(as_fields(outcome))

    return [
        web.get("/v1/webhooks", list_webhooks),
        web.post("/v1/webhooks", add),
        web.get("/v1/webhooks/deliveries", deliveries),
        web.get("/v1/webhooks/{id}", get_webhook),
        web.patch("/v1/webhooks/{id}", change),
        web.delete("/v1/webhooks/{id}", remove),
        web.post("/v1/webhooks/{id}/test", test),
    ]


def _position(delivery: Delivery) -> Position:
    return delivery.created_at, delivery.id


def _shown(webhook: webhooks.Webhook) -> dict[str, Any]:
    fields = as_fields(webhook)
    return {"leads_to": webhooks.leads_to(fields.pop("url")), **fields}


def _id(request: web.Request) -> UUID:
    try:
        return UUID(request.match_info["id"])
    except ValueError:
        raise UnknownWebhook(request.match_info["id"]) from None
