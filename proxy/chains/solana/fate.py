"""What became of a payment, decided from what was seen of the chain, and from nothing else.

No clock, no I/O: heights only. A slot is now 400 ms and later 200, a network may halt for an hour,
and none of that may free money.

Why this is sound. The signature of ours over the message is in every transaction that could ever
take the money, and a validator has checked it, so it alone says whose payment a transaction is; a
memo can be copied by anyone who saw the payment. The chain takes one message once. It takes it up
to block `last_valid_block_height + 1` and never after: once a *finalized* block is higher than
that, the set of transactions that could be this payment is closed, and what remains to be shown is
that it was looked at in full.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Literal

Level = Literal["confirmed", "finalized"]

# A lone RPC must say it twice, this many blocks apart: its index may only have been behind.
BLOCKS_BETWEEN_SCANS = 150


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the ledger wrote down before the payment left."""

    client_signature: str
    last_valid_block_height: int
    blockhash_slot: int
    """The slot that the blockhash was read at: the payment cannot be in an earlier one."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A transaction of our token account, read in full and its signatures checked."""

    signature: str
    slot: int
    level: Level
    err: str | None
    """agave's JSON of the error; None if it succeeded."""
    client_signature: str
    """The second signature; "" if there is none."""
    memo: str | None
    change: int
    """What it added to our token account, atomic units; negative where it took."""
    left: int
    """What our token account held after it."""
    fee: int
    """Lamports, paid by the fee payer and not by us."""


@dataclass(frozen=True, slots=True)
class Balance:
    """What our token account held at the end of a finalized slot, in atomic units."""

    slot: int
    amount: int


@dataclass(frozen=True, slots=True)
class Sweep:
    """One RPC's whole account of our token account, at the finalized end of its chain.

    Read in this order: `height`, then `balance` at a slot no older, then the scan at a slot no
    older than that. So the scan has all that the balance knows of.
    """

    rpc: str
    height: int
    balance: Balance
    after_slot: int
    """The scan has everything later than this slot."""
    complete: bool
    """Every page came, in order, and with everything that was known to be there."""
    transactions: Sequence[Seen]

    def conserves(self, since: Balance) -> bool:
        """Whether what the scan shows explains the balance to the last unit. If not, the index has
        left something out."""
        if since.slot < self.after_slot or since.slot > self.balance.slot:
            return False
        moved = sum(
            each.change for each in self.transactions if since.slot < each.slot <= self.balance.slot
        )
        return since.amount + moved == self.balance.amount


@dataclass(frozen=True, slots=True)
class Status:
    """What a node says of a transaction by its id."""

    level: Level
    failed: bool
    slot: int


@dataclass(frozen=True, slots=True)
class Opinion:
    """What another RPC says of transactions by their ids."""

    rpc: str
    height: int
    """Finalized, read before the rest."""
    statuses: Mapping[str, Status]


class Why(Enum):
    """Why a fate is not known. Lower-cased, the names are stable codes."""

    ALIVE = auto()
    """It may still land, or has not been looked for since it could not."""
    FAILED_NOT_FINAL = auto()
    SECOND_OPINION_DUE = auto()
    """Another RPC has not seen as far yet, or does not answer."""
    SECOND_SCAN_DUE = auto()
    SCAN_INCOMPLETE = auto()
    NOT_CONSERVED = auto()
    NO_OPENING = auto()
    """No balance is known from before the payment, so that none can be accounted for."""
    RPCS_DISAGREE = auto()

    @property
    def code(self) -> str:
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Landed:
    """It is on the chain and the money has moved; for good if the level is finalized."""

    by: Seen


@dataclass(frozen=True, slots=True)
class Dead:
    """It has not moved money and never will. `by`: the transaction it failed in, if it did."""

    proof: str
    by: Seen | None = None


@dataclass(frozen=True, slots=True)
class Unknown:
    why: Why
    detail: str = ""


def can_land(evidence: Evidence, height: int) -> bool:
    """Whether it may be in a block that is not finalized yet, when `height` is.

    getLatestBlockhash says h + 150 of the hash of block h, but a block takes what its parent's
    queue of 151 hashes holds: up to block h + 151.
    """
    return height <= evidence.last_valid_block_height + 1


