"""The running proxy's upkeep: months made and dropped, one leader, and what fails is said."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import asyncpg
import pytest

from proxy.ledger.roles import WRITER
from proxy.upkeep import Keeper, tasks
from proxy.upkeep.backup import backups_in
from tests.upkeep.servers import until

Owner = "asyncpg.Connection[asyncpg.Record]"
LOGS = ("audit_events", "policy_decision_logs", "query_logs", "transaction_logs")


@pytest.fixture
async def keepers(dsn: str) -> AsyncIterator[Callable[..., Keeper]]:
    """Makes keepers that act as the proxy does, and look every 50 ms."""
    made: list[Keeper] = []

    def make(**options: object) -> Keeper:
        made.append(Keeper(dsn, **({"role": WRITER, "tick": 0.05} | options)))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for keeper in made:
        await keeper.close()


async def months(owner: Owner, log: str = "query_logs") -> list[str]:
    rows = await owner.fetch(
        "SELECT inhrelid::regclass::text AS name FROM pg_inherits "
        "WHERE inhparent = $1::text::regclass ORDER BY 1",
        log,
    )
    return [row["name"].removeprefix(f"{log}_") for row in rows]


async def drop_months(owner: Owner) -> None:
    for log in LOGS:
        for month in await months(owner, log):
            if month != "default":
                await owner.execute(f"DROP TABLE {log}_{month}")


async def events(owner: Owner, kind: str) -> list[dict[str, object]]:
    rows = await owner.fetch(
        "SELECT details::text, severity FROM audit_events WHERE event_type = $1 "
        "ORDER BY created_at",
        kind,
    )
    return [json.loads(row["details"]) | {"severity": row["severity"]} for row in rows]


async def test_months_are_made_before_anything_else(
    owner: Owner, keepers: Callable[..., Keeper]
) -> None:
    await drop_months(owner)
    await keepers().start()
    for log in LOGS:
        assert len(await months(owner, log)) == 5  # this month, three more, the default


async def test_rows_without_a_month_are_an_alarm(
    owner: Owner, keepers: Callable[..., Keeper], caplog: pytest.LogCaptureFixture
) -> None:
    await owner.execute(
        "INSERT INTO query_logs (response_time_ms, created_at) "
        "VALUES (1, now() + interval '1 year')"
    )
    keeper = keepers()
    with caplog.at_level(logging.ERROR):
        await keeper.start()
    assert keeper.default_rows == 1
    assert "rows are in default partitions" in caplog.text
    (alarm,) = await events(owner, "ALARM")
    assert alarm == {"default_partition_rows": {"query_logs": 1}, "severity": "ERROR"}


async def test_rows_of_a_month_that_was_missing_are_taken_home(
    owner: Owner, keepers: Callable[..., Keeper]
) -> None:
    await drop_months(owner)
    await owner.execute("INSERT INTO query_logs (response_time_ms) VALUES (1)")
    keeper = keepers()
    await keeper.start()
    assert keeper.default_rows == 0
    assert await owner.fetchval("SELECT count(*) FROM query_logs_default") == 0
    assert await owner.fetchval("SELECT count(*) FROM query_logs") == 1


async def test_old_months_leave_whole_and_the_books_stay(
    filled: str, owner: Owner, keepers: Callable[..., Keeper]
) -> None:
    await owner.execute("SELECT ensure_partitions(0, (now() - interval '200 days')::date)")
    agents = await owner.fetchval("SELECT count(*) FROM agents")
    would = await tasks.prune(owner, 90, dry_run=True)
    before = {log: await months(owner, log) for log in LOGS}
    assert would
    keeper = keepers(retention_days=90)
    await keeper.start()
    await until_done(owner, "prune")
    # By the calendar, not by the function: a month stays until its last moment is 90 days old.
    kept = await owner.fetchval(
        "SELECT to_char((now() - interval '90 days') AT TIME ZONE 'UTC', 'YYYY_MM')"
    )
    for log in LOGS:
        assert await months(owner, log) == [month for month in before[log] if month >= kept]
    assert {f"{log}_{month}" for log in LOGS for month in before[log] if month < kept} == {
        old.name for old in would
    }
    assert await owner.fetchval("SELECT count(*) FROM agents") == agents
    (event,) = [one for one in await events(owner, "MAINTENANCE") if one["task"] == "prune"]
    assert event["severity"] == "INFO"


async def test_providers_that_were_not_seen_for_long_leave(owner: Owner, dsn: str) -> None:
    ago = "now() - interval '91 days'"
    await owner.execute(f"""
        INSERT INTO provider_scores (provider, endpoint, last_seen_at, rated_at) VALUES
            ('old', '', {ago}, NULL), ('old', 'GET old', {ago}, {ago}),
            ('rated once', '', NULL, {ago}), ('rated', '', {ago}, now()),
            ('rated only', '', NULL, now()),
            ('used', '', now(), NULL), ('used', 'GET old', {ago}, NULL);
        INSERT INTO x402_procurement_provider_stats
            (id, last_seen_at, circuit_open_until, updated_at) VALUES
            ('old', {ago}, NULL, now()), ('never seen', NULL, NULL, {ago}),
            ('tripped', {ago}, {ago}, now()), ('open', {ago}, now() + interval '1 hour', now()),
            ('half-open', {ago}, now() - interval '1 hour', now()),
            ('used', now(), NULL, {ago}), ('new', NULL, NULL, now())
    """)
    connection = await asyncpg.connect(dsn, server_settings={"role": WRITER})
    try:
        with pytest.raises(asyncpg.InvalidParameterValueError, match="31 days at least"):
            await connection.execute("SELECT prune_providers(30)")
        await tasks.prune(connection, 90)
    finally:
        await connection.close()
    scores = await owner.fetch("SELECT provider FROM provider_scores ORDER BY 1")
    assert [row["provider"] for row in scores] == ["rated", "rated only", "used"]
    stats = await owner.fetch("SELECT id FROM x402_procurement_provider_stats ORDER BY id")
    assert [row["id"] for row in stats] == ["half-open", "new", "open", "used"]


async def test_nobody_prunes_a_month_that_is_young(dsn: str) -> None:
    connection = await asyncpg.connect(dsn, server_settings={"role": WRITER})
    try:
        with pytest.raises(asyncpg.InvalidParameterValueError, match="31 days at least"):
            await tasks.prune(connection, 30)
        for statement in (
            "DROP TABLE query_logs_default",
            "DELETE FROM query_logs",
            "TRUNCATE audit_events",
            "UPDATE maintenance_tasks SET error = NULL",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(statement)
    finally:
        await connection.close()


async def test_one_leads_and_another_takes_over(
    owner: Owner, keepers: Callable[..., Keeper]
) -> None:
    one, two = keepers(), keepers()
    await one.start()
    await two.start()
    await asyncio.sleep(0.2)
    assert (one.leads, two.leads) == (True, False)
    await one.close()
    await until(lambda: two.leads)
    # The leader's connection dies: it, or another, leads again.
    three = keepers()
    await three.start()
    await owner.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE application_name = 'autopay upkeep' AND datname = current_database()"
    )
    await until(lambda: two.leads or three.leads)
    await asyncio.sleep(0.2)
    assert [two.leads, three.leads].count(True) == 1


async def test_a_backup_is_made_once_whoever_leads(
    owner: Owner, keepers: Callable[..., Keeper], tmp_path: Path
) -> None:
    options = {"backup_dir": tmp_path / "backups", "backup_keep": 2}
    one, two = keepers(**options), keepers(**options)
    await one.start()
    await two.start()
    await until_done(owner, "backup")
    await one.close()
    await until(lambda: two.leads)
    await asyncio.sleep(0.3)
    assert len(backups_in(tmp_path / "backups")) == 1
    (event,) = [one for one in await events(owner, "MAINTENANCE") if one["task"] == "backup"]
    assert str(tmp_path) in str(event["details"])


async def test_a_backup_that_fails_is_said(
    owner: Owner,
    keepers: Callable[..., Keeper],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (tmp_path / "file").touch()
    keeper = keepers(backup_dir=tmp_path / "file" / "below")
    with caplog.at_level(logging.ERROR):
        await keeper.start()
        await until(lambda: keeper.failures > 0)
        await until_done(owner, "backup", failed=True)
    await asyncio.sleep(0.2)
    assert keeper.failures == 1, "it is tried again in an hour, not at once"
    assert "backup failed" in caplog.text
    (event,) = await events(owner, "MAINTENANCE")
    assert (event["task"], event["severity"]) == ("backup", "ERROR")


async def until_done(owner: Owner, task: str, *, failed: bool = False) -> None:
    column = "failed_at" if failed else "succeeded_at"
    async with asyncio.timeout(15):
        while not await owner.fetchval(
            f"SELECT {column} IS NOT NULL FROM maintenance_tasks WHERE task = $1", task
        ):
            await asyncio.sleep(0.05)
