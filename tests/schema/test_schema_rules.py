# ruff: noqa: E501 - statements and tables read better unbroken
"""Each rule of the schema is broken once, on a row that otherwise fits; none is without a test."""

import asyncio
import json
from decimal import ROUND_HALF_UP, Context, Decimal
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from tests.schema.rows import NOBODY
from tests.schema.rules import (
    ANNOUNCED,
    CHECKS,
    FRESH,
    MODEL,
    REFERENCES,
    REQUIRED,
    TRIGGERS,
    UNIQUE,
)
from tests.schema.seeds import ENUMS

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]

WIDE = Context(prec=60, rounding=ROUND_HALF_UP)
# Tables of ours, the partitioned ones as one.
OURS = "relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition"
COLUMNS = """(SELECT string_agg(attname, '+' ORDER BY k.n) FROM unnest({}) WITH ORDINALITY k (a, n)
              JOIN pg_attribute ON attrelid = c.oid AND attnum = k.a)"""


def listed(rules: dict[str, str]) -> set[tuple[str, str]]:
    return {(table, rule) for table, all_of in rules.items() for rule in all_of.split()}


async def in_catalog(books: "Connection", sql: str) -> set[tuple[str, ...]]:
    return {tuple(row) for row in await books.fetch(sql)}


async def insert_like(books: "Connection", table: str, changes: dict[str, Any]) -> None:
    """Inserts a copy of a row that fits, with some columns changed."""
    columns = await books.fetchval(
        "SELECT string_agg(quote_ident(attname), ', ') FROM pg_attribute WHERE attrelid = $1::text::regclass "
        "AND attnum > 0 AND attgenerated = '' AND NOT attisdropped",
        table,
    )
    row = json.loads(
        await books.fetchval(
            f"SELECT to_jsonb(t) FROM {table} t WHERE {MODEL.get(table, 'true')} ORDER BY t LIMIT 1"
        )
    )
    await books.execute(
        f"INSERT INTO {table} ({columns}) SELECT {columns} FROM jsonb_populate_record(NULL::{table}, $1)",
        json.dumps(row | changes),
    )


def fresh(table: str) -> dict[str, Any]:
    return FRESH.get(table, {"id": NOBODY} if UNIQUE[table].startswith("id") else {})


async def test_no_rule_is_without_a_test(books: "Connection") -> None:
    assert listed(REQUIRED) == await in_catalog(
        books,
        f"SELECT c.relname, attname FROM pg_class c JOIN pg_attribute ON attrelid = c.oid "
        f"WHERE {OURS} AND attnum > 0 AND attnotnull AND NOT attisdropped",
    )
    assert listed(UNIQUE) == await in_catalog(
        books,
        f"SELECT c.relname, {COLUMNS.format('indkey')} FROM pg_class c JOIN pg_index ON indrelid = c.oid "
        f"WHERE {OURS} AND indisunique",
    )
    assert listed(REFERENCES) == await in_catalog(
        books,
        f"SELECT c.relname, {COLUMNS.format('conkey')} || '>' || confrelid::regclass "
        f"|| CASE confdeltype WHEN 'c' THEN '!' WHEN 'r' THEN '' ELSE '?' END "
        f"FROM pg_class c JOIN pg_constraint ON conrelid = c.oid WHERE {OURS} AND contype = 'f'",
    )
    assert set(CHECKS) == {
        name
        for (name,) in await in_catalog(
            books,
            f"SELECT conname FROM pg_class c JOIN pg_constraint ON conrelid = c.oid "
            f"WHERE {OURS} AND contype = 'c'",
        )
    }
    assert {tuple(trigger.split(".")) for trigger in TRIGGERS} == await in_catalog(
        books,
        f"SELECT relname, tgname FROM pg_class c JOIN pg_trigger ON tgrelid = c.oid "
        f"WHERE {OURS} AND NOT tgisinternal",
    )


async def test_no_other_kind_of_rule(books: "Connection") -> None:
    """No exclusion constraint, constraint trigger or deferred key that the lists would not tell of."""
    assert not await books.fetch(
        f"SELECT conname FROM pg_constraint JOIN pg_class c ON c.oid = conrelid "
        f"WHERE {OURS} AND (contype NOT IN ('c', 'f', 'p', 'u') OR condeferrable OR NOT convalidated)"
    )


@pytest.mark.parametrize("table", REQUIRED)
async def test_required(books: "Connection", table: str) -> None:
    for column in REQUIRED[table].split():
        with pytest.raises(asyncpg.NotNullViolationError) as refused:
            async with books.transaction():
                await insert_like(books, table, {column: None})
        assert refused.value.column_name == column


@pytest.mark.parametrize("table", UNIQUE)
async def test_unique(books: "Connection", table: str) -> None:
    row = json.loads(
        await books.fetchval(
            f"SELECT to_jsonb(t) FROM {table} t WHERE {MODEL.get(table, 'true')} ORDER BY t LIMIT 1"
        )
    )
    for key in UNIQUE[table].split():
        taken = {column: row[column] for column in key.split("+")}
        if None in taken.values() and key == "payment_hash":  # of a payment that has none yet
            taken = {"payment_hash": await books.fetchval("SELECT max(payment_hash) FROM payments")}
        with pytest.raises(asyncpg.UniqueViolationError):
            async with books.transaction():
                await insert_like(books, table, fresh(table) | taken)


@pytest.mark.parametrize("table", FRESH)
async def test_a_row_that_breaks_nothing_is_taken(books: "Connection", table: str) -> None:
    """What the other tests change is what they are refused for."""
    await insert_like(books, table, fresh(table))


