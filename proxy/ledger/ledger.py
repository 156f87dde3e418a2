"""The money moves of one payment: reserve, then settle, release or doubt; and the rows beside them.

What must be atomic is in `sql/migrations/0017_money.sql` and, for budgets, `0029_limits.sql`; here
is what happens when the database does not answer. A reservation fails at once and nothing is paid.
Everything after it must be written, so it waits in the outbox for as long as it takes.
"""

import asyncio
import contextlib
import json
import time
from base64 import b64decode
from collections.abc import Awaitable, Callable, Mapping
from datetime import date, datetime
from typing import Any
from uuid import UUID

from policies import MAX_MICROS
from proxy.crashpoints import reached
from proxy.ledger.database import Database
from proxy.ledger.errors import LedgerFault, LedgerUnavailable
from proxy.ledger.lane import Lane
from proxy.ledger.outbox import Outbox
from proxy.ledger.records import (
    DecisionRow,
    Delivery,
    Left,
    Met402,
    Presented,
    Prior,
    Refused,
    Reservation,
    Reserved,
    Retry,
    SettledReceipt,
)
from proxy.metrics import Durations

_NOTE_REJECTION = """
INSERT INTO certificate_rejections AS r (agent_id, host, reason, left_until)
VALUES ($1, $2, $3, now() + make_interval(secs => $4))
ON CONFLICT (agent_id, host) DO UPDATE SET
    reason = excluded.reason, times = r.times + 1, last_seen = now(),
    left_until = excluded.left_until
"""
_PRIOR = "SELECT code, payment_id FROM prior_payment($1, $2, $3, $4, $5, $6)"
_STATE = "SELECT answer_state(p, $2) FROM payments p WHERE p.id = $1"
_ELSEWHERE = """
SELECT id, instance FROM payments
WHERE agent_id = $1 AND request_key = $2 AND status IN ('INITIATED', 'SIGNED')
  AND in_doubt_since IS NULL AND instance <> $3
"""
_LEFT = """
SELECT id, status::text AS status, provider, network, asset, amount_atomic, pay_to, x402_version,
       last_valid_block_height, payment_header, presented
FROM payments WHERE id = $1
"""
_PROMISE = "SELECT keep_answer($1, false, NULL, $2, 2147483647)"
_ROW_SECONDS = 1.0
_MOST_MILLISECONDS = 2**31 - 1


