import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import asyncpg
import pytest

from policies import MAX_MICROS, Policy
from proxy.ledger import (
    Agent,
    Database,
    Ledger,
    LedgerFault,
    Refused,
    Reserved,
    SettledReceipt,
    agents,
    audit,
)
from tests.ledger.books import check_books, counter, status
from tests.ledger.conftest import Make

RECEIPT = SettledReceipt(claimed=True, http_status=200, success=True, latency_ms=12)


async def test_a_reservation_holds_the_price_and_keeps_the_evidence(
    ledger: Ledger, database: Database, make: Make
) -> None:
    reservation = make(session_id="s", trace_id="t", memo="m", amount=2**64 - 1)
    reserved = await ledger.reserve(reservation)
    assert isinstance(reserved, Reserved)
    assert (reserved.remaining, reserved.spent, reserved.held, reserved.limit) == (
        990_000,
        0,
        10_000,
        1_000_000,
    )
    row = await database.fetchrow("SELECT * FROM payments WHERE id = $1", reservation.payment_id)
    assert row is not None
    assert row["status"] == "SIGNED"
    assert row["amount_atomic"] == 2**64 - 1
    assert row["message_sha256"] == reservation.message_sha256
    assert row["last_valid_block_height"] == 250
    assert row["memo"] == "m"
    assert row["scopes"] == [
        f"10/agent-day/{reservation.agent_id}/{reserved.day}",
        f"20/session/{reservation.agent_id}/s",
        f"30/trace/{reservation.agent_id}/t",
        f"40/agent-provider-day/{reservation.agent_id}/{reservation.provider}/{reserved.day}",
        f"50/provider-day/{reservation.provider}/{reserved.day}",
        f"70/fleet-day/{reserved.day}",
    ]
    assert await counter(database, "session") == (0, 10_000)


async def test_an_unsigned_reservation_is_initiated(
    ledger: Ledger, database: Database, make: Make
) -> None:
    reservation = make(message_sha256=None, client_signature=None, payload=None)
    assert isinstance(await ledger.reserve(reservation), Reserved)
    assert await status(database, reservation.payment_id) == "INITIATED"


async def test_the_day_is_the_databases(ledger: Ledger, database: Database, make: Make) -> None:
    reserved = await ledger.reserve(make())
    assert isinstance(reserved, Reserved)
    assert reserved.day == await database.fetchval("SELECT (now() AT TIME ZONE 'UTC')::date")


async def test_a_payment_is_charged_to_the_day_of_its_reservation(
    ledger: Ledger, database: Database, make: Make, bot: Agent
) -> None:
    """Midnight between reservation and settlement: yesterday pays, today's budget is whole."""
    reservation = make()
    await ledger.reserve(reservation)
    # Evidence does not change, so the clock is turned back where the test can reach it.
    yesterday = "(now() AT TIME ZONE 'UTC')::date - 1"
    async with asyncio.timeout(20):
        for statement in (
            "ALTER TABLE payments DISABLE TRIGGER payments_guard",
            f"UPDATE payments SET day = {yesterday}, "
            f"scopes = ARRAY[agent_day_scope(agent_id, {yesterday})]",
            "DELETE FROM budget_counters WHERE kind <> 'agent_day'",
            f"UPDATE budget_counters SET day = {yesterday}, "
            f"scope = agent_day_scope(agent_id, {yesterday})",
            "ALTER TABLE payments ENABLE TRIGGER payments_guard",
        ):
            await database.execute(statement)
    fresh = await ledger.reserve(make())
    assert isinstance(fresh, Reserved)
    assert fresh.held == 10_000
    assert await ledger.settle(reservation.payment_id, RECEIPT)
    rows = await database.fetch(
        "SELECT spent_micros, held_micros FROM budget_counters WHERE kind = 'agent_day'"
        " ORDER BY day"
    )
    assert [tuple(row) for row in rows] == [(10_000, 0), (0, 10_000)]
    await check_books(database)


