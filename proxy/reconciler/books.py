"""The reconciler's side of the ledger: payments not proved yet, what was seen, the moves.

Every move is one statement that may be repeated; what must be atomic is in `0020_reconciler.sql`.
"""

import json
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from uuid import UUID

from proxy.chains.solana.fate import Balance, Evidence, Seen
from proxy.chains.solana.node import Tip
from proxy.crashpoints import Point, reached
from proxy.ledger import Database
from proxy.ledger.states import Status

# Oldest first: what is past its end must not wait behind what may still land.
MOST_PAYMENTS = 5_000

_WATCHES = """
SELECT network, source_account AS account, count(*) AS payments FROM payments
WHERE status IN ('SIGNED', 'CONFIRMED') AND network LIKE 'solana:%'
  AND client_signature IS NOT NULL AND source_account IS NOT NULL
  AND last_valid_block_height IS NOT NULL AND blockhash_slot IS NOT NULL
GROUP BY network, source_account ORDER BY network, source_account
"""
_OPEN = """
SELECT p.id, p.status::text AS status, p.client_signature, p.last_valid_block_height,
       p.blockhash_slot, p.memo, p.in_doubt_since IS NOT NULL AS in_doubt,
       l.settle_tx_hash AS claim, d.why, d.absent_since,
       a.name AS agent, p.provider, p.symbol, p.price_micros
FROM payments p JOIN agents a ON a.id = p.agent_id
LEFT JOIN x402_payment_logs l ON l.id = p.id AND l.source = 'provider'
LEFT JOIN chain_doubts d ON d.payment_id = p.id
WHERE p.network = $1 AND p.source_account = $2 AND p.status IN ('SIGNED', 'CONFIRMED')
  AND p.client_signature IS NOT NULL AND p.last_valid_block_height IS NOT NULL
  AND p.blockhash_slot IS NOT NULL
ORDER BY p.created_at LIMIT $3
"""
_SEEN = """
SELECT signature, slot, commitment, err, client_signature, memo, change_atomic, left_atomic,
       fee_lamports
FROM chain_seen WHERE network = $1 AND source_account = $2
"""
_NOTE_SEEN = """
INSERT INTO chain_seen (network, source_account, signature, slot, commitment, err,
                        client_signature, memo, change_atomic, left_atomic, fee_lamports)
SELECT $1, $2, x.signature, x.slot, x.commitment, x.err, x.client_signature, x.memo,
       x.change_atomic, x.left_atomic, x.fee_lamports
FROM jsonb_to_recordset($3::jsonb) AS x (
    signature text, slot bigint, commitment text, err text, client_signature text, memo text,
    change_atomic numeric, left_atomic numeric, fee_lamports numeric)
ON CONFLICT (network, source_account, signature) DO UPDATE SET
    slot = excluded.slot, commitment = excluded.commitment, err = excluded.err,
    change_atomic = excluded.change_atomic, left_atomic = excluded.left_atomic
"""
_FORGET_SEEN = """
DELETE FROM chain_seen WHERE network = $1 AND source_account = $2 AND signature = ANY ($3)
"""
_BALANCES = """
SELECT slot, amount_atomic FROM chain_balances
WHERE network = $1 AND source_account = $2 ORDER BY slot
"""
_NOTE_BALANCE = """
INSERT INTO chain_balances (network, source_account, slot, amount_atomic)
VALUES ($1, $2, $3, $4::text::numeric) ON CONFLICT DO NOTHING
"""
_FORGET_BALANCES = """
DELETE FROM chain_balances WHERE network = $1 AND source_account = $2 AND slot < $3
"""
_NOTE_ROUND = """
INSERT INTO chain_rounds AS r (network, source_account, leader, finalized_height, finalized_slot,
                               trouble)
VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (network, source_account) DO UPDATE SET
    leader = excluded.leader, trouble = excluded.trouble, finished_at = now(),
    finalized_height = coalesce(excluded.finalized_height, r.finalized_height),
    finalized_slot = coalesce(excluded.finalized_slot, r.finalized_slot)
"""


@dataclass(frozen=True, slots=True)
class Account:
    """A token account of ours, on a network by its CAIP-2 id."""

    network: str
    address: str


@dataclass(frozen=True, slots=True)
class OpenPayment:
    """A payment that is not proved to have landed, nor to be dead."""

    id: UUID
    status: Status
    """SIGNED or CONFIRMED: what `states.UNPROVED` has."""
    evidence: Evidence
    memo: str | None
    in_doubt: bool
    """Whoever sent it has given up on its answer, and said so."""
    claim: str | None
    """The transaction that the provider named."""
    why: str | None
    """Why its fate was not known the last time."""
    absent_since: int | None
    agent: str
    provider: str
    symbol: str
    price: int
    """What the budgets are charged, micro-USD."""


