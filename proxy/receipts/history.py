"""The history of a wallet's token account, searched for payments by our own signature; and whether
it is good enough to show that they are not there.

An index that shows nothing proves nothing: it may be late, cut off, or full of holes. So an absence
is shown only by a stretch of history around the payment that came in order, was read in full and
explains, to the last unit, how the account came from what it held before to what it held after.
"""

from bisect import bisect
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from proxy.chains import Unpayable
from proxy.chains.solana.fate import Balance, Seen, Sweep
from proxy.chains.solana.node import Entry, Node, Tip
from proxy.chains.solana.reader import read
from proxy.chains.solana.scan import Scan, scan

MARGIN = 24 * 3600
"""Seconds that may lie between what the books' clock says of a payment and what its block says:
slow answers, a database that was away, a cluster that stood still and whose clock is behind."""
_BATCH = 200
_LEFT_OUT = "its history does not explain what it held then: something is left out"


@dataclass(frozen=True, slots=True)
class Wanted:
    """A payment that is looked for. Times are Unix seconds."""

    client_signature: str
    recorded: int
    closed: int
    """By the time that a block as young as this is final, it is there or never will be."""


@dataclass(slots=True)
class Search:
    """What was found in one account, by our signature: the transaction (`found`); nothing, and that
    there is nothing (`absent`); nothing, and why that shows nothing (`open`). Times are those of
    blocks, Unix seconds: of the oldest transaction in the list, and of the newest final block."""

    account: str
    found: dict[str, str] = field(default_factory=dict)
    absent: set[str] = field(default_factory=set)
    open: dict[str, str] = field(default_factory=dict)
    listed: int = 0
    read: int = 0
    since: int | None = None
    to_the_first: bool = False
    until: int | None = None

    @property
    def words(self) -> str:
        """How far it went."""
        if not self.listed:
            return f"{self.account} has no transactions, as this RPC tells it"
        back = "its first" if self.to_the_first else f"the one of {moment(self.since)}"
        return (
            f"{self.listed} transactions of {self.account} listed, back to {back},"
            f" {self.read} read, as of {moment(self.until)}"
        )


@dataclass(frozen=True, slots=True)
class _Past:
    """The list, and what the account holds at its end; None: there is no such account."""

    tip: Tip
    balance: Balance | None
    listed: Scan


@dataclass(slots=True)
class _Stretch:
    """Payments whose times are so near each other that one piece of history tells of them all."""

    start: int
    end: int
    wanted: list[Wanted]


async def search(
    node: Node, account: str, wanted: Sequence[Wanted], tell: Callable[[str], None]
) -> Search:
    """One list of the account's transactions, back to before the oldest payment; of these, those
    around each payment are read, the nearest first, until it is found. `tell` hears how far it is.
    """
    search = Search(account)
    try:
        past = await _list(node, search, min(one.recorded for one in wanted) - 2 * MARGIN)
        for stretch in _stretches(wanted):
            await _look_through(node, search, past, stretch, tell)
    except Unpayable as failure:
        for one in wanted:
            if one.client_signature not in search.found and one.client_signature not in (
                search.absent | search.open.keys()
            ):
                search.open[one.client_signature] = failure.detail
    return search


async def _list(node: Node, search: Search, after: int) -> _Past:
    """Raises Unpayable."""
    # In this order: whatever is final by then is in the balance, and the list has it too.
    tip = await node.finalized()
    search.until = await node.block_time(tip.slot)
    balance = await node.balance(search.account, tip.slot)
    min_slot = tip.slot if balance is None else balance.slot
    listed = await scan(
        node, search.account, "finalized", min_slot=min_slot, after_slot=0, after_time=after
    )
    search.listed = len(listed.entries)
    search.since = listed.entries[-1].time if listed.entries else None
    search.to_the_first = listed.to_the_end
    return _Past(tip, balance, listed)


def _stretches(wanted: Iterable[Wanted]) -> list[_Stretch]:
    """In the order of time, those that overlap made one."""
    stretches: list[_Stretch] = []
    for one in sorted(wanted, key=lambda one: one.recorded):
        start, end = one.recorded - MARGIN, one.recorded + MARGIN
        if stretches and start <= stretches[-1].end:
            stretches[-1].end = end
            stretches[-1].wanted.append(one)
        else:
            stretches.append(_Stretch(start, end, [one]))
    return stretches


