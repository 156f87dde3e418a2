"""Who is listened to, and what becomes of what was overheard.

The question is asked for every request, so it is answered from memory: an agent's flag, a path's
ending, a dictionary of providers. All else happens behind the answer: read on a thread, written by
one worker, within a stock of bytes and a number of exchanges.
"""

import asyncio
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from uuid import UUID

from proxy.capture.backlog import Backlog
from proxy.capture.stored import stored
from proxy.chat.endpoint import Endpoint, endpoint_of
from proxy.chat.writer import ChatWriter, Heard, read
from proxy.ledger import Agent, Database, LedgerFault
from proxy.wire.headers import header
from proxy.wire.origin import Origin
from proxy.wire.tap import Overheard, Stock, Tap

log = logging.getLogger(__name__)

CHAT_BYTES = 256 * 1024
STOCK_BYTES = 64 * 1024 * 1024
MOST_WAITING = 1_000

_STORE = """
UPDATE api_requests r
SET data_accessed = coalesce($2::jsonb, r.data_accessed),
    request_payload = coalesce($3::jsonb, r.request_payload)
FROM payments p WHERE p.id = $1 AND r.id = p.api_request_id
"""


@dataclass(frozen=True, slots=True)
class StoreRule:
    """What is kept of a provider's paid answers, and of the requests for them: up to `limit` bytes
    of each."""

    data: bool
    request: bool
    limit: int


class Capture:
    """Answers the data plane's `tap`."""

    def __init__(
        self,
        database: Database,
        mounts: Mapping[str, StoreRule],
        origins: Mapping[Origin, StoreRule],
        *,
        stock_bytes: int = STOCK_BYTES,
    ) -> None:
        """`mounts` are the providers by name, `origins` by where they are: for programs that reach
        them through the proxy."""
        self.stock_bytes = stock_bytes
        self.stock = Stock(stock_bytes)
        self._database = database
        self._mounts = mounts
        self._origins = origins
        self._chat = ChatWriter(database)
        self._backlog = Backlog("captured exchanges", self._keep, most=MOST_WAITING)

    @property
    def dropped(self) -> int:
        """Exchanges that were to be kept, and were not."""
        return self._backlog.dropped

    @property
    def waiting(self) -> int:
        """Exchanges that are not written yet."""
        return self._backlog.waiting

    async def close(self, timeout: float) -> None:  # noqa: ASYNC109 - what waits has so long
        """Write what waits, bounded."""
        await self._backlog.close(timeout)

    def tap(
        self, agent: Agent, method: str, origin: Origin, target: bytes, mount: str | None
    ) -> Tap | None:
        """See `Gate.tap`."""
        chat = endpoint_of(method, target) if agent.capture_chat else None
        rule = None
        if self._mounts:
            rule = self._mounts.get(mount) if mount is not None else self._origins.get(origin)
        if chat is None and rule is None:
            return None
        request = max(CHAT_BYTES if chat else 0, rule.limit if rule and rule.request else 0)
        answer = max(CHAT_BYTES if chat else 0, rule.limit if rule and rule.data else 0)

        def done(what: Overheard) -> None:
            kept = rule if rule is not None and _is_paid(what) else None
            wanted = chat is not None or kept is not None
            if not wanted or not self._backlog.put(_Item(agent, chat, kept, what)):
                self.stock.give(what.size)

        return Tap(request, answer, self.stock, done)

    async def _keep(self, item: "_Item") -> None:
        if item.found is None:
            try:
                item.found = await asyncio.to_thread(_read, item)
            finally:
                self.stock.give(item.what.size)
        found = item.found
        if found.paid is not None:
            await self._store(found.paid)
        if found.heard is not None:
            await self._chat.write(found.heard)

    async def _store(self, paid: "_PaidData") -> None:
        try:
            await self._database.execute(_STORE, paid.payment_id, paid.data, paid.request)
        except LedgerFault as error:
            # jsonb has bounds that JSON has not, of numbers and of depth.
            log.info("paid data is stored as text: %s", error)
            data, request = (_as_text(document) for document in (paid.data, paid.request))
            await self._database.execute(_STORE, paid.payment_id, data, request)


@dataclass(frozen=True, slots=True)
class _PaidData:
    payment_id: UUID
    data: str | None
    request: str | None


@dataclass(frozen=True, slots=True)
class _Found:
    paid: _PaidData | None
    heard: Heard | None


@dataclass(slots=True)
class _Item:
    """An exchange that waits; `found` is set once it was read."""

    agent: Agent
    chat: Endpoint | None
    rule: StoreRule | None
    what: Overheard
    found: _Found | None = None


def _read(item: _Item) -> _Found:
    agent, what = item.agent, item.what
    paid = _paid_data(item.rule, what) if item.rule is not None else None
    heard = None
    if item.chat is not None:
        # Who is bound to a session stays in it, whatever it names.
        heard = read(agent.id, item.chat, what, session=agent.session or what.session)
    return _Found(paid, heard)


def _paid_data(rule: StoreRule, what: Overheard) -> _PaidData | None:
    payment = header(what.headers, b"autopay-payment")
    if payment is None:
        return None
    return _PaidData(
        UUID(payment.decode()),
        stored(what.headers, what.answer, rule.limit) if rule.data else None,
        stored(what.request_headers, what.request, rule.limit) if rule.request else None,
    )


def _is_paid(what: Overheard) -> bool:
    return header(what.headers, b"autopay-state") == b"paid"


def _as_text(document: str | None) -> str | None:
    return None if document is None else json.dumps({"text": document})
