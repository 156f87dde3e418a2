"""Where an operator wants to be told of what happens: webhooks in the database, and what was sent.

Every change leaves an event that names who made it and from where; the URL's path and query stay
out of it, for they may be its secret.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import asyncpg
from yarl import URL

from proxy.ledger import Database, seals
from proxy.ledger.errors import LedgerError
from proxy.notices.messages import TEST, TYPES, USUAL
from proxy.notices.post import Outcome, Poster, forbidden
from proxy.notices.signing import new_secret, secret_text
from proxy.vault import UnknownKey, Vault

MOST = 50  # webhooks
STATES = ("waiting", "delivered", "failed")  # of a message

# Who asks, and from where, is for the event that the change leaves: the first two arguments.
_ADD = """
WITH who AS MATERIALIZED (
    SELECT set_config('autopay.by', $1, true) AS by, set_config('autopay.origin', $2, true))
INSERT INTO webhooks (id, url, sealed, types, private, created_by)
SELECT $3, $4, $5, $6, $7, who.by FROM who
WHERE (SELECT count(*) FROM webhooks) < $8 RETURNING id
"""
_SET = """
WITH who AS MATERIALIZED (
    SELECT set_config('autopay.by', $1, true), set_config('autopay.origin', $2, true)),
now AS (SELECT pg_snapshot_xmin(pg_current_snapshot()) AS xid),
changed AS (
    UPDATE webhooks SET active = coalesce($4, active), types = coalesce($5::text[], types),
           url = coalesce($6, url), private = coalesce($7, private),
           reason = CASE WHEN $4 IS NULL THEN reason END,
           told_from = CASE WHEN $4 AND NOT active THEN now.xid ELSE told_from END
    FROM who, now
    WHERE id = $3
      AND (active <> $4 OR types <> $5::text[] OR $4 IS NOT NULL AND reason IS NOT NULL
           OR url <> $6 OR private <> $7))
SELECT id FROM webhooks WHERE id = $3
"""
_REMOVE = """
WITH who AS MATERIALIZED (
    SELECT set_config('autopay.by', $1, true), set_config('autopay.origin', $2, true))
DELETE FROM webhooks USING who WHERE id = $3 RETURNING id
"""
_SHOWN = """
SELECT w.id, w.url, w.types, w.private, w.active, w.reason, w.dropped, w.created_by, w.created_at,
       (SELECT count(*) FROM webhook_deliveries d
        WHERE d.webhook_id = w.id AND d.state = 'waiting') AS waiting,
       (SELECT d.last_error FROM webhook_deliveries d
        WHERE d.webhook_id = w.id AND d.attempts > 0
        ORDER BY d.created_at DESC LIMIT 1) AS last_error
FROM webhooks w
"""
_ONE = "SELECT id, url, sealed, private FROM webhooks WHERE id = $1"
_DELIVERIES = """
SELECT id, webhook_id, event_id, type, state, attempts, next_try, last_status, last_error,
       created_at, finished_at, payload::text AS payload
FROM webhook_deliveries
WHERE ($1::uuid IS NULL OR webhook_id = $1) AND ($2::text IS NULL OR state = $2)
  AND ($3::timestamptz IS NULL OR (created_at, id) < ($3, $4::uuid))
ORDER BY created_at DESC, id DESC LIMIT $5
"""


class WebhookError(LedgerError):
    """What was asked for can't be. One line for people."""


class UnknownWebhook(WebhookError):
    """There is no webhook of this id."""

    def __init__(self, webhook_id: object) -> None:
        super().__init__(f"there is no webhook {str(webhook_id)[:100]}")


class TooManyWebhooks(WebhookError):
    """There is no room for one more."""


@dataclass(frozen=True, slots=True)
class Webhook:
    """`waiting`: messages not delivered yet. `dropped`: those for which there was no room.
    `reason`: why it was stopped, where that was not an operator's wish."""

    id: UUID
    url: str
    types: tuple[str, ...]
    private: bool
    active: bool
    reason: str | None
    dropped: int
    created_by: str
    created_at: datetime
    waiting: int
    last_error: str | None


