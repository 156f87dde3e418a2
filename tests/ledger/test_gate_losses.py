"""Paid and not delivered: what counts, what does not, and whose cap it fills."""

import asyncio
import json
from typing import Any

import asyncpg
import pytest

from proxy.ledger import Database, Delivery, Ledger, SettledReceipt, agents
from proxy.ledger.agents import Agent
from proxy.vault import Vault
from proxy.wire.call import HUNG_UP
from tests.ledger.conftest import Make
from tests.ledger.gate import pay

GOOD = SettledReceipt(claimed=True, http_status=200, success=True, latency_ms=1)
SHOP, OTHER = "https://api.example.com:443", "https://b.example.com:8443"


def cap(micros: int, provider: str | None = None, *, per_agent: bool = True) -> dict[str, Any]:
    return {
        "loss_cap": [{"layer": "x", "provider": provider, "per_agent": per_agent, "micros": micros}]
    }


def delivered(
    reservation: Any, status: int = 200, error: str = "", success: bool = True
) -> Delivery:
    return Delivery(
        provider=reservation.provider, url=reservation.endpoint, method="GET", status=status,
        response_hash="", latency_ms=1, success=success, schema_ok=success, score=1.0,
        payment_id=reservation.payment_id, agent_id=reservation.agent_id, amount=reservation.amount,
        error=error,
    )  # fmt: skip


async def lost(database: Database) -> int:
    """Today, all agents and providers together; the counters agree with each other."""
    rows = await database.fetch(
        "SELECT coalesce(sum(lost_micros) FILTER (WHERE provider IS NULL), 0)::bigint AS by_agent,"
        " coalesce(sum(lost_micros) FILTER (WHERE agent_id IS NULL), 0)::bigint AS by_provider,"
        " coalesce(sum(lost_micros) FILTER (WHERE num_nulls(agent_id, provider) = 0), 0)::bigint"
        " AS by_both, (SELECT coalesce(sum(micros), 0)::bigint FROM losses) AS listed"
        " FROM loss_counters"
    )
    assert len(set(rows[0].values())) == 1, dict(rows[0])
    return int(rows[0]["listed"])


async def test_an_error_for_the_money_is_a_loss(
    ledger: Ledger, database: Database, make: Make
) -> None:
    for settled_first in (True, False):
        one = make()
        await pay(database, one, {})
        moves = [
            ledger.settle(one.payment_id, GOOD),
            ledger.deliver(delivered(one, 500, success=False)),
        ]
        for move in moves if settled_first else reversed(moves):
            await move
    assert await lost(database) == 20_000
    said = await pay(database, make(), cap(29_999))
    assert (said.code, said.limit) == ("over_loss_cap", 29_999)
    assert said.detail["lost_micros"] == 20_000
    assert said.detail["layer"] == "x"
    assert said.detail["resets_at"].startswith("20")
    assert (await pay(database, make(), cap(30_000))).code == "ok"
    assert (await pay(database, make(), {})).code == "ok"


async def test_what_is_no_loss(ledger: Ledger, database: Database, make: Make) -> None:
    good, hung_up, large, slow, unsettled, broken = (make(price=5_000) for _ in range(6))
    for one in (good, hung_up, large, slow, unsettled, broken):
        await pay(database, one, {})
    for one in (good, hung_up, large, slow, broken):
        await ledger.settle(one.payment_id, GOOD)
    await ledger.deliver(delivered(good))
    too_large = f"{HUNG_UP}, and its answer is too large to be kept"
    for one, error in (hung_up, HUNG_UP), (large, too_large):
        await ledger.deliver(delivered(one, error=error, success=False))
    # held, and nobody knows yet
    await ledger.doubt(unsettled.payment_id, "not_settled", http_status=503)
    await ledger.deliver(delivered(unsettled, 503, success=False))
    assert await lost(database) == 0
    await ledger.deliver(delivered(broken, error="the connection broke", success=False))
    assert await lost(database) == 5_000
    # a program may lose its patience with a provider that takes the money and goes silent
    too_long = f"{HUNG_UP}, and its answer took too long to be kept"
    await ledger.deliver(delivered(slow, error=too_long, success=False))
    assert await lost(database) == 10_000


async def landed(database: Database, reservation: Any) -> None:
    seen = {
        "signature": "4" * 80 + reservation.payment_id.hex[-8:], "slot": 5, "memo": None,
        "change_atomic": "-1", "fee_lamports": 5000,
    }  # fmt: skip
    assert await database.fetchval(
        "SELECT confirm_from_chain($1, $2)", reservation.payment_id, json.dumps(seen)
    ) in ("settled", "already")


async def test_what_the_reconciler_finds_counts_when_it_is_found(
    ledger: Ledger, database: Database, make: Make
) -> None:
    silent, refused, dead = make(), make(), make()
    for one in (silent, refused, dead):
        await pay(database, one, {})
        await ledger.doubt(one.payment_id, "answer_lost")
    await ledger.deliver(delivered(refused, 503, success=False))
    assert await ledger.release(dead.payment_id, "proved_dead")
    assert await lost(database) == 0
    await landed(database, silent)
    assert await lost(database) == 10_000
    await landed(database, refused)
    assert await lost(database) == 20_000
    await landed(database, refused)
    assert await lost(database) == 20_000


