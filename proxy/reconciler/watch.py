"""One token account: a look at the chain, and what follows from it for every open payment.

R1 what is new in the index, read in full · R3 what providers claim, looked up by its id · levels
raised to finalized · R2 judgement by our signature · R4 past the end: a whole account from every
RPC, and judgement again. What is seen is written down before anything is decided on it.
"""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from uuid import UUID

from solders.signature import Signature

from proxy.chains import Unpayable
from proxy.chains.solana.fate import (
    Balance,
    Dead,
    Landed,
    Opinion,
    Seen,
    Sweep,
    Unknown,
    Why,
    can_land,
    contains,
    fate,
    good,
)
from proxy.chains.solana.node import Node, Tip
from proxy.chains.solana.reader import read
from proxy.chains.solana.scan import scan
from proxy.ledger.states import Status
from proxy.reconciler.books import Account, Books, OpenPayment
from proxy.reconciler.sweep import opening, sweep

log = logging.getLogger(__name__)

# Slots that are read again each time: an index may be late, and confirmed blocks may vanish.
OVERLAP = 64
BALANCE_EVERY = 64
# A blockhash may be this much older, in slots, than the finalized tip was when it was signed with.
KEEP_BALANCES = 512
SWEEP_AGAIN = 32
MOST_CLAIMS = 256

# The kind of event, and how grave it is.
_ALARMS = {
    Why.RPCS_DISAGREE: ("ALARM", "ERROR"),
    Why.NOT_CONSERVED: ("ALARM", "ERROR"),
    Why.NO_OPENING: ("ALARM", "WARNING"),
    Why.SCAN_INCOMPLETE: ("NETWORK_ISSUE", "WARNING"),
    Why.SECOND_OPINION_DUE: ("NETWORK_ISSUE", "WARNING"),
}


@dataclass(frozen=True, slots=True)
class Ruling:
    """What a round found out about one payment. `outcome`: settled (found on the chain), verified,
    released or reversed (proved dead), held (unknown), in_flight (its answer is still waited for);
    `why`: a code or a proof. `booked`: it was spent by this, and not before."""

    payment_id: UUID
    outcome: str
    why: str = ""
    booked: OpenPayment | None = None


