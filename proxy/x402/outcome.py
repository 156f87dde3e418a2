"""What became of a payment, as far as the answer to it can tell.

Only the chain knows for certain. An answer can say "settled", and that is believed until the
reconciler has looked; it can never say "not settled": a signed payload stays a bearer instrument
until its blockhash dies, whatever the server that holds it says.
"""

import contextlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from . import networks
from .decoding import MAX_BYTES, DecodeError, decode_header, decode_json, header_values, plain_text

MAX_RAW = 8 * 1024


class Fate(Enum):
    """PAID: settled or served. REFUSED: a 402 that names why. IN_DOUBT: nothing can be concluded.

    For the money REFUSED and IN_DOUBT are alike, it stays held; a refusal teaches something.
    """

    PAID = "paid"
    REFUSED = "refused"
    IN_DOUBT = "in_doubt"


@dataclass(frozen=True, slots=True)
class Settlement:
    """What the settlement header claims. Texts are printable, bounded, and the server's word."""

    success: bool
    transaction: str
    network: str
    payer: str
    amount: int | None
    """Atomic units, where the server says how much it took."""
    error_reason: str
    raw: str
    """The header as received, at most 8 KiB."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """`reason` is "" for a plain success; else one of our codes (`payment_not_seen`,
    `payment_id_conflict`, `status_NNN`) or the server's own, printable and bounded."""

    fate: Fate
    reason: str
    settlement: Settlement | None
    wants_no_memo: bool
    """An old v1 facilitator choked on the memo: the next payment should go without."""

    @property
    def claimed(self) -> bool:
        """Whether the server says outright that it settled."""
        return self.settlement is not None and self.settlement.success


# Reasons after which the money may be on its way or gone. Facilitators broadcast before they know:
# older ones call a confirmation they did not wait for `transaction_failed`.
_MAYBE_BROADCAST = re.compile(
    "settlement_pending|duplicate_settlement|duplicate transaction|transaction_failed"
    "|settle_exact_svm|block_height_exceeded|confirmation_timed_out|not_confirmed"
    "|unexpected_settle_error|settlement_failed|payment_replay|already",
    re.IGNORECASE,
)
# The words of a first 402: the server answers as if no payment had come.
_NOT_SEEN = re.compile(
    r"(?:(?:x-payment|payment-signature|payment)(?: header)?(?: is)? required"
    r"|(?:no|missing) (?:x-payment|payment-signature|payment)(?: header)?)[.!]?",
    re.IGNORECASE,
)
# npm x402 1.x facilitators want exactly three instructions, and a memo is the fourth.
_MEMO_TRAP = re.compile(r"_instructions_length|_memo_|_unknown_fourth_instruction")


def read_outcome(
    status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes | None
) -> Outcome:
    """Judge the answer to a request that carried a payment. Never raises.

    First row that fits; `body` matters only for a 402 and is read up to 64 KiB.

    | status | settlement header | reason in the answer            | fate     |
    |--------|-------------------|---------------------------------|----------|
    | any    | success: true     | any                             | PAID     |
    | 2xx    | none, unreadable  | any                             | PAID     |
    | 402    | any               | may have been broadcast         | IN_DOUBT |
    | 402    | any               | none, or those of a first 402   | IN_DOUBT |
    | 402    | any               | any other                       | REFUSED  |
    | 409    | any               | payment id met another payload  | IN_DOUBT |
    | other  | any               | any (2xx with success: false)   | IN_DOUBT |
    """
    settlement = read_settlement(headers)
    if settlement is not None and settlement.success:
        return Outcome(Fate.PAID, "", settlement, False)
    if 200 <= status < 300 and settlement is None:
        return Outcome(Fate.PAID, "", None, False)
    if status == 402:
        return _read_second_402(headers, body or b"", settlement)
    reason = settlement.error_reason if settlement is not None else ""
    own = "payment_id_conflict" if status == 409 else f"status_{status}"
    return Outcome(Fate.IN_DOUBT, reason or own, settlement, False)


def read_settlement(headers: Sequence[tuple[bytes, bytes]]) -> Settlement | None:
    """The settlement header of either version; None if there is none that can be read.

    Understands the names that the oldest servers used: txHash, networkId, error.
    """
    for name in (b"payment-response", b"x-payment-response"):
        for value in header_values(headers, name):
            try:
                found = decode_header(value) if len(value) <= MAX_BYTES else None
            except DecodeError:
                continue
            if isinstance(found, dict):
                return _settlement(found, value)
    return None


def _settlement(found: dict[str, Any], value: bytes) -> Settlement:
    network = plain_text(found.get("network") or found.get("networkId"), 100)
    return Settlement(
        success=found.get("success") is True or found.get("success") == "true",
        transaction=plain_text(found.get("transaction") or found.get("txHash"), 200),
        network=networks.normalise(network) or network,
        payer=plain_text(found.get("payer"), 100),
        amount=_amount(found.get("amount")),
        error_reason=plain_text(found.get("errorReason") or found.get("error")),
        raw=value[:MAX_RAW].decode("ascii", "replace"),
    )


def _amount(value: Any) -> int | None:
    if isinstance(value, str) and re.fullmatch("[0-9]{1,20}", value):
        value = int(value)
    return value if type(value) is int and 0 <= value < 2**64 else None


def _read_second_402(
    headers: Sequence[tuple[bytes, bytes]], body: bytes, settlement: Settlement | None
) -> Outcome:
    documents = _documents(headers, body)
    reason = settlement.error_reason if settlement is not None else ""
    for document in documents:
        reason = reason or _reason(document)
    is_v1 = any(document.get("x402Version") in (1, "1") for document in documents) or (
        settlement is not None and not header_values(headers, b"payment-response")
    )
    no_memo = is_v1 and _MEMO_TRAP.search(reason) is not None
    if not reason or _NOT_SEEN.fullmatch(reason):
        return Outcome(Fate.IN_DOUBT, "payment_not_seen", settlement, False)
    if _MAYBE_BROADCAST.search(reason):
        return Outcome(Fate.IN_DOUBT, reason, settlement, no_memo)
    return Outcome(Fate.REFUSED, reason, settlement, no_memo)


def _documents(headers: Sequence[tuple[bytes, bytes]], body: bytes) -> list[dict[str, Any]]:
    """The JSON objects of the answer, the challenge header first."""
    found = []
    for value in header_values(headers, b"payment-required"):
        try:
            found.append(decode_header(value) if len(value) <= MAX_BYTES else None)
        except DecodeError:
            continue
    with contextlib.suppress(DecodeError):
        found.append(decode_json(body) if 0 < len(body) <= MAX_BYTES else None)
    return [document for document in found if isinstance(document, dict)]


def _reason(document: dict[str, Any]) -> str:
    """Why a server refused. Hand-written ones put a sentence in `error` and the cause beside it."""
    for key in ("reason", "errorReason", "invalidReason", "code", "error"):
        if text := plain_text(document.get(key)):
            return text
    return ""
