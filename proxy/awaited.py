"""For whom this process still waits: what others must know before they sign for the same request.

An equal request that comes while a payment is under way is a purchase of its own if the program of
the first one still waits for its answer, or has it. If that program has gone, or was told that the
fate of its payment is unknown, it may well be the first one asking again. Nobody but the process
that sent the payment can tell.
"""

from enum import StrEnum
from uuid import UUID

from proxy.wire.gate import Purchase

Request = tuple[UUID, bytes]
"""An agent, and what its request is known by (`entries.request_key`)."""


class Word(StrEnum):
    """What a process says of a payment of its own, to one that has an equal request."""

    WAITS = "waits"
    """Its program still waits, or has all that it paid for: the other request is another."""
    UNSENT = "unsent"
    """Nothing of it has left, nor ever will: its release is not on disk yet."""
    NOTHING = ""


class Awaited:
    """The payments of this process, from before they are reserved until all is told and written."""

    def __init__(self) -> None:
        self._purchases: dict[UUID, tuple[Request | None, Purchase]] = {}
        self._by_request: dict[Request, set[UUID]] = {}
        self._unwritten: dict[UUID, Word] = {}

    def begin(self, payment_id: UUID, request: Request | None, purchase: Purchase) -> None:
        """`request` is None where its body is not known whole: it is equal to none."""
        self._purchases[payment_id] = (request, purchase)
        if request is not None:
            self._by_request.setdefault(request, set()).add(payment_id)

    def end(self, payment_id: UUID) -> None:
        """Before the program is told anything that it may act upon."""
        request, _ = self._purchases.pop(payment_id, (None, None))
        equal = self._by_request.get(request) if request is not None else None
        if request is not None and equal is not None:
            equal.discard(payment_id)
            if not equal:
                del self._by_request[request]

    def delivered(self, payment_id: UUID) -> None:
        """Its program has all that it paid for, which is not on disk yet."""
        self.end(payment_id)
        self._unwritten[payment_id] = Word.WAITS

    def unsent(self, payment_id: UUID) -> None:
        """It was taken back, which is not on disk yet. Till then others could take it for one that
        has left, and send it."""
        self.end(payment_id)
        self._unwritten[payment_id] = Word.UNSENT

    def all_written(self) -> None:
        """The database knows as much as we do."""
        self._unwritten.clear()

    def word(self, payment_id: UUID) -> Word:
        """Whether an equal request elsewhere may be this one's program asking again."""
        if payment_id in self._unwritten:
            return self._unwritten[payment_id]
        _, purchase = self._purchases.get(payment_id, (None, None))
        return Word.WAITS if purchase is not None and not purchase.gone else Word.NOTHING

    def forsaken(self, request: Request) -> UUID | None:
        """A payment under way for that very request, whose program has gone."""
        for payment_id in self._by_request.get(request, ()):
            if self._purchases[payment_id][1].gone:
                return payment_id
        return None