async def test_over_the_daily_limit(
    ledger: Ledger, database: Database, make: Make, policy: Policy
) -> None:
    await agents.set_policy(database, replace(policy, daily_limit=25_000))
    first = make()
    await ledger.reserve(first)
    await ledger.settle(first.payment_id, RECEIPT)
    await ledger.reserve(make())
    refused = await ledger.reserve(make(session_id="s"))
    now = datetime.now(UTC)
    assert refused == Refused(
        code="over_daily_limit",
        limit=25_000,
        spent=10_000,
        held=10_000,
        asked=10_000,
        resets_at=(now + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0),
    )
    assert await counter(database, "session") == (0, 0)
    row = await database.fetchrow("SELECT * FROM policy_decision_logs WHERE decision = 'deny'")
    assert row is not None
    assert row["reason"] == "over_daily_limit"
    assert row["policy_version"] == await database.fetchval("SELECT policy_version()")
    assert (row["limit_micros"], row["scope_spent_micros"], row["scope_held_micros"]) == (
        25_000,
        10_000,
        10_000,
    )
    usd = [
        str(row[name])
        for name in (
            "quoted_price_usd",
            "spent_today_usd",
            "reserved_usd",
            "remaining_daily_usd",
            "budget_before_usd",
        )
    ]
    assert usd == ["0.010000", "0.010000", "0.010000", "0.005000", "0.005000"]


async def test_over_the_session_limit(
    ledger: Ledger, database: Database, make: Make, policy: Policy
) -> None:
    await agents.set_policy(database, replace(policy, session_limit=15_000))
    granted = await ledger.reserve(make(session_id="s"))
    assert isinstance(granted, Reserved)
    assert granted.remaining == 5_000  # of the session: the least of all budgets
    refused = await ledger.reserve(make(session_id="s"))
    assert isinstance(refused, Refused)
    assert (refused.code, refused.limit, refused.held) == ("over_session_limit", 15_000, 10_000)
    assert refused.resets_at is None
    assert await counter(database, "agent_day") == (0, 10_000)
    assert isinstance(await ledger.reserve(make(session_id="another")), Reserved)
    assert isinstance(await ledger.reserve(make()), Reserved)


async def test_a_policy_tightened_meanwhile(
    ledger: Ledger, database: Database, make: Make, policy: Policy
) -> None:
    await agents.set_policy(database, replace(policy, per_call_limit=9_999))
    refused = await ledger.reserve(make())
    assert isinstance(refused, Refused)
    assert (refused.code, refused.limit) == ("over_per_call_limit", 9_999)


async def test_a_freeze_takes_effect_at_once(
    ledger: Ledger, database: Database, make: Make
) -> None:
    in_flight = make()
    assert isinstance(await ledger.reserve(in_flight), Reserved)
    await agents.set_frozen(database, "bot", True)
    refused = await ledger.reserve(make())
    assert isinstance(refused, Refused)
    assert refused.code == "frozen"
    assert await ledger.settle(in_flight.payment_id, RECEIPT)
    await agents.set_frozen(database, "bot", False)
    assert isinstance(await ledger.reserve(make()), Reserved)


async def test_a_freeze_returns_after_every_grant_under_way(
    dsn: str, database: Database, bot: Agent
) -> None:
    """Once the operator has the answer, no grant is still to come."""
    granting = await asyncpg.connect(dsn)
    try:
        async with granting.transaction():
            code = await granting.fetchval(
                """SELECT (reserve(jsonb_build_object(
                       'payment_id', $1::uuid, 'agent_id', $2::uuid, 'price_micros', 1,
                       'amount_atomic', 1, 'provider', 'p', 'method', 'GET', 'endpoint', 'e',
                       'x402_version', 2, 'network', 'n', 'asset', 'a', 'symbol', 'USDC',
                       'pay_to', 't'))).code""",
                uuid4(),
                bot.id,
            )
            freeze = asyncio.create_task(agents.set_frozen(database, "bot", True))
            await asyncio.sleep(0.2)
            assert (code, freeze.done()) == ("ok", False)
        await freeze
    finally:
        await granting.close()


