"""What happened: the audit trail, a page at a time."""

from typing import Annotated, Literal

from aiohttp import web
from pydantic import Field

from proxy.admin.paging import AgentPage, paged
from proxy.admin.rights import asked, needs
from proxy.admin.roles import Role
from proxy.admin.shapes import Moment, Text, page_of
from proxy.ledger import Database
from proxy.ledger.history import Position
from proxy.ledger.questions import events
from proxy.ledger.questions.events import SEVERITIES, TYPES
from proxy.records import as_fields


class EventPage(AgentPage):
    """Events for which all of this holds. `words`: something in the details, a name or a value,
    begins with each of them."""

    type: Literal[TYPES] | None = None  # type: ignore[valid-type]
    severity: Literal[SEVERITIES] | None = None  # type: ignore[valid-type]
    words: Annotated[Text, Field(max_length=200)] = ""
    since: Moment | None = None
    until: Moment | None = None


def routes(database: Database) -> list[web.RouteDef]:
    @needs(Role.AUDITOR, query=EventPage, gives=page_of(events.Event))
    async def list_events(request: web.Request) -> web.Response:
        """The audit trail: payments, changes, alarms, and what operators did here."""
        page = asked(request, EventPage)
        found = await events.events(
            database,
            agent=page.agent,
            words=page.words,
            types=[page.type] if page.type else [],
            severities=[page.severity] if page.severity else [],
            since=page.since,
            until=page.until,
            before=page.position,
            limit=page.limit + 1,
        )
        return paged(found, page, position=_position, shown=as_fields)

    return [web.get("/v1/events", list_events)]


def _position(event: events.Event) -> Position:
    return event.created_at, event.id
