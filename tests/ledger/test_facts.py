"""What is explained of a payment is what the ledger then does with it."""

from dataclasses import replace
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

import pytest

from policies import Ask, Book, Policy, decide, explain, ledger_rules
from policies.explanation import conclusion
from proxy.ledger import (
    Database,
    Ledger,
    Reservation,
    Reserved,
    SettledReceipt,
    agents,
    approvals,
    audit,
    ceilings,
    policies,
)
from proxy.ledger.agents import UnknownAgent
from proxy.ledger.facts import facts
from proxy.supposed import supposed_key
from proxy.vault import Vault
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
    return conclusion(explain(policy, ask, known))[0]


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


async def test_an_approval_is_for_what_the_gate_says_it_is_for(
    ledger: Ledger, database: Database, vault: Vault, make: Make
) -> None:
    await agents.add(database, vault, "ant")
    await put(database, {"agent": {name: {"approval_above": "0.001"} for name in ("bot", "ant")}})
    book = await policies.load(database)
    ids = {name: (await agents.find(database, name)).agent.id for name in ("bot", "ant")}
    body = sha256(b"one").digest()

    async def both(
        query: str = "?q=1", body: bytes = body, agent: str = "bot", **changes: Any
    ) -> tuple[str, str]:
        """As explained, and as reserved."""
        ask = replace(ASK, **{"method": "POST", **changes})
        origin = f"{ask.scheme}://{ask.host}"
        key = supposed_key(ask.method, f"{origin}{ask.path}{query}", body)
        policy = book.policy(agent, ask.scheme, ask.host, ask.port)
        reservation = replace(
            make(method=ask.method, endpoint=f"{origin}{ask.path}"),
            agent_id=ids[agent],
            provider=f"{origin}:{ask.port}",
            network=ask.network,
            asset=ask.asset,
            request_key=key,
        )
        told = await explained(database, policy, ask, request_key=key)
        return told, await reserved(ledger, policy, reservation, ask)

    assert await both() == ("approval_required", "approval_required")
    (waiting,) = await approvals.list_(database)
    await approvals.approve(database, waiting.id, by="test")
    elsewhere: list[dict[str, Any]] = [
        {"query": "?q=2"},
        {"query": ""},
        {"body": sha256(b"").digest()},
        {"agent": "ant"},
        {"method": "PUT"},
        {"path": "/v1/quotes"},
        {"scheme": "http", "port": 80},
        {"host": "api2.example.com"},
        {"network": "solana:5eykt4UsFv8P8NJdTREpY1vzqKqZKvdp"},
        {"asset": "EPjFWdd5AufqSSqeM2qN1xzybapC8G4wEGGkZwyTDt1v"},
        {"pay_to": "x"},
        {"price": ASK.price + 1},
    ]
    for changes in elsewhere:
        assert await both(**changes) == ("approval_required", "approval_required"), changes
    # For less it pays, and it pays once.
    assert await both(price=ASK.price - 1) == ("ok", "ok")
    assert await both() == ("approval_required", "approval_required")


async def test_what_is_known_of_an_approval(ledger: Ledger, database: Database, make: Make) -> None:
    policy = await put(database, {"agent": {"bot": {"approval_above": "0.001"}}})
    key = supposed_key("GET", "https://api.example.com/v1/quote")
    assert key is not None

    async def known(ask: Ask = ASK, request_key: bytes | None = key) -> tuple[str, str]:
        found = await facts(database, policy, ask, request_key=request_key)
        code, _, step = conclusion(explain(policy, replace(ask, at=datetime.now(UTC)), found))
        return code, found.approval if step is None else step.detail

    assert await known(request_key=None) == (
        "approval_required",
        "An operator must approve it first.",
    )
    assert await reserved(ledger, policy, make(request_key=key), ASK) == "approval_required"
    (waiting,) = await approvals.list_(database)
    name = f"approval {waiting.id}"
    code, why = await known()
    assert code == "approval_required"
    assert f"{name} waits, until" in why
    code, why = await known(replace(ASK, price=ASK.price + 1))
    assert code == "approval_required"
    assert f"{name} waits for 0.01 USD; at this price it is asked anew" in why
    code, why = await known(request_key=None)
    assert code == "approval_required"  # none is approved
    assert f"{name}, which may be for this request, waits." in why

    await approvals.approve(database, waiting.id, by="test")
    code, why = await known()
    assert (code, why.partition(", until")[0]) == ("ok", f"An operator has approved it: {name}")
    for ask, request_key, what in (
        (ASK, None, "its body"),
        (replace(ASK, pay_to=""), key, "its receiver"),
        (replace(ASK, asset=""), None, "its body, its asset's address"),
    ):
        code, why = await known(ask, request_key)
        assert code == "unknown"
        assert why.startswith(f"Approval {waiting.id} may be for this request")
        assert why.endswith(f"Not said: {what}.")
    for ask in (replace(ASK, pay_to="x"), replace(ASK, method="POST"), replace(ASK, price=10_001)):
        assert (await known(ask, None))[0] == "approval_required"  # whatever its body is

    await approvals.reject(database, waiting.id, by="test")
    code, why = await known()
    assert code == "approval_required"
    assert why.startswith(f"An operator has rejected it: {name}, until")


async def test_the_wallet_that_would_pay(ledger: Ledger, database: Database, make: Make) -> None:
    """Its ceiling counts what it paid on this network; whose it is, is not always known."""
    payer = "9aFSpLQQ8UP3eE5xw1oTSuQb8Ds6Z2pnbeRKqd2gBrGm"
    policy = await put(database, {"agent": {"bot": {}}})
    await ceilings.set_ceiling(database, "wallet_day", "*", 25_000)
    policy = await put(database, {"agent": {"bot": {}}})
    assert await explained(database, policy, ASK) == "unknown"
    await database.execute("SELECT adopt_wallet($1)", payer)
    told, done = [], []
    for network in (NETWORK, NETWORK, "solana:5eykt4UsFv8P8NJdTREpY1vzqKqZKvdp", NETWORK):
        told.append(await explained(database, policy, replace(ASK, network=network)))
        done.append(await reserved(ledger, policy, make(payer=payer, network=network), ASK))
    assert told == done == ["ok", "ok", "ok", "over_wallet_limit"]
    policy = await put(database, {"provider": {"api.example.com": {"wallet": "other"}}})
    assert await explained(database, policy, ASK) == "unknown"


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