class Ledger:
    """One per process. `close()` it after `flush()`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lane = Lane(database)
        self._outbox = Outbox()
        self.reserving = Durations()
        self.settling = Durations()
        """How long the answers of the database took, those that came."""

    async def reserve(self, reservation: Reservation) -> Reserved | Refused:
        """Holds the price in every budget or in none. Send the payment only after a `Reserved`.

        Raises LedgerError if there is no answer. Then nothing may be sent either: should the money
        be held after all, it is given back as soon as the database can be reached.
        """
        r = reservation
        met = r.met
        asked_at = time.perf_counter()
        try:
            row = await self._lane.move(
                "reserve",
                {
                    "payment_id": str(r.payment_id),
                    "agent_id": str(r.agent_id),
                    "price_micros": r.price,
                    "amount_atomic": r.amount,
                    "session_id": _text(r.session_id, 256),
                    "trace_id": _text(r.trace_id, 256),
                    "tool_name": _text(r.tool_name, 256),
                    "provider": r.provider,
                    "method": r.method,
                    "endpoint": _text(r.endpoint, 2048) or "",
                    "url_sealed": _bytea(r.url_sealed),
                    "request_key": _bytea(r.request_key),
                    "request_body_sha256": _bytea(r.request_body_sha256),
                    "idempotency_key": _bytea(r.idempotency_key),
                    "key_seconds": r.key_seconds,
                    "share": r.share,
                    "beside": r.beside,
                    "payment_header": r.header,
                    "identified": r.identified,
                    "instance": None if r.instance is None else str(r.instance),
                    "policy_version": r.policy_version,
                    "shadow_reason": r.shadow_reason,
                    "rules": None if r.rules is None else dict(r.rules),
                    **_met(met),
                    "x402_version": r.x402_version,
                    "network": r.network,
                    "asset": r.asset,
                    "symbol": r.symbol,
                    "decimals": r.decimals,
                    "pay_to": r.pay_to,
                    "facilitator_url": _text(r.facilitator_url, 255),
                    "payer": r.payer,
                    "fee_payer": r.fee_payer,
                    "source_account": r.source_account,
                    "destination_account": r.destination_account,
                    "memo": r.memo,
                    "blockhash": r.blockhash,
                    "last_valid_block_height": r.last_valid_block_height,
                    "blockhash_slot": r.blockhash_slot,
                    "client_signature": r.client_signature,
                    "message_sha256": _bytea(r.message_sha256),
                    "payment_payload": None if r.payload is None else dict(r.payload),
                },
            )
        except LedgerUnavailable as error:
            if error.may_have_happened:
                self._give_up(r.payment_id)
            raise
        except asyncio.CancelledError:
            self._give_up(r.payment_id)
            raise
        self.reserving.add(time.perf_counter() - asked_at)
        if row["code"] != "ok":
            resets_at, joined = row["resets_at"], row["joined"]
            return Refused(
                code=row["code"],
                limit=row["limit_micros"],
                spent=row["spent_micros"],
                held=row["held_micros"],
                asked=r.price,
                resets_at=None if resets_at is None else datetime.fromisoformat(resets_at),
                joined=None if joined is None else UUID(joined),
                detail=row.get("detail"),
            )
        return Reserved(
            remaining=row["remaining_micros"],
            spent=row["spent_micros"],
            held=row["held_micros"],
            limit=row["limit_micros"],
            day=date.fromisoformat(row["day"]),
        )

    async def settle(
        self,
        payment_id: UUID,
        receipt: SettledReceipt,
        *,
        coming: Callable[[], float | None] = lambda: None,
    ) -> bool:
        """Turns held into spent and writes the receipt. Repeatable. `coming` is asked each time it
        is tried: for how many seconds an answer is on its way whose program has gone, which is
        written in the same breath (see `promise`); None: there is no such answer.

        Returns whether the receipt is on disk. If not, it will be once the database is back (unless
        the payment was never reserved or is released: that is logged as an error). Waits for at
        most the database's timeout; a caller that waits less, or is cancelled, loses nothing.
        """
        args = {
            "payment_id": str(payment_id),
            "claimed": receipt.claimed,
            "transaction": _text(receipt.transaction, 512),
            "payer": _text(receipt.payer, 512),
            "network": _text(receipt.network, 128),
            "amount": None if receipt.amount is None else str(receipt.amount),
            "response_header": _text(receipt.response_header, 8192),
            "response": _text(_decoded(receipt.response_header), 8192),
            "http_status": receipt.http_status,
            "success": receipt.success,
            "latency_ms": min(receipt.latency_ms, _MOST_MILLISECONDS),
            "error": _text(receipt.error, 1024),
            "source": receipt.source,
        }

        async def attempt() -> None:
            seconds = coming()
            more = {} if seconds is None else {"coming_seconds": seconds}
            move = self._move(
                "settle", args | more, expected={"settled", "already"}, took=self.settling
            )
            await move()

        return await self._outbox.write(f"the receipt of payment {payment_id}", attempt)

    async def promise(self, payment_id: UUID, *, seconds: float) -> bool:
        """Notes that an answer is on its way whose program has gone: until it is kept, or lost with
        this process, nobody signs for the same request. Of no matter once it is kept. Waits and
        returns like `settle`."""
        return await self._outbox.write(
            f"that payment {payment_id} still brings an answer",
            lambda: self._only_write(_PROMISE, payment_id, seconds),
        )

    async def release(self, payment_id: UUID, reason: str) -> bool:
        """Gives held money back: `reason` is "never_sent" (not a byte) or "proved_dead", no other.
        What another process has sent meanwhile, as the bytes of one that seemed gone, stays held.

        Repeatable; waits and returns like `settle`.
        """
        reached("release.before")
        written = await self._outbox.write(
            f"the release of payment {payment_id}", self._release(payment_id, reason)
        )
        reached("release.after")
        return written

    async def doubt(
        self, payment_id: UUID, reason: str, *, detail: str = "", http_status: int | None = None
    ) -> bool:
        """Notes that a payment left and its fate is unknown. Its money stays held.

        `reason` is our own code, `detail` may be the provider's words. Repeatable; waits and
        returns like `settle`.
        """
        args = {
            "payment_id": str(payment_id),
            "reason": _text(reason, 100),
            "detail": _text(detail, 1024),
            "http_status": http_status,
        }
        reached("doubt.before")
        written = await self._outbox.write(
            f"the doubt about payment {payment_id}",
            self._move("doubt", args, expected={"doubted", "confirmed", "verified", "failed"}),
        )
        reached("doubt.after")
        return written

    async def deliver(self, delivery: Delivery) -> bool:
        """Records what came back from a provider. Repeatable; waits and returns like `settle`."""
        d = delivery
        args = {
            "id": str(d.id),
            "payment_id": None if d.payment_id is None else str(d.payment_id),
            "agent_id": None if d.agent_id is None else str(d.agent_id),
            "intent": _text(d.intent or f"{d.method} {d.url}", 2048),
            "provider_id": d.provider,
            "url": _text(d.url, 2048) or "",
            "method": d.method,
            "status": d.status,
            "paid_amount_atomic": str(d.amount),
            "response_hash": d.response_hash,
            "latency_ms": min(d.latency_ms, _MOST_MILLISECONDS),
            "success": d.success,
            "schema_ok": d.schema_ok,
            "score": f"{d.score:.6f}",
            "tx_hash": _text(d.transaction, 512),
            "pay_to": _text(d.pay_to, 512),
            "attempt": d.attempt,
            "error": _text(d.error, 1024),
            "total_ms": None if d.total_ms is None else min(d.total_ms, _MOST_MILLISECONDS),
            "size_bytes": d.size,
            "content_type": _text(d.content_type, 200),
            "whole": d.whole,
            "expected": d.expected,
            "unread": _text(d.unread, 200),
        }
        return await self._outbox.write(
            f"the delivery {d.id}",
            self._move("deliver", args, expected={"delivered", "already"}),
        )

    async def note_decision(self, decision: DecisionRow) -> None:
        """The same, waited for a moment at most: traffic that is not paid for does not depend on
        the database, and the row is written as soon as there is one."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_ROW_SECONDS):
                await self.record_decision(decision)

    async def record_decision(self, decision: DecisionRow) -> bool:
        """Writes the decision row of a denial that took no budget, with the numbers of the day.

        A price that the ledger cannot hold is written as the most it can. While the database is
        away a bounded number of these rows waits; it is the only write that may be dropped.
        """
        d = decision
        args = {
            "id": str(d.id),
            "agent_id": str(d.agent_id),
            "session_id": _text(d.session_id, 256),
            "trace_id": _text(d.trace_id, 256),
            "method": d.method,
            "endpoint": _text(d.endpoint, 2048) or "",
            "reason": d.reason,
            "detail": _text(d.detail, 1024) or "",
            "policy_version": d.policy_version,
            "shadow_reason": d.shadow_reason,
            "price_micros": min(d.price, MAX_MICROS),
            "limit_micros": d.limit,
            **_met(d.met),
        }
        return await self._outbox.write(
            f"the decision {d.id}",
            self._move("deny", args, expected={"noted", "already"}),
            droppable=True,
        )

    async def note_retry(self, retry: Retry) -> bool:
        """Records a try after the first. Repeatable; waits and returns like `settle`. One that was
        not for a payment may be dropped."""
        args: dict[str, Any] = {
            "id": str(retry.id),
            "attempt": retry.attempt,
            "delay": retry.delay,
            "outcome": "SUCCESS" if retry.success else "FAILURE",
            "cause": retry.cause or None,
            "error_class": retry.error_class or None,
            "error": _text(retry.error, 1024),
        }
        if retry.payment_id is None:
            args |= {
                "agent_id": str(retry.agent_id),
                "provider": _text(retry.provider, 255),
                "method": _text(retry.method, 32),
                "endpoint": _text(retry.endpoint, 2048),
            }
            return await self._outbox.write(
                f"a retry of a request to {retry.provider}",
                lambda: self._only_write("SELECT note_retry($1)", json.dumps(args)),
                droppable=True,
            )
        args["payment_id"] = str(retry.payment_id)
        return await self._outbox.write(
            f"a retry of payment {retry.payment_id}",
            self._move("retry", args, expected={"noted"}),
        )

    async def prior(
        self,
        agent_id: UUID,
        request_key: bytes | None,
        idempotency_key: bytes | None,
        *,
        key_seconds: float,
        share: bool,
        instance: UUID,
    ) -> Prior | None:
        """What `reserve` would say of the same request. Raises LedgerError."""
        row = await self._database.fetchrow(
            _PRIOR, agent_id, request_key, idempotency_key, key_seconds, share, instance
        )
        assert row is not None
        return None if row["code"] is None else Prior(row["code"], row["payment_id"])

    async def answer_state(self, payment_id: UUID, instance: UUID) -> str:
        """A code of `Prior` for this payment. Raises LedgerError."""
        return str(await self._database.fetchval(_STATE, payment_id, instance))

    async def elsewhere(
        self, agent_id: UUID, request_key: bytes | None, instance: UUID
    ) -> dict[UUID, UUID]:
        """Open payments for the same request that other processes sent and may still wait for, each
        with its process. Raises LedgerError."""
        rows = await self._database.fetch(_ELSEWHERE, agent_id, request_key, instance)
        return {row["id"]: row["instance"] for row in rows}

    async def left(self, payment_id: UUID) -> Left | None:
        """A payment as it left. Raises LedgerError."""
        row = await self._database.fetchrow(_LEFT, payment_id)
        if row is None:
            return None
        return Left(
            id=row["id"],
            status=row["status"],
            provider=row["provider"],
            network=row["network"],
            asset=row["asset"],
            amount=int(row["amount_atomic"]),
            pay_to=row["pay_to"],
            x402_version=row["x402_version"],
            last_valid_block_height=row["last_valid_block_height"],
            header=row["payment_header"],
            presented=row["presented"],
        )

    async def begin_presenting(self, payment_id: UUID, instance: UUID) -> str:
        """Leave to send the same bytes again: "ok", "busy" (somebody does), "exhausted" (three
        times), or a code of `Prior` that it has come to meanwhile. Who has it owes
        `end_presenting`. Raises LedgerError; then nothing may be sent."""
        return str(
            await self._database.fetchval("SELECT begin_presenting($1, $2)", payment_id, instance)
        )

    async def end_presenting(self, presented: Presented) -> bool:
        """Records what came of it, and lets others. Repeatable; waits and returns like `settle`."""
        q = presented
        args = json.dumps(
            {
                "id": str(q.id),
                "payment_id": str(q.payment_id),
                "instance": str(q.instance),
                "outcome": "SUCCESS" if q.success else "FAILURE",
                "last": q.last,
                "error_class": q.error_class or None,
                "error": _text(q.error, 1024),
            }
        )
        return await self._outbox.write(
            f"another time for payment {q.payment_id}",
            lambda: self._only_write("SELECT end_presenting($1)", args),
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
        await self._lane.close()

    def _give_up(self, payment_id: UUID) -> None:
        self._outbox.later(
            f"the release of payment {payment_id}", self._release(payment_id, "never_sent")
        )

    def _release(self, payment_id: UUID, reason: str) -> Callable[[], Awaitable[None]]:
        return self._move(
            "release",
            {"payment_id": str(payment_id), "reason": reason},
            expected={"released", "already", "absent", "presented"},
        )

    def _move(
        self,
        name: str,
        args: Mapping[str, object],
        *,
        expected: set[str],
        took: Durations | None = None,
    ) -> Callable[[], Awaitable[None]]:
        async def attempt() -> None:
            asked_at = time.perf_counter()
            outcome = await self._lane.move(name, args)
            if took is not None:
                took.add(time.perf_counter() - asked_at)
            if outcome not in expected:
                raise LedgerFault(f"in the ledger this payment is {outcome!r}")

        return attempt

    async def _only_write(self, sql: str, *args: object) -> None:
        await self._database.execute(sql, *args)


def _met(met: Met402 | None) -> dict[str, object]:
    if met is None:
        return {}
    return {
        "api_request_id": str(met.id),
        "provider": met.provider,
        "api_type": met.api_type,
        "instructions": _jsonable(met.instructions),
        "response_headers": _jsonable(met.response_headers),
        "tool_name": _text(met.tool_name, 256),
    }


def _jsonable(value: Mapping[str, Any] | None) -> Any:
    """What a jsonb can hold of it: no NUL, no lone surrogate."""
    if value is None:
        return None
    text = json.dumps(value, ensure_ascii=False).replace("\\u0000", "")
    return json.loads(text.encode("utf-8", "replace"))


def _bytea(value: bytes | None) -> str | None:
    return None if value is None else f"\\x{value.hex()}"


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
