# ruff: noqa: E501 - statements and tables read better unbroken
"""docs/database.md maps both seeds to what is here: what it names exists, and nothing is left out."""

import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg

from tests.schema.seeds import ENUMS, FIRST, INDEXES, SECOND

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]

ROOT = Path(__file__).parents[2]
_NAME = re.compile(r"`([a-z]\w+)\.([a-z]\w+)`")
_TEST = re.compile(r"`(test_\w+\.py)::(test_\w+)`")


@cache
def mapping() -> list[tuple[str, str, str]]:
    """(the seed's, here, proved by) of every row of the section's tables."""
    text = (ROOT / "docs/database.md").read_text()
    section = text.split("## Where each seed's names are")[1].split("\n## ")[0]
    cells = [
        line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| ")
    ]
    assert all(len(row) in (2, 3) for row in cells), [
        row for row in cells if len(row) not in (2, 3)
    ]
    return [
        (row[0], row[1], row[2] if len(row) == 3 else "") for row in cells if row[0] != "seed's"
    ]


def names(text: str) -> set[tuple[str, str]]:
    return {
        (table, column)
        for table, column in _NAME.findall(text)
        if column not in ("py", "md", "toml")
    }


async def test_every_name_that_is_named_is_there(books: "Connection") -> None:
    text = (ROOT / "docs/database.md").read_text().split("## Where each seed's names are")[1]
    columns = {
        tuple(row)
        for row in await books.fetch(
            "SELECT relname, attname FROM pg_attribute JOIN pg_class c ON c.oid = attrelid "
            "WHERE relnamespace = 'public'::regnamespace AND attnum > 0 AND NOT attisdropped"
        )
    }
    settings = {("autopay", "wallet")}  # of a connection
    assert names(text) - columns == settings


def test_every_test_that_is_named_is_there() -> None:
    files = {path.name: path.read_text() for path in ROOT.glob("tests/**/test_*.py")}
    named = set(_TEST.findall((ROOT / "docs/database.md").read_text()))
    assert len(named) > 40
    assert {
        f"{file}::{test}" for file, test in named if f"def {test}(" not in files.get(file, "")
    } == set()


def test_every_name_of_the_seeds_is_here() -> None:
    theirs = {
        (table, column)
        for seed in (FIRST, SECOND)
        for table, columns in seed.items()
        for column in columns.split()
    }
    mapped = set().union(*(names(row[0]) for row in mapping()))
    assert theirs - mapped == set()
    assert mapped - theirs == set(), "the left column is for the seeds' own names"
    left = " ".join(row[0] for row in mapping())
    for name, values in ENUMS.items():
        assert f"ENUM {name}: {', '.join(values.split())}" in left
    for index in INDEXES:
        assert index in left


def test_every_row_has_its_proof() -> None:
    without = [row[0] for row in mapping() if not _TEST.search(row[2]) and "---" not in row[0]]
    assert [row for row in without if "not needed" not in row] == [
        "the seed's", "the seed's", "the seed's", "it says", "a SolanaProgram table \"if needed\"",
        "Prisma, Jest, Postman, Vercel, S3",
    ]  # fmt: skip


async def test_every_name_of_the_seeds_holds_what_the_seed_does(books: "Connection") -> None:
    """Each table and column of both is a table (or view) and column of ours, by its own name."""
    for seed in (FIRST, SECOND):
        for table, columns in seed.items():
            await books.execute(f"SELECT {', '.join(columns.split())} FROM {table} LIMIT 0")


async def test_every_index_of_the_seeds_is_there(books: "Connection") -> None:
    found = "\n".join(
        row[0]
        for row in await books.fetch(
            "SELECT pg_get_indexdef(indexrelid) FROM pg_index JOIN pg_class c ON c.oid = indrelid "
            "WHERE NOT relispartition"
        )
    )
    for index in INDEXES:
        assert f" {index} " in found
    for table, key in (
        ("api_requests", "(agent_id, endpoint)"),
        ("api_requests", "(agent_id, status, created_at)"),
        ("api_requests", "gin (x402_instructions"),
        ("payments", "(payment_hash)"),
        ("transaction_logs", "(payment_id, created_at DESC)"),
        ("wallet_balances", "(agent_id, last_checked)"),
        ("wallet_balances", "(agent_id, wallet_address"),
        ("retry_attempts", "(api_request_id)"),
        ("retry_attempts", "(payment_id)"),
        ("audit_events", "(agent_id, created_at DESC)"),
        ("audit_events", "(event_type, severity, created_at DESC)"),
        ("audit_events", "gin (jsonb_to_tsvector('simple'::regconfig, details"),
    ):
        assert re.search(rf" ON (ONLY )?public\.{table} USING \w*.*{re.escape(key)}", found), (
            table,
            key,
        )


async def test_every_row_that_changes_has_updated_at(books: "Connection") -> None:
    """Without one: rows that are never changed, and the reconciler's and proxies' own clocks."""
    without = {
        row[0]
        for row in await books.fetch(
            "SELECT relname FROM pg_class c WHERE relnamespace = 'public'::regnamespace "
            "AND relkind IN ('r', 'p') AND NOT relispartition AND NOT EXISTS ("
            "SELECT 1 FROM pg_attribute WHERE attrelid = c.oid AND attname = 'updated_at')"
        )
    }
    assert not without & set(SECOND)
    assert without == {
        "abandoned_reservations", "agent_keys", "agent_tokens", "api_keys", "certificate_rejections",
        "chain_balances", "chain_rounds", "chain_seen", "chat_messages", "error_classifications", "event_servers", "kept_answers", "losses",
        "message_ratings", "policy_changes", "policy_decision_logs", "policy_limits", "query_logs", "rating_words", "receipt_chains", "receipt_keys",
        "receipt_ratings",
        "receipt_links", "receipt_signatures", "schema_migrations", "spending", "webhook_deliveries",
        "webhook_progress", "x402_payment_logs", "x402_procurement_receipts",
    }  # fmt: skip
