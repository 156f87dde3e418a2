"""What another book would have decided of what was decided already.

A pure replay, in the order in which it happened: the rules of each offer, the limits of each window
with what this book would have let through, receivers, prices and losses as they came to be known.
What stands above policies (ceilings, the switch that halts all) is left out.
"""

from collections import defaultdict, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Literal

from policies.book import Book
from policies.decision import decide
from policies.explanation import Facts, Used, explain, first_no, median
from policies.policy import Ask, Layer, Policy
from policies.rules import Limit, window_hours

Effect = Literal["same", "denied", "allowed"]

# The ledger's own memory of prices is as long.
_PRICES = 21


@dataclass(frozen=True, slots=True)
class Logged:
    """One decision of the log. `code`: what it was, `ok` if it was paid. `offer_known`: whether
    receiver, asset and network are, which is not so of what was denied at first sight. `final`:
    whether the money stayed spent; `lost`: whether nothing came for it; `approved`: whether an
    operator had said yes."""

    at: datetime
    agent: str
    provider: str
    ask: Ask
    code: str
    session: str | None = None
    trace: str | None = None
    offer_known: bool = True
    final: bool = True
    lost: bool = False
    approved: bool = False


@dataclass(frozen=True, slots=True)
class Replayed:
    """A decision, and what the other book says of it. `effect`: "denied" if only the other book
    denies it, "allowed" if only it allows."""

    logged: Logged
    code: str
    rule: str
    layer: str
    effect: Effect


def simulate(book: Book, log: Iterable[Logged], since: datetime) -> Iterator[Replayed]:
    """Replays decisions, which come in their order. Those from before `since` fill the windows and
    are not told of."""
    memory = _Memory()
    for one in log:
        ask = replace(one.ask, at=one.at)
        policy = book.policy(one.agent, ask.scheme, ask.host, ask.port)
        # What the log does not hold, no rule can ask about.
        policy = _without_offers(policy) if not one.offer_known else _without_timeouts(policy)
        code, rule, layer = _decided(policy, ask, memory.facts(policy, one))
        if code == "ok":
            memory.keep(policy, one)
        if one.at >= since:
            yield Replayed(one, code, rule, layer, _effect(one.code, code))


def _decided(policy: Policy, ask: Ask, facts: Facts) -> tuple[str, str, str]:
    verdict = decide(policy, ask)
    if not verdict.allowed:
        return verdict.code, verdict.rule, verdict.layer
    no = first_no(explain(policy, ask, facts))
    return ("ok", "", "") if no is None else (no.code, no.rule, no.layer)


def _effect(was: str, now: str) -> Effect:
    if (was == "ok") == (now == "ok"):
        return "same"
    return "denied" if was == "ok" else "allowed"


def _without_timeouts(policy: Policy) -> Policy:
    layers = (
        replace(one, rules=replace(one.rules, max_timeout_seconds=None)) for one in policy.layers
    )
    return replace(policy, layers=tuple(layers))


def _without_offers(policy: Policy) -> Policy:
    bare = replace(
        _without_timeouts(policy), allowed_pay_to=(), allowed_assets=(), allowed_networks=()
    )
    layers = (
        replace(
            one,
            rules=replace(
                one.rules,
                pay_to_pinning=None,
                allowed_pay_to=(),
                allowed_assets=(),
                allowed_networks=(),
                allowed_schemes=(),
                allowed_flows=(),
            ),
        )
        for one in bare.layers
    )
    return replace(bare, layers=tuple(layers))


@dataclass(slots=True)
class _Window:
    """What was spent in one window of one layer, for one of those that it counts."""

    entries: deque[tuple[datetime, int]] = field(default_factory=deque)
    spent: int = 0

    def forget(self, before: datetime) -> None:
        while self.entries and self.entries[0][0] <= before:
            self.spent -= self.entries.popleft()[1]

    def add(self, at: datetime, micros: int) -> None:
        self.entries.append((at, micros))
        self.spent += micros


class _Memory:
    """What the ledger would know by now."""

    def __init__(self) -> None:
        self._windows: dict[tuple[str, ...], _Window] = defaultdict(_Window)
        self._payees: dict[tuple[str, str], str] = {}
        self._prices: dict[tuple[str, ...], deque[int]] = defaultdict(lambda: deque(maxlen=_PRICES))
        self._lost: dict[tuple[str, ...], int] = defaultdict(int)

    def facts(self, policy: Policy, one: Logged) -> Facts:
        used = {}
        for layer in policy.stack:
            for limit in layer.rules.limits:
                key = _window_key(layer, limit, one)
                if key is None:
                    continue
                window = self._windows[key]
                hours = window_hours(limit.window)
                if hours is not None:
                    window.forget(one.at - timedelta(hours=hours))
                used[layer.name, limit.window] = Used(
                    spent=window.spent, payments=len(window.entries)
                )
        payee = self._payees.get((one.provider, one.ask.network))
        prices = self._prices[one.provider, one.ask.method, one.ask.path]
        return Facts(
            used=used,
            pinned=() if payee is None else (payee,),
            last_paid=prices[-1] if prices else None,
            median_paid=median(prices),
            lost={layer.name: self._lost[_loss_key(layer, one)] for layer in policy.stack},
            approved=one.approved,
        )

    def keep(self, policy: Policy, one: Logged) -> None:
        if not one.final:
            return
        for layer in policy.stack:
            for limit in layer.rules.limits:
                key = _window_key(layer, limit, one)
                if key is not None:
                    self._windows[key].add(one.at, one.ask.price)
            if one.lost:
                self._lost[_loss_key(layer, one)] += one.ask.price
        if one.offer_known:
            self._payees.setdefault((one.provider, one.ask.network), one.ask.pay_to)
        self._prices[one.provider, one.ask.method, one.ask.path].append(one.ask.price)


def _window_key(layer: Layer, limit: Limit, one: Logged) -> tuple[str, ...] | None:
    """Which counter this is; None where there is none, as for a trace that has no name."""
    who = one.agent if layer.per_agent else ""
    if limit.window in ("session", "trace"):
        name = one.session if limit.window == "session" else one.trace
        return None if name is None else (layer.name, limit.window, who, name)
    cut = {"hour": "%Y-%m-%d %H", "day": "%Y-%m-%d", "month": "%Y-%m"}.get(limit.window, "")
    return layer.name, limit.window, who, one.at.strftime(cut) if cut else ""


def _loss_key(layer: Layer, one: Logged) -> tuple[str, ...]:
    return layer.name, one.agent if layer.per_agent else "", one.at.strftime("%Y-%m-%d")
