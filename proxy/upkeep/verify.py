"""A live database held against the manifest: what is missing, what was altered, what is more."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from proxy.upkeep.catalog import DEFINITION, Catalog, Parts

# A hand that gives one of our roles, or everyone, more than the schema does has altered it; a
# grant to somebody's own login is theirs to give.
_OURS = ("PUBLIC", "autopay_")


class Kind(Enum):
    MISSING = "missing"
    ALTERED = "altered"
    EXTRA = "extra"


@dataclass(frozen=True, slots=True)
class Difference:
    """`what` names the thing; `detail` says how it differs. Only EXTRA ones are harmless."""

    kind: Kind
    what: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.kind.value}  {self.what}" + (f": {self.detail}" if self.detail else "")


def differences(wanted: Catalog, found: Catalog) -> list[Difference]:
    """Every difference, in a steady order: what is wrong first, what is merely more last."""
    same_words = wanted.server_major == found.server_major
    every = [
        *_of_objects(wanted.objects, found.objects, same_words=same_words),
        *_of_partitions(wanted, found),
    ]
    return sorted(every, key=lambda one: (one.kind is Kind.EXTRA, one.what))


def _of_objects(
    wanted: dict[str, Parts], found: dict[str, Parts], *, same_words: bool
) -> Iterator[Difference]:
    for name, parts in wanted.items():
        if name not in found:
            yield Difference(Kind.MISSING, name)  # and with it, every part
        else:
            yield from _of_parts(name, parts, found[name], same_words=same_words)
    for name in found.keys() - wanted.keys():
        yield Difference(Kind.EXTRA, name)


def _of_parts(name: str, wanted: Parts, found: Parts, *, same_words: bool) -> Iterator[Difference]:
    for part, text in wanted.items():
        if part == DEFINITION and not same_words:
            continue
        what = f"{name}, {part}" if part else name
        if part not in found:
            yield Difference(Kind.MISSING, what)
        elif found[part] != text:
            yield Difference(Kind.ALTERED, what, _how(text, found[part]))
    for part in found.keys() - wanted.keys():
        kind = Kind.ALTERED if _weakens(part) else Kind.EXTRA
        yield Difference(kind, f"{name}, {part}", "is not in the schema" if _weakens(part) else "")


def _weakens(part: str) -> bool:
    """Whether a part that the schema does not have lets somebody do more, or rows be changed."""
    if part.startswith("grants to "):
        return part.removeprefix("grants to ").startswith(_OURS)
    return part.startswith(("policy ", "rule ", "trigger "))


def _how(wanted: str, found: str) -> str:
    """The two texts, or in which of their parts they differ."""
    if "sha256 " not in wanted:
        return f"is {found or '(plain)'}, should be {wanted or '(plain)'}"
    before, after = (set(text.split(", ")) for text in (wanted, found))
    told = [f"is {one}" for one in sorted(after - before) if not one.startswith("sha256")]
    told += [f"should be {one}" for one in sorted(before - after) if not one.startswith("sha256")]
    if any(one.startswith("sha256") for one in after - before):
        told.append("its body was changed")
    return "; ".join(told)


def _of_partitions(wanted: Catalog, found: Catalog) -> Iterator[Difference]:
    """Every month's partition is like its table's default one, under another name."""
    for parent, months in found.partitions.items():
        pattern = wanted.objects.get(f"table {parent}_default")
        if pattern is None:
            continue  # not a table of ours
        for name, parts in months.items():
            yield from _of_parts(name, pattern, parts, same_words=True)
