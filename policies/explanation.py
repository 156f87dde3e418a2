"""Every rule in the one order, with the numbers and what came of it.

The first are `decision.RULES`, asked of the offer alone. Those after them are the ledger's: it
asks them where money is reserved, of what was paid before. Here they are answered from `Facts`, as
they stand at one moment; without facts they are told as they would be asked.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal

from policies.decision import RULES, Rule
from policies.money import format_usd
from policies.policy import Ask, Layer, Policy
from policies.rules import AMOUNT_KEYS, Limit, Rules

Outcome = Literal["allows", "denies", "silent", "unknown"]

# The ceilings above all layers, by their kinds, in the ledger's order: what they are of, and the
# code that each denies with.
CEILINGS: Mapping[str, tuple[str, str]] = {
    "agent_provider_day": (
        "this agent with this provider, per day",
        "over_agent_provider_limit",
    ),
    "provider_day": ("this provider, per day", "over_provider_limit"),
    "wallet_day": ("this wallet, per day", "over_wallet_limit"),
    "fleet_day": ("everything, per day", "over_fleet_limit"),
}

# The ledger's rules in its order, with the codes that they deny with.
LEDGER_RULES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("halted", ("spending_halted",)),
    ("pay_to_pinning", ("pay_to_changed",)),
    ("max_price_ratio_last", ("price_drift",)),
    ("max_price_ratio_median", ("price_drift",)),
    ("loss_cap", ("over_loss_cap",)),
    ("approval_above", ("approval_required",)),
    ("daily", ("over_daily_limit", "too_many_payments")),  # of agents and defaults
    ("session", ("over_session_limit",)),
    ("trace", ("over_trace_limit",)),
    ("ceilings", tuple(code for _, code in CEILINGS.values())),
    ("hourly", ("over_hourly_limit", "too_many_payments")),
    ("daily", ("over_daily_limit", "too_many_payments")),  # of providers
    ("monthly", ("over_monthly_limit", "too_many_payments")),
    ("lifetime", ("over_lifetime_limit", "too_many_payments")),
    ("rolling", ("over_rolling_limit", "too_many_payments")),
)
_CEILINGS = 3
_WINDOW_CODES = {window: f"over_{key}_limit" for window, key in AMOUNT_KEYS.items()}


@dataclass(frozen=True, slots=True)
class Step:
    """One rule, as one layer says it (`layer` is empty where none does, or where it is no layer's).

    `value` is what the layer says, as it is written. `numbers`: what it was compared with, amounts
    in USD. `code`: of the denial, if it is one.
    """

    rule: str
    layer: str
    outcome: Outcome
    value: Any = None
    code: str = ""
    detail: str = ""
    numbers: Mapping[str, str | int | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Used:
    """What of one window is used. Micro-USD; `payments` settled and under way."""

    spent: int = 0
    held: int = 0
    payments: int = 0
    resets_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Ceiling:
    """A ceiling that stands above the policies (`autopay limit`), and what of it is used; None if
    it is not known whose it is, as that of a wallet where nobody knows which one would pay."""

    name: str
    code: str
    limit: int
    used: Used | None


@dataclass(frozen=True, slots=True)
class Facts:
    """What the ledger knows, at one moment, of what it would be asked. Amounts in micro-USD."""

    halted: str | None = None  # why all spending is halted, if it is
    used: Mapping[tuple[str, str], Used] = field(default_factory=dict)  # by layer and window
    ceilings: Sequence[Ceiling] = ()
    pinned: Sequence[str] = ()  # receivers of this provider on this network; none: a first use
    last_paid: int | None = None  # for this method and endpoint
    median_paid: Decimal | None = None
    lost: Mapping[str, int] = field(default_factory=dict)  # today, by layer
    approved: bool | None = False  # None: there may be an approval, but it is not known of what
    approval: str = ""  # which one that is, or what is known instead: sentences


def explain(policy: Policy, ask: Ask, facts: Facts | None = None) -> list[Step]:
    """Every rule in the order in which they are asked. Pure and total."""
    stack = policy.stack
    steps = [step for rule in RULES for step in _asked(rule, ask, stack)]
    steps += _halted(facts)
    steps += _pinning(stack, ask, facts)
    for key in ("max_price_ratio_last", "max_price_ratio_median"):
        steps += _drift(key, stack, ask, facts)
    steps += _losses(stack, ask, facts)
    steps += _approvals(stack, ask, facts)
    windows = sorted(
        ((_rank(layer, limit), layer, limit) for layer in stack for limit in layer.rules.limits),
        key=lambda one: one[0],
    )
    for rank, layer, limit in windows:
        if rank < _CEILINGS:
            steps += _window(layer, limit, ask, facts)
    steps += [_ceiling(one, ask) for one in (facts.ceilings if facts else ())]
    for rank, layer, limit in windows:
        if rank > _CEILINGS:
            steps += _window(layer, limit, ask, facts)
    return steps


def first_no(steps: Sequence[Step]) -> Step | None:
    """The step that decides: the first that denies."""
    return next((step for step in steps if step.outcome == "denies"), None)


def conclusion(steps: Sequence[Step]) -> tuple[str, bool | None, Step | None]:
    """The code, whether it would be allowed, and the step that decides. Where none denies and one
    cannot be answered, that is "unknown" and None, by the first of those."""
    no = first_no(steps)
    if no is not None:
        return no.code, False, no
    unknown = next((step for step in steps if step.outcome == "unknown"), None)
    return ("ok", True, None) if unknown is None else ("unknown", None, unknown)


def median(amounts: Iterable[int]) -> Decimal | None:
    """The exact one; None of nothing."""
    ordered = sorted(amounts)
    if not ordered:
        return None
    return Decimal(ordered[len(ordered) // 2] + ordered[(len(ordered) - 1) // 2]) / 2


def _rank(layer: Layer, limit: Limit) -> int:
    """When the ledger comes to this window, beside those of others: in the order of its counters,
    an agent's day, session and trace before the ceilings."""
    own = ("day", "session", "trace")
    if limit.window in own and layer.provider is None:
        return own.index(limit.window)
    later = ("hour", "day", "month", "lifetime")
    return _CEILINGS + 1 + (later.index(limit.window) if limit.window in later else len(later))


def _asked(rule: Rule, ask: Ask, stack: Sequence[Layer]) -> list[Step]:
    layers = rule.layers(stack)
    if not layers:
        return [Step(rule.key, "", "silent")]
    steps = []
    for layer in layers:
        no = rule.ask(layer, ask, stack)
        value = _written(layer.rules, rule.key)
        if no is None:
            steps.append(Step(rule.key, layer.name, "allows", value))
        else:
            steps.append(Step(rule.key, layer.name, "denies", value, no.code, no.detail))
    return steps


def _halted(facts: Facts | None) -> list[Step]:
    if facts is None:
        return [Step("halted", "", "unknown", detail="The ledger knows.")]
    if facts.halted is None:
        return [Step("halted", "", "allows", False)]
    return [Step("halted", "", "denies", True, "spending_halted", facts.halted)]


def _pinning(stack: Sequence[Layer], ask: Ask, facts: Facts | None) -> list[Step]:
    steps = []
    for layer in stack:
        if layer.rules.pay_to_pinning != "first_use":
            continue
        step = Step("pay_to_pinning", layer.name, "unknown", "first_use")
        if facts is None:
            steps.append(step)
            continue
        known = ", ".join(facts.pinned)
        if not facts.pinned:
            step = _as(step, "allows", detail="Nobody is pinned yet: this would be the first use.")
        elif not ask.pay_to:
            step = _as(step, "unknown", detail=f"Pinned: {known}; whom it would pay was not said.")
        elif ask.pay_to in facts.pinned:
            step = _as(step, "allows", detail=f"Pinned: {known}.")
        else:
            step = _as(step, "denies", "pay_to_changed", f"Pinned: {known}.")
        steps.append(step)
    return steps


def _drift(key: str, stack: Sequence[Layer], ask: Ask, facts: Facts | None) -> list[Step]:
    steps = []
    for layer in stack:
        ratio: Decimal | None = getattr(layer.rules, key)
        if ratio is None:
            continue
        step = Step(key, layer.name, "unknown", str(ratio))
        if facts is not None:
            last = key == "max_price_ratio_last"
            paid = facts.last_paid if last else facts.median_paid
            if paid is None:
                step = _as(step, "allows", detail="Nothing was paid here before.")
            else:
                over = ask.price > ratio * paid
                step = _as(
                    step,
                    "denies" if over else "allows",
                    "price_drift" if over else "",
                    numbers={
                        "asked_usd": format_usd(ask.price),
                        ("last_usd" if last else "median_usd"): format_usd(int(paid)),
                        "most_usd": format_usd(int(ratio * paid)),
                    },
                )
        steps.append(step)
    return steps


def _losses(stack: Sequence[Layer], ask: Ask, facts: Facts | None) -> list[Step]:
    steps = []
    for layer in stack:
        cap = layer.rules.loss_cap
        if cap is None:
            continue
        step = Step("loss_cap", layer.name, "unknown", format_usd(cap))
        if facts is not None:
            lost = facts.lost.get(layer.name, 0)
            over = lost + ask.price > cap
            step = _as(
                step,
                "denies" if over else "allows",
                "over_loss_cap" if over else "",
                numbers={"asked_usd": format_usd(ask.price), "lost_usd": format_usd(lost)},
            )
        steps.append(step)
    return steps


def _approvals(stack: Sequence[Layer], ask: Ask, facts: Facts | None) -> list[Step]:
    steps = []
    for layer in stack:
        above = layer.rules.approval_above
        if above is None:
            continue
        step = Step("approval_above", layer.name, "allows", format_usd(above))
        if ask.price > above:
            if facts is None:
                step = _as(step, "unknown", detail="An operator must have approved it.")
            elif facts.approved is None:
                step = _as(step, "unknown", detail=facts.approval)
            elif facts.approved:
                step = _as(step, "allows", detail=facts.approval or "An operator has approved it.")
            else:
                why = facts.approval or "An operator must approve it first."
                step = _as(step, "denies", "approval_required", why)
        steps.append(step)
    return steps


def _window(layer: Layer, limit: Limit, ask: Ask, facts: Facts | None) -> list[Step]:
    used = None if facts is None else facts.used.get((layer.name, limit.window), Used())
    steps = []
    if limit.micros is not None:
        key = AMOUNT_KEYS.get(limit.window, f"rolling.{limit.window}")
        step = Step(key, layer.name, "unknown", format_usd(limit.micros))
        if used is not None:
            code = _WINDOW_CODES.get(limit.window) or "over_rolling_limit"
            step = _within(step, code, limit.micros, used, ask)
        steps.append(step)
    if limit.payments is not None:
        step = Step(f"payments.{limit.window}", layer.name, "unknown", limit.payments)
        if used is not None:
            over = used.payments >= limit.payments
            step = _as(
                step,
                "denies" if over else "allows",
                "too_many_payments" if over else "",
                numbers={"payments": used.payments, "left": max(limit.payments - used.payments, 0)},
            )
        steps.append(step)
    return steps


def _ceiling(one: Ceiling, ask: Ask) -> Step:
    step = Step(f"ceiling: {one.name}", "", "unknown", format_usd(one.limit))
    if one.used is None:
        return _as(step, "unknown", detail="Which wallet would pay is not known here.")
    return _within(step, one.code, one.limit, one.used, ask)


def _within(step: Step, code: str, limit: int, used: Used, ask: Ask) -> Step:
    left = limit - used.spent - used.held
    over = ask.price > left
    return _as(
        step,
        "denies" if over else "allows",
        code if over else "",
        numbers={
            "asked_usd": format_usd(ask.price),
            "spent_usd": format_usd(used.spent),
            "held_usd": format_usd(used.held),
            "left_usd": format_usd(left),
            "resets_at": used.resets_at.isoformat() if used.resets_at is not None else None,
        },
    )


def _as(
    step: Step,
    outcome: Outcome,
    code: str = "",
    detail: str = "",
    numbers: Mapping[str, str | int | None] | None = None,
) -> Step:
    return Step(step.rule, step.layer, outcome, step.value, code, detail, numbers or {})


def _written(rules: Rules, key: str) -> Any:
    return rules.to_json().get(key)
