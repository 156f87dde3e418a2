"""What is explained of a payment is what the ledger then does with it."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from policies import Ask, Book, Policy, decide, explain, ledger_rules
from policies.explanation import first_no
from proxy.ledger import (
    Database,
    Ledger,
    Reservation,
    Reserved,
    SettledReceipt,
    audit,
    ceilings,
    policies,
)
from proxy.ledger.agents import UnknownAgent
from proxy.ledger.facts import facts
from tests.ledger.conftest import Make

NETWORK = "solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1"
SELLER = "2wKupLR9q6wXYppw8Gr2NvWxKBUqm4PPJKkQfoxHDBg4"
ASK = Ask(
    method="GET",
    scheme="https",
    host="api.example.com",
    port=443,
    path="/v1/quote",
    pay_to=SELLER,
    asset="4zMMC9srt5Ri5X14GAgXhaHii3GnPAEERYPJgZJDncDU",
    symbol="USDC",
    network=NETWORK,
    price=10_000,
    max_timeout_seconds=60,
)


async def put(database: Database, document: dict[str, Any]) -> Policy:
    await policies.apply(database, Book.from_json(document))
    book = await policies.load(database)
    return book.policy("bot", "https", "api.example.com", 443)


async def explained(database: Database, policy: Policy, ask: Ask, **more: Any) -> str:
    known = await facts(database, policy, replace(ask, at=datetime.now(UTC)), **more)
    no = first_no(explain(policy, ask, known))
    return "ok" if no is None else no.code


async def reserved(ledger: Ledger, policy: Policy, reservation: Reservation, ask: Ask) -> str:
    verdict = decide(policy, ask)
    assert verdict.allowed
    done = await ledger.reserve(
        replace(
            reservation,
            price=ask.price,
            pay_to=ask.pay_to,
            policy_version=policy.version,
            rules=ledger_rules(policy, verdict),
        )
    )
    return "ok" if isinstance(done, Reserved) else done.code


BOOKS: list[tuple[dict[str, Any], str]] = [
    ({"agent": {"bot": {"hourly": "0.025"}}}, "over_hourly_limit"),
    ({"agent": {"bot": {"daily": "0.025"}}}, "over_daily_limit"),
    ({"agent": {"bot": {"monthly": "0.025"}}}, "over_monthly_limit"),
    ({"agent": {"bot": {"lifetime": "0.025"}}}, "over_lifetime_limit"),
    ({"agent": {"bot": {"rolling": {"7d": "0.025"}}}}, "over_rolling_limit"),
    ({"agent": {"bot": {"session": "0.025"}}}, "over_session_limit"),
    ({"agent": {"bot": {"trace": "0.025"}}}, "over_trace_limit"),
    ({"agent": {"bot": {"payments": {"day": 2}}}}, "too_many_payments"),
    ({"agent": {"bot": {"payments": {"24h": 2}}}}, "too_many_payments"),
    ({"defaults": {"hourly": "0.025"}}, "over_hourly_limit"),
    ({"provider": {"*.example.com": {"daily": "0.025"}}}, "over_daily_limit"),
    ({"provider": {"api.example.com": {"lifetime": "0.025"}}}, "over_lifetime_limit"),
    (
        {"agent": {"bot": {"provider": {"https://api.example.com": {"monthly": "0.025"}}}}},
        "over_monthly_limit",
    ),
]


@pytest.mark.parametrize(("document", "code"), BOOKS)
async def test_limits_are_explained_as_they_are_decided(
    ledger: Ledger, database: Database, make: Make, document: dict[str, Any], code: str
) -> None:
    policy = await put(database, document)
    told, done = [], []
    for _ in range(3):
        told.append(await explained(database, policy, ASK, session="s", trace="t"))
        done.append(await reserved(ledger, policy, make(session_id="s", trace_id="t"), ASK))
    assert told == done == ["ok", "ok", code]


async def test_receivers_prices_and_approvals(
    ledger: Ledger, database: Database, make: Make
) -> None:
    policy = await put(
        database,
        {
            "agent": {
                "bot": {
                    "pay_to_pinning": "first_use",
                    "max_price_ratio_last": "1.5",
                    "approval_above": "0.02",
                }
            }
        },
    )
    first = make()
    assert await explained(database, policy, ASK) == "ok"
    assert await reserved(ledger, policy, first, ASK) == "ok"
    await ledger.settle(
        first.payment_id, SettledReceipt(claimed=True, http_status=200, success=True, latency_ms=1)
    )
    for ask, code in (
        (replace(ASK, pay_to="x"), "pay_to_changed"),
        (replace(ASK, price=15_001), "price_drift"),
        (replace(ASK, price=15_000), "ok"),
    ):
        assert await explained(database, policy, ask) == code
        assert await reserved(ledger, policy, make(), ask) == code
    policy = await put(database, {"agent": {"bot": {"approval_above": "0.02"}}})
    dear = replace(ASK, price=20_001)
    assert await explained(database, policy, dear) == "approval_required"
    assert await reserved(ledger, policy, make(), dear) == "approval_required"


async def test_what_stands_above_policies(ledger: Ledger, database: Database, make: Make) -> None:
    policy = await put(database, {"agent": {"bot": {}}})
    await ceilings.set_ceiling(database, "fleet_day", "*", 9_999)
    policy = await put(database, {"agent": {"bot": {}}})
    assert await explained(database, policy, ASK) == "over_fleet_limit"
    assert await reserved(ledger, policy, make(), ASK) == "over_fleet_limit"
    await audit.halt(database, "why", by="test")
    assert await explained(database, policy, ASK) == "spending_halted"
    assert await reserved(ledger, policy, make(), ASK) == "spending_halted"


async def test_an_agent_that_is_not_there(database: Database) -> None:
    with pytest.raises(UnknownAgent):
        await facts(database, Policy("nobody"), ASK)
