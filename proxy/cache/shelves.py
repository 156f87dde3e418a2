"""The answers that are kept, in memory: found by whose they are and what was asked for, bounded by
bytes and by number. What was used least recently makes room."""

from collections import OrderedDict
from collections.abc import Callable, Container
from dataclasses import dataclass
from typing import NamedTuple
from uuid import UUID

from proxy.cache.rules import Life
from proxy.wire.egress import Place
from proxy.wire.gate import Bought
from proxy.wire.origin import Origin
from proxy.wire.parsers import RawHeaders
from proxy.wire.tap import Stock

MOST_VARIANTS = 32
# What Python takes for an entry and for each field of it, beside their bytes: measured, rounded up.
_OVERHEAD, _FIELD = 1536, 128


class Key(NamedTuple):
    """Whose answers, and to what. `owner` None: everybody's. `credential` is the digest of what
    the owner's requests said of who asks, beside the agent; b"" if nothing."""

    owner: UUID | None
    credential: bytes
    origin: Origin
    target: bytes


@dataclass(frozen=True, slots=True, eq=False)
class Stored:
    """One answer. `came_at` on the loop's clock; `varies`: see `rules.varied`. `place`: the address
    that it came from."""

    key: Key
    method: str
    status: int
    reason: bytes
    headers: RawHeaders
    body: bytes
    life: Life
    came_at: float
    varies: tuple[tuple[bytes, bytes | None], ...]
    bought: Bought
    place: Place | None

    def age(self, now: float) -> float:
        return self.life.age + now - self.came_at

    @property
    def size(self) -> int:
        fields = sum(len(name) + len(value) + _FIELD for name, value in self.headers)
        return len(self.body) + len(self.key.target) + fields + _OVERHEAD


class Shelves:
    """`stock` is shared with the bodies that are still on their way here."""

    def __init__(self, size: int, most: int) -> None:
        self.stock = Stock(size)
        self.size = size
        self._most = most
        self._shelves: OrderedDict[Key, tuple[Stored, ...]] = OrderedDict()
        self._of_url: dict[tuple[Origin, bytes], set[Key]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @property
    def used(self) -> int:
        """Bytes that are taken."""
        return self.size - self.stock.left

    def at(self, key: Key) -> tuple[Stored, ...]:
        """What is kept there, the newest first."""
        found = self._shelves.get(key)
        if found is None:
            return ()
        self._shelves.move_to_end(key)
        return found

    def take(self, size: int) -> bool:
        """Room for so many more bytes, whatever has to go for it; False if there can't be."""
        if size > self.size:
            return False
        while self.stock.left < size:
            if not self._shelves:
                return False
            self._evict()
        self.stock.take(size)
        return True

    def give(self, size: int) -> None:
        self.stock.give(size)

    def put(self, one: Stored) -> bool:
        """Keep it, in the stead of what answered the same requests; whether there was room."""
        self.remove(one.key, lambda other: _same(one, other))
        if not self.take(one.size):
            return False
        before = self._shelves.get(one.key, ())
        for surplus in before[MOST_VARIANTS - 1 :]:
            self._drop(surplus)
        self._shelves[one.key] = (one, *before[: MOST_VARIANTS - 1])
        self._of_url.setdefault((one.key.origin, one.key.target), set()).add(one.key)
        self._shelves.move_to_end(one.key)
        self._count += 1
        while self._count > self._most:
            self._evict()
        return True

    def remove(self, key: Key, which: Callable[[Stored], bool] = lambda _: True) -> None:
        found = self._shelves.get(key)
        if found is None:
            return
        left = tuple(one for one in found if not which(one))
        for one in found:
            if one not in left:
                self._drop(one)
        if left:
            self._shelves[key] = left
        else:
            del self._shelves[key]
            self._forget(key)

    def changed(self, origin: Origin, target: bytes, owner: UUID) -> None:
        """What was asked for there is not what it was: the answers of this owner, and everybody's,
        go."""
        for key in list(self._of_url.get((origin, target), ())):
            if key.owner is None or key.owner == owner:
                self.remove(key)

    def keep_only(self, owners: Container[UUID]) -> None:
        """The answers of all others go."""
        for key in list(self._shelves):
            if key.owner is not None and key.owner not in owners:
                self.remove(key)

    def _evict(self) -> None:
        key, found = self._shelves.popitem(last=False)
        self._forget(key)
        for one in found:
            self._drop(one)

    def _forget(self, key: Key) -> None:
        keys = self._of_url[key.origin, key.target]
        keys.discard(key)
        if not keys:
            del self._of_url[key.origin, key.target]

    def _drop(self, one: Stored) -> None:
        self._count -= 1
        self.stock.give(one.size)


def _same(one: Stored, other: Stored) -> bool:
    return (one.method, one.varies) == (other.method, other.varies)
