"""`autopay db`, as an operator types it."""

import asyncio
import json
from pathlib import Path

import asyncpg

from tests.cli.conftest import Autopay
from tests.peers.postgres import drop_database


def do(dsn: str, sql: str) -> None:
    async def run() -> None:
        connection = await asyncpg.connect(dsn)
        await connection.execute(sql)
        await connection.close()

    asyncio.run(run())


def test_migrate_shows_what_it_did(autopay: Autopay, dsn: str) -> None:
    assert autopay.well("db", "migrate") == "Nothing to apply: the schema is up to date.\n"
    do(dsn, "DELETE FROM schema_migrations WHERE name = '0022_upkeep' OR name > '0022_upkeep'")
    assert autopay.well("db", "migrate").startswith("applied  0022_upkeep\n")


def test_the_owner_migrates_where_the_login_may_not(autopay: Autopay, dsn: str) -> None:
    do(dsn, "CREATE ROLE cli_lesser LOGIN; GRANT autopay_reader TO cli_lesser")
    lesser = dsn.replace("//autopay@", "//cli_lesser@")
    last = "DELETE FROM schema_migrations WHERE name = (SELECT max(name) FROM schema_migrations)"
    try:
        assert "receipts" not in autopay.well("receipts", DATABASE_URL=lesser)
        do(dsn, last)
        told = autopay.refused("receipts", DATABASE_URL=lesser)
        assert "run: autopay db migrate --owner-url" in told
        applied = autopay.well("db", "migrate", "--owner-url", dsn, DATABASE_URL=lesser)
        assert applied.startswith("applied  ")
        do(dsn, last)
        autopay.well("receipts", DATABASE_URL=lesser, AUTOPAY_DATABASE__OWNER_URL=dsn)
        told = autopay.refused("agent", "list", DATABASE_URL=lesser)
        assert told.endswith('GRANT autopay_admin TO "cli_lesser"')
    finally:
        do(dsn, "DROP ROLE cli_lesser")


def test_a_far_database_in_plain_text_is_refused(autopay: Autopay) -> None:
    far = "postgresql://u:SECRET@db.example/x?sslmode=disable"
    for words in (("receipts",), ("db", "status"), ("db", "migrate", "--owner-url", far)):
        told = autopay.refused(*words, DATABASE_URL=far)
        assert "allow_plaintext" in told
        assert "SECRET" not in told
    assert "allow_plaintext" in autopay.refused("receipts", AUTOPAY_DATABASE__OWNER_URL=far)


def test_status(autopay: Autopay, dsn: str) -> None:
    text = autopay.well("db", "status")
    for words in ("3 months ahead", "autopay_writer", "90 days", "audit_events", "up to date"):
        assert words in text
    status = json.loads(autopay.well("db", "status", "--json"))
    assert status["well"] is True
    assert status["months_ahead"] == 3
    do(dsn, "INSERT INTO query_logs (response_time_ms, created_at) VALUES (1, '2001-01-01')")
    done = autopay("db", "status")
    assert done.returncode == 1
    assert "ALARM       1 rows of query_logs" in done.stdout
    assert "2001-01-01" in done.stdout


def test_verify(autopay: Autopay, dsn: str) -> None:
    do(dsn, "DROP TRIGGER payments_keep ON payments")
    done = autopay("db", "verify")
    assert done.returncode == 1
    assert "missing  table payments, trigger payments_keep\n" in done.stdout


def test_backup_and_restore(autopay: Autopay, dsn: str, tmp_path: Path) -> None:
    autopay.well("agent", "add", "bot")
    file = tmp_path / "books.dump"
    assert str(file) in autopay.well("db", "backup", str(file))
    assert "is there already" in autopay.refused("db", "backup", str(file))
    assert "is not empty" in autopay.refused("db", "restore", str(file))
    assert "--keep goes with --dir" in autopay.refused("db", "backup", str(file), "--keep", "3")
    assert "name either" in autopay.refused("db", "backup")
    for _ in range(2):
        autopay.well("db", "backup", "--dir", str(tmp_path / "daily"), "--keep", "1")
        asyncio.run(asyncio.sleep(1.0))  # they are named by the second
    assert len(list((tmp_path / "daily").iterdir())) == 2
    assert "backup" in autopay.well("db", "status")
    name = dsn.partition("?")[0].rpartition("/")[2]
    empty = dsn.replace(f"/{name}", f"/{name}_again")
    do(dsn, f"CREATE DATABASE {name}_again")
    try:
        restored = autopay("db", "restore", str(file), DATABASE_URL=empty).stdout
        assert "all spending is halted" in restored
        assert "halted: restored from" in autopay.well("audit", DATABASE_URL=empty)
        assert "bot" in autopay.well("agent", "list", DATABASE_URL=empty)
    finally:
        asyncio.run(drop_database(dsn, empty))


def test_prune(autopay: Autopay, dsn: str) -> None:
    do(dsn, "SELECT ensure_partitions(0, (now() - interval '200 days')::date)")
    would = autopay.well("db", "prune", "--dry-run")
    assert would.startswith("would drop  audit_events_")
    assert autopay.well("db", "prune", "--dry-run") == would
    assert autopay.well("db", "prune") == would.replace("would drop", "dropped")
    assert autopay.well("db", "prune") == "Nothing is older than 90 days.\n"
    assert "31 days at least" in autopay.refused("db", "prune", "--days", "5")


def test_to_ask_makes_no_database(private: Path) -> None:
    autopay = Autopay(private, inside=True)
    autopay.config.touch()
    for word in ("status", "verify", "prune"):
        assert "there is no database" in autopay.refused("db", word)
    assert not (private / "postgres").exists()
