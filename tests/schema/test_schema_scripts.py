# ruff: noqa: E501 - statements and tables read better unbroken
"""The development profile opens and can be taken back; the demo data keeps the books balanced."""

from collections.abc import AsyncIterator
from decimal import Decimal
from typing import TYPE_CHECKING

import asyncpg
import pytest

from proxy.ledger import Database
from proxy.upkeep import UpkeepError
from proxy.upkeep.scripts import apply_profile, plant_demo
from sql import script
from tests.ledger.books import check_books
from tests.schema.rows import BOT
from tests.schema.seeds import FIRST
from tests.schema.test_schema_roles import refused
from tests.schema.test_schema_upgrade import contents, shape

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]

OPENED = sorted(set(FIRST) - {"x402_session_spend"})  # that one is a view
OPEN_POLICIES = (
    "SELECT tablename FROM pg_policies WHERE policyname = 'Allow all operations' ORDER BY 1"
)
DEVELOPER = "autopay_developer"


@pytest.fixture
async def owner(dsn: str) -> "AsyncIterator[Connection]":
    connection = await asyncpg.connect(dsn)
    yield connection
    await connection.close()


async def test_production_has_no_open_policy(books: "Connection") -> None:
    assert await books.fetch(OPEN_POLICIES) == []
    assert (
        await books.fetch(
            "SELECT tablename, policyname FROM pg_policies WHERE 'public' = ANY (roles)"
        )
        == []
    )


async def test_the_development_profile_opens(owner: "Connection") -> None:
    await apply_profile(owner, "development")
    await apply_profile(owner, "development")
    assert [row[0] for row in await owner.fetch(OPEN_POLICIES)] == OPENED
    assert (
        await owner.fetch(
            "SELECT 1 FROM pg_policies WHERE policyname = 'Allow all operations' "
            "AND (cmd, qual, with_check) IS DISTINCT FROM ('ALL', 'true', 'true')"
        )
        == []
    )
    await owner.execute("INSERT INTO agents (id, name) VALUES ($1, 'bot')", BOT)
    await owner.execute(f"GRANT {DEVELOPER} TO CURRENT_USER; SET ROLE {DEVELOPER}")
    chat = await owner.fetchval(
        "INSERT INTO chat_sessions (wallet_address) VALUES ('anybody') RETURNING id"
    )
    await owner.execute(
        "INSERT INTO agent_policies (agent_id, daily_limit_micros) VALUES ($1, 5)", BOT
    )
    assert await owner.fetchval("SELECT count(*) FROM chat_sessions WHERE id = $1", chat) == 1
    assert await owner.execute("DELETE FROM agent_policies") == "DELETE 1"
    for log in ("policy_decision_logs", "x402_payment_logs"):  # open, and still final
        with pytest.raises(asyncpg.CheckViolationError, match="its rows are the books"):
            await owner.execute(f"DELETE FROM {log}")
    for table in ("payments", "budget_counters", "agents", "agent_tokens", "audit_events"):
        assert await refused(owner, f"SELECT 1 FROM {table}"), table


async def test_the_development_profile_is_reversible(owner: "Connection") -> None:
    before = await shape(owner)
    await apply_profile(owner, "development")
    assert await shape(owner) != before
    await apply_profile(owner, "production")
    assert await owner.fetch(OPEN_POLICIES) == []
    assert [line for line in await shape(owner) if line not in before] == []
    assert await shape(owner) == before
    usage = "SELECT has_schema_privilege($1, 'public', 'USAGE')"
    assert await owner.fetchval(usage, DEVELOPER) is False
    await apply_profile(owner, "production")
    await owner.execute(f"GRANT {DEVELOPER} TO CURRENT_USER; SET ROLE {DEVELOPER}")
    for table in OPENED:
        assert await refused(owner, f"SELECT 1 FROM public.{table}"), table


# --- demo data -------------------------------------------------------------------------------------


async def test_demo_data_is_there_once(owner: "Connection") -> None:
    assert await plant_demo(owner) == 5
    before = await contents(owner)
    assert await plant_demo(owner) == 0
    assert await contents(owner) == before


async def test_demo_data_fills_the_tables(owner: "Connection") -> None:
    await plant_demo(owner)
    empty = {
        "abandoned_reservations", "agent_keys", "agent_tokens", "api_keys", "approvals", "cache_savings", "certificate_rejections",
        "event_servers", "policy_limits", "policy_rules", "webhook_deliveries", "webhooks",
        "chain_balances", "chain_doubts", "chain_rounds", "chain_seen", "kept_answers", "loss_counters", "losses", "maintenance_tasks", "pay_to_pins",
        "receipt_keys", "receipt_ratings", "receipt_signatures", "spend_limits",
    }  # fmt: skip
    assert {table for table, found in (await contents(owner)).items() if not found} == empty
    assert {
        (row["status"], row["release_reason"])
        for row in await owner.fetch("SELECT status, release_reason FROM payments")
    } == {
        ("SIGNED", None), ("CONFIRMED", None), ("VERIFIED", None), ("FAILED", "never_sent"),
        ("FAILED", "proved_dead"),
    }  # fmt: skip
    assert await owner.fetchval("SELECT every(NOT mainnet_flag) FROM payments")
    instructions = await owner.fetchval(
        'SELECT count(*) FROM api_requests WHERE x402_instructions @> \'{"x402Version": 2, "demo": true}\''
    )
    assert instructions == 6
    steps = await owner.fetch("SELECT step_index, outcome FROM x402_trace_steps ORDER BY 1")
    assert list(map(tuple, steps)) == [(0, "paid"), (1, "paid"), (2, "in_doubt"), (3, "denied")]
    levels = await owner.fetchval(
        "SELECT count(DISTINCT confirmation_status) FROM transaction_logs"
    )
    assert levels == 3
    assert await owner.fetchval("SELECT low_balance_event FROM wallet_balances") is True
    assert await owner.fetchval("SELECT count(*) FROM retry_attempts") == 3


async def test_demo_books_balance(owner: "Connection", dsn: str) -> None:
    await plant_demo(owner)
    database = await Database.open(dsn)
    try:
        await check_books(database)
    finally:
        await database.close()
    day = await owner.fetchrow(
        "SELECT spent_micros, held_micros, paid_calls FROM budget_counters WHERE kind = 'agent_day'"
    )
    assert tuple(day) == (30_000, 5_000, 2)
    trace = await owner.fetchrow("SELECT spent_usd_end, remaining_usd_end FROM x402_traces")
    assert tuple(trace) == (Decimal("0.03"), Decimal("0.965"))


async def test_demo_data_refuses_real_payments(filled: str) -> None:
    connection = await asyncpg.connect(filled)
    try:
        with pytest.raises(UpkeepError, match="there are real payments in this database"):
            await plant_demo(connection)
        assert await connection.fetchval("SELECT count(*) FROM agents WHERE name LIKE 'Demo%'") == 0
    finally:
        await connection.close()


def test_demo_data_never_writes_a_counter_itself() -> None:
    text = script("seeds/demo.sql")
    assert "budget_counters" not in text
    assert "INSERT INTO payments" not in text