async def test_what_is_delivered_late_is_no_loss_any_more(
    ledger: Ledger, database: Database, make: Make
) -> None:
    late, never = make(), make()
    for one in (late, never):
        await pay(database, one, {})
        await ledger.doubt(one.payment_id, "answer_lost")
        await landed(database, one)
    assert await lost(database) == 20_000
    await ledger.deliver(delivered(late))
    assert await lost(database) == 10_000
    assert (await pay(database, make(), cap(20_000))).code == "ok"
    assert (await pay(database, make(), cap(19_999))).code == "over_loss_cap"


async def test_what_is_disproved_was_never_lost(
    ledger: Ledger, database: Database, make: Make
) -> None:
    liar = make()
    await pay(database, liar, {})
    await ledger.settle(liar.payment_id, GOOD)
    await ledger.deliver(delivered(liar, 500, success=False))
    assert await lost(database) == 10_000
    assert (
        await database.fetchval("SELECT disprove($1, 'never landed')", liar.payment_id)
        == "reversed"
    )
    assert await lost(database) == 0


async def test_each_layer_counts_what_it_matched(
    ledger: Ledger, database: Database, make: Make, vault: Vault
) -> None:
    second = (await agents.add(database, vault, "second")).agent
    assert isinstance(second, Agent)
    for changes in ({}, {"provider": OTHER}, {"agent_id": second.id}):
        one = make(**changes)
        await pay(database, one, {})
        await ledger.settle(one.payment_id, GOOD)
        await ledger.deliver(delivered(one, 500, success=False))
    price = 10_000
    for lost_there, layer in (
        (2, (None, True)),  # this agent, everywhere
        (2, ("api.example.com", False)),  # both agents, there
        (1, ("b.example.com", False)),
        (3, ("*.example.com", False)),
        (2, ("*.example.com", True)),  # this agent, on both
        (1, (SHOP, True)),
        (1, ("https://b.example.com:8443", True)),
        (0, ("example.com", False)),
        (0, ("https://b.example.com:443", False)),
        (0, ("*.le.com", False)),
    ):
        limit = (lost_there + 1) * price
        where, own = layer
        assert (await pay(database, make(), cap(limit, where, per_agent=own))).code == "ok", layer
        said = await pay(database, make(), cap(limit - 1, where, per_agent=own))
        assert (said.code, said.detail["lost_micros"]) == ("over_loss_cap", lost_there * price)


async def test_yesterdays_losses_are_yesterdays(
    ledger: Ledger, database: Database, make: Make
) -> None:
    one = make()
    await pay(database, one, {})
    await ledger.settle(one.payment_id, GOOD)
    await ledger.deliver(delivered(one, 500, success=False))
    await database.execute("UPDATE loss_counters SET day = day - 1")
    await database.execute("UPDATE losses SET day = day - 1")
    assert (await pay(database, make(), cap(10_000))).code == "ok"
    # what turns out well after all goes from the day that it was counted on
    await ledger.deliver(delivered(one))
    assert await lost(database) == 0


async def test_two_batches_do_not_wait_for_each_other(
    dsn: str, ledger: Ledger, database: Database, make: Make, vault: Vault
) -> None:
    """Deliveries come in any order, and take no counter beforehand."""
    second = (await agents.add(database, vault, "second")).agent
    both = [make(provider=SHOP), make(provider=OTHER, agent_id=second.id)]
    batches = []
    for order in (1, -1):
        batch = []
        for one in both[::order]:
            mine = make(provider=one.provider, agent_id=one.agent_id)
            await pay(database, mine, {})
            await ledger.settle(mine.payment_id, GOOD)
            batch.append(mine.payment_id)
        batches.append(batch)
    failed = (
        "SELECT deliver(jsonb_build_object('id', gen_random_uuid(), 'payment_id', $1::uuid,"
        " 'intent', '', 'provider_id', '', 'url', '', 'method', 'GET', 'status', 500,"
        " 'paid_amount_atomic', '1', 'response_hash', '', 'latency_ms', 1, 'success', false,"
        " 'schema_ok', false, 'score', 0, 'attempt', 1))"
    )
    begun = asyncio.Barrier(2)

    async def deliver(batch: list[Any]) -> None:
        connection = await asyncpg.connect(dsn)
        try:
            await begun.wait()
            async with connection.transaction():
                for payment_id in batch:
                    assert await connection.fetchval(failed, payment_id) == "delivered"
                    await connection.execute("SELECT pg_sleep(0.1)")
        finally:
            await connection.close()

    await asyncio.gather(*map(deliver, batches))
    assert await lost(database) == 40_000


@pytest.mark.parametrize("success", [True, False])
async def test_the_reconciler_and_an_answer_at_the_same_time(
    dsn: str, ledger: Ledger, database: Database, make: Make, success: bool
) -> None:
    """Neither sees what the other has not committed yet; the second that weighs must."""
    one = make()
    await pay(database, one, {})
    await ledger.doubt(one.payment_id, "answer_lost")
    reconciler = await asyncpg.connect(dsn)
    try:
        begun = reconciler.transaction()
        await begun.start()
        await reconciler.execute(
            "SELECT confirm_from_chain($1, $2)", one.payment_id, json.dumps({"signature": "4" * 88})
        )
        answer = asyncio.create_task(
            ledger.deliver(delivered(one, 200 if success else 500, success=success))
        )
        await asyncio.sleep(0.1)
        await begun.commit()
        assert await answer
    finally:
        await reconciler.close()
    assert await lost(database) == (0 if success else 10_000)
