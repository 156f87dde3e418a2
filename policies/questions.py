"""What the policy leaves to the ledger, in the words that the ledger is asked in."""

from collections.abc import Iterable
from typing import Any

from policies.policy import Layer, Policy, Verdict

# The one way of pinning that needs a memory: a list is asked in `decision.py`.
_PINNED = "first_use"


def ledger_rules(policy: Policy, verdict: Verdict) -> dict[str, Any]:
    """The rules of a payment that `decide` has allowed and that history must allow too: as JSON,
    under the keys `pinning`, `ratio_last`, `ratio_median`, `loss_cap`, `approval` and
    `approval_wait` (seconds); what no layer asks for is left out. Of several layers the tightest
    counts; each cap on losses counts what its own layer matched.
    """
    stack = policy.stack
    asked: dict[str, Any] = {}
    if any(layer.rules.pay_to_pinning == _PINNED for layer in stack):
        asked["pinning"] = _PINNED
    for key, ratios in (
        ("ratio_last", (layer.rules.max_price_ratio_last for layer in stack)),
        ("ratio_median", (layer.rules.max_price_ratio_median for layer in stack)),
    ):
        if (least := _least(ratios)) is not None:
            asked[key] = str(least)
    if caps := [_cap(layer) for layer in stack if layer.rules.loss_cap is not None]:
        asked["loss_cap"] = caps
    if verdict.approval:
        asked["approval"] = True
        waits = (layer.rules.approval_wait_seconds for layer in stack)
        asked["approval_wait"] = _least(waits) or 0
    return asked


def _cap(layer: Layer) -> dict[str, Any]:
    return {
        "layer": layer.name,
        "provider": layer.provider,
        "per_agent": layer.per_agent,
        "micros": layer.rules.loss_cap,
    }


def _least(values: Iterable[Any]) -> Any:
    return min((value for value in values if value is not None), default=None)
