"""Who may use a route, and what it takes: a mark on its handler. Without one, no route is served.

@needs(Role.READER, query=Page, gives=page_of(Decision))
async def decisions(request: web.Request) -> web.Response:
    page = asked(request, Page)
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from aiohttp import web
from pydantic import BaseModel

from proxy.admin.keys import Key
from proxy.admin.roles import Role
from proxy.ledger import Agent

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Model = TypeVar("Model", bound=BaseModel)

_MARK = "autopay_mark"
CALLER = web.RequestKey("caller", Key)
ASKER = web.RequestKey("asker", Agent)
QUERY = web.RequestKey("query", BaseModel)
BODY = web.RequestKey("body", BaseModel)


@dataclass(frozen=True, slots=True)
class Mark:
    """`least`: the role that is needed; None: not even a key. `query`, `body`: the models that the
    URL's parameters and the JSON body must fit; None: there are none. `gives`: the model of the
    answer, or its media type if it is no JSON; None: it has no body. `status`: the answer's.
    `refuses`: the statuses of its problems, beyond those that follow from the rest. `tagged`: what
    it is about has a version, which is its ETag, and which If-Match may demand. `agents`: for
    agents, with their own credential; where there is no `least`, for nobody else."""

    least: Role | None
    query: type[BaseModel] | None = None
    body: type[BaseModel] | None = None
    gives: type[BaseModel] | str | None = None
    status: int = 200
    refuses: tuple[int, ...] = ()
    tagged: bool = False
    agents: bool = False


def needs(
    least: Role,
    *,
    query: type[BaseModel] | None = None,
    body: type[BaseModel] | None = None,
    gives: type[BaseModel] | str | None = None,
    status: int | None = None,
    refuses: tuple[int, ...] = (),
    tagged: bool = False,
) -> Callable[[Handler], Handler]:
    """For those whose key has this role or a higher one. Without `gives` it answers 204."""
    usual = 204 if gives is None else 200

    def mark(handler: Handler) -> Handler:
        made = Mark(least, query, body, gives, status or usual, refuses, tagged)
        setattr(handler, _MARK, made)
        return handler

    return mark


def anyone(
    *, gives: type[BaseModel] | str, refuses: tuple[int, ...] = ()
) -> Callable[[Handler], Handler]:
    """For everyone who reaches the listener."""

    def mark(handler: Handler) -> Handler:
        setattr(handler, _MARK, Mark(None, gives=gives, refuses=refuses))
        return handler

    return mark


def for_agents(
    *,
    least: Role | None = None,
    body: type[BaseModel] | None = None,
    gives: type[BaseModel],
    refuses: tuple[int, ...] = (),
) -> Callable[[Handler], Handler]:
    """For agents, with their own rights; and for keys of the role `least`, to look on."""

    def mark(handler: Handler) -> Handler:
        made = Mark(least, body=body, gives=gives, refuses=refuses, agents=True)
        setattr(handler, _MARK, made)
        return handler

    return mark


def mark_of(handler: object) -> Mark | None:
    """The mark of a route's handler."""
    mark = getattr(handler, _MARK, None)
    return mark if isinstance(mark, Mark) else None


def caller(request: web.Request) -> Key:
    """Whose key it is. Of a route that needs one."""
    return request[CALLER]


def asker(request: web.Request) -> Agent | None:
    """Which agent asks; None: whoever holds a key."""
    return request.get(ASKER)


def key_of(request: web.Request) -> str:
    """What was sent as a key; "" if nothing was."""
    scheme, _, text = request.headers.get("Authorization", "").partition(" ")
    return text.strip() if scheme.lower() == "bearer" else ""


def asked(request: web.Request, model: type[Model]) -> Model:
    """The URL's parameters, as the mark's `query`."""
    query = request[QUERY]
    assert isinstance(query, model), "the mark names the same model"
    return query


def sent(request: web.Request, model: type[Model]) -> Model:
    """The JSON body, as the mark's `body`."""
    body = request[BODY]
    assert isinstance(body, model), "the mark names the same model"
    return body