class Books:
    """One per process; all of it is repeatable. Everything raises LedgerError."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def watches(self) -> dict[Account, int]:
        """Accounts with payments that are not proved, and how many."""
        rows = await self._database.fetch(_WATCHES)
        return {Account(row["network"], row["account"]): row["payments"] for row in rows}

    async def open_payments(self, account: Account) -> list[OpenPayment]:
        """The oldest first, up to 5,000."""
        rows = await self._database.fetch(_OPEN, account.network, account.address, MOST_PAYMENTS)
        return [
            OpenPayment(
                id=row["id"],
                status=Status(row["status"]),
                evidence=Evidence(
                    row["client_signature"], row["last_valid_block_height"], row["blockhash_slot"]
                ),
                memo=row["memo"],
                in_doubt=row["in_doubt"],
                claim=row["claim"],
                why=row["why"],
                absent_since=row["absent_since"],
                agent=row["agent"],
                provider=row["provider"],
                symbol=row["symbol"],
                price=row["price_micros"],
            )
            for row in rows
        ]

    async def seen(self, account: Account) -> list[Seen]:
        """Transactions of the account that were read before."""
        rows = await self._database.fetch(_SEEN, account.network, account.address)
        return [
            Seen(
                signature=row["signature"],
                slot=row["slot"],
                level=row["commitment"],
                err=row["err"],
                client_signature=row["client_signature"],
                memo=row["memo"],
                change=int(row["change_atomic"]),
                left=int(row["left_atomic"]),
                fee=int(row["fee_lamports"]),
            )
            for row in rows
        ]

    async def note_seen(self, account: Account, seen: Iterable[Seen]) -> None:
        """Adds transactions, or raises their level."""
        rows = json.dumps([as_json(each) for each in seen])
        await self._database.execute(_NOTE_SEEN, account.network, account.address, rows)

    async def forget_seen(self, account: Account, signatures: Collection[str]) -> None:
        """What a dead fork had, or what no open payment needs."""
        await self._database.execute(
            _FORGET_SEEN, account.network, account.address, list(signatures)
        )

    async def balances(self, account: Account) -> list[Balance]:
        """What it held at some finalized slots, the earliest first."""
        rows = await self._database.fetch(_BALANCES, account.network, account.address)
        return [Balance(row["slot"], int(row["amount_atomic"])) for row in rows]

    async def note_balance(self, account: Account, balance: Balance) -> None:
        await self._database.execute(
            _NOTE_BALANCE, account.network, account.address, balance.slot, str(balance.amount)
        )

    async def forget_balances(self, account: Account, before_slot: int) -> None:
        await self._database.execute(
            _FORGET_BALANCES, account.network, account.address, before_slot
        )

    async def note_round(
        self, account: Account, leader: str, tip: Tip | None, trouble: str | None
    ) -> None:
        """That this account was looked at, for the operator to see."""
        height, slot = (None, None) if tip is None else (tip.height, tip.slot)
        await self._database.execute(
            _NOTE_ROUND, account.network, account.address, leader, height, slot, trouble
        )

    async def confirm(self, payment_id: UUID, seen: Seen) -> str:
        """SIGNED → CONFIRMED, with a receipt from the chain; "settled" or "already"."""
        reached("confirm.before")
        return await self._move(
            "SELECT confirm_from_chain($1, $2)", "confirm.after", payment_id, _json(seen)
        )

    async def verify(self, payment_id: UUID, seen: Seen) -> str:
        """→ VERIFIED; "verified" or "already"."""
        reached("verify.before")
        return await self._move(
            "SELECT verify_payment($1, $2)", "verify.after", payment_id, _json(seen)
        )

    async def disprove(self, payment_id: UUID, proof: str, seen: Seen | None) -> str:
        """→ FAILED; "released", "reversed" or "already"."""
        reached("disprove.before")
        what = None if seen is None else _json(seen)
        return await self._move(
            "SELECT disprove($1, $2, $3)", "disprove.after", payment_id, proof, what
        )

    async def doubt(
        self,
        payment_id: UUID,
        why: str,
        detail: str,
        absent_since: int | None,
        alarm: tuple[str, str] | None,
    ) -> None:
        """Why it is still open. `alarm`: (event type, severity), told once for each `why`."""
        kind, severity = alarm or (None, None)
        await self._database.execute(
            "SELECT note_chain_doubt($1, $2, $3, $4, $5::text::audit_event_type,"
            " $6::text::audit_severity)",
            payment_id,
            why,
            detail[:500],
            absent_since,
            kind,
            severity,
        )

    async def _move(self, sql: str, done: Point, *args: object) -> str:
        outcome = str(await self._database.fetchval(sql, *args))
        reached(done)
        return outcome


def _json(seen: Seen) -> str:
    return json.dumps(as_json(seen))


def as_json(seen: Seen) -> dict[str, object]:
    """As the SQL functions and `chain_seen` name it."""
    return {
        "signature": seen.signature,
        "slot": seen.slot,
        "commitment": seen.level,
        "err": seen.err,
        "client_signature": seen.client_signature,
        "memo": _text(seen.memo),
        "change_atomic": seen.change,
        "left_atomic": seen.left,
        "fee_lamports": seen.fee,
    }


def _text(memo: str | None) -> str | None:
    """What PostgreSQL can hold of it; only people read it here."""
    return None if memo is None else memo[:566].replace("\0", "")
