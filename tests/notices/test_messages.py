"""What of an event a webhook is told, and under which name."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from proxy.notices.feed import Event
from proxy.notices.messages import TYPES, message_of

PAYMENT = UUID(int=7)


def event(type_: str, details: dict[str, Any]) -> Event:
    at = datetime(2026, 3, 1, 12, tzinfo=UTC)
    return Event("9-" + str(PAYMENT), at, type_, PAYMENT, "ann", "WARNING", PAYMENT, details)


@pytest.mark.parametrize(
    ("type_", "details", "told"),
    [
        ("PAYMENT_DENIED", {"code": "frozen"}, "payment.denied"),
        ("NETWORK_ISSUE", {"state": "in_doubt"}, "payment.in_doubt"),
        ("NETWORK_ISSUE", {"code": "rpc_behind"}, None),
        ("PAYMENT_SUCCESS", {}, "payment.settled"),
        ("PAYMENT_STATUS", {"code": "approval_requested"}, "approval.requested"),
        ("PAYMENT_STATUS", {"code": "approval_used"}, None),
        ("POLICY_CHANGE", {"code": "approval_approved"}, None),
        ("POLICY_CHANGE", {"by": "eve"}, "policy.changed"),
        ("LOW_BALANCE", {}, "balance.low"),
        ("CIRCUIT_BREAKER", {"state": "open"}, "breaker.open"),
        ("CIRCUIT_BREAKER", {}, "breaker.open"),  # of before there was a state
        ("CIRCUIT_BREAKER", {"state": "closed"}, "breaker.closed"),
        ("BUDGET_ALERT", {"percent": 50}, "budget.alert"),
        ("ALARM", {"code": "pay_to_changed"}, "alarm"),
        ("API_ACCESS", {}, None),
        ("WEBHOOK_CHANGE", {}, None),
    ],
)
def test_the_type_of_a_message(type_: str, details: dict[str, Any], told: str | None) -> None:
    message = message_of(event(type_, details))
    assert (message and message.type) == told
    assert told is None or told in TYPES


def test_only_what_is_named_gets_in() -> None:
    message = message_of(
        event(
            "PAYMENT_DENIED",
            {
                "code": "over_daily_limit",
                "endpoint": "https://a.example/b?token=s3cret",
                "price_micros": 50_000,
                "detail": "s3cret",
                "limit_micros": None,
            },
        )
    )
    assert message is not None
    assert message.payload == {
        "type": "payment.denied",
        "timestamp": "2026-03-01T12:00:00Z",
        "data": {
            "event": "9-" + str(PAYMENT),
            "agent": "ann",
            "severity": "warning",
            "subject": str(PAYMENT),
            "code": "over_daily_limit",
            "endpoint": "https://a.example/b",
            "price_usd": "0.05",
        },
    }
