"""What was decided and what was paid."""

from typing import Any, Literal
from uuid import UUID

from aiohttp import web

from proxy.admin.answers import answer
from proxy.admin.paging import BookPage, paged
from proxy.admin.rights import asked, needs
from proxy.admin.roles import Role
from proxy.admin.shapes import Given, Line, page_of
from proxy.ledger import Database, history
from proxy.ledger.history import Position
from proxy.receipts.export import proof_of
from proxy.records import as_fields
from proxy.wire.problem import Problem


class DecisionPage(BookPage):
    """Decisions: those that allow or deny, those for one reason."""

    decision: Literal["allow", "deny"] | None = None
    reason: Line | None = None


class PaymentPage(BookPage):
    """Payments: of one status, to one provider (scheme://host:port)."""

    status: Literal["INITIATED", "SIGNED", "CONFIRMED", "VERIFIED", "FAILED"] | None = None
    provider: Line | None = None


class Proof(Given):
    """A receipt with all that it takes to check it; see docs/receipts.md."""

    links: list[dict[str, Any]]
    keys: list[dict[str, Any]]


def routes(database: Database) -> list[web.RouteDef]:
    @needs(Role.READER, query=DecisionPage, gives=page_of(history.Decision))
    async def decisions(request: web.Request) -> web.Response:
        """What was allowed and denied, and why."""
        page = asked(request, DecisionPage)
        found = await history.decisions(
            database,
            page.agent,
            page.limit + 1,
            page.position,
            page.within,
            decision=page.decision,
            reason=page.reason,
        )
        return paged(found, page, position=_position, shown=_fields)

    @needs(Role.READER, query=PaymentPage, gives=page_of(history.Payment))
    async def payments(request: web.Request) -> web.Response:
        """Every payment and what became of it: those under way and in doubt too."""
        page = asked(request, PaymentPage)
        found = await history.payments(
            database,
            page.agent,
            page.limit + 1,
            page.position,
            page.within,
            status=page.status,
            provider=page.provider,
        )
        return paged(found, page, position=_position, shown=_fields)

    @needs(Role.READER, query=BookPage, gives=page_of(history.Receipt))
    async def receipts(request: web.Request) -> web.Response:
        """What was paid."""
        page = asked(request, BookPage)
        found = await history.receipts(
            database, page.agent, page.limit + 1, page.position, page.within
        )
        return paged(found, page, position=_position, shown=_fields)

    @needs(Role.AUDITOR, gives=Proof)
    async def receipt(request: web.Request) -> web.Response:
        """One receipt as links of its chain, with signatures and the keys to check them."""
        try:
            proof = await proof_of(database, UUID(request.match_info["id"]))
        except ValueError:
            proof = None
        if proof is None:
            raise Problem(404, "no_such_receipt", "There is no receipt of this id.")
        return answer(proof)

    return [
        web.get("/v1/decisions", decisions),
        web.get("/v1/payments", payments),
        web.get("/v1/receipts", receipts),
        web.get("/v1/receipts/{id}", receipt),
    ]


def _position(record: history.Decision | history.Payment | history.Receipt) -> Position:
    return record.created_at, record.id


def _fields(record: history.Decision | history.Payment | history.Receipt) -> dict[str, Any]:
    return as_fields(record, money=record.MONEY)