@pytest.mark.parametrize("table", REFERENCES)
async def test_references(books: "Connection", table: str) -> None:
    for reference in REFERENCES[table].split():
        columns, _, parent = reference.rstrip("!").partition(">")
        column = columns.split("+")[-1]
        wrong = WRONG.get(column, NOBODY)
        with pytest.raises(asyncpg.ForeignKeyViolationError) as refused:
            async with books.transaction():
                await insert_like(books, table, fresh(table) | {column: wrong})
        assert str(refused.value.table_name).startswith(table)  # or a partition of it
        key = " AND ".join(
            f"p.{of} = c.{by}"
            for by, of in zip(columns.split("+"), KEY_OF[parent].split("+"), strict=True)
        )
        delete = f"DELETE FROM {parent} p USING {table} c WHERE {key}"
        if reference.endswith("!"):
            back = books.transaction()
            await back.start()
            await books.execute(delete)
            assert await books.fetchval(f"SELECT count(*) FROM {table}") == 0
            await back.rollback()
        elif await books.fetchval(
            f"SELECT exists(SELECT 1 FROM {table} WHERE {column} IS NOT NULL)"
        ):
            with pytest.raises(asyncpg.IntegrityConstraintViolationError):
                async with books.transaction():
                    await books.execute(delete)


WRONG = {
    "trace_id": "nothing",
    "error_class": "nothing",
    "cause": "nothing",
    "seq": 99,
}  # the others are uuids
KEY_OF = {
    "agents": "id", "api_requests": "id", "payments": "id", "chat_sessions": "id",
    "error_classifications": "code", "x402_traces": "agent_id+trace_id",
    "x402_payment_logs": "id", "receipt_chains": "agent_id", "receipt_links": "agent_id+seq",
    "receipt_keys": "key_id", "webhooks": "id",
}  # fmt: skip


@pytest.mark.parametrize("name", CHECKS)
async def test_checks(books: "Connection", name: str) -> None:
    change = CHECKS[name]
    with pytest.raises(asyncpg.CheckViolationError) as refused:
        if isinstance(change, str):
            await books.execute(change)
        else:
            table = await books.fetchval(
                f"SELECT c.relname FROM pg_constraint JOIN pg_class c ON c.oid = conrelid "
                f"WHERE {OURS} AND conname = $1",
                name,
            )
            await insert_like(books, table, change)
    assert refused.value.constraint_name == name


@pytest.mark.parametrize("trigger", [name for name, acts in TRIGGERS.items() if acts])
async def test_triggers(books: "Connection", trigger: str) -> None:
    for statement, expected in TRIGGERS[trigger]:
        back = books.transaction()
        await back.start()
        if expected.startswith("SELECT"):
            await books.execute(statement)
            assert await books.fetchval(expected) is True, statement
        else:
            with pytest.raises(asyncpg.CheckViolationError, match=expected):
                await books.execute(statement)
        await back.rollback()


async def test_whole_tokens_are_exact_for_every_number_of_decimals(books: "Connection") -> None:
    """payments.amount has nine places: all that the tokens we pay with have, and the seed."""
    largest = 2**64 - 1
    for decimals in range(19):
        for atomic in (1, 123_456_789, largest):
            back = books.transaction()
            await back.start()
            await insert_like(
                books,
                "payments",
                fresh("payments") | {"amount_atomic": atomic, "decimals": decimals},
            )
            amount = await books.fetchval("SELECT amount FROM payments WHERE id = $1", NOBODY)
            exact = WIDE.scaleb(Decimal(atomic), -decimals)
            assert amount == WIDE.quantize(exact, Decimal("1e-9")), (
                atomic,
                decimals,
            )
            await back.rollback()


async def test_triggers_announce(dsn: str) -> None:
    heard: list[str] = []
    listener, changer = await asyncpg.connect(dsn), await asyncpg.connect(dsn)
    try:
        await listener.add_listener("autopay_directory", lambda *told: heard.append(told[3]))
        for table in ANNOUNCED:
            heard.clear()
            await changer.execute(f"DELETE FROM {table} WHERE false")
            async with asyncio.timeout(20):
                while not heard:
                    await listener.execute("SELECT pg_sleep(0.01)")
    finally:
        await listener.close()
        await changer.close()


async def test_partitions_are_no_way_around(books: "Connection") -> None:
    """The rules of a partitioned log hold in each of its months."""
    for parent in ("audit_events", "transaction_logs", "query_logs", "policy_decision_logs"):
        rules = [
            {
                tuple(row)
                for row in await books.fetch(
                    "SELECT contype, pg_get_constraintdef(oid) FROM pg_constraint "
                    "WHERE conrelid = $1::text::regclass AND contype <> 'n'",
                    table,
                )
            }
            for (table,) in await books.fetch(
                "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = $1::text::regclass",
                parent,
            )
        ]
        own = {
            tuple(row)
            for row in await books.fetch(
                "SELECT contype, pg_get_constraintdef(oid) FROM pg_constraint "
                "WHERE conrelid = $1::text::regclass AND contype <> 'n'",
                parent,
            )
        }
        assert len(rules) >= 4
        assert all(rule == own for rule in rules), parent


async def test_enums_have_the_seeds_values_first(books: "Connection") -> None:
    found = {
        row["typname"]: row["values"].split()
        for row in await books.fetch(
            "SELECT typname, string_agg(enumlabel, ' ' ORDER BY enumsortorder) AS values "
            "FROM pg_type JOIN pg_enum ON enumtypid = pg_type.oid GROUP BY typname"
        )
    }
    for name, values in ENUMS.items():
        ours = found[name]
        assert ours[: len(values.split())] == values.split(), name