async def _look_through(
    node: Node, search: Search, past: _Past, stretch: _Stretch, tell: Callable[[str], None]
) -> None:
    """Raises Unpayable."""
    first, last = _edges(past.listed.entries, stretch)
    inside = [
        entry
        for entry in past.listed.entries
        if (first is None or entry.slot > first.slot) and (last is None or entry.slot <= last.slot)
    ]
    missing = {one.client_signature for one in stretch.wanted}
    ordered = _nearest_first(inside, [one.recorded for one in stretch.wanted])
    seen = await _read(node, search, ordered, missing, tell)
    if not missing:
        return
    if unread := len(inside) - len(seen):
        why: str | None = f"{unread} transactions of that time could not be read"
    else:
        why = await _what_it_lacks(node, search, past, stretch, (first, last), seen)
    for one in stretch.wanted:
        if one.client_signature not in missing:
            continue
        if why is not None:
            search.open[one.client_signature] = why
        elif search.until is None or search.until < one.closed:
            search.open[one.client_signature] = (
                f"it may still come: the newest final block is of {moment(search.until)}"
            )
        else:
            search.absent.add(one.client_signature)


async def _read(
    node: Node,
    search: Search,
    entries: Sequence[Entry],
    missing: set[str],
    tell: Callable[[str], None],
) -> dict[str, Seen]:
    """Until nothing is missing, or no more is to be had. What is found leaves `missing`."""
    seen: dict[str, Seen] = {}
    for start in range(0, len(entries), _BATCH):
        batch = entries[start : start + _BATCH]
        got = await read(node, search.account, [entry.signature for entry in batch], "finalized")
        search.read += len(got)
        seen |= got
        for each in got.values():
            if each.client_signature in missing:
                search.found[each.client_signature] = each.signature
                missing.discard(each.client_signature)
        if not missing or not got:
            break
        if len(entries) > _BATCH:
            tell(f"{search.account}: {start + len(batch)} of {len(entries)} transactions read")
    return seen


def _edges(entries: Sequence[Entry], stretch: _Stretch) -> tuple[Entry | None, Entry | None]:
    """The nearest transactions before and after it that tell what the account held: those that are
    alone in their slot, since of several it is not known which was the last."""
    of_slot = Counter(entry.slot for entry in entries)
    alone = [(entry, entry.time) for entry in entries if of_slot[entry.slot] == 1]
    before = [entry for entry, time in alone if time is not None and time < stretch.start]
    after = [entry for entry, time in alone if time is not None and time > stretch.end]
    return (before[0] if before else None), (after[-1] if after else None)


def _nearest_first(entries: Iterable[Entry], recorded: Sequence[int]) -> list[Entry]:
    """`recorded` in the order of time."""

    def distance(entry: Entry) -> int:
        if entry.time is None:
            return 0
        place = bisect(recorded, entry.time)
        return min(abs(entry.time - each) for each in recorded[max(0, place - 1) : place + 1])

    return sorted(entries, key=distance)


async def _what_it_lacks(
    node: Node,
    search: Search,
    past: _Past,
    stretch: _Stretch,
    edges: tuple[Entry | None, Entry | None],
    seen: Mapping[str, Seen],
) -> str | None:
    """Why this piece of history cannot show that something is not in it. Raises Unpayable."""
    listed, (first, last) = past.listed, edges
    if not listed.complete:
        return "its list came out of order, or is too long to be read to its end"
    if first is None and not (listed.to_the_end and await _goes_back_to(node, stretch.start)):
        return "this RPC does not say that its history goes back so far"
    if past.balance is not None and not listed.entries:
        return _LEFT_OUT  # what made it, at least
    opening, closing = Balance(0, 0), past.balance or Balance(past.tip.slot, 0)
    if first is not None:
        before = await read(node, search.account, [first.signature], "finalized")
        if first.signature not in before:
            return "the transaction before it could not be read"
        opening = Balance(first.slot, before[first.signature].left)
    if last is not None:
        closing = Balance(last.slot, seen[last.signature].left)
    sweep = Sweep(
        rpc=node.name,
        height=past.tip.height,
        balance=closing,
        after_slot=opening.slot,
        complete=True,
        transactions=list(seen.values()),
    )
    if not sweep.conserves(opening):
        return _LEFT_OUT
    return None


async def _goes_back_to(node: Node, time: int) -> bool:
    """Whether the node has kept what was before. Raises Unpayable."""
    slot = await node.first_slot()
    if not slot:
        return slot == 0
    begun = await node.block_time(slot)
    return begun is not None and begun < time


def moment(time: int | None) -> str:
    """Unix seconds, as people write them."""
    if time is None:
        return "an unknown time"
    try:
        return f"{datetime.fromtimestamp(time, UTC):%Y-%m-%d %H:%M:%S} UTC"
    except (ValueError, OverflowError, OSError):  # nodes say what they like
        return str(time)
