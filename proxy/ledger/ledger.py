"""The money moves of one payment: reserve, then settle, release or doubt; and the rows beside them.

What must be atomic is in `sql/migrations/0004_money.sql`; here is what happens when the database
does not answer. A reservation fails at once and nothing is paid. Everything after it must be
written, so it waits in the outbox for as long as it takes.
"""

import asyncio
import json
from base64 import b64decode
from collections.abc import Awaitable, Callable
from decimal import Decimal
from uuid import UUID

from policies import MAX_MICROS
from proxy.ledger.database import Database, LedgerFault, LedgerUnavailable
from proxy.ledger.outbox import Outbox
from proxy.ledger.records import (
    DecisionRow,
    Delivery,
    Refused,
    Reservation,
    Reserved,
    SettledReceipt,
)

_RESERVE = """
SELECT * FROM reserve($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17,
                      $18, $19, $20, $21, $22, $23, $24, $25, $26)
"""
_SETTLE = "SELECT settle($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)"
_RELEASE = "SELECT release($1, $2)"
_DOUBT = "SELECT doubt($1, $2, $3, $4)"
_NOTE_DENIAL = "SELECT note_denial($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)"
_DELIVER = """
INSERT INTO x402_procurement_receipts (
    id, payment_id, agent_id, intent, provider_id, url, method, status, paid_amount_atomic,
    response_hash, latency_ms, success, schema_ok, score, tx_hash, pay_to, attempt, error)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18)
ON CONFLICT (id) DO NOTHING
"""
_NOTE_REJECTION = """
INSERT INTO certificate_rejections AS r (agent_id, host, reason, left_until)
VALUES ($1, $2, $3, now() + make_interval(secs => $4))
ON CONFLICT (agent_id, host) DO UPDATE SET
    reason = excluded.reason, times = r.times + 1, last_seen = now(),
    left_until = excluded.left_until
"""
_MOST_MILLISECONDS = 2**31 - 1