def fate(
    evidence: Evidence,
    seen: Iterable[Seen],
    sweeps: Sequence[Sweep] = (),
    opinions: Sequence[Opinion] = (),
    *,
    rpcs: int,
    since: Balance | None = None,
    absent_since: int | None = None,
) -> Landed | Dead | Unknown:
    """Judge one payment.

    `seen` and the first of the `rpcs` are the node that is asked first; `opinions` and the other
    sweeps are the others'. `since` is a balance from before the payment. `absent_since` is the
    height of the earliest good sweep without it, where there is one RPC only.
    """
    mine = [each for each in seen if each.client_signature == evidence.client_signature]
    final = next((each for each in mine if each.level == "finalized"), None)
    if final is not None:
        return _finalized(evidence, final, opinions, rpcs)
    # What is not finalized by the time that nothing can land any more is on a fork that died.
    if sweeps:
        verdict = _absent(evidence, sweeps, rpcs, since, absent_since)
        if not (isinstance(verdict, Unknown) and mine):
            return verdict
    if mine and mine[0].err is None:
        return Landed(mine[0])
    return Unknown(Why.FAILED_NOT_FINAL if mine else Why.ALIVE)


def good(evidence: Evidence, sweep: Sweep, since: Balance | None) -> Why | None:
    """None if the sweep can prove that the payment is not there; else what it lacks."""
    if can_land(evidence, sweep.height):
        return Why.ALIVE
    if not sweep.complete or sweep.after_slot > evidence.blockhash_slot:
        return Why.SCAN_INCOMPLETE
    if since is None or since.slot > evidence.blockhash_slot:
        return Why.NO_OPENING
    return None if sweep.conserves(since) else Why.NOT_CONSERVED


def contains(evidence: Evidence, sweep: Sweep) -> bool:
    """Whether the payment is in what this RPC showed."""
    return any(each.client_signature == evidence.client_signature for each in sweep.transactions)


def _finalized(
    evidence: Evidence, by: Seen, opinions: Sequence[Opinion], rpcs: int
) -> Landed | Dead | Unknown:
    failed = by.err is not None
    agreeing = 0
    for opinion in opinions:
        said = opinion.statuses.get(by.signature)
        if said is not None and (said.level, said.failed) == ("finalized", failed):
            agreeing += 1
        elif (said is not None and said.failed != failed) or not can_land(evidence, opinion.height):
            return Unknown(Why.RPCS_DISAGREE, f"{opinion.rpc} does not have {by.signature} so")
    if agreeing < rpcs - 1:
        return Unknown(Why.SECOND_OPINION_DUE)
    return Dead(f"failed on chain in {by.signature}: {by.err}", by) if failed else Landed(by)


def _absent(
    evidence: Evidence,
    sweeps: Sequence[Sweep],
    rpcs: int,
    since: Balance | None,
    absent_since: int | None,
) -> Dead | Unknown:
    having = [sweep for sweep in sweeps if contains(evidence, sweep)]
    if having:
        return Unknown(Why.RPCS_DISAGREE, f"{having[0].rpc} has it, and not every RPC")
    for sweep in sweeps:
        lacks = good(evidence, sweep, since)
        if lacks is not None:
            return Unknown(lacks, sweep.rpc)
    if len({sweep.rpc for sweep in sweeps}) < rpcs:
        return Unknown(Why.SECOND_OPINION_DUE)
    heights = ", ".join(f"{sweep.rpc} at {sweep.height}" for sweep in sweeps)
    if rpcs == 1:
        last = sweeps[0].height
        if absent_since is None or last - absent_since < BLOCKS_BETWEEN_SCANS:
            return Unknown(Why.SECOND_SCAN_DUE, f"first at {absent_since or last}, now {last}")
        heights += f", and before at {absent_since}"
    return Dead(
        f"not on the chain, which is past {evidence.last_valid_block_height + 1}: {heights}"
    )
