"""Approvals: asked for once, decided by an operator, bound to what was asked, used once."""

import asyncio
import json
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from policies import Policy
from proxy.ledger import Database, Ledger, agents, approvals
from proxy.ledger.approvals import ApprovalError
from proxy.vault import Vault
from tests.ledger.conftest import Make
from tests.ledger.gate import pay

RULES = {"approval": True, "approval_wait": 0}
KEY, OTHER_KEY = b"k" * 32, b"o" * 32


async def events(database: Database, approval: UUID) -> list[str]:
    rows = await database.fetch(
        "SELECT details ->> 'code' AS code FROM audit_events WHERE related_id = $1"
        " AND details ->> 'code' LIKE 'approval_%' ORDER BY created_at, id",
        approval,
    )
    return [row["code"] for row in rows]


async def asked(database: Database, make: Make, **changes: Any) -> UUID:
    """The id of an approval that is pending now."""
    said = await pay(database, make(request_key=KEY, **changes), RULES)
    assert said.code == "approval_required"
    assert said.detail["state"] == "pending"
    return UUID(said.detail["approval"])


async def state(database: Database, approval: UUID) -> str:
    found = await approvals.find(database, approval)
    assert found is not None
    return found.state


async def past(database: Database, approval: UUID) -> None:
    """Its time is over."""
    await database.execute(
        "UPDATE approvals SET expires_at = now() - interval '1 second' WHERE id = $1", approval
    )


async def test_it_waits_is_approved_and_pays_once(database: Database, make: Make) -> None:
    approval = await asked(database, make)
    assert await asked(database, make) == approval  # the same waits once
    (one,) = await approvals.list_(database)
    assert (one.id, one.agent, one.state, one.price, one.asks) == (
        approval,
        "bot",
        "pending",
        10_000,
        2,
    )
    assert one.method == "GET"
    assert one.endpoint == "https://api.example.com/v1/quote"
    assert timedelta(minutes=59) < one.expires_at - datetime.now(UTC) <= timedelta(hours=1)

    done = await approvals.approve(database, approval, by="ann", note="fine")
    assert (done.state, done.decided_by, done.note) == ("approved", "ann", "fine")
    assert timedelta(minutes=59) < done.expires_at - datetime.now(UTC) <= timedelta(hours=1)
    assert (await approvals.approve(database, approval, by="bob")).decided_by == "ann"

    paid = make(request_key=KEY)
    assert (await pay(database, paid, RULES)).code == "ok"
    used = await approvals.find(database, approval)
    assert used is not None
    assert (used.state, used.payment_id) == ("used", paid.payment_id)
    assert await asked(database, make) != approval
    assert await events(database, approval) == [
        "approval_requested", "approval_approved", "approval_used",
    ]  # fmt: skip
    with pytest.raises(ApprovalError, match="has paid already"):
        await approvals.reject(database, approval, by="ann")


async def test_below_the_threshold_nobody_is_asked(database: Database, make: Make) -> None:
    assert (await pay(database, make(request_key=KEY), {})).code == "ok"
    assert (await pay(database, make(request_key=KEY), {"approval": False})).code == "ok"
    assert await approvals.list_(database) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"price": 10_001, "amount": 10_001},
        {"pay_to": "9" * 44},
        {"request_key": OTHER_KEY},
        {"endpoint": "https://api.example.com/v1/other"},
        {"provider": "https://api.example.com:8443"},
        {"method": "POST"},
        {"network": "solana:5eykt4UsFv8P8NJdTREpY1vzqKqZKvdp"},
        {"asset": "EPjFWdd5AufqSSqeM2qN1xzybapC8G4wEGkZwyTDt1v"},
    ],
)
async def test_it_is_for_nothing_else(
    database: Database, make: Make, changes: dict[str, Any]
) -> None:
    approval = await asked(database, make)
    await approvals.approve(database, approval, by="ann")
    said = await pay(database, make(**({"request_key": KEY} | changes)), RULES)
    assert said.code == "approval_required"
    assert UUID(said.detail["approval"]) != approval
    assert await state(database, approval) == "approved"
    # and what it is for pays; for less too
    assert (await pay(database, make(request_key=KEY, price=9_999), RULES)).code == "ok"


