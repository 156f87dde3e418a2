"""Payments that an operator has to say yes to: what waits, what was said, for how long it holds.

An approval is for one request of one agent (method, URL and body), one receiver, one asset, at its
price at most, and pays once. It is asked for and used where money is reserved
(`sql/migrations/0030_gate.sql`); here an operator looks and decides.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from proxy.ledger.asking import OF_AGENT, Where
from proxy.ledger.database import Database
from proxy.ledger.errors import LedgerError

STATES = ("pending", "approved", "rejected", "used", "expired")
GOOD_FOR = timedelta(hours=1)
LONGEST = timedelta(days=7)

# What nobody has decided or used in time has expired, whether or not it was written down yet.
_STATE = (
    "CASE WHEN p.state IN ('pending', 'approved') AND p.expires_at <= now()"
    " THEN 'expired' ELSE p.state END"
)
_FROM = f"""
SELECT p.id, a.name AS agent, {_STATE} AS state, p.provider, p.method, p.endpoint, p.network,
       p.asset, p.symbol, p.pay_to, p.price_micros AS price, p.asks, p.created_at, p.expires_at,
       p.decided_by, p.decided_at, p.note, p.payment_id
FROM approvals p JOIN agents a ON a.id = p.agent_id
"""  # noqa: S608 - the expression above
_APPROVE = "SELECT approve($1, $2, $3, $4)"
_REJECT = "SELECT reject($1, $2, $3)"
_EXPIRE = "SELECT expire_approvals()"
_NOT_ANY_MORE = {
    "absent": "there is no approval {id}",
    "expired": "approval {id} has expired; the next such request asks anew",
    "used": "approval {id} has paid already",
    "rejected": "approval {id} was rejected",
}


class ApprovalError(LedgerError):
    """It cannot be decided so any more. One clear line; `state` is what it is instead, "absent" if
    there is none."""

    def __init__(self, approval_id: UUID, state: str) -> None:
        super().__init__(_NOT_ANY_MORE[state].format(id=approval_id))
        self.state = state


@dataclass(frozen=True, slots=True)
class Approval:
    """One payment that was, or is, to be decided upon. `price` is micro-USD.

    `expires_at`: pending, until when it can be approved; approved, until when it pays; rejected,
    until when the same is not asked again.
    """

    id: UUID
    agent: str
    state: str  # one of STATES
    provider: str
    method: str
    endpoint: str
    network: str
    asset: str
    symbol: str
    pay_to: str
    price: int
    asks: int  # how often it was asked for while it was pending
    created_at: datetime
    expires_at: datetime
    decided_by: str | None
    decided_at: datetime | None
    note: str
    payment_id: UUID | None  # that it has paid for


async def list_(
    database: Database,
    *,
    states: Sequence[str] = (),
    agent: str | None = None,
    limit: int = 100,
) -> list[Approval]:
    """The newest first. Raises ValueError for a state that is none."""
    where = Where(limit)
    where.one_of(_STATE, states, STATES)
    if set(states) <= {"pending", "approved"}:
        where.one_of("p.state", states, STATES)  # few, and there is an index of them
    where.add(f"p.{OF_AGENT}", agent)
    rows = await database.fetch(
        f"{_FROM} WHERE {where} ORDER BY p.created_at DESC, p.id LIMIT $1", *where.args
    )
    return [Approval(**dict(row)) for row in rows]


async def find(database: Database, approval_id: UUID) -> Approval | None:
    """One of them."""
    row = await database.fetchrow(f"{_FROM} WHERE p.id = $1", approval_id)
    return None if row is None else Approval(**dict(row))


async def approve(
    database: Database,
    approval_id: UUID,
    *,
    by: str,
    good_for: timedelta = GOOD_FOR,
    note: str = "",
) -> Approval:
    """The next such request pays, within `good_for`. The same again changes nothing. What was
    rejected can be approved. Raises ApprovalError; ValueError for a time out of range."""
    if not timedelta(seconds=1) <= good_for <= LONGEST:
        raise ValueError("an approval is good for a second at least, and 7 days at most")
    return await _decided(
        database, approval_id, {"approved", "already"}, _APPROVE, by, good_for, note[:500]
    )


async def reject(database: Database, approval_id: UUID, *, by: str, note: str = "") -> Approval:
    """For an hour the same is refused without being asked for again. What was approved and has not
    paid yet can be rejected. Raises ApprovalError."""
    return await _decided(database, approval_id, {"rejected", "already"}, _REJECT, by, note[:500])


async def expire(database: Database) -> int:
    """Writes down what has expired; how many."""
    return int(await database.fetchval(_EXPIRE))


async def _decided(
    database: Database, approval_id: UUID, good: set[str], statement: str, *args: object
) -> Approval:
    outcome = str(await database.fetchval(statement, approval_id, *args))
    if outcome not in good:
        raise ApprovalError(approval_id, outcome)
    found = await find(database, approval_id)
    if found is None:
        raise ApprovalError(approval_id, "absent")  # its agent was erased this moment
    return found
