"""All transactions of a token account back to a slot, as one node's index has them.

The index of real nodes has been seen to miss entries, to lag and to change their order, so a scan
says whether it is to be believed as a whole; what it did find is good in any case.
"""

from collections.abc import Collection
from dataclasses import dataclass

from .fate import Level
from .node import PAGE, Entry, Node

MOST_PAGES = 100


@dataclass(frozen=True, slots=True)
class Scan:
    """`complete`: every page came in order, back to the slot asked for, and nothing that is known
    to be there was missing. `to_the_end`: it came to the account's very first transaction."""

    entries: tuple[Entry, ...]
    complete: bool
    to_the_end: bool


async def scan(
    node: Node,
    account: str,
    level: Level,
    *,
    min_slot: int,
    after_slot: int,
    after_time: int = 0,
    until: str | None = None,
    known: Collection[str] = (),
) -> Scan:
    """Everything later than `after_slot` and `after_time`, newest first, and what else is on the
    last page.

    `until` is an older signature to stop at. `known` are finalized ones later than `after_slot`.
    Raises Unpayable, also if the node has not reached `min_slot`.
    """
    entries: dict[str, Entry] = {}
    reached_end = False
    in_order = True
    before: str | None = None
    last_slot: int | None = None
    for _ in range(MOST_PAGES):
        page = await node.page(account, level, min_slot, before, until)
        for entry in page:
            in_order = in_order and (last_slot is None or entry.slot <= last_slot)
            last_slot = entry.slot
            entries[entry.signature] = entry
        # A node may give less than was asked for, so for a proof only an empty page is the end.
        reached_end = not page or (level == "confirmed" and len(page) < PAGE)
        if reached_end or page[-1].slot < after_slot or _is_before(page[-1], after_time):
            break
        before = page[-1].signature
    else:
        return Scan(tuple(entries.values()), complete=False, to_the_end=False)
    complete = in_order and all(signature in entries for signature in known)
    return Scan(tuple(entries.values()), complete, to_the_end=reached_end and until is None)


def _is_before(entry: Entry, time: int) -> bool:
    return entry.time is not None and entry.time < time
