"""What a webhook is told of an event: its type, and a few facts about it. Pure.

Thin on purpose: what happened, to whom, and the ids with which everything else can be asked for.
Only what is named here gets in; nothing that a seller wrote, no query of a URL.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from policies import format_usd
from proxy.notices.feed import DENIED, Event

TYPES: Mapping[str, str] = {
    "payment.denied": "a payment was refused, by a policy or a budget",
    "payment.in_doubt": "a payment left, and its fate is unknown",
    "payment.settled": "a payment was made (many: only where it is asked for)",
    "approval.requested": "a payment waits for an operator's word",
    "balance.low": "a wallet holds less than wallet.low_balance",
    "breaker.open": "a provider failed too often, and is left alone",
    "breaker.closed": "a provider works again",
    "budget.alert": "50, 80 or 100 % of a limit are used",
    "alarm": "something is wrong that somebody must look at",
    "policy.changed": "what agents may do was changed",
}
USUAL = tuple(one for one in TYPES if one != "payment.settled")
TEST = "webhook.test"

_MONEY = "_micros"
_TYPES = {
    DENIED: "payment.denied",
    "PAYMENT_SUCCESS": "payment.settled",
    "LOW_BALANCE": "balance.low",
    "BUDGET_ALERT": "budget.alert",
    "ALARM": "alarm",
    "POLICY_CHANGE": "policy.changed",
}
_FACTS = {
    name: facts.split()
    for name, facts in {
        "payment.denied": "code method endpoint price_micros limit_micros policy_version",
        "payment.in_doubt": "provider price_micros http_status",
        "payment.settled": "provider price_micros transaction",
        "approval.requested": "provider method endpoint price_micros",
        "balance.low": "wallet network usdc cash threshold",
        "breaker.open": "provider open_until failures by",
        "breaker.closed": "provider by",
        "budget.alert": "percent window provider day used_micros limit_micros used limit",
        "alarm": "code reason provider price_micros",
        "policy.changed": "code by version",
    }.items()
}


@dataclass(frozen=True, slots=True)
class Message:
    type: str
    payload: dict[str, Any]


def message_of(event: Event) -> Message | None:
    """None for an event that no webhook is told of."""
    type_ = _type_of(event)
    if type_ is None:
        return None
    data: dict[str, Any] = {
        "event": event.id,
        "agent": event.agent,
        "severity": event.severity.lower(),
    }
    if event.related_id is not None:
        data["approval" if type_ == "approval.requested" else "subject"] = str(event.related_id)
    for fact in _FACTS[type_]:
        value = event.details.get(fact)
        if value is None:
            continue
        if fact.endswith(_MONEY):
            data[fact.removesuffix(_MONEY) + "_usd"] = format_usd(int(value))
        elif fact == "endpoint":
            data[fact] = str(value).partition("?")[0]
        else:
            data[fact] = value
    when = event.at.isoformat().replace("+00:00", "Z")
    return Message(type_, {"type": type_, "timestamp": when, "data": data})


def _type_of(event: Event) -> str | None:
    code, state = (str(event.details.get(key, "")) for key in ("code", "state"))
    if code.startswith("approval_"):
        return "approval.requested" if code == "approval_requested" else None
    match event.type:
        case "NETWORK_ISSUE":
            return "payment.in_doubt" if state == "in_doubt" else None
        case "CIRCUIT_BREAKER":
            return "breaker.closed" if state == "closed" else "breaker.open"
    return _TYPES.get(event.type)