async def test_what_can_not_be_known_again_is_not_approved(database: Database, make: Make) -> None:
    """The provider asked before it had the whole body: another one could come in its place."""
    said = await pay(database, make(request_key=None), RULES)
    assert (said.code, said.detail) == ("approval_required", {"state": "body_unknown"})
    assert await approvals.list_(database) == []


async def test_a_price_that_is_turned_asks_a_hundred_times_an_hour(
    database: Database, make: Make
) -> None:
    for n in range(100):
        await pay(database, make(request_key=KEY, price=10_000 + n, amount=10_000 + n), RULES)
    said = await pay(database, make(request_key=KEY, price=20_000, amount=20_000), RULES)
    assert said.detail == {"state": "too_many"}


async def test_it_is_of_one_agent(database: Database, make: Make, vault: Vault) -> None:
    other = (await agents.add(database, vault, "other", Policy("other"))).agent
    await approvals.approve(database, await asked(database, make), by="ann")
    said = await pay(database, make(request_key=KEY, agent_id=other.id), RULES)
    assert said.code == "approval_required"
    assert [one.agent for one in await approvals.list_(database, states=["pending"])] == ["other"]
    assert [one.agent for one in await approvals.list_(database, agent="bot")] == ["bot"]


async def test_ten_at_once_and_one_pays(database: Database, make: Make) -> None:
    await approvals.approve(database, await asked(database, make), by="ann")
    said = await asyncio.gather(*(pay(database, make(request_key=KEY), RULES) for _ in range(10)))
    assert Counter(one.code for one in said) == {"ok": 1, "approval_required": 9}
    assert len({one.detail["approval"] for one in said if one.detail}) == 1
    assert len(await approvals.list_(database, states=["pending"])) == 1


async def test_a_no_holds_for_an_hour_for_as_much_or_more(database: Database, make: Make) -> None:
    approval = await asked(database, make)
    done = await approvals.reject(database, approval, by="ann", note="too dear")
    assert (done.state, done.note) == ("rejected", "too dear")
    for price in (10_000, 10_001):
        said = await pay(database, make(request_key=KEY, price=price), RULES)
        assert (said.code, said.detail["state"]) == ("approval_required", "rejected")
        assert UUID(said.detail["approval"]) == approval
    assert await asked(database, make, price=9_999) != approval  # cheaper: worth a question
    await past(database, approval)
    assert await asked(database, make) != approval


async def test_a_decision_may_be_changed_until_it_has_paid(database: Database, make: Make) -> None:
    approval = await asked(database, make)
    await approvals.reject(database, approval, by="ann")
    await approvals.approve(database, approval, by="bob")
    await approvals.reject(database, approval, by="ann")
    assert (await pay(database, make(request_key=KEY), RULES)).detail["state"] == "rejected"
    await approvals.approve(database, approval, by="bob")
    assert (await pay(database, make(request_key=KEY), RULES)).code == "ok"


async def test_what_waits_and_what_is_approved_expires(database: Database, make: Make) -> None:
    waits = await asked(database, make)
    await past(database, waits)
    assert await state(database, waits) == "expired"  # before anybody has written it down
    with pytest.raises(ApprovalError, match="has expired") as refused:
        await approvals.approve(database, waits, by="ann")
    assert refused.value.state == "expired"

    good = await asked(database, make)
    assert good != waits
    await approvals.approve(database, good, by="ann", good_for=timedelta(minutes=1))
    await past(database, good)
    third = await asked(database, make)
    assert third not in (waits, good)
    await past(database, third)
    assert await approvals.expire(database) == 1
    assert await approvals.expire(database) == 0
    assert await approvals.list_(database, states=["pending", "approved"]) == []
    for one, before in (waits, []), (good, ["approval_approved"]), (third, []):
        assert await events(database, one) == ["approval_requested", *before, "approval_expired"]


