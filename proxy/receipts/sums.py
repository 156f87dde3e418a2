"""What receipts add up to: those of the part of each chain that is proved, and no others."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from uuid import UUID

Place = tuple[UUID, str, str]
"""An agent, and the network and asset in which it paid."""


@dataclass(slots=True)
class Total:
    """Of one agent in one asset. Reversed payments are in no other number than theirs."""

    receipts: int = 0
    amount: int = 0
    price: int = 0
    reversed: int = 0
    reversed_amount: int = 0


@dataclass(frozen=True, slots=True)
class Entry:
    """What one link adds. `reverses`: the receipt it takes back was added before; `older`: it takes
    back one that is older than the file."""

    place: Place
    seq: int
    amount: int
    price: int
    reverses: bool = False
    older: bool = False


def totals(entries: Iterable[Entry], proved_to: Mapping[UUID, int]) -> dict[Place, Total]:
    """`proved_to`: of each agent the last link that is proved; 0: none is."""
    found: dict[Place, Total] = {}
    for entry in entries:
        if entry.seq > proved_to[entry.place[0]]:
            continue
        total = found.setdefault(entry.place, Total())
        if entry.reverses or entry.older:
            total.reversed += 1
            total.reversed_amount += entry.amount
        if not entry.older:
            sign = -1 if entry.reverses else 1
            total.receipts += sign
            total.amount += sign * entry.amount
            total.price += sign * entry.price
    return found
