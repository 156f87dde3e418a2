# ruff: noqa: E501 - statements and tables read better unbroken
"""From every earlier version of the schema, with months of rows in it: nothing is lost."""

import json
from collections.abc import AsyncIterator, Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from proxy.ledger import Database, migrate
from proxy.vault import Vault
from sql import Migration, migrations
from tests.ledger.books import check_books
from tests.peers.postgres import drop_database, fresh_database
from tests.schema import rows
from tests.schema.rows import BOT, DOUBTED, INITIATED, OPEN, PRICES, SIGNED

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]

NAMES = [m.name for m in migrations()]
# Files from before this rule was made: they are released and stay as they are.
RERUNNABLE = [m for m in migrations() if m.name >= "0008"]
SYSTEM = "00000000-0000-0000-0000-000000000000"


def up_to(name: str) -> list[Migration]:
    return [m for m in migrations() if m.name <= name]


def number(name: str) -> int:
    return int(name.split("_", maxsplit=1)[0])


@pytest.fixture
async def old(server: str, vault: Vault, request: pytest.FixtureRequest) -> AsyncIterator[str]:
    """A database at the version that the test is run for, with rows in all that it has."""
    dsn = await fresh_database(server)
    await migrate(dsn, files=up_to(request.param), vault=vault)
    connection = await asyncpg.connect(dsn)
    await rows.fill(connection, number(request.param))
    await connection.close()
    yield dsn
    await drop_database(server, dsn)


async def contents(
    connection: "Connection", columns: Mapping[str, list[str]] | None = None
) -> dict[str, list[dict[str, Any]]]:
    """Every row of every table, as JSON; with `columns` only those, of those tables."""
    found = {}
    tables = await connection.fetch(
        "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace "
        "AND relkind IN ('r', 'p') AND NOT relispartition AND relname <> 'schema_migrations' ORDER BY 1"
    )
    for (table,) in tables:
        if columns is None or table in columns:
            found[table] = sorted(
                (
                    {
                        k: v
                        for k, v in json.loads(row).items()
                        if columns is None or k in columns[table]
                    }
                    for (row,) in await connection.fetch(f"SELECT to_jsonb(t) FROM {table} t")
                ),
                key=lambda row: json.dumps(row, sort_keys=True),
            )
    return found


def known_change(table: str, column: str, level: int) -> bool:
    """What the newer migrations are meant to change in rows that are there, and nothing else."""
    return level < 9 and (table, column) == ("agents", "updated_at")  # tokens are sealed


@pytest.mark.parametrize("old", NAMES[:-1], indirect=True)
async def test_upgrade(old: str, vault: Vault, request: pytest.FixtureRequest) -> None:
    level = number(request.node.callspec.params["old"])
    connection = await asyncpg.connect(old)
    try:
        before = await contents(connection)
        names = {
            table: [column for column in found[0] if not known_change(table, column, level)]
            for table, found in before.items()
            if found
        }
        before = await contents(connection, names)
        await migrate(old, vault=vault)
        after = await contents(connection, names)
        for table in names:
            was, now = _not_of_autopay(before[table]), _not_of_autopay(after[table])
            # A migration that changes a row may leave events of it; and it may bring new words.
            if table in ("audit_events", "error_classifications"):
                assert all(row in now for row in was)
            else:
                assert now == was, table
        await _months(connection)
        await _agents(connection, level)
        if level >= 2:
            await _payments(connection)
            await _requests(connection, level)
    finally:
        await connection.close()
    if level >= 2:
        await _the_books_go_on(old, level)


