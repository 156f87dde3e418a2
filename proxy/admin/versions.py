"""What the book of policies was, the way back to it, and what another would change."""

from datetime import datetime
from typing import Annotated, Any, Literal

from aiohttp import web
from pydantic import ConfigDict, Field

from policies import Book, diff
from proxy.admin.answers import answer, listed
from proxy.admin.behalf import signed
from proxy.admin.layers import BookDocument, plain
from proxy.admin.paging import MOST
from proxy.admin.policies import Changed, changed, expected, given_by
from proxy.admin.rights import asked, caller, needs, sent
from proxy.admin.roles import Role
from proxy.admin.shapes import Body, Given, Name, Query, Text, items_of, page_of
from proxy.ledger import Database, policies
from proxy.ledger.policies import Change
from proxy.records import as_fields


class HistoryPage(Query):
    """`limit` changes at most, of one agent or of all, behind the one that `before` names."""

    limit: Annotated[int, Field(ge=1, le=MOST)] = 50
    before: Annotated[str, Field(pattern=r"^[0-9]{1,18}$")] | None = None
    agent: Name | None = None


class Back(Body):
    """A version that was, and why it shall be again."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"version": 16}]})

    version: Annotated[int, Field(ge=1, le=10**18)]
    note: Annotated[Text, Field(max_length=500)] = ""


class Merging(Query):
    """`prune`: what is not in the document is taken away, as PUT does; else as PATCH does."""

    prune: bool = True


class Difference(Given):
    """One rule of one layer, before and after; null where it says nothing."""

    layer: str
    agent: Name | None
    provider: str | None
    rule: str
    before: Any
    after: Any
    direction: Literal["tighter", "looser", "other"]


class ShadowSet(Body):
    """A book that decides beside the real one, for the record alone."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"book": {"defaults": {"daily": "0.50"}}}]}
    )

    book: BookDocument
    note: Annotated[Text, Field(max_length=500)] = ""


class Shadow(Given):
    """The book that decides beside the real one; null: none does."""

    book: BookDocument | None
    note: str
    updated_by: str | None
    updated_at: datetime


def routes(database: Database) -> list[web.RouteDef]:
    return [*_versions(database), *_shadow(database)]


def _versions(database: Database) -> list[web.RouteDef]:
    @needs(Role.READER, query=HistoryPage, gives=page_of(Change))
    async def history(request: web.Request) -> web.Response:
        """Who changed what, when, from where and why; the newest first."""
        page = asked(request, HistoryPage)
        before = None if page.before is None else int(page.before)
        found = await policies.history(database, page.limit + 1, before, page.agent)
        items = found[: page.limit]
        more = str(items[-1].id) if len(found) > page.limit else None
        return listed([as_fields(one) for one in items], more)

    @needs(Role.OPERATOR, body=Back, gives=Changed, refuses=(404,), tagged=True)
    async def roll_back(request: web.Request) -> web.Response:
        """Makes the book, ceilings included, what it was at a version; that is a new one."""
        back = sent(request, Back)
        applied = await policies.roll_back(
            signed(request, database, {"version": back.version}),
            back.version,
            **given_by(request, back.note),
            expected=expected(request),
        )
        return changed(applied)

    @needs(Role.READER, query=Merging, body=BookDocument, gives=items_of(Difference))
    async def differences(request: web.Request) -> web.Response:
        """What PUT or PATCH of this document would change, rule by rule. Changes nothing."""
        now = await policies.load(database)
        document = Book.from_json(plain(sent(request, BookDocument)))
        wanted = dict(document.layers())
        if not asked(request, Merging).prune:
            wanted = dict(now.layers()) | wanted
        found = diff(now, Book.of(wanted))
        return answer({"items": [one.to_json() for one in found]})

    return [
        web.get("/v1/policies/history", history),
        web.post("/v1/policies/rollback", roll_back),
        web.post("/v1/policies/diff", differences),
    ]


def _shadow(database: Database) -> list[web.RouteDef]:
    @needs(Role.READER, gives=Shadow)
    async def get_shadow(_: web.Request) -> web.Response:
        """The book that decides beside the real one, if one does."""
        return await _shadowed(database)

    @needs(Role.OPERATOR, body=ShadowSet, gives=Shadow)
    async def set_shadow(request: web.Request) -> web.Response:
        """Lets a book decide beside the real one: what it would have said is in each decision."""
        wanted = sent(request, ShadowSet)
        book = Book.from_json(plain(wanted.book))
        await policies.shadow(
            signed(request, database), book, by=caller(request).name, note=wanted.note
        )
        return await _shadowed(database)

    @needs(Role.OPERATOR)
    async def end_shadow(request: web.Request) -> web.Response:
        """Only the real book decides from now on."""
        await policies.shadow(signed(request, database), None, by=caller(request).name)
        return web.Response(status=204)

    path = "/v1/policies/shadow"
    return [web.get(path, get_shadow), web.put(path, set_shadow), web.delete(path, end_shadow)]


async def _shadowed(database: Database) -> web.Response:
    found = await policies.shadowed(database)
    return answer(
        {
            "book": None if found.book is None else found.book.to_json(),
            "note": found.note,
            "updated_by": found.updated_by,
            "updated_at": found.updated_at,
        }
    )