async def test_a_dearer_one_is_another_question(database: Database, make: Make) -> None:
    """Nobody approves a price that rose after he looked."""
    cheap = await asked(database, make)
    dear = await asked(database, make, price=20_000)
    assert cheap != dear
    with pytest.raises(ApprovalError, match="has expired"):
        await approvals.approve(database, cheap, by="ann")
    assert await asked(database, make) == dear  # which covers it
    await approvals.approve(database, dear, by="ann")
    assert (await pay(database, make(request_key=KEY), RULES)).code == "ok"


async def test_of_two_good_ones_the_smaller_is_used(database: Database, make: Make) -> None:
    small = await asked(database, make, price=10_000)
    await approvals.approve(database, small, by="ann")
    large = await asked(database, make, price=20_000)
    await approvals.approve(database, large, by="ann")
    for used, left in ((small, large), (large, None)):
        assert (await pay(database, make(request_key=KEY, price=10_000), RULES)).code == "ok"
        assert await state(database, used) == "used"
        assert left is None or await state(database, left) == "approved"
    refused = await pay(database, make(request_key=KEY, price=10_000), RULES)
    assert refused.code == "approval_required"


async def test_a_payment_that_never_left_gives_it_back(
    ledger: Ledger, database: Database, make: Make
) -> None:
    approval = await asked(database, make)
    await approvals.approve(database, approval, by="ann")
    unsent, left = make(request_key=KEY), make(request_key=KEY)
    assert (await pay(database, unsent, RULES)).code == "ok"
    assert await ledger.release(unsent.payment_id, "never_sent")
    assert await state(database, approval) == "approved"
    assert (await pay(database, left, RULES)).code == "ok"
    await ledger.doubt(left.payment_id, "answer_lost")
    assert await ledger.release(left.payment_id, "proved_dead")
    assert await state(database, approval) == "used"  # it left: whatever became of it
    assert (await events(database, approval))[-2:] == ["approval_returned", "approval_used"]


async def test_a_budget_that_denies_uses_nothing_up(database: Database, make: Make) -> None:
    approval = await asked(database, make)
    await approvals.approve(database, approval, by="ann")
    await agents.set_policy(database, Policy("bot", daily_limit=9_999))
    assert (await pay(database, make(request_key=KEY), RULES)).code == "over_daily_limit"
    assert await state(database, approval) == "approved"


async def test_a_hundred_may_wait(database: Database, make: Make) -> None:
    first = await asked(database, make)
    for n in range(99):
        await pay(database, make(request_key=n.to_bytes(32, "big")), RULES)
    said = await pay(database, make(request_key=OTHER_KEY), RULES)
    assert (said.code, said.detail) == ("approval_required", {"state": "too_many"})
    assert len(await approvals.list_(database, limit=200)) == 100
    await approvals.reject(database, first, by="ann")
    said = await pay(database, make(request_key=OTHER_KEY), RULES)
    assert said.detail["state"] == "pending"


async def test_what_is_not_there_cannot_be_decided(database: Database) -> None:
    for decide in (approvals.approve, approvals.reject):
        with pytest.raises(ApprovalError, match="there is no approval") as refused:
            await decide(database, uuid4(), by="ann")
        assert refused.value.state == "absent"
    with pytest.raises(ValueError, match="7 days at most"):
        await approvals.approve(database, uuid4(), by="ann", good_for=timedelta(days=8))


async def test_an_erased_agents_approvals_go(database: Database, make: Make) -> None:
    await asked(database, make)
    await database.fetchval("SELECT erase_agent('bot', 'ann')")
    assert await approvals.list_(database) == []


async def test_without_an_approval_nothing_is_taken(database: Database, make: Make) -> None:
    """Should anybody ever take a payment that the gate has not let through."""
    with pytest.raises(Exception, match="has no approval"):
        await database.execute(
            "SELECT policy_gate_taken(jsonb_populate_record(NULL::reservation_request, $1), $2)",
            json.dumps({"payment_id": str(uuid4()), "provider": "x"}),
            json.dumps(RULES),
        )
