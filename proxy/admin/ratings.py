"""What users think of what was bought: thumbs for receipts, which go into the providers' scores."""

from typing import NoReturn
from uuid import UUID

from aiohttp import web

from proxy.admin.answers import answer
from proxy.admin.behalf import signed
from proxy.admin.chats import Address
from proxy.admin.paging import Page, paged
from proxy.admin.rights import asked, needs, sent
from proxy.admin.roles import Role
from proxy.admin.shapes import Body, Query, page_of, shape
from proxy.ledger import Database
from proxy.ledger import ratings as store
from proxy.records import as_fields
from proxy.wire.problem import Problem


class Rater(Query):
    """Whose word."""

    user_address: Address


class NewReceiptRating(Body):
    """Thumbs up, or down."""

    user_address: Address
    is_positive: bool


def routes(database: Database) -> list[web.RouteDef]:
    @needs(Role.AUDITOR, query=Page, gives=page_of(store.ReceiptRating))
    async def list_ratings(request: web.Request) -> web.Response:
        """What users thought of what was paid."""
        page = asked(request, Page)
        found = await store.ratings(database, _receipt(request), page.limit + 1, page.position)
        if found is None:
            _no_receipt()
        return paged(found, page, position=lambda one: one[0], shown=lambda one: as_fields(one[1]))

    @needs(Role.OPERATOR, body=NewReceiptRating, gives=shape(store.ReceiptRating))
    async def rate(request: web.Request) -> web.Response:
        """A user's thumb up or down for a receipt, in place of the one before."""
        new = sent(request, NewReceiptRating)
        made = await store.rate(
            signed(request, database),
            _receipt(request),
            new.user_address,
            is_positive=new.is_positive,
        )
        return answer(as_fields(made)) if made else _no_receipt()

    @needs(Role.OPERATOR, query=Rater)
    async def unrate(request: web.Request) -> web.Response:
        """Takes a user's thumb back."""
        rater = asked(request, Rater)
        if not await store.unrate(signed(request, database), _receipt(request), rater.user_address):
            raise Problem(404, "no_such_rating", "This user has not rated this receipt.")
        return web.Response(status=204)

    return [
        web.get("/v1/receipts/{id}/ratings", list_ratings),
        web.put("/v1/receipts/{id}/ratings", rate),
        web.delete("/v1/receipts/{id}/ratings", unrate),
    ]


def _receipt(request: web.Request) -> UUID:
    try:
        return UUID(request.match_info["id"])
    except ValueError:
        _no_receipt()


def _no_receipt() -> NoReturn:
    raise Problem(404, "no_such_receipt", "There is no receipt of this id.")
