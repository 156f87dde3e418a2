"""Lists, a page at a time, the newest first."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, TypeVar
from uuid import UUID

from aiohttp import web
from pydantic import Field

from proxy.admin.answers import listed
from proxy.admin.shapes import Moment, Name, Query, Session
from proxy.ledger.history import Position, Within

MOST = 1_000

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_CURSOR = r"^[0-9]{1,17}-[0-9a-f]{32}$"

Item = TypeVar("Item")


class Page(Query):
    """`limit` items at most, behind the one that `before` names (the `next` of another page)."""

    limit: Annotated[int, Field(ge=1, le=MOST)] = 50
    before: Annotated[str, Field(pattern=_CURSOR)] | None = None

    @property
    def position(self) -> Position | None:
        """What `before` stands for."""
        if self.before is None:
            return None
        moment, _, name = self.before.partition("-")
        return _EPOCH + timedelta(microseconds=int(moment)), UUID(hex=name)


class AgentPage(Page):
    """The same, of one agent or of all."""

    agent: Name | None = None


class BookPage(AgentPage):
    """The same, of a session, a trace, or a span of time: from `since` on and before `until`."""

    session: Session | None = None
    trace: Session | None = None
    since: Moment | None = None
    until: Moment | None = None

    @property
    def within(self) -> Within:
        """These filters."""
        return Within(self.session, self.trace, self.since, self.until)


def paged(
    found: Sequence[Item],
    page: Page,
    *,
    position: Callable[[Item], Position],
    shown: Callable[[Item], object],
) -> web.Response:
    """The answer. `found` are the next `page.limit + 1` items, if there are so many."""
    items = found[: page.limit]
    more = len(found) > page.limit
    return listed([shown(item) for item in items], _cursor(*position(items[-1])) if more else None)


def _cursor(moment: datetime, name: UUID) -> str:
    return f"{(moment - _EPOCH) // timedelta(microseconds=1)}-{name.hex}"