class Ledger:
    """One per process. `close()` it after `flush()`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._outbox = Outbox()

    async def reserve(self, reservation: Reservation) -> Reserved | Refused:
        """Holds the price in every budget or in none. Send the payment only after a `Reserved`.

        Raises LedgerError if there is no answer. Then nothing may be sent either: should the money
        be held after all, it is given back as soon as the database can be reached.
        """
        r = reservation
        try:
            row = await self._database.fetchrow(
                _RESERVE,
                r.payment_id,
                r.agent_id,
                r.price,
                r.amount,
                _text(r.session_id, 256),
                _text(r.trace_id, 256),
                r.provider,
                r.method,
                _text(r.endpoint, 2048) or "",
                r.request_body_sha256,
                r.x402_version,
                r.network,
                r.asset,
                r.symbol,
                r.pay_to,
                r.payer,
                r.fee_payer,
                r.source_account,
                r.destination_account,
                r.memo,
                r.blockhash,
                r.last_valid_block_height,
                r.blockhash_slot,
                r.client_signature,
                r.message_sha256,
                None if r.payload is None else json.dumps(dict(r.payload)),
            )
        except LedgerUnavailable as error:
            if error.may_have_happened:
                self._give_up(r.payment_id)
            raise
        except asyncio.CancelledError:
            self._give_up(r.payment_id)
            raise
        assert row is not None
        if row["code"] != "ok":
            return Refused(
                code=row["code"],
                limit=row["limit_micros"],
                spent=row["spent_micros"],
                held=row["held_micros"],
                asked=r.price,
                resets_at=row["resets_at"],
            )
        return Reserved(
            remaining=row["remaining_micros"],
            spent=row["spent_micros"],
            held=row["held_micros"],
            limit=row["limit_micros"],
            day=row["day"],
        )

    async def settle(self, payment_id: UUID, receipt: SettledReceipt) -> bool:
        """Turns held into spent and writes the receipt. Repeatable.

        Returns whether the receipt is on disk. If not, it will be once the database is back (unless
        the payment was never reserved or is released: that is logged as an error). Waits for at
        most the database's timeout; a caller that waits less, or is cancelled, loses nothing.
        """
        args = (
            payment_id,
            receipt.claimed,
            _text(receipt.transaction, 512),
            _text(receipt.payer, 512),
            _text(receipt.network, 128),
            None if receipt.amount is None else str(receipt.amount),
            _text(receipt.response_header, 8192),
            _text(_decoded(receipt.response_header), 8192),
            receipt.http_status,
            receipt.success,
            min(receipt.latency_ms, _MOST_MILLISECONDS),
            _text(receipt.error, 1024),
            receipt.source,
        )
        return await self._outbox.write(
            f"the receipt of payment {payment_id}",
            self._move(_SETTLE, args, expected={"settled", "already"}),
        )

    async def release(self, payment_id: UUID, reason: str) -> bool:
        """Gives held money back: `reason` is "never_sent" (not a byte) or "proved_dead", no other.

        Repeatable; waits and returns like `settle`.
        """
        return await self._outbox.write(
            f"the release of payment {payment_id}", self._release(payment_id, reason)
        )

    async def doubt(
        self, payment_id: UUID, reason: str, *, detail: str = "", http_status: int | None = None
    ) -> bool:
        """Notes that a payment left and its fate is unknown. Its money stays held.

        `reason` is our own code, `detail` may be the provider's words. Repeatable; waits and
        returns like `settle`.
        """
        args = (payment_id, _text(reason, 100), _text(detail, 1024), http_status)
        return await self._outbox.write(
            f"the doubt about payment {payment_id}",
            self._move(
                _DOUBT,
                args,
                expected={"doubted", "confirmed", "verified", "failed"},
            ),
        )

    async def deliver(self, delivery: Delivery) -> bool:
        """Records what came back from a provider. Repeatable; waits and returns like `settle`."""
        d = delivery
        args = (
            d.id,
            d.payment_id,
            d.agent_id,
            _text(d.intent or f"{d.method} {d.url}", 2048),
            d.provider,
            _text(d.url, 2048) or "",
            d.method,
            d.status,
            str(d.amount),
            d.response_hash,
            min(d.latency_ms, _MOST_MILLISECONDS),
            d.success,
            d.schema_ok,
            round(Decimal(d.score), 6),
            _text(d.transaction, 512),
            _text(d.pay_to, 512),
            d.attempt,
            _text(d.error, 1024),
        )
        return await self._outbox.write(
            f"the delivery {d.id}", lambda: self._only_write(_DELIVER, *args)
        )

    async def record_decision(self, decision: DecisionRow) -> bool:
        """Writes the decision row of a denial that took no budget, with the numbers of the day.

        A price that the ledger cannot hold is written as the most it can. While the database is
        away a bounded number of these rows waits; it is the only write that may be dropped.
        """
        d = decision
        args = (
            d.id,
            d.agent_id,
            _text(d.session_id, 256),
            _text(d.trace_id, 256),
            d.method,
            _text(d.endpoint, 2048) or "",
            d.reason,
            _text(d.detail, 1024) or "",
            d.policy_version,
            min(d.price, MAX_MICROS),
            d.limit,
        )
        return await self._outbox.write(
            f"the decision {d.id}", lambda: self._only_write(_NOTE_DENIAL, *args), droppable=True
        )

    async def note_rejection(self, agent_id: UUID, host: str, reason: str, seconds: float) -> bool:
        """Records that a program does not accept our certificate for `host`, and for how long its
        tunnels there are left alone. Waits and returns like `settle`; may be dropped."""
        args = (agent_id, _text(host, 253) or "", _text(reason, 200) or "", seconds)
        return await self._outbox.write(
            f"the rejection by {host}",
            lambda: self._only_write(_NOTE_REJECTION, *args),
            droppable=True,
        )

    @property
    def waiting(self) -> int:
        """How many writes are not on disk yet."""
        return len(self._outbox)

    async def flush(self, timeout: float) -> int:  # noqa: ASYNC109 - it cancels nothing
        """Waits up to `timeout` seconds for all writes; returns how many are still not on disk."""
        return await self._outbox.flush(timeout)

    async def close(self) -> None:
        """Stops trying to write what still waits."""
        await self._outbox.close()

    def _give_up(self, payment_id: UUID) -> None:
        self._outbox.later(
            f"the release of payment {payment_id}", self._release(payment_id, "never_sent")
        )

    def _release(self, payment_id: UUID, reason: str) -> Callable[[], Awaitable[None]]:
        return self._move(
            _RELEASE,
            (payment_id, reason),
            expected={"released", "already", "absent"},
        )

    def _move(
        self, sql: str, args: tuple[object, ...], *, expected: set[str]
    ) -> Callable[[], Awaitable[None]]:
        async def attempt() -> None:
            outcome = await self._database.fetchval(sql, *args)
            if outcome not in expected:
                raise LedgerFault(f"in the ledger this payment is {outcome!r}")

        return attempt

    async def _only_write(self, sql: str, *args: object) -> None:
        await self._database.execute(sql, *args)


def _decoded(header: str) -> str:
    """The JSON in a settlement header, as text; "" if it is not base64."""
    try:
        return b64decode(header, validate=True).decode("utf-8", "replace")
    except ValueError:
        return ""


def _text(value: str | None, most: int) -> str | None:
    """What PostgreSQL can hold of a text from outside: cut, no NUL, no lone surrogate."""
    if not value:
        return None
    return value[:most].replace("\0", "").encode("utf-8", "replace").decode() or None
