"""The same wish again: what was paid for it before, under the same Idempotency-Key."""

import hashlib
from dataclasses import dataclass
from uuid import UUID

from proxy.entries import request_key
from proxy.intents import Candidate
from proxy.ledger import Database, LedgerError
from proxy.procurement.wish import Wish
from proxy.wire.problem import Problem

_PAID = """
SELECT id, idempotency_key, request_key, price_micros FROM payments
WHERE agent_id = $1 AND idempotency_key = ANY($2) AND status <> 'FAILED'
  AND (status IN ('INITIATED', 'SIGNED') OR created_at > now() - make_interval(secs => $3))
"""


@dataclass(frozen=True, slots=True)
class Earlier:
    """A payment of a run before: the `number`-th of it. `price` in micro-USD."""

    number: int
    id: UUID
    request_key: bytes | None
    price: int

    def candidate(self, wish: Wish) -> Candidate:
        """Whom the payment was for. Raises Problem: it was for another request."""
        for candidate in wish.intent.candidates:
            request = wish.request(candidate)
            hashed = hashlib.sha256(request.body).digest()
            if request_key(request.method, request.url, hashed) == self.request_key:
                return candidate
        raise Problem(
            422,
            "idempotency_key_reused",
            "This Idempotency-Key was given to another request (method, path, query or body), which"
            " was paid for. Nothing was paid for this one. Give each request a key of its own.",
            {"payment": str(self.id)},
        )


async def paid_before(database: Database, wish: Wish, key_seconds: float) -> list[Earlier]:
    """Payments under this wish's key, the first one first; none if it has no key. `key_seconds`:
    for how long a key stands for its request. Raises Problem."""
    if wish.key is None:
        return []
    numbers = {
        hashlib.sha256(wish.payment_key(number)).digest(): number
        for number in range(1, wish.intent.max_attempts + 1)
    }
    try:
        rows = await database.fetch(_PAID, wish.agent.id, list(numbers), key_seconds)
    except LedgerError as error:
        raise Problem(
            503,
            "ledger_unavailable",
            "The ledger can't be reached, so it can't be told what this key stands for. Nothing"
            " was sent or paid.",
            headers=((b"Retry-After", b"5"),),
        ) from error
    found = [
        Earlier(numbers[row["idempotency_key"]], row["id"], row["request_key"], row["price_micros"])
        for row in rows
    ]
    return sorted(found, key=lambda one: one.number)
