"""What happens, as it happens: audit events and denials, for whoever subscribes in this process.

A row that is committed late may be older than others that were told before. So events are told in
the order of the transactions that wrote them, (xid, id), and only of those transactions below which
none is running: what such a horizon has passed is complete. A transaction that stays open delays
what comes after it; it never makes it lost. A denial is told from its decision row.

One connection listens, for all subscribers. What is urgent is notified, the routine of payments is
looked for every `poll` seconds while anybody is subscribed. A subscriber that does not keep up is
taken off the live feed with its queue full, and goes on from the database, page by page, until it
has caught up.
"""

import asyncio
import contextlib
import json
import logging
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple, Self
from uuid import UUID

import asyncpg

from proxy.ledger.errors import TROUBLE, LedgerUnavailable
from proxy.ledger.listening import listen
from proxy.tasks import end

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]

log = logging.getLogger(__name__)

PAGE = 500  # events that are read at once
QUEUE = 1_000  # events that may wait for a subscriber
DENIED = "PAYMENT_DENIED"  # the type of an event that is a decision row
_PAUSE = 0.1
_LONGEST_PAUSE = 5.0
_NO_ID = UUID(int=0)

_READ = """
WITH told AS MATERIALIZED (SELECT pg_snapshot_xmin(pg_current_snapshot()) AS until)
SELECT (SELECT until FROM told)::text AS until, e.*
FROM (SELECT) one LEFT JOIN LATERAL (
    SELECT t.xid::text AS xid, t.id, t.at, t.type, t.agent_id, a.name AS agent, t.severity,
           t.related_id, t.details::text AS details
    FROM (
        (SELECT e.xid, e.id, e.created_at AS at, e.event_type::text AS type, e.agent_id,
                e.severity::text AS severity, e.related_id, e.details
         FROM audit_events e
         WHERE (e.xid, e.id) > ($1::text::xid8, $2::uuid)
           AND e.xid < (SELECT until FROM told) AND e.created_at >= $3
         ORDER BY e.xid, e.id LIMIT $4)
        UNION ALL
        (SELECT d.xid, d.id, d.created_at, 'PAYMENT_DENIED', d.agent_id, 'WARNING', d.payment_id,
                jsonb_strip_nulls(jsonb_build_object(
                    'code', d.reason, 'detail', nullif(d.detail, ''), 'method', d.method,
                    'endpoint', d.endpoint, 'price_micros', d.quoted_price_micros,
                    'limit_micros', d.limit_micros, 'policy_version', d.policy_version))
         FROM policy_decision_logs d
         WHERE (d.xid, d.id) > ($1::text::xid8, $2::uuid)
           AND d.xid < (SELECT until FROM told) AND d.created_at >= $3 AND d.decision = 'deny'
         ORDER BY d.xid, d.id LIMIT $4)
    ) t JOIN agents a ON a.id = t.agent_id
    ORDER BY t.xid, t.id LIMIT $4
) e ON true
ORDER BY e.xid::xid8, e.id
"""