@dataclass(frozen=True, slots=True)
class NewWebhook:
    """`secret` (whsec_…) is shown this once."""

    id: UUID
    secret: str


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message and what became of it. `state`: waiting, delivered or failed. `next_try` is when it
    is sent next, while it is waiting."""

    id: UUID
    webhook_id: UUID
    event_id: str
    type: str
    state: str
    attempts: int
    next_try: datetime
    last_status: int | None
    last_error: str | None
    created_at: datetime
    finished_at: datetime | None
    payload: dict[str, Any]


async def add(
    database: Database,
    vault: Vault,
    url: str,
    types: Sequence[str] = USUAL,
    *,
    private: bool = False,
    by: str,
    origin: str = "",
) -> NewWebhook:
    """From now on. `private`: it may lead to loopback or into a private network, also by http.

    Raises WebhookError, LedgerError, VaultError.
    """
    chosen = _checked_types(types)
    _check_url(url, private)
    webhook_id, secret = uuid4(), new_secret()
    keyring = await seals.sealing_keyring(database, vault)
    sealed = seals.seal_webhook(keyring, webhook_id, secret)
    found = await database.fetchval(
        _ADD, by, origin, webhook_id, url, sealed, chosen, private, MOST
    )
    if found is None:
        raise TooManyWebhooks(f"there are {MOST} webhooks already: remove one first")
    return NewWebhook(webhook_id, secret_text(secret))


async def change(
    database: Database,
    webhook_id: UUID,
    *,
    active: bool | None = None,
    types: Sequence[str] | None = None,
    url: str | None = None,
    private: bool | None = None,
    by: str,
    origin: str = "",
) -> None:
    """None leaves it as it is. What happens while it is not active is never sent; what waits goes
    to the new `url`, signed with the secret of before. A URL and `private` are checked together, as
    they will stand. Raises UnknownWebhook, WebhookError, LedgerError."""
    chosen = None if types is None else _checked_types(types)
    if (url, private) != (None, None):
        row = await database.fetchrow(_ONE, webhook_id)
        if row is None:
            raise UnknownWebhook(webhook_id)
        _check_url(
            row["url"] if url is None else url, row["private"] if private is None else private
        )
    args = (webhook_id, active, chosen, url, private)
    if await database.fetchval(_SET, by, origin, *args) is None:
        raise UnknownWebhook(webhook_id)


async def remove(database: Database, webhook_id: UUID, *, by: str, origin: str = "") -> None:
    """With all that waits for it. Raises UnknownWebhook, LedgerError."""
    if await database.fetchval(_REMOVE, by, origin, webhook_id) is None:
        raise UnknownWebhook(webhook_id)


async def all_of(database: Database) -> list[Webhook]:
    """Every webhook, the oldest first. Raises LedgerError."""
    rows = await database.fetch(f"{_SHOWN} ORDER BY w.created_at, w.id")
    return [_webhook(row) for row in rows]


async def find(database: Database, webhook_id: UUID) -> Webhook:
    """One of them. Raises UnknownWebhook, LedgerError."""
    row = await database.fetchrow(f"{_SHOWN} WHERE w.id = $1", webhook_id)
    if row is None:
        raise UnknownWebhook(webhook_id)
    return _webhook(row)


async def deliveries(
    database: Database,
    webhook_id: UUID | None = None,
    *,
    state: str | None = None,
    before: tuple[datetime, UUID] | None = None,
    limit: int = 50,
) -> list[Delivery]:
    """The newest messages, of one webhook or of all; `before` (created_at, id): those behind that
    one. Raises LedgerError."""
    at, behind = before or (None, None)
    rows = await database.fetch(_DELIVERIES, webhook_id, state, at, behind, limit)
    return [Delivery(**{**dict(row), "payload": json.loads(row["payload"])}) for row in rows]


async def test(database: Database, vault: Vault, poster: Poster, webhook_id: UUID) -> Outcome:
    """Sends a message of the type webhook.test from here, once, now. Raises UnknownWebhook,
    LedgerError, VaultError."""
    row = await database.fetchrow(_ONE, webhook_id)
    if row is None:
        raise UnknownWebhook(webhook_id)
    secret = await opened_secret(vault, row)
    when = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    payload = {"type": TEST, "timestamp": when, "data": {"webhook": str(webhook_id)}}
    body = json.dumps(payload).encode()
    return await poster.post(row["url"], secret, str(uuid4()), body, private=row["private"])


async def opened_secret(vault: Vault, row: asyncpg.Record) -> bytes:
    """Of a row with `id` and `sealed`. Raises VaultError."""
    keyring = await vault.keyring()
    try:
        return seals.open_webhook(keyring, row["id"], row["sealed"])
    except UnknownKey as unknown:  # somebody has rotated
        keyring = await vault.keyring_for([unknown.key_id])
        return seals.open_webhook(keyring, row["id"], row["sealed"])


def leads_to(url: str) -> str:
    """The URL's origin: all of it that is certainly no secret. "" of what is no URL."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return ""
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def _webhook(row: asyncpg.Record) -> Webhook:
    return Webhook(**{**dict(row), "types": tuple(row["types"])})


def _checked_types(types: Sequence[str]) -> list[str]:
    unknown = [one for one in types if one not in TYPES]
    if unknown or not types:
        said = f"{unknown[0][:100]!r} is no type of event" if unknown else "no types were given"
        raise WebhookError(f"{said}; there are: {', '.join(TYPES)}")
    return list(dict.fromkeys(types))


def _check_url(url: str, private: bool) -> None:
    try:
        parts = urlsplit(url)
        usable = bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    schemes = ("https", "http") if private else ("https",)
    if not usable or len(url) > 2000 or not url.isascii() or any(c <= " " for c in url):
        raise WebhookError("that is no URL that a message could be posted to")
    if parts.scheme not in schemes:
        raise WebhookError(
            "a webhook's URL begins with https:// (http:// for loopback and private networks only,"
            " with --private)"
        )
    try:
        why = forbidden(URL(url), private)
    except ValueError as error:
        raise WebhookError(f"that is no URL that a message could be posted to: {error}") from None
    if why:
        raise WebhookError(f"no webhook may lead there: {why}")
