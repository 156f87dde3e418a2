"""The books checked against themselves, and the switch that stops all spending."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from proxy.ledger.database import Database

_AUDIT = "SELECT * FROM audit_books(now() - $1::interval)"
_HALT = "SELECT halt_spending($1, $2, $3)"
_STATE = "SELECT halted, reason, by, since FROM spending"

MEANINGS = {
    "held_is_open": "what a budget holds is the sum of its open payments",
    "spent_is_settled": "what a budget has spent is the sum of its settled payments",
    "within_limit": "no budget ever stood above its highest limit",
    "counters_exist": "a payment's budgets are there",
    "settled_has_receipt": "every settled payment has a receipt of the same amount",
    "receipt_has_payment": "every receipt has a payment that was settled",
    "receipt_has_link": "every receipt is in its agent's chain, and so is its reversal",
    "link_has_receipt": "every link of a chain has its receipt, and tells of it as it is",
    "chain_is_whole": "every chain of receipts goes on from its first link to its newest",
    "no_live_duplicates": "one request has at most one payment of unknown fate",
    "payment_has_decision": "every payment was allowed by a decision",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as it must be. `rule` is a key of MEANINGS."""

    rule: str
    subject: str  # a budget's scope, or a payment's id
    found: str
    expected: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.subject} has {self.found}, not {self.expected}"


@dataclass(frozen=True, slots=True)
class Spending:
    """Whether anything may be paid at all."""

    halted: bool
    reason: str | None
    by: str | None
    since: datetime


async def findings(database: Database, since: timedelta | None = None) -> list[Finding]:
    """All that is wrong with the books, or with what changed within `since`."""
    return [Finding(**dict(row)) for row in await database.fetch(_AUDIT, since)]


async def halt(database: Database, reason: str, *, by: str) -> bool:
    """Nothing is granted any more once this returns, by any proxy. Whether it was otherwise."""
    changed: bool = await database.fetchval(_HALT, True, reason[:500], by)
    return changed


async def resume(database: Database, *, by: str) -> bool:
    """Whether spending was halted."""
    changed: bool = await database.fetchval(_HALT, False, None, by)
    return changed


async def spending(database: Database) -> Spending:
    """The switch."""
    (row,) = await database.fetch(_STATE)
    return Spending(**dict(row))
