"""What another book would have decided of what was decided already.

A pure replay, in the order in which it happened: the rules of each offer, the limits of each window
with what this book would have let through, receivers, prices and losses as they came to be known,
and the ceilings above all policies. The switch that halts all is left out. Where the log lacks what
a rule asks about, and no other rule denies, nothing is known of that decision.
"""

from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Literal

from policies.book import Book
from policies.decision import decide
from policies.explanation import CEILINGS, Ceiling, Facts, Used, explain, first_no, median
from policies.policy import Ask, Layer, Policy
from policies.rules import Limit, window_hours

Effect = Literal["same", "denied", "allowed", "unknown"]
UNKNOWN: Literal["unknown"] = "unknown"

# The ledger's own memory of prices is as long.
_PRICES = 21

# What is asked about the receiver, asset and network of an offer, and about its terms.
_OF_OFFER = frozenset({"pay_to_pinning", "allowed_pay_to", "allowed_assets", "allowed_networks"})
_OF_TERMS = frozenset({"allowed_schemes", "allowed_flows", "max_timeout_seconds"})


@dataclass(frozen=True, slots=True)
class Logged:
    """One decision of the log. `code`: what it was, `ok` if it was paid. `offer_known`: whether
    receiver, asset and network are; `terms_known`: whether scheme, flow and timeout are. Where
    `timeout_known` is not true, the offer asked for at least the timeout in `ask`, or for none.
    `payer`: the wallet, "" if none was asked yet. `final`: whether the money stayed spent; `lost`:
    whether nothing came for it; `approved`: whether an operator had said yes."""

    at: datetime
    agent: str
    provider: str
    ask: Ask
    code: str
    session: str | None = None
    trace: str | None = None
    offer_known: bool = True
    terms_known: bool = True
    timeout_known: bool = True
    payer: str = ""
    final: bool = True
    lost: bool = False
    approved: bool = False


@dataclass(frozen=True, slots=True)
class DayLimit:
    """A ceiling (`autopay limit`), in micro-USD per UTC day. `subject` is a provider, a wallet, or
    `*` for each of them; `agent` None: every one."""

    kind: str
    agent: str | None
    subject: str
    limit: int


@dataclass(frozen=True, slots=True)
class Replayed:
    """A decision, and what the other book says of it. `effect`: "denied" if only the other book
    denies it, "allowed" if only it allows; "unknown", as is `code`, if the log lacks what the rules
    of `not_known` ask about, and no other one denies."""

    logged: Logged
    code: str
    rule: str
    layer: str
    effect: Effect
    not_known: tuple[str, ...] = ()


def simulate(
    book: Book,
    log: Iterable[Logged],
    since: datetime,
    *,
    ceilings: Sequence[DayLimit] = (),
    running: Book | None = None,
) -> Iterator[Replayed]:
    """Replays decisions, which come in their order. Those from before `since` fill the windows and
    are not told of. Where `book` names another wallet than `running` does, it is not known which
    address would have paid."""
    memory = _Memory(ceilings)
    for one in log:
        ask = replace(one.ask, at=one.at)
        policy = book.policy(one.agent, ask.scheme, ask.host, ask.port)
        before = (running or book).policy(one.agent, ask.scheme, ask.host, ask.port)
        payer = one.payer if policy.wallet == before.wallet else ""
        replayed = _decided(policy, replace(one, ask=ask), memory.facts(policy, one, payer))
        # Of what is not known, what was paid then is counted as paid.
        if replayed.code == "ok" or (replayed.code == UNKNOWN and one.code == "ok"):
            memory.keep(policy, one, payer)
        if one.at >= since:
            yield replace(replayed, logged=one)


