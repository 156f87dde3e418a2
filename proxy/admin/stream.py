"""What happens, as it happens: server-sent events.

A client that comes back with the id of the last event that it has got (Last-Event-ID, as browsers
send it by themselves) gets all that it has missed. One that does not keep up is not waited for:
what it has not got stays in the database, and is read from there when it can take it.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Literal

from aiohttp import web
from pydantic import Field

from proxy.admin.keys import Keys
from proxy.admin.rights import asked, key_of, needs
from proxy.admin.roles import Role
from proxy.admin.shapes import Name, Query
from proxy.ledger.questions.events import SEVERITIES, TYPES
from proxy.notices import Event, Feed, Subscription
from proxy.notices.feed import DENIED
from proxy.records import plain
from proxy.wire.problem import Problem

HEARTBEAT_SECONDS = 15.0
WRITE_SECONDS = 30.0  # a client that takes nothing for so long is gone
MOST_STREAMS = 50

_TYPES = (*TYPES, DENIED)


class StreamAsked(Query):
    """Of one agent, type, severity. `after`: as Last-Event-ID, which goes before it."""

    agent: Name | None = None
    type: Literal[_TYPES] | None = None  # type: ignore[valid-type]
    severity: Literal[SEVERITIES] | None = None  # type: ignore[valid-type]
    after: Annotated[str, Field(max_length=80)] | None = None

    def wants(self, event: Event) -> bool:
        """Whether this event was asked for."""
        return (
            self.agent in (None, event.agent)
            and self.type in (None, event.type)
            and self.severity in (None, event.severity)
        )


class Streams:
    """Those that are open. `close()` before the listener, which would wait for them."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self._open: set[Subscription] = set()
        self._closed = False

    @asynccontextmanager
    async def open(self, after: str | None) -> AsyncIterator[Subscription]:
        """Raises Problem, LedgerUnavailable."""
        if self._closed or len(self._open) >= MOST_STREAMS:
            raise Problem(
                503,
                "too_many_streams",
                f"At most {MOST_STREAMS} streams are open at once; end one, or try again.",
                headers=((b"Retry-After", b"5"),),
            )
        try:
            subscription = self._feed.subscribe(after)
        except ValueError:
            raise Problem(400, "bad_query", "No event has the id to go on from.") from None
        self._open.add(subscription)
        try:
            async with subscription:
                yield subscription
        finally:
            self._open.discard(subscription)

    def close(self) -> None:
        """Ends every stream, each behind what it has got."""
        self._closed = True
        for subscription in self._open:
            subscription.close()


def routes(streams: Streams, keys: Keys) -> list[web.RouteDef]:
    @needs(Role.AUDITOR, query=StreamAsked, gives="text/event-stream")
    async def stream(request: web.Request) -> web.StreamResponse:
        """Everything that happens from now on, or behind the event that Last-Event-ID names: audit
        events, and PAYMENT_DENIED for each denial. A comment every 15 seconds keeps it alive; it
        ends when its key does."""
        query = asked(request, StreamAsked)
        async with streams.open(request.headers.get("Last-Event-ID") or query.after) as events:
            response = web.StreamResponse(
                headers={
                    "Content-Type": "text/event-stream",
                    "Cache-Control": "no-store",
                    "X-Content-Type-Options": "nosniff",
                    "Server": "autopay",
                }
            )
            response.enable_chunked_encoding()
            await response.prepare(request)
            try:
                await _write(response, b": here is what happens\n\n")
                while await keys.find(key_of(request)) is not None:
                    if not await _tell(response, events, query):
                        break
            except (ConnectionError, TimeoutError):
                if request.transport is not None:
                    request.transport.abort()
        return response

    return [web.get("/v1/events/stream", stream)]


async def _tell(response: web.StreamResponse, events: Subscription, query: StreamAsked) -> bool:
    """What happens until the next heartbeat, and that one. Whether there may be more."""
    loop = asyncio.get_running_loop()
    until = loop.time() + HEARTBEAT_SECONDS
    while (left := until - loop.time()) > 0:
        try:
            event = await asyncio.wait_for(anext(events), left)
        except StopAsyncIteration:
            return False
        except TimeoutError:
            break
        if query.wants(event):
            await _write(response, _lines(event))
    await _write(response, b": still here\n\n")
    return True


async def _write(response: web.StreamResponse, data: bytes) -> None:
    """Raises ConnectionError, TimeoutError."""
    async with asyncio.timeout(WRITE_SECONDS):
        await response.write(data)


def _lines(event: Event) -> bytes:
    data = json.dumps(
        {
            "id": event.id,
            "at": event.at,
            "type": event.type,
            "agent": event.agent,
            "severity": event.severity,
            "related_id": event.related_id,
            "details": event.details,
        },
        default=plain,
    )
    return f"id: {event.id}\nevent: {event.type}\ndata: {data}\n\n".encode()
