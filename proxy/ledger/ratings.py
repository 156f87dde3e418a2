"""What users think of what was bought: one thumb of each user for each receipt."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from proxy.ledger.database import Database
from proxy.ledger.history import Position

# Agent, provider and endpoint come from the payment, by a trigger.
_RATE = """
INSERT INTO receipt_ratings AS r (receipt_id, user_address, is_positive)
SELECT l.id, $2, $3 FROM x402_payment_logs l WHERE l.id = $1
ON CONFLICT (receipt_id, user_address) DO UPDATE SET is_positive = excluded.is_positive
RETURNING r.receipt_id, r.user_address, r.is_positive, r.created_at
"""
_UNRATE = "DELETE FROM receipt_ratings WHERE receipt_id = $1 AND user_address = $2 RETURNING id"
_LIST = """
SELECT receipt_id, user_address, is_positive, created_at, id FROM receipt_ratings
WHERE receipt_id = $1 AND ($3::timestamptz IS NULL OR (created_at, id) < ($3, $4))
ORDER BY created_at DESC, id DESC LIMIT $2
"""
_EXISTS = "SELECT EXISTS (SELECT FROM x402_payment_logs WHERE id = $1)"


@dataclass(frozen=True, slots=True)
class ReceiptRating:
    receipt_id: UUID
    user_address: str
    is_positive: bool
    created_at: datetime


async def rate(
    database: Database, receipt_id: UUID, user_address: str, *, is_positive: bool
) -> ReceiptRating | None:
    """A user's one word on a receipt, the last one; None if there is no such receipt."""
    row = await database.fetchrow(_RATE, receipt_id, user_address, is_positive)
    return ReceiptRating(**dict(row)) if row else None


async def unrate(database: Database, receipt_id: UUID, user_address: str) -> bool:
    """Takes a user's word back; whether there was one."""
    return await database.fetchval(_UNRATE, receipt_id, user_address) is not None


async def ratings(
    database: Database, receipt_id: UUID, limit: int, before: Position | None = None
) -> list[tuple[Position, ReceiptRating]] | None:
    """The newest words on a receipt, each with its place in the list; None if there is no such
    receipt."""
    rows = await database.fetch(_LIST, receipt_id, limit, *(before or (None, None)))
    if not rows and not await database.fetchval(_EXISTS, receipt_id):
        return None
    return [
        (
            (row["created_at"], row["id"]),
            ReceiptRating(**{key: value for key, value in row.items() if key != "id"}),
        )
        for row in rows
    ]
