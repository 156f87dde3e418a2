"""What changed between two books: layer by layer, rule by rule, and in which direction."""

from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal

from policies.book import Book, LayerKey
from policies.decision import BUILT_IN
from policies.policy import Policy
from policies.rules import KEYS, PINNINGS, Rules

Direction = Literal["tighter", "looser", "other"]

# What holds where neither an agent nor the defaults say anything.
_BUILT_IN: dict[str, Any] = {
    rule: value
    for layer in (Policy.of("", Rules(), Rules()).stack[1], BUILT_IN)
    for rule, value in layer.rules.to_json().items()
}


@dataclass(frozen=True, slots=True)
class Change:
    """One rule of one layer. `before` and `after` as they are written, None where it says nothing.

    `direction`: "tighter" if it can only allow less than before, "looser" if only more, "other" if
    neither can be said of it, or if it decides nothing.
    """

    layer: LayerKey
    rule: str
    before: Any
    after: Any
    direction: Direction

    def to_json(self) -> dict[str, Any]:
        return {
            "layer": str(self.layer),
            "agent": self.layer.agent,
            "provider": self.layer.provider,
            "rule": self.rule,
            "before": self.before,
            "after": self.after,
            "direction": self.direction,
        }


def diff(before: Book, after: Book) -> list[Change]:
    """Every change, in the order of layers and of rules. The versions are not compared."""
    old, new = dict(before.layers()), dict(after.layers())
    changes: list[Change] = []
    for key in sorted({*old, *new}, key=_order):
        was, now = flat(old.get(key, Rules())), flat(new.get(key, Rules()))
        held, holds = _in_force(key, was, before), _in_force(key, now, after)
        for rule in sorted({*was, *now}, key=_place):
            if was.get(rule) != now.get(rule):
                direction = _direction(rule, held.get(rule), holds.get(rule))
                changes.append(Change(key, rule, was.get(rule), now.get(rule), direction))
    return changes


def flat(rules: Rules) -> dict[str, Any]:
    """A layer as JSON, each window of `rolling` and `payments` a rule of its own."""
    found: dict[str, Any] = {}
    for key, value in rules.to_json().items():
        if isinstance(value, dict):
            found |= {f"{key}.{window}": inner for window, inner in value.items()}
        else:
            found[key] = value
    return found


def _in_force(key: LayerKey, said: dict[str, Any], book: Book) -> dict[str, Any]:
    """What holds by this layer: where an agent says nothing, the defaults speak."""
    if key.provider is not None:
        return said
    below = flat(book.defaults) if key.agent is not None else {}
    return _BUILT_IN | below | said


def _order(key: LayerKey) -> tuple[int, str, str]:
    kind = 0 if key == LayerKey() else 1 if key.agent is None else 2
    return kind, key.agent or "", key.provider or ""


def _place(rule: str) -> tuple[int, str]:
    return KEYS.index(rule.partition(".")[0]), rule


def _direction(rule: str, was: Any, now: Any) -> Direction:
    key = rule.partition(".")[0]
    unsaid = was is None or now is None
    if key in _WORDS or (unsaid and key in BUILT_IN.rules.to_json()):
        return "other"  # in a provider's layer: what else holds then is said elsewhere
    if key == "allowed_targets":
        return _sets(was, now)
    if key == "denied_endpoints":
        return _sets(now, was)
    if not unsaid and (key.startswith("allowed_") or key == "hours"):
        return _sets(was, now)
    wide, wider = _width(key, now), _width(key, was)
    return "other" if wider == wide else "tighter" if wide < wider else "looser"


def _width(key: str, value: Any) -> Decimal:
    """How much a value allows, as a number. A list is one that is there, or not."""
    if key == "frozen":
        return Decimal(0 if value else 1)
    if key == "pay_to_pinning":
        return Decimal(-PINNINGS.index(value or PINNINGS[0]))
    if isinstance(value, list):
        return Decimal(0)
    return _ENDLESS if value is None else Decimal(value)


def _sets(was: list[Any] | None, now: list[Any] | None) -> Direction:
    """Where each entry allows something."""
    before, after = set(was or ()), set(now or ())
    return "tighter" if after < before else "looser" if after > before else "other"


_ENDLESS = Decimal("Infinity")
_WORDS = (
    *("wallet", "asset_order", "network_order", "approval_wait_seconds"),
    "share_identical",
)