def _not_of_autopay(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without the agent that is autopay itself, which a migration makes, and its events."""
    return [row for row in found if SYSTEM not in (row.get("id"), row.get("agent_id"))]


async def _months(connection: "Connection") -> None:
    """Every row of a partitioned log is in the partition of its own month."""
    for table in ("policy_decision_logs", "transaction_logs", "audit_events", "query_logs"):
        astray = await connection.fetch(
            f"SELECT tableoid::regclass::text, created_at FROM {table} WHERE tableoid::regclass::text <> "
            f"'{table}' || to_char(created_at AT TIME ZONE 'UTC', '_YYYY_MM')"
        )
        # Only what was written into a log that had no such month yet may be in the default one.
        assert {row[0] for row in astray} <= {f"{table}_default"}, astray
        if table == "policy_decision_logs":
            months = await connection.fetchval(f"SELECT count(DISTINCT tableoid) FROM {table}")
            decisions = await connection.fetchval(f"SELECT count(*) FROM {table}")
            assert (decisions, months >= 2) in ((0, False), (10, True))
    await connection.execute("SELECT ensure_partitions(1, (now() - interval '80 days')::date)")
    for table in ("policy_decision_logs", "transaction_logs", "audit_events", "query_logs"):
        assert await connection.fetchval(f"SELECT count(*) FROM {table}_default") == 0


async def _agents(connection: "Connection", level: int) -> None:
    assert await connection.fetchval("SELECT count(*) FROM agents") == 3  # and autopay itself
    system = await connection.fetchrow("SELECT name, is_active FROM agents WHERE id = $1", SYSTEM)
    assert tuple(system) == ("autopay", False)
    assert await connection.fetchval("SELECT count(*) FROM agent_tokens WHERE sealed IS NULL") == 0
    limits = await connection.fetchrow("SELECT * FROM agent_policies WHERE agent_id = $1", BOT)
    assert limits["daily_limit_usd"] == Decimal("2.000003")
    assert limits["trace_limit_usd"] == (Decimal("0.9") if level >= 11 else Decimal(1))


async def _payments(connection: "Connection") -> None:
    found = {str(row["id"]): row for row in await connection.fetch("SELECT * FROM payments")}
    assert {payment: row["price_micros"] for payment, row in found.items()} == PRICES
    for payment, row in found.items():
        assert row["amount"] == Decimal(PRICES[payment]).scaleb(-6)
        assert row["mainnet_flag"] is (row["network"] == rows.MAINNET)
        assert row["currency"] == row["symbol"]
        assert row["decimals"] == 6
    counters = await connection.fetchrow(
        "SELECT sum(held_micros), sum(spent_micros), sum(paid_calls) FROM budget_counters"
    )
    held, spent, calls = map(int, counters)
    assert held == sum(PRICES[p] for p in OPEN) + PRICES[DOUBTED]  # in a session too
    assert spent == PRICES[rows.CONFIRMED] * 2 + PRICES[rows.VERIFIED]
    assert calls == 3


async def _requests(connection: "Connection", level: int) -> None:
    """A payment from before requests had rows has the one it must have had."""
    lost = await connection.fetch(
        "SELECT p.id FROM payments p LEFT JOIN api_requests a ON a.id = p.api_request_id "
        "AND a.agent_id = p.agent_id AND a.endpoint = p.endpoint WHERE a.id IS NULL"
    )
    assert lost == []
    if level < 12:
        states = {
            str(row["id"]): row["status"]
            for row in await connection.fetch("SELECT id, status FROM api_requests")
        }
        assert {states[p] for p in OPEN} == {"PAYMENT_REQUIRED"}
        assert {states[p] for p in rows.PAID} == {"PAID"}
        assert {states[p] for p in (rows.UNSENT, rows.DEAD)} == {"FAILED"}


async def _the_books_go_on(dsn: str, level: int) -> None:
    """The functions of now work on the payments of then, and the books balance after it."""
    database = await Database.open(dsn)
    try:
        settled = json.dumps(
            {
                "payment_id": SIGNED,
                "source": "provider",
                "claimed": False,
                "success": True,
                "latency_ms": 1,
            }
        )
        assert await database.fetchval("SELECT release($1, 'never_sent')", INITIATED) == "released"
        assert await database.fetchval("SELECT settle($1)", settled) == "settled"
        assert (
            await database.fetchval("SELECT doubt($1, 'answer_lost', '', 502)", DOUBTED)
            == "doubted"
        )
        if level >= 3:  # before, there were no receipts for the payments that are there
            await check_books(database)
        spent = await database.fetchval("SELECT total_spend_usd FROM x402_session_spend")
        assert spent == Decimal("0.03")
    finally:
        await database.close()


@pytest.mark.parametrize("old", NAMES[-1:], indirect=True)
async def test_every_file_run_again_changes_nothing(old: str) -> None:
    """In order, as one runs scripts by hand, on a database with rows: schema and rows stay."""
    connection = await asyncpg.connect(old)
    try:
        before = await contents(connection), await shape(connection)
        for migration in RERUNNABLE:
            async with connection.transaction():
                await connection.execute(migration.text)
        after = await contents(connection), await shape(connection)
    finally:
        await connection.close()
    for one, other in zip(before[1], after[1], strict=True):
        assert one == other
    assert before == after


async def test_every_file_can_be_run_twice_in_a_row(server: str, vault: Vault) -> None:
    dsn = await fresh_database(server)
    await migrate(dsn, files=up_to("0007_rejections"), vault=vault)
    connection = await asyncpg.connect(dsn)
    try:
        await rows.fill(connection, 7)
        for migration in RERUNNABLE:
            async with connection.transaction():
                await connection.execute(migration.text)
            once = await contents(connection), await shape(connection)
            async with connection.transaction():
                await connection.execute(migration.text)
            assert (await contents(connection), await shape(connection)) == once, migration.name
    finally:
        await connection.close()
        await drop_database(server, dsn)


async def shape(connection: "Connection") -> list[str]:
    """Columns, rules, indexes, functions, policies and grants, each as a line."""
    return [
        row[0]
        for row in await connection.fetch(
            """
            SELECT concat_ws(' ', attrelid::regclass, attname, format_type(atttypid, atttypmod), attnotnull,
                             attacl::text) FROM pg_attribute JOIN pg_class c ON c.oid = attrelid
             WHERE relnamespace = 'public'::regnamespace AND attnum > 0 AND NOT attisdropped
            UNION ALL SELECT concat_ws(' ', conrelid::regclass, conname, pg_get_constraintdef(oid))
              FROM pg_constraint WHERE connamespace = 'public'::regnamespace
            UNION ALL SELECT pg_get_indexdef(indexrelid) FROM pg_index JOIN pg_class c ON c.oid = indrelid
             WHERE relnamespace = 'public'::regnamespace
            UNION ALL SELECT concat_ws(' ', pg_get_functiondef(oid), proacl::text) FROM pg_proc
             WHERE pronamespace = 'public'::regnamespace
            UNION ALL SELECT concat_ws(' ', pg_get_triggerdef(t.oid)) FROM pg_trigger t
             WHERE NOT tgisinternal
            UNION ALL SELECT concat_ws(' ', tablename, policyname, roles::text, cmd, qual, with_check)
              FROM pg_policies WHERE schemaname = 'public'
            UNION ALL SELECT concat_ws(' ', relname, relkind, relrowsecurity, relacl::text) FROM pg_class
             WHERE relnamespace = 'public'::regnamespace
            UNION ALL SELECT concat_ws(' ', typname, enumlabel) FROM pg_enum JOIN pg_type t ON t.oid = enumtypid
            ORDER BY 1
            """
        )
    ]
