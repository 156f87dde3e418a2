"""Takes messages to the webhooks: at least once each, by whichever proxy comes first.

Events become rows of `webhook_deliveries`, in order and each once, however many proxies look: who
moves `webhook_progress` on writes them, in the same transaction. A row is sent by whoever claims
it. A claim lasts longer than an attempt may; one that is not finished by then was lost with its
process, and is made again. So a receiver may get a message twice, under the same id, and never not
at all while it answers within a day.
"""

import asyncio
import contextlib
import json
import logging
import random
import time
from pathlib import Path
from uuid import UUID

import asyncpg

from proxy.ledger import Database, LedgerError
from proxy.notices.feed import Event, Feed, Place
from proxy.notices.messages import Message, message_of
from proxy.notices.post import SECONDS, Outcome, Poster
from proxy.notices.webhooks import opened_secret
from proxy.paths import PathError
from proxy.tasks import end
from proxy.vault import Vault, VaultError

log = logging.getLogger(__name__)

LIFE_HOURS = 24  # then a message that was not taken is given up
KEPT_DAYS = 30  # what became of messages
MOST_WAITING = 10_000  # for one webhook
AT_ONCE = 16  # attempts under way in this process
AT_ONCE_EACH = 4  # of them to one webhook, so that one that hangs delays no other
_FIRST_DELAY = 5.0
_LONGEST_DELAY = 4 * 3600.0
_PRUNE_SECONDS = 3600.0

_ACTIVE = "SELECT id, types, told_from::text AS told_from FROM webhooks WHERE active"
_PROGRESS = "SELECT xid::text AS xid, id FROM webhook_progress"
_QUEUE = "SELECT queue_deliveries($1, $2, $3, $4, $5::jsonb, $6)"
_CLAIM = """
UPDATE webhook_deliveries d
SET attempts = d.attempts + 1, next_try = now() + make_interval(secs => $3)
FROM (SELECT due.id, w.id AS webhook_id, w.url, w.sealed, w.private
      FROM webhooks w CROSS JOIN LATERAL (
          SELECT q.id FROM webhook_deliveries q
          WHERE q.webhook_id = w.id AND q.state = 'waiting' AND q.next_try <= now()
          ORDER BY q.next_try LIMIT $2 FOR UPDATE SKIP LOCKED) due
      WHERE w.active AND w.id <> ALL ($1::uuid[])
      LIMIT $4) claimed
WHERE d.id = claimed.id
RETURNING d.id AS message, d.attempts, d.payload::text AS payload, claimed.webhook_id AS id,
          claimed.url, claimed.sealed, claimed.private
"""
_DELIVERED = """
UPDATE webhook_deliveries SET state = 'delivered', finished_at = now(), last_status = $2,
       last_error = NULL
WHERE id = $1 AND state = 'waiting'
"""
_NOT_DELIVERED = """
UPDATE webhook_deliveries
SET last_status = $2, last_error = $3, next_try = now() + make_interval(secs => $4),
    state = CASE WHEN late THEN 'failed' ELSE 'waiting' END,
    finished_at = CASE WHEN late THEN now() END
FROM (SELECT id AS late_id, $6 OR created_at < now() - make_interval(hours => $5) AS late
      FROM webhook_deliveries WHERE id = $1) l
WHERE id = $1 AND id = late_id AND state = 'waiting'
RETURNING state
"""
_STOP = "UPDATE webhooks SET active = false, reason = $2 WHERE id = $1 AND active"
# What is more than a claim away is under no attempt now.
_HURRY = """
UPDATE webhook_deliveries SET next_try = now()
WHERE webhook_id = ANY ($1) AND state = 'waiting'
  AND next_try > now() + make_interval(secs => $2)
"""
_PRUNE = """
DELETE FROM webhook_deliveries
WHERE id IN (SELECT id FROM webhook_deliveries
             WHERE finished_at < now() - make_interval(days => $1) LIMIT 5000)
"""