class Watch:
    """Keeps what was read of the chain in memory; the database has it too."""

    def __init__(self, books: Books, nodes: Sequence[Node], account: Account) -> None:
        """`nodes`: the one that is asked first, then those that give a second opinion."""
        self.account = account
        self.tip: Tip | None = None
        self.lag = 0
        """Finalized blocks since the oldest open payment could last land; 0 if it still can."""
        self._books = books
        self._nodes = nodes
        self._loaded = False
        self._seen: dict[str, Seen] = {}
        self._balances: list[Balance] = []
        self._derived: Balance | None = None
        """An opening balance as an index tells it, for one sweep: it may know better next time."""
        self._foreign: set[str] = set()  # transactions that were claimed and are not ours
        self._noted: set[UUID] = set()
        self._swept: dict[UUID, int] = {}

    async def round(self) -> list[Ruling]:
        """One look. Raises Unpayable if the first RPC does not answer, LedgerError if the database
        does not; nothing is lost by either, nor by a cancellation anywhere."""
        first = self._nodes[0]
        await self._load()
        payments = await self._books.open_payments(self.account)
        tip = self.tip = await first.finalized()
        self._measure(payments, tip)
        await self._look(first, tip, payments)
        await self._look_up_claims(first, tip, payments)
        await self._raise_levels(first, tip)
        opinions = await self._opinions(payments)
        rulings, late = await self._judge(payments, tip, [], opinions)
        if any(self._is_due(payment, tip) for payment in late):
            sweeps = await self._sweep(late, tip)
            swept, _ = await self._judge(late, tip, sweeps, opinions, swept=True)
            late_ids = {payment.id for payment in late}
            rulings = [ruling for ruling in rulings if ruling.payment_id not in late_ids] + swept
        await self._remember_balance(first, tip)
        await self._forget(payments, tip)
        return rulings

    async def _load(self) -> None:
        if not self._loaded:
            self._seen = {each.signature: each for each in await self._books.seen(self.account)}
            self._balances = await self._books.balances(self.account)
            self._loaded = True

    def _measure(self, payments: Sequence[OpenPayment], tip: Tip) -> None:
        ends = [payment.evidence.last_valid_block_height + 1 for payment in payments]
        self.lag = max(0, tip.height - min(ends)) if ends else 0

    # --- what there is to see

    async def _look(self, node: Node, tip: Tip, payments: Sequence[OpenPayment]) -> None:
        after = tip.slot - OVERLAP
        cursor = max(
            (
                each
                for each in self._seen.values()
                if each.level == "finalized" and each.slot < after
            ),
            key=lambda each: each.slot,
            default=None,
        )
        found = await scan(
            node,
            self.account.address,
            "confirmed",
            min_slot=tip.slot,
            after_slot=after if cursor is None else cursor.slot,
            until=None if cursor is None else cursor.signature,
        )
        new = [entry for entry in found.entries if entry.signature not in self._seen]
        # A memo of ours tells where to look first. No more: whoever saw the payment can copy it.
        memos = {payment.memo for payment in payments if payment.memo}
        new.sort(key=lambda entry: entry.memo.partition("] ")[2] not in memos)
        address = self.account.address
        await self._keep(
            (await read(node, address, [entry.signature for entry in new], "confirmed")).values()
        )

    async def _look_up_claims(self, node: Node, tip: Tip, payments: Sequence[OpenPayment]) -> None:
        """The transactions that providers named: found even where the index has left them out."""
        ours = {each.client_signature for each in self._seen.values()}
        claims = {
            payment.claim: payment
            for payment in payments
            if payment.claim
            and payment.claim not in self._seen
            and payment.claim not in self._foreign
            and payment.evidence.client_signature not in ours
            and _is_signature(payment.claim)
        }
        asked = list(claims)[:MOST_CLAIMS]
        if not asked:
            return
        there = await node.statuses(asked, tip.slot)
        found = await read(node, self.account.address, list(there), "confirmed")
        own = {payment.evidence.client_signature for payment in payments}
        await self._keep(each for each in found.values() if each.client_signature in own)
        for signature, seen in found.items():
            if seen.client_signature != claims[signature].evidence.client_signature:
                await self._expose(claims[signature], signature)

    async def _expose(self, payment: OpenPayment, signature: str) -> None:
        """A provider named a transaction that is not this payment. Its money stays where it is
        until the payment itself is proved to have landed or to be dead."""
        self._foreign.add(signature)
        words = f"the provider named {signature}, which is not this payment"
        log.error("payment %s: %s", payment.id, words)
        alarm = ("ALARM", "ERROR")
        await self._books.doubt(payment.id, "claimed_foreign", words, payment.absent_since, alarm)

    async def _raise_levels(self, node: Node, tip: Tip) -> None:
        waiting = [each for each in self._seen.values() if each.level != "finalized"]
        if not waiting:
            return
        found = await node.statuses([each.signature for each in waiting], tip.slot)
        same, other = [], []
        for each in waiting:
            status = found.get(each.signature)
            if status is None or status.level != "finalized":
                continue
            if (status.failed, status.slot) == (each.err is not None, each.slot):
                same.append(replace(each, level="finalized"))
            else:  # on another fork it went another way
                other.append(each.signature)
        read_again = await read(node, self.account.address, other, "finalized")
        await self._keep([*same, *read_again.values()])
        gone = [
            each.signature
            for each in waiting
            if each.signature not in found and each.slot < tip.slot - OVERLAP
        ]
        await self._drop(gone)

    async def _opinions(self, payments: Sequence[OpenPayment]) -> list[Opinion]:
        """What the other RPCs say of landed payments that are about to be final."""
        own = {payment.evidence.client_signature for payment in payments}
        asked = [
            each.signature
            for each in self._seen.values()
            if each.level == "finalized" and each.client_signature in own
        ]
        opinions = []
        for node in self._nodes[1:] if asked else ():
            try:
                tip = await node.finalized()
                statuses = await node.statuses(asked, tip.slot)
            except Unpayable as error:
                log.warning("no second opinion: %s", error.detail)
                continue
            opinions.append(Opinion(node.name, tip.height, statuses))
        return opinions

    async def _sweep(self, late: Sequence[OpenPayment], tip: Tip) -> list[Sweep]:
        start = min(payment.evidence.blockhash_slot for payment in late)
        self._derived = None
        since = self._balance_before(start)
        sweeps = []
        for node in self._nodes:
            try:
                if since is None:
                    since = self._derived = await opening(node, self.account.address, start)
                after = start if since is None else since.slot
                made = await sweep(node, self.account.address, after, self._seen)
            except Unpayable as error:
                log.warning("no whole account of what landed: %s", error.detail)
                continue
            if made is not None:
                sweeps.append(made)
                if node is self._nodes[0]:
                    await self._keep(made.transactions)
                else:
                    await self._ask_first(made)
        for payment in late:
            self._swept[payment.id] = tip.slot
        return sweeps

    async def _ask_first(self, other: Sweep) -> None:
        """What another RPC's index has and the first one's has not: looked up there by its id."""
        missing = [
            each.signature for each in other.transactions if each.signature not in self._seen
        ]
        if missing:
            first = self._nodes[0]
            await self._keep(
                (await read(first, self.account.address, missing, "finalized")).values()
            )

    # --- what follows

    async def _judge(
        self,
        payments: Sequence[OpenPayment],
        tip: Tip,
        sweeps: Sequence[Sweep],
        opinions: Sequence[Opinion],
        *,
        swept: bool = False,
    ) -> tuple[list[Ruling], list[OpenPayment]]:
        """The rulings, and the payments that can no longer land and were not found."""
        by_signature: dict[str, list[Seen]] = {}
        for each in self._seen.values():
            by_signature.setdefault(each.client_signature, []).append(each)
        rulings, late = [], []
        for payment in payments:
            past_end = not can_land(payment.evidence, tip.height)
            if payment.status is Status.SIGNED and not payment.in_doubt and not past_end:
                # Its answer is likely on its way, and makes the better receipt.
                rulings.append(Ruling(payment.id, "in_flight"))
                continue
            verdict = fate(
                payment.evidence,
                by_signature.get(payment.evidence.client_signature, ()),
                sweeps,
                opinions,
                rpcs=len(self._nodes),
                since=self._balance_before(payment.evidence.blockhash_slot),
                absent_since=payment.absent_since,
            )
            if swept and verdict == Unknown(Why.ALIVE):
                verdict = Unknown(Why.SCAN_INCOMPLETE, "no RPC gave a whole account")
            ruling = await self._apply(payment, verdict, sweeps)
            rulings.append(ruling)
            if past_end and ruling.outcome == "held":
                late.append(payment)
        return rulings, late

    async def _apply(
        self, payment: OpenPayment, verdict: Landed | Dead | Unknown, sweeps: Sequence[Sweep]
    ) -> Ruling:
        if isinstance(verdict, Dead):
            outcome = await self._books.disprove(payment.id, verdict.proof, verdict.by)
            self._swept.pop(payment.id, None)
            log.warning("payment %s is %s: %s", payment.id, outcome, verdict.proof)
            return Ruling(payment.id, outcome, verdict.proof)
        if isinstance(verdict, Landed):
            return await self._landed(payment, verdict.by)
        if verdict.why is not Why.ALIVE:
            await self._note_doubt(payment, verdict, sweeps)
        return Ruling(payment.id, "held", verdict.why.code)

    async def _landed(self, payment: OpenPayment, seen: Seen) -> Ruling:
        outcome, final = "already", seen.level == "finalized"
        if payment.id not in self._noted and (not final or payment.status is Status.SIGNED):
            outcome = await self._books.confirm(payment.id, seen)
            self._noted.add(payment.id)
        booked = payment if outcome == "settled" else None
        if booked:
            log.warning("payment %s was found on chain: %s", payment.id, seen.signature)
        if final:
            outcome = await self._books.verify(payment.id, seen)
            self._noted.discard(payment.id)
            return Ruling(payment.id, outcome, seen.signature, booked)
        if booked:
            return Ruling(payment.id, outcome, seen.signature, booked)
        return Ruling(payment.id, "held", "not_finalized")

    async def _note_doubt(
        self, payment: OpenPayment, verdict: Unknown, sweeps: Sequence[Sweep]
    ) -> None:
        absent_since = self._absent_since(payment, sweeps)
        if (payment.why, payment.absent_since) == (verdict.why.code, absent_since):
            return
        alarm = _ALARMS.get(verdict.why)
        if alarm is not None:
            log.error(
                "payment %s stays held: %s (%s)", payment.id, verdict.why.code, verdict.detail
            )
        await self._books.doubt(payment.id, verdict.why.code, verdict.detail, absent_since, alarm)

    def _absent_since(self, payment: OpenPayment, sweeps: Sequence[Sweep]) -> int | None:
        """The height of the first good sweep by a lone RPC that did not have it; a sweep that is
        good and has it begins anew."""
        if len(self._nodes) > 1 or not sweeps:
            return payment.absent_since
        evidence, only = payment.evidence, sweeps[0]
        if contains(evidence, only):
            return None
        if good(evidence, only, self._balance_before(evidence.blockhash_slot)) is not None:
            return payment.absent_since
        return only.height if payment.absent_since is None else payment.absent_since

    def _is_due(self, payment: OpenPayment, tip: Tip) -> bool:
        swept = self._swept.get(payment.id)
        return swept is None or tip.slot - swept >= SWEEP_AGAIN

    # --- what is kept

    async def _keep(self, seen: Iterable[Seen]) -> None:
        new = [each for each in seen if self._seen.get(each.signature) != each]
        new = [each for each in new if not self._lowers(each)]
        if new:
            await self._books.note_seen(self.account, new)
            self._seen |= {each.signature: each for each in new}

    def _lowers(self, seen: Seen) -> bool:
        known = self._seen.get(seen.signature)
        return known is not None and known.level == "finalized" and seen.level != "finalized"

    async def _drop(self, signatures: Sequence[str]) -> None:
        if signatures:
            await self._books.forget_seen(self.account, signatures)
            for signature in signatures:
                del self._seen[signature]

    async def _remember_balance(self, node: Node, tip: Tip) -> None:
        if self._balances and tip.slot - self._balances[-1].slot < BALANCE_EVERY:
            return
        balance = await node.balance(self.account.address, tip.slot)
        if balance is not None:
            await self._books.note_balance(self.account, balance)
            self._balances.append(balance)
            self._balances.sort(key=lambda each: each.slot)

    def _balance_before(self, slot: int) -> Balance | None:
        """The newest that is known from that slot or earlier: seen by ourselves, else derived."""
        seen, derived = self._seen_before(slot), self._derived
        if seen is None and derived is not None and derived.slot <= slot:
            return derived
        return seen

    def _seen_before(self, slot: int) -> Balance | None:
        return next((each for each in reversed(self._balances) if each.slot <= slot), None)

    async def _forget(self, payments: Sequence[OpenPayment], tip: Tip) -> None:
        """What no payment needs any more, but the newest of it: the next scan stops there."""
        slots = [payment.evidence.blockhash_slot for payment in payments]
        needed = self._seen_before(min([*slots, tip.slot - KEEP_BALANCES]))
        if needed is None or needed is self._balances[0]:
            return
        await self._books.forget_balances(self.account, needed.slot)
        self._balances = [each for each in self._balances if each.slot >= needed.slot]
        old = sorted(
            (each for each in self._seen.values() if each.slot <= needed.slot),
            key=lambda each: each.slot,
        )
        await self._drop([each.signature for each in old[:-1]])


def _is_signature(text: str) -> bool:
    """Providers name what they like."""
    try:
        Signature.from_string(text)
    except ValueError:
        return False
    return True