class Place(NamedTuple):
    """A place in the order of events: behind the event that has it."""

    xid: int
    id: UUID

    @classmethod
    def of(cls, text: str) -> "Place":
        """Of an event's id. Raises ValueError."""
        xid, dash, uuid = text.partition("-")
        if not (dash and xid.isascii() and xid.isdigit() and len(xid) < 20):
            raise ValueError(f"no event has the id {text[:80]!r}")
        return cls(int(xid), UUID(uuid))

    def __str__(self) -> str:
        return f"{self.xid}-{self.id}"


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened. `id` names its place too, so that a subscriber can go on behind it.

    `type`: as in `proxy.ledger.questions.events.TYPES`, or PAYMENT_DENIED. `agent`: "autopay" where
    it concerns everybody. `related_id`: the payment, request or wallet that it is about.
    """

    id: str
    at: datetime
    type: str
    agent_id: UUID
    agent: str
    severity: str
    related_id: UUID | None
    details: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Page:
    """Events in order, and the place behind them; `whole` if those were all that could be told.
    `until`: the first transaction of which nothing is told yet."""

    events: list[Event]
    place: Place
    whole: bool
    until: int


class Feed:
    """`start()` it with the proxy, then `subscribe()` at will."""

    def __init__(
        self,
        dsn: str,
        *,
        role: str = "",
        poll: float = 1.0,
        idle: float = 15.0,
        timeout: float = 5.0,
    ) -> None:
        """Looks every `poll` seconds while anybody is subscribed, every `idle` otherwise."""
        self._dsn = dsn
        self._role = role
        self._poll = poll
        self._idle = idle
        self._timeout = timeout
        self._connection: Connection | None = None
        self._since: datetime | None = None
        self._asking = asyncio.Lock()  # a connection answers one question at a time
        self._heard = asyncio.Event()
        self._ears: set[asyncio.Event] = set()
        self._subscriptions: set[Subscription] = set()
        self._live: set[Subscription] = set()
        self._place = Place(0, _NO_ID)  # the live ones have got everything up to here
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """An unreachable database is no error here: it is tried again and again."""
        # What happened on a server before the first look at it is told to nobody.
        with contextlib.suppress(LedgerUnavailable):
            await self.read(None)
        self._task = asyncio.create_task(self._run(), name="notices")

    async def close(self) -> None:
        """Every subscription ends behind what it has got."""
        await end(self._task)
        for subscription in list(self._subscriptions):
            subscription.close()
        self._let_go()

    def subscribe(self, after: str | None = None) -> "Subscription":
        """Every event behind the one of this id; None: every one from now on. What is older than
        the logs are kept is gone. Raises ValueError for what is no event's id.

            async with feed.subscribe(last_id) as events:
                async for event in events: ...
        """
        return Subscription(self, None if after is None else Place.of(after))

    @contextlib.contextmanager
    def ear(self) -> Iterator[asyncio.Event]:
        """Is set whenever something has happened that is not routine; clear it yourself."""
        ear = asyncio.Event()
        self._ears.add(ear)
        try:
            yield ear
        finally:
            self._ears.discard(ear)

    async def read(self, after: Place | None) -> Page:
        """The next events behind `after`; none, and the place of now, for None.

        A place that this server has not come to yet is another server's: it counts as now. Raises
        LedgerUnavailable.
        """
        from_here = after or Place((1 << 63) - 1, _NO_ID)
        async with self._asking:
            try:
                connection = await self._connected()
                rows = await connection.fetch(
                    _READ, str(from_here.xid), from_here.id, self._since, PAGE
                )
            except TROUBLE as error:
                self._let_go()
                words = " ".join(str(error).split())[:300] or "no answer in time"
                raise LedgerUnavailable(
                    f"the ledger's database: {words}", may_have_happened=False
                ) from error
        events = [_event(row) for row in rows if row["id"] is not None]
        until = int(rows[0]["until"])
        whole = len(events) < PAGE
        place = Place(until, _NO_ID) if whole else Place.of(events[-1].id)
        return Page(events, place, whole, until)

    # --- for the subscriptions

    def enter(self, subscription: "Subscription") -> None:
        self._subscriptions.add(subscription)
        self._heard.set()  # it may have been waiting long, with nobody there

    def leave(self, subscription: "Subscription") -> None:
        self._subscriptions.discard(subscription)
        self._live.discard(subscription)

    def is_live(self, subscription: "Subscription") -> bool:
        """Whether what happens is put into its queue."""
        return subscription in self._live

    def join(self, subscription: "Subscription", place: Place) -> None:
        """Put it on the live feed, which has everything up to `place`, if that is so far."""
        if not self._live:
            self._place = place
        if place >= self._place:
            self._live.add(subscription)

    # --- the live feed

    async def _run(self) -> None:
        pause = _PAUSE
        while True:
            self._heard.clear()
            try:
                await self._tell()
                pause = _PAUSE
            except Exception as error:
                # Nobody starts this task again: whatever is wrong with one look, subscribers that
                # hear nothing until the next restart are worse than ones that hear late.
                log.warning(
                    "what happens is not told for now: %s",
                    str(error) or type(error).__name__,
                    exc_info=not isinstance(error, LedgerUnavailable),
                )
                await asyncio.sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE)
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._poll if self._subscriptions else self._idle):
                    await self._heard.wait()

    async def _tell(self) -> None:
        """Everything that is new to the live ones; without any, only that somebody listens."""
        if not self._live:
            await self.read(None)
            return
        whole = False
        while not whole and self._live:
            page = await self.read(self._place)
            whole = page.whole
            for event in page.events:
                for subscription in list(self._live):
                    if not subscription.offer(event):
                        self._live.discard(subscription)
            self._place = page.place

    async def _connected(self) -> "Connection":
        connection = self._connection
        if connection is not None and not connection.is_closed():
            return connection
        self._connection = await listen(
            self._dsn,
            "autopay_events",
            self._hear,
            self._begin,
            name="autopay notices",
            role=self._role,
            timeout=self._timeout,
            ended=self._hear,
            by_index=True,
        )
        return self._connection

    async def _begin(self, connection: "Connection") -> None:
        self._since = await connection.fetchval("SELECT events_since()")

    def _let_go(self) -> None:
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None

    def _hear(self, *_: object) -> None:
        for ear in (self._heard, *self._ears):
            ear.set()


class Subscription:
    """The events of one subscriber, in order, each once. To wait for the next may be cancelled, and
    asked for again: nothing is lost by it."""

    def __init__(self, feed: Feed, after: Place | None) -> None:
        self._feed = feed
        self._after = after
        self._queue: deque[Event] = deque()
        self._woken = asyncio.Event()
        self._closed = False

    async def __aenter__(self) -> Self:
        """Raises LedgerUnavailable where "now" cannot be known."""
        if self._after is None:
            self._after = (await self._feed.read(None)).place
        self._feed.enter(self)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """What waits is still given out; then it ends."""
        self._closed = True
        self._woken.set()
        self._feed.leave(self)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        while not self._queue:
            if self._closed:
                raise StopAsyncIteration
            if self._feed.is_live(self):
                self._woken.clear()
                await self._woken.wait()
            else:
                await self._catch_up()
        return self._queue.popleft()

    def offer(self, event: Event) -> bool:
        """An event of the live feed. False: there is no room for it, and it was not taken."""
        assert self._after is not None
        if len(self._queue) >= QUEUE:
            return False
        place = Place.of(event.id)
        if place > self._after:
            self._after = place
            self._queue.append(event)
            self._woken.set()
        return True

    async def _catch_up(self) -> None:
        try:
            page = await self._feed.read(self._after)
        except LedgerUnavailable:  # the feed says it in the log
            await asyncio.sleep(_LONGEST_PAUSE / 5)
            return
        if self._closed:
            return
        self._queue.extend(page.events)
        self._after = page.place
        if page.whole:
            self._feed.join(self, page.place)


def _event(row: asyncpg.Record) -> Event:
    return Event(
        str(Place(int(row["xid"]), row["id"])),
        row["at"],
        row["type"],
        row["agent_id"],
        row["agent"],
        row["severity"],
        row["related_id"],
        json.loads(row["details"] or "{}"),
    )