async def test_the_one_switch_overtakes_what_waits(
    dsn: str, ledger: Ledger, database: Database, make: Make
) -> None:
    """Reservations that queue for the counter read the switch only when it is their turn."""
    blocker = await asyncpg.connect(dsn)
    try:
        async with blocker.transaction():
            await ledger.reserve(make())
            await blocker.execute("SELECT 1 FROM budget_counters FOR UPDATE")
            waiting = [asyncio.create_task(ledger.reserve(make())) for _ in range(4)]
            await asyncio.sleep(0.1)
            await audit.halt(database, "to be sure", by="test")
        outcomes = await asyncio.gather(*waiting)
    finally:
        await blocker.close()
    assert {getattr(outcome, "code", "granted") for outcome in outcomes} == {"spending_halted"}


async def test_a_freeze_waits_for_what_was_before_it_and_stops_all_after(
    dsn: str, ledger: Ledger, database: Database, make: Make
) -> None:
    """Whoever decides holds the book of policies; whoever changes it has it alone."""
    blocker = await asyncpg.connect(dsn)
    try:
        async with blocker.transaction():
            await ledger.reserve(make())
            await blocker.execute("SELECT 1 FROM budget_counters FOR UPDATE")
            before = asyncio.create_task(ledger.reserve(make()))
            await _waits(blocker, "tuple", "transactionid")
            freeze = asyncio.create_task(agents.set_frozen(database, "bot", True))
            await _waits(blocker, "advisory")
            after = asyncio.create_task(Ledger(database).reserve(make()))
        assert isinstance(await before, Reserved)
        await freeze
        refused = await after
    finally:
        await blocker.close()
    assert isinstance(refused, Refused)
    assert refused.code == "frozen"


async def _waits(connection: "asyncpg.Connection[asyncpg.Record]", *locks: str) -> None:
    """Until somebody waits for such a lock."""
    async with asyncio.timeout(10):
        while not await connection.fetchval(
            "SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = ANY ($1)", locks
        ):
            await asyncio.sleep(0.01)


async def test_unknown_and_removed_agents(ledger: Ledger, database: Database, make: Make) -> None:
    stranger = await ledger.reserve(make(agent_id=uuid4()))
    assert isinstance(stranger, Refused)
    assert stranger.code == "unknown_agent"
    await agents.remove(database, "bot")
    removed = await ledger.reserve(make())
    assert isinstance(removed, Refused)
    assert removed.code == "unknown_agent"
    assert await database.fetchval("SELECT count(*) FROM policy_decision_logs") == 2


async def test_the_same_reservation_twice_holds_once(
    ledger: Ledger, database: Database, make: Make
) -> None:
    reservation = make(session_id="s")
    first, *others = await asyncio.gather(*(ledger.reserve(reservation) for _ in range(6)))
    assert isinstance(first, Reserved)
    assert others == [first] * 5
    assert await counter(database) == (0, 10_000)
    assert await database.fetchval("SELECT count(*) FROM policy_decision_logs") == 1


async def test_a_repeated_denial_is_the_first_one(
    ledger: Ledger, database: Database, make: Make, policy: Policy
) -> None:
    await agents.set_policy(database, replace(policy, daily_limit=1))
    reservation = make()
    refused = await ledger.reserve(reservation)
    await agents.set_policy(database, policy)
    assert await ledger.reserve(reservation) == refused
    assert isinstance(await ledger.reserve(make()), Reserved)


