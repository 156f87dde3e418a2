"""The states of a payment, and every way from one to another.

    ask        what is it called, and where may it go from here?
    Status     INITIATED → SIGNED → CONFIRMED → VERIFIED, or FAILED on the way
    MOVES      the one table: (from, to) → the reasons for which that may happen
    moved()    the only way to make a move; everything else raises IllegalMove

Read the table from above: a payment is born with its money held, either before it is signed
(INITIATED) or, as autopay does it, with its signature beside it (SIGNED). From SIGNED on its bytes
may be with a stranger, so only two things end the wait: money that moved (CONFIRMED, by the
provider's word or our own eyes; then VERIFIED, in a finalized block) and proof that it never will
(FAILED). Two states are final. Nothing goes back, and no reason is a clock or an error: a payment
whose answer was lost stays SIGNED, "in doubt", for as long as it takes.

    >>> moved(None, Status.SIGNED, "reserved")
    <Status.SIGNED: 'SIGNED'>
    >>> moved(Status.SIGNED, Status.FAILED, "timeout")
    Traceback (most recent call last):
    proxy.ledger.states.IllegalMove: a payment cannot go from SIGNED to FAILED: timeout

This module is pure. The moves themselves are made in `sql/migrations/`, where a trigger has the
same table and refuses the same; each leaves an audit event with its reason.
"""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType


class Status(StrEnum):
    """As PostgreSQL's `payment_status` spells it."""

    INITIATED = "INITIATED"
    """Its money is held; nothing is signed."""
    SIGNED = "SIGNED"
    """Its money is held; the signed bytes may be anywhere."""
    CONFIRMED = "CONFIRMED"
    """Its money is spent, by the provider's word or as seen in a block that may yet vanish."""
    VERIFIED = "VERIFIED"
    """Its money is spent, in a finalized block. Final."""
    FAILED = "FAILED"
    """Its money is free again. Final."""


_INITIATED, _SIGNED, _CONFIRMED, _VERIFIED, _FAILED = Status

MOVES: Mapping[tuple[Status | None, Status], frozenset[str]] = MappingProxyType(
    {
        (None, _INITIATED): frozenset({"reserved"}),
        (None, _SIGNED): frozenset({"reserved"}),
        (_INITIATED, _SIGNED): frozenset({"signed"}),
        # Nobody has it: there is nothing to prove.
        (_INITIATED, _FAILED): frozenset({"never_sent"}),
        # The provider said so, or served; or it was found on the chain, its answer lost.
        (_SIGNED, _CONFIRMED): frozenset({"settled", "chain_confirmed"}),
        # Not a byte left; or the chain proves that it can't land any more. Once it is in doubt,
        # bytes may have left, and only the second will do.
        (_SIGNED, _FAILED): frozenset({"never_sent", "proved_dead"}),
        (_CONFIRMED, _VERIFIED): frozenset({"finalized"}),
        # Proved dead after all: the provider had claimed a transaction that is not there; or had
        # served without claiming one; or the block that we saw it in went with its fork.
        (_CONFIRMED, _FAILED): frozenset({"claimed_not_landed", "served_unpaid", "rolled_back"}),
    }
)
"""(from, to) → reasons. From None: birth."""

OPEN = frozenset({_INITIATED, _SIGNED})
"""Their money is held."""
SETTLED = frozenset({_CONFIRMED, _VERIFIED})
"""Their money is spent, and they have a receipt."""
FINAL = frozenset(status for status in Status if not any(status == at for at, _ in MOVES))
"""What is so stays so."""
UNPROVED = frozenset(Status) - FINAL - {_INITIATED}
"""The chain has yet to say what became of them."""


class IllegalMove(ValueError):
    """A move that is not in the table. `status` is None for a birth."""

    def __init__(self, status: Status | None, to: Status, reason: str) -> None:
        begin = "begin as" if status is None else f"go from {status} to"
        super().__init__(f"a payment cannot {begin} {to}: {reason}")
        self.status = status
        self.to = to
        self.reason = reason


def moved(status: Status | None, to: Status, reason: str, *, in_doubt: bool = False) -> Status:
    """The new status: `to`. Raises IllegalMove.

    `in_doubt`: it was noted that bytes of it may have left, which "never_sent" then contradicts.
    """
    contradicted = in_doubt and reason == "never_sent"
    if contradicted or reason not in MOVES.get((status, to), frozenset()):
        raise IllegalMove(status, to, reason)
    return to