def _decided(policy: Policy, one: Logged, facts: Facts) -> Replayed:
    blank = (frozenset() if one.offer_known else _OF_OFFER) | (
        frozenset() if one.terms_known else _OF_TERMS
    )
    verdict = decide(policy, one.ask)
    if not verdict.allowed and verdict.rule not in blank:
        code, rule, layer = verdict.code, verdict.rule, verdict.layer
        return Replayed(one, code, rule, layer, _effect(one.code, code))
    steps = explain(policy, one.ask, facts)
    no = first_no([step for step in steps if step.rule not in blank])
    if no is not None:
        return Replayed(one, no.code, no.rule, no.layer, _effect(one.code, no.code))
    # A timeout that is too long is so if it was longer, or was not named.
    doubtful = blank if one.timeout_known else blank | {"max_timeout_seconds"}
    unknown = [
        step
        for step in steps
        if step.outcome == "unknown" or (step.rule in doubtful and step.outcome != "silent")
    ]
    if unknown:
        rules = tuple(dict.fromkeys(step.rule for step in unknown))
        return Replayed(one, UNKNOWN, rules[0], unknown[0].layer, UNKNOWN, rules)
    return Replayed(one, "ok", "", "", _effect(one.code, "ok"))


def _effect(was: str, now: str) -> Effect:
    if (was == "ok") == (now == "ok"):
        return "same"
    return "denied" if was == "ok" else "allowed"


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

    def __init__(self, ceilings: Sequence[DayLimit]) -> None:
        self._ceilings = ceilings
        self._days: dict[tuple[str, ...], int] = defaultdict(int)
        self._windows: dict[tuple[str, ...], _Window] = defaultdict(_Window)
        self._payees: dict[tuple[str, str], str] = {}
        self._prices: dict[tuple[str, ...], deque[int]] = defaultdict(lambda: deque(maxlen=_PRICES))
        self._lost: dict[tuple[str, ...], int] = defaultdict(int)

    def facts(self, policy: Policy, one: Logged, payer: str) -> Facts:
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
            ceilings=[*self._above(one, payer)],
            pinned=() if payee is None else (payee,),
            last_paid=prices[-1] if prices else None,
            median_paid=median(prices),
            lost={layer.name: self._lost[_loss_key(layer, one)] for layer in policy.stack},
            approved=one.approved,
        )

    def _above(self, one: Logged, payer: str) -> Iterator[Ceiling]:
        for key, agent, subject in _day_keys(one, payer):
            kind = key[0]
            if subject:
                limit = _limit(self._ceilings, kind, agent, subject)
            else:
                those = (each.limit for each in self._ceilings if each.kind == kind)
                limit = min(those, default=None)
            if limit is not None:
                used = Used(self._days[key]) if subject else None
                yield Ceiling(*CEILINGS[kind], limit, used)

    def keep(self, policy: Policy, one: Logged, payer: str) -> None:
        if not one.final:
            return
        for counter, _, subject in _day_keys(one, payer):
            if subject:
                self._days[counter] += one.ask.price
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


def _day_keys(one: Logged, payer: str) -> list[tuple[tuple[str, ...], str | None, str]]:
    """Of each ceiling: its counter, the agent that it is of, and its subject ("" if that is not
    known). A wallet is counted on each network by itself."""
    day = one.at.strftime("%Y-%m-%d")
    wallet = payer if one.offer_known else ""
    return [
        (("agent_provider_day", one.agent, one.provider, day), one.agent, one.provider),
        (("provider_day", one.provider, day), None, one.provider),
        (("wallet_day", one.ask.network, wallet, day), None, wallet),
        (("fleet_day", day), None, "*"),
    ]


def _limit(ceilings: Sequence[DayLimit], kind: str, agent: str | None, subject: str) -> int | None:
    """As the ledger looks it up: the agent's own goes before everybody's, then what names its
    subject before what is for each."""
    found = [
        one
        for one in ceilings
        if one.kind == kind and one.agent in (agent, None) and one.subject in (subject, "*")
    ]
    found.sort(key=lambda one: (one.agent is None, one.subject == "*"))
    return found[0].limit if found else None