async def test_the_same_signed_bytes_are_one_payment(
    ledger: Ledger, database: Database, make: Make
) -> None:
    reservation = make()
    await ledger.reserve(reservation)
    again = await ledger.reserve(make(message_sha256=reservation.message_sha256))
    assert isinstance(again, Refused)
    assert again.code == "duplicate_message"
    assert await counter(database) == (0, 10_000)
    # Released or not: bytes that were signed once may still be somewhere.
    await ledger.release(reservation.payment_id, "never_sent")
    again = await ledger.reserve(make(message_sha256=reservation.message_sha256))
    assert isinstance(again, Refused)
    assert again.code == "duplicate_message"


async def test_an_id_that_was_released_is_not_granted_again(ledger: Ledger, make: Make) -> None:
    reservation = make()
    await ledger.reserve(reservation)
    await ledger.release(reservation.payment_id, "never_sent")
    again = await ledger.reserve(reservation)
    assert isinstance(again, Refused)
    assert again.code == "abandoned"


async def test_a_reservation_that_arrives_after_it_was_given_up(
    ledger: Ledger, database: Database, make: Make
) -> None:
    reservation = make()
    assert await ledger.release(reservation.payment_id, "never_sent")
    late = await ledger.reserve(reservation)
    assert isinstance(late, Refused)
    assert late.code == "abandoned"
    assert await counter(database) == (0, 0)


async def test_limits_as_large_as_they_get(
    ledger: Ledger, database: Database, make: Make, policy: Policy
) -> None:
    await agents.set_policy(
        database,
        replace(
            policy,
            per_call_limit=MAX_MICROS,
            daily_limit=MAX_MICROS,
            session_limit=MAX_MICROS,
        ),
    )
    granted = await ledger.reserve(make(price=MAX_MICROS, session_id="s"))
    assert isinstance(granted, Reserved)
    assert granted.remaining == 0
    refused = await ledger.reserve(make(price=MAX_MICROS))
    assert isinstance(refused, Refused)
    assert refused.code == "over_daily_limit"


async def test_what_the_schema_refuses_is_a_fault_and_changes_nothing(
    ledger: Ledger, database: Database, make: Make
) -> None:
    for change in (
        {"amount": 0},
        {"amount": 2**64},
        {"price": -1},
        {"price": 2**63},
        {"memo": "\0"},
    ):
        with pytest.raises(LedgerFault):
            await ledger.reserve(make(**change))
    assert await database.fetchval("SELECT count(*) FROM payments") == 0
    assert isinstance(await ledger.reserve(make()), Reserved)


async def test_a_storm_at_the_limit_grants_exactly_the_floor(
    dsn: str, database: Database, make: Make, policy: Policy
) -> None:
    """200 at once over two pools: 47 of one cent fit into 47.9 cents, 31 into the session's 31."""
    await agents.set_policy(database, replace(policy, daily_limit=479_000, session_limit=310_000))
    pools = [await Database.open(dsn, size=8) for _ in range(2)]
    ledgers = [Ledger(pool) for pool in pools]
    outcomes = await asyncio.gather(
        *(ledgers[i % 2].reserve(make(session_id="s" if i % 4 < 2 else None)) for i in range(200))
    )
    granted = [outcome for outcome in outcomes if isinstance(outcome, Reserved)]
    assert len(granted) == 47
    assert min(outcome.remaining for outcome in granted) >= 0
    assert await counter(database) == (0, 470_000)
    _, held_by_session = await counter(database, "session")
    assert held_by_session <= 310_000
    await check_books(database)
    for pool in pools:
        await pool.close()


async def test_a_storm_at_the_sessions_limit(
    dsn: str, database: Database, make: Make, policy: Policy
) -> None:
    await agents.set_policy(database, replace(policy, session_limit=315_000))
    pools = [await Database.open(dsn, size=6) for _ in range(2)]
    outcomes = await asyncio.gather(
        *(Ledger(pools[i % 2]).reserve(make(session_id="s")) for i in range(100))
    )
    assert sum(isinstance(outcome, Reserved) for outcome in outcomes) == 31
    assert await counter(database, "session") == (0, 310_000)
    assert await counter(database) == (0, 310_000)
    for pool in pools:
        await pool.close()