class Courier:
    """`start()` it with the proxy, behind the feed."""

    def __init__(
        self,
        database: Database,
        vault: Vault,
        feed: Feed,
        *,
        ca_file: Path | None = None,
        poll: float = 1.0,
        idle: float = 15.0,
        lease: float = 60.0,
        first_delay: float = _FIRST_DELAY,
        timeout: float = SECONDS,
    ) -> None:
        """Looks every `poll` seconds while there are webhooks. `lease`: seconds after which a
        message that somebody claimed is anybody's again."""
        self._database = database
        self._vault = vault
        self._feed = feed
        self._poster = Poster(ca_file=ca_file, seconds=timeout)
        self._poll = poll
        self._idle = idle
        self._lease = lease
        self._first_delay = first_delay
        self._sending: dict[asyncio.Task[None], UUID] = {}
        self._pruned = 0.0
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="webhooks")

    async def close(self) -> None:
        """An attempt under way is left off; it is made again, by whoever comes next."""
        await end(*self._sending, self._task)
        await self._poster.close()

    async def _run(self) -> None:
        with self._feed.ear() as ear:
            while True:
                ear.clear()
                webhooks: list[asyncpg.Record] = []
                try:
                    webhooks = await self._database.fetch(_ACTIVE)
                    if webhooks:
                        await self._queue(webhooks)
                        await self._send_due(ear)
                    await self._prune()
                except LedgerError as error:
                    log.warning("webhooks wait: %s", error)
                except Exception:
                    # Nobody starts this task again: whatever is wrong with one round, webhooks that
                    # say nothing until the next restart are worse than ones that are late.
                    log.exception("webhooks wait: a round failed")
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._poll if webhooks else self._idle):
                        await ear.wait()

    async def _queue(self, webhooks: list[asyncpg.Record]) -> None:
        """Makes messages of what has happened."""
        while True:
            row = await self._database.fetchrow(_PROGRESS)
            assert row is not None
            done = Place(int(row["xid"]), row["id"])
            start = max(done, Place(min(int(w["told_from"]) for w in webhooks), UUID(int=0)))
            page = await self._feed.read(start)
            if not page.events and page.place >= start:
                return
            messages = []
            changed: set[UUID | None] = set()
            for event in page.events:
                if event.type == "WEBHOOK_CHANGE":
                    changed.add(event.related_id)
                message = _told(event)
                if message is None:
                    continue
                xid = Place.of(event.id).xid
                for webhook in webhooks:
                    since = int(webhook["told_from"])
                    # A number that is not reached yet is of the server that a backup came from.
                    if message.type in webhook["types"] and (xid >= since or since > page.until):
                        messages.append(
                            {
                                "webhook": str(webhook["id"]),
                                "event_id": event.id,
                                "agent_id": str(event.agent_id),
                                "agent": event.agent,
                                "type": message.type,
                                "payload": message.payload,
                            }
                        )
            if changed:
                # It may lead elsewhere now: what could not be delivered there was given hours.
                await self._database.execute(_HURRY, [*changed], self._lease)
            queued = await self._database.fetchval(
                _QUEUE,
                *(str(done.xid), done.id, str(page.place.xid), page.place.id),
                json.dumps(messages),
                MOST_WAITING,
            )
            if page.whole and queued is not None:
                return

    async def _send_due(self, ear: asyncio.Event) -> None:
        room = AT_ONCE - len(self._sending)
        if room <= 0:
            return
        under_way = list(self._sending.values())
        busy = {one for one in under_way if under_way.count(one) >= AT_ONCE_EACH}
        for row in await self._database.fetch(_CLAIM, list(busy), AT_ONCE_EACH, self._lease, room):
            task = asyncio.create_task(self._deliver(row))
            self._sending[task] = row["id"]
            task.add_done_callback(lambda done: self._sent(done, ear))

    def _sent(self, task: asyncio.Task[None], ear: asyncio.Event) -> None:
        del self._sending[task]
        ear.set()  # there is room for another
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a webhook's message failed", exc_info=error)

    async def _deliver(self, row: asyncpg.Record) -> None:
        try:
            secret = await opened_secret(self._vault, row)
        except (VaultError, PathError) as error:
            outcome = Outcome(None, f"its secret cannot be opened: {error}"[:300])
        else:
            outcome = await self._poster.post(
                row["url"],
                secret,
                str(row["message"]),
                row["payload"].encode(),
                private=row["private"],
            )
        try:
            await self._note(row, outcome)
        except LedgerError as error:  # it is sent again when the claim has run out
            log.warning("what became of message %s is not noted: %s", row["message"], error)

    async def _note(self, row: asyncpg.Record, outcome: Outcome) -> None:
        if not outcome.error:
            await self._database.execute(_DELIVERED, row["message"], outcome.status)
            return
        delay = min(self._first_delay * 3 ** (row["attempts"] - 1), _LONGEST_DELAY)
        delay *= random.uniform(0.5, 1.5)  # noqa: S311 - spreads the load, keeps no secret
        state = await self._database.fetchval(
            _NOT_DELIVERED,
            *(row["message"], outcome.status, outcome.error[:300], delay, LIFE_HOURS),
            outcome.gone,
        )
        if outcome.gone:
            await self._database.execute(_STOP, row["id"], "its receiver answered 410 Gone")
        log.log(
            logging.ERROR if state == "failed" else logging.INFO,
            "webhook %s: message %s was not taken (attempt %d): %s%s",
            *(row["id"], row["message"], row["attempts"], outcome.error),
            "; given up" if state == "failed" else "",
        )

    async def _prune(self) -> None:
        now = time.monotonic()
        if self._pruned and now - self._pruned < _PRUNE_SECONDS:
            return
        self._pruned = now
        while await self._database.execute(_PRUNE, KEPT_DAYS) == "DELETE 5000":
            pass


def _told(event: Event) -> Message | None:
    """None for an event that can't be told, as for one that no webhook is told of."""
    try:
        return message_of(event)
    except Exception:
        # An event's details are whatever wrote it made them, and events are told in order: one that
        # cannot be read, for whatever reason, must not stand before all those behind it for ever.
        log.exception("no webhook is told of event %s (%s)", event.id, event.type)
        return None
