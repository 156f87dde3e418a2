"""Whom providers are paid to: receivers that are pinned, and those that wait for an operator."""

from typing import Annotated, Any, Self

from aiohttp import web
from pydantic import ConfigDict, Field, model_validator

from policies.networks import canonical_network
from policies.provider import parse_provider
from proxy.admin.answers import answer
from proxy.admin.behalf import signed
from proxy.admin.rights import asked, caller, needs, sent
from proxy.admin.roles import Role
from proxy.admin.shapes import Body, Given, Line, Query, items_of
from proxy.ledger import Database, pins
from proxy.ledger.pins import Pin
from proxy.records import as_fields

Provider = Annotated[
    Line,
    Field(
        min_length=1,
        max_length=300,
        description="a provider's origin",
        examples=["https://api.example.com"],
    ),
]
Receiver = Annotated[str, Field(pattern=r"^[0-9A-Za-z]{1,128}$", description="an address")]
Network = Annotated[
    str,
    Field(
        pattern=r"^[-a-z0-9]{3,32}(:[-_a-zA-Z0-9]{1,32})?$",
        description="a CAIP-2 id, or a name like solana-devnet",
        examples=["solana-devnet"],
    ),
]


class _OfProvider:
    provider: str
    network: str | None

    @model_validator(mode="after")
    def _can_be_meant(self) -> Self:
        if parse_provider(self.provider).scheme is None:
            raise ValueError("a provider is named by its origin, like https://api.example.com")
        if self.network is not None and ":" not in canonical_network(self.network):
            raise ValueError("there is no network of this name: write its CAIP-2 id")
        return self

    @property
    def origin(self) -> str:
        """The provider in its one spelling."""
        return parse_provider(self.provider).text


class PinsAsked(Query):
    """Of one provider; only those that wait."""

    provider: Provider | None = None
    waiting: bool = False


class PinChange(_OfProvider, Body):
    """A receiver that may be paid; without `network`: where it is waiting."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "provider": "https://api.example.com",
                    "pay_to": "2wKupLR9q6wXYppw8Gr2NvWxKBUqm4PPJKkQfoxHDBg4",
                    "network": "solana-devnet",
                }
            ]
        }
    )

    provider: Provider
    pay_to: Receiver
    network: Network | None = None


class PinNamed(_OfProvider, Query):
    """One receiver, or all of the provider."""

    provider: Provider
    pay_to: Receiver | None = None
    network: Network | None = None


class Accepted(Given):
    """Whether it was otherwise before."""

    changed: bool


class Forgotten(Given):
    """How many receivers were taken off the list."""

    forgotten: int


def routes(database: Database) -> list[web.RouteDef]:
    @needs(Role.READER, query=PinsAsked, gives=items_of(Pin))
    async def list_pins(request: web.Request) -> web.Response:
        """The receivers that are pinned, and those that wait; by provider."""
        query = asked(request, PinsAsked)
        provider = None if query.provider is None else parse_provider(query.provider).text
        found = await pins.list_(database, provider=provider, waiting=query.waiting)
        return answer({"items": [as_fields(one) for one in found]})

    @needs(Role.OPERATOR, body=PinChange, gives=Accepted, refuses=(404,))
    async def accept(request: web.Request) -> web.Response:
        """This receiver may be paid by all agents from now on; those before it too."""
        pin = sent(request, PinChange)
        changed = await pins.accept(
            signed(request, database, _noted(pin)),
            pin.origin,
            pin.pay_to,
            by=caller(request).name,
            network=pin.network,
        )
        return answer({"changed": changed})

    @needs(Role.OPERATOR, query=PinNamed, gives=Forgotten)
    async def forget(request: web.Request) -> web.Response:
        """Unpins. Where none is left, the next receiver that is asked for is pinned."""
        pin = asked(request, PinNamed)
        forgotten = await pins.forget(
            signed(request, database, _noted(pin)),
            pin.origin,
            pin.pay_to,
            by=caller(request).name,
            network=pin.network,
        )
        return answer({"forgotten": forgotten})

    return [
        web.get("/v1/pins", list_pins),
        web.put("/v1/pins", accept),
        web.delete("/v1/pins", forget),
    ]


def _noted(pin: PinChange | PinNamed) -> dict[str, Any]:
    network = None if pin.network is None else canonical_network(pin.network)
    return {"provider": pin.origin, "pay_to": pin.pay_to, "network": network}
