"""What was said: chat sessions, their messages, and what users thought of them."""

from typing import Annotated, NoReturn
from uuid import UUID

from aiohttp import web
from pydantic import Field

from proxy.admin.answers import answer
from proxy.admin.behalf import signed
from proxy.admin.paging import Page, paged
from proxy.admin.rights import asked, needs, sent
from proxy.admin.roles import Role
from proxy.admin.shapes import Body, Given, Line, Name, Query, Text, page_of, shape
from proxy.chat import store
from proxy.chat.text import MAX_TEXT, MAX_TITLE
from proxy.ledger import Database
from proxy.ledger.history import Position
from proxy.records import as_fields
from proxy.wire.problem import Problem

MAX_PREVIEW = 64 * 1024


Address = Annotated[Line, Field(min_length=1, max_length=128)]
Reference = Annotated[Line, Field(min_length=1, max_length=256)]


class WalletPage(Page):
    """The sessions of one wallet."""

    wallet: Address


class NewSession(Body):
    """A session for the user of a wallet, with an agent or with none."""

    wallet_address: Address
    title: Annotated[Line, Field(min_length=1, max_length=MAX_TITLE)] = "New Chat"
    agent: Name | None = None


class NewMessage(Body):
    """A message to append; without a `message_id` it gets one."""

    content: Annotated[Text, Field(max_length=MAX_TEXT)]
    is_user: bool
    message_id: Reference | None = None
    escrow_id: Reference | None = None
    tx_hash: Reference | None = None
    image_preview: Annotated[Text, Field(min_length=1, max_length=MAX_PREVIEW)] | None = None


class Cleared(Given):
    """How many messages were deleted."""

    deleted: int


class MessagePage(Page):
    """What is thought of one message."""

    message_id: Reference


class Rated(Query):
    """Whose word on which message."""

    message_id: Reference
    user_address: Address


class NewRating(Body):
    """Thumbs up, or down."""

    message_id: Reference
    user_address: Address
    is_positive: bool


def routes(database: Database) -> list[web.RouteDef]:
    return [*_sessions(database), *_messages(database), *_ratings(database)]


def _sessions(database: Database) -> list[web.RouteDef]:
    @needs(Role.AUDITOR, query=WalletPage, gives=page_of(store.Session))
    async def list_sessions(request: web.Request) -> web.Response:
        """The chat sessions of a wallet, the last used first."""
        page = asked(request, WalletPage)
        found = await store.sessions(database, page.wallet, page.limit + 1, page.position)
        return paged(found, page, position=_last_used, shown=as_fields)

    @needs(Role.OPERATOR, body=NewSession, gives=shape(store.Session), status=201, refuses=(422,))
    async def create_session(request: web.Request) -> web.Response:
        """A new chat session."""
        new = sent(request, NewSession)
        made = await store.create_session(
            signed(request, database), new.wallet_address, new.title, new.agent
        )
        if made is None:
            raise Problem(422, "no_such_agent", "There is no agent of this name.")
        return answer(as_fields(made), 201)

    @needs(Role.AUDITOR, gives=shape(store.Session))
    async def get_session(request: web.Request) -> web.Response:
        """One chat session."""
        found = await store.session(database, _session_id(request))
        return answer(as_fields(found)) if found else _no_session()

    @needs(Role.OPERATOR)
    async def delete_session(request: web.Request) -> web.Response:
        """Ends a chat session: its messages go with it."""
        if not await store.delete_session(signed(request, database), _session_id(request)):
            _no_session()
        return web.Response(status=204)

    return [
        web.get("/v1/chat/sessions", list_sessions),
        web.post("/v1/chat/sessions", create_session),
        web.get("/v1/chat/sessions/{session}", get_session),
        web.delete("/v1/chat/sessions/{session}", delete_session),
    ]


def _messages(database: Database) -> list[web.RouteDef]:
    @needs(Role.AUDITOR, query=Page, gives=page_of(store.Message))
    async def list_messages(request: web.Request) -> web.Response:
        """The messages of a chat session, the newest first."""
        page, session = asked(request, Page), _session_id(request)
        found = await store.messages(database, session, page.limit + 1, page.position)
        if not found and await store.session(database, session) is None:
            _no_session()
        return paged(found, page, position=_written, shown=as_fields)

    @needs(Role.OPERATOR, body=NewMessage, gives=shape(store.Message), status=201, refuses=(409,))
    async def append(request: web.Request) -> web.Response:
        """One more message of a chat session."""
        session = _session_id(request)
        message = store.NewMessage(**sent(request, NewMessage).model_dump())
        made = await store.append(signed(request, database), session, message)
        if made is not None:
            return answer(as_fields(made), 201)
        if await store.session(database, session) is None:
            _no_session()
        raise Problem(409, "message_exists", "This session has a message of this id already.")

    @needs(Role.OPERATOR, gives=Cleared)
    async def clear(request: web.Request) -> web.Response:
        """Deletes the messages of a chat session; the session stays."""
        deleted = await store.clear(signed(request, database), _session_id(request))
        return _no_session() if deleted is None else answer({"deleted": deleted})

    return [
        web.get("/v1/chat/sessions/{session}/messages", list_messages),
        web.post("/v1/chat/sessions/{session}/messages", append),
        web.delete("/v1/chat/sessions/{session}/messages", clear),
    ]


def _ratings(database: Database) -> list[web.RouteDef]:
    @needs(Role.AUDITOR, query=MessagePage, gives=page_of(store.Rating))
    async def list_ratings(request: web.Request) -> web.Response:
        """What users thought of a message."""
        page = asked(request, MessagePage)
        found = await store.ratings(database, page.message_id, page.limit + 1, page.position)
        return paged(found, page, position=lambda one: one[0], shown=lambda one: as_fields(one[1]))

    @needs(Role.OPERATOR, body=NewRating, gives=shape(store.Rating), refuses=(404,))
    async def rate(request: web.Request) -> web.Response:
        """A user's thumb up or down for a message, in place of the one before."""
        new = sent(request, NewRating)
        made = await store.rate(
            signed(request, database), new.message_id, new.user_address, is_positive=new.is_positive
        )
        if made is None:
            raise Problem(404, "no_such_message", "There is no message of this id.")
        return answer(as_fields(made))

    @needs(Role.OPERATOR, query=Rated, refuses=(404,))
    async def unrate(request: web.Request) -> web.Response:
        """Takes a user's thumb back."""
        word = asked(request, Rated)
        if not await store.unrate(signed(request, database), word.message_id, word.user_address):
            raise Problem(404, "no_such_rating", "This user has not rated this message.")
        return web.Response(status=204)

    return [
        web.get("/v1/ratings", list_ratings),
        web.put("/v1/ratings", rate),
        web.delete("/v1/ratings", unrate),
    ]


def _session_id(request: web.Request) -> UUID:
    try:
        return UUID(request.match_info["session"])
    except ValueError:
        _no_session()


def _no_session() -> NoReturn:
    raise Problem(404, "no_such_session", "There is no chat session of this id.")


def _last_used(session: store.Session) -> Position:
    return session.updated_at, session.id


def _written(message: store.Message) -> Position:
    return message.created_at, message.id
