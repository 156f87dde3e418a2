"""What was paid for and not delivered, for whoever sends it to the provider."""

from typing import Annotated, Any

from aiohttp import web
from pydantic import AfterValidator, Field

from policies.provider import parse_provider
from proxy.admin.books import Proof
from proxy.admin.paging import Page, paged
from proxy.admin.rights import asked, needs
from proxy.admin.roles import Role
from proxy.admin.shapes import Line, Moment, page_of
from proxy.ledger import Database
from proxy.ledger.claims import Claim, claims
from proxy.ledger.history import Position
from proxy.receipts.export import proofs_of
from proxy.records import as_fields


def _origin(text: str) -> str:
    provider = parse_provider(text)
    if provider.scheme is None:
        raise ValueError("a provider is named by its origin, like https://api.example.com")
    return provider.text


class ClaimPage(Page):
    """Claims on one provider or on all, found out from `since` on and before `until`; with the
    `agents`' names, or without."""

    provider: (
        Annotated[
            Line,
            Field(max_length=300, examples=["https://api.example.com"]),
            AfterValidator(_origin),
        ]
        | None
    ) = None
    since: Moment | None = None
    until: Moment | None = None
    agents: bool = False


def routes(database: Database) -> list[web.RouteDef]:
    @needs(Role.AUDITOR, query=ClaimPage, gives=page_of(Claim, receipt=Proof | None))
    async def list_claims(request: web.Request) -> web.Response:
        """What was paid for and not delivered, each with its signed receipt: nothing in it is
        secret, so that it can be sent to the provider."""
        page = asked(request, ClaimPage)
        found = await claims(
            database,
            page.limit + 1,
            page.position,
            provider=page.provider,
            since=page.since,
            until=page.until,
            named=page.agents,
        )
        proofs = await proofs_of(database, [claim.id for claim in found])

        def shown(claim: Claim) -> dict[str, Any]:
            return as_fields(claim, money=Claim.MONEY) | {"receipt": proofs.get(claim.id)}

        return paged(found, page, position=_position, shown=shown)

    return [web.get("/v1/claims", list_claims)]


def _position(claim: Claim) -> Position:
    return claim.created_at, claim.id
