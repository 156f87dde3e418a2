"""A copy that is brought back is the same, row for row; anything else is found."""

import asyncio
import json
import stat
from pathlib import Path

import asyncpg
import pytest

from proxy.upkeep import UpkeepError, backup, tools
from proxy.upkeep.backup import Contents, backup_into, backups_in, beside, digest
from proxy.upkeep.restore import restore
from tests.peers.postgres import drop_database, fresh_database
from tests.upkeep.servers import PASSWORD, server

TABLES = """
SELECT oid::regclass::text FROM pg_class WHERE relkind IN ('r', 'p')
AND relnamespace = 'public'::regnamespace AND NOT relispartition
"""


async def every_row(dsn: str) -> dict[str, list[str]]:
    connection = await asyncpg.connect(dsn, server_settings={"timezone": "UTC"})
    try:
        return {
            table: [
                row[0]
                for row in await connection.fetch(f"SELECT t::text FROM {table} t ORDER BY 1")
            ]
            for (table,) in await connection.fetch(TABLES)
        }
    finally:
        await connection.close()


def rewrite(file: Path, **changes: object) -> None:
    record = json.loads(beside(file).read_text())
    beside(file).write_text(json.dumps(record | changes))


@pytest.fixture
async def copy(filled: str, tmp_path: Path) -> Path:
    file = tmp_path / "books.dump"
    await backup.backup(filled, file)
    return file


async def test_restored_on_another_server_it_is_equal_row_for_row(
    filled: str, copy: Path, other_server: str
) -> None:
    dsn = await fresh_database(other_server)
    try:
        done = await restore(dsn, copy)
        assert (
            done.behind,
            [str(one) for one in done.differences if one.kind.value != "extra"],
        ) == ([], [])
        before, after = await every_row(filled), await every_row(dsn)
        assert before == after
        assert len(before["audit_events"]) > 900
        # And it lives: what is kept by the month still finds its month.
        connection = await asyncpg.connect(dsn)
        await connection.execute("INSERT INTO query_logs (response_time_ms) VALUES (1)")
        assert await connection.fetchval("SELECT count(*) FROM query_logs_default") == 0
        await connection.close()
    finally:
        await drop_database(other_server, dsn)


async def test_rows_that_come_while_it_is_taken_are_in_neither(
    filled: str, tmp_path: Path, empty: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = backup.run

    async def busy(*words: object, **more: object) -> None:
        connection = await asyncpg.connect(filled)
        await connection.execute("INSERT INTO query_logs (response_time_ms) VALUES (777)")
        await connection.close()
        await plain(*words, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(backup, "run", busy)
    contents = await backup.backup(filled, tmp_path / "x.dump")
    assert contents.rows["public.query_logs"].startswith("300 rows")
    await restore(empty, tmp_path / "x.dump")


async def test_only_its_owner_can_read_it(copy: Path) -> None:
    for file in (copy, beside(copy)):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


async def test_a_file_that_is_there_is_not_replaced(filled: str, copy: Path) -> None:
    before = copy.read_bytes()
    with pytest.raises(UpkeepError, match="is there already"):
        await backup.backup(filled, copy)
    assert copy.read_bytes() == before


@pytest.mark.parametrize("at", [100, -100])
async def test_a_damaged_dump_is_found(copy: Path, empty: str, at: int) -> None:
    data = bytearray(copy.read_bytes())
    data[at] ^= 1
    copy.write_bytes(data)
    with pytest.raises(UpkeepError, match="altered or damaged"):
        await restore(empty, copy)


async def test_rows_altered_in_a_dump_are_found(
    filled: str, copy: Path, empty: str, tmp_path: Path
) -> None:
    """One digit of one row, by somebody who has also made the file's checksum anew."""
    connection = await asyncpg.connect(filled)
    await connection.execute("UPDATE spend_limits SET limit_micros = 6")
    await connection.close()
    forged = tmp_path / "forged.dump"
    await backup.backup(filled, forged)
    forged.replace(copy)
    rewrite(copy, sha256=digest(copy))
    with pytest.raises(UpkeepError, match=r"not those that were backed up: .*public\.spend_limits"):
        await restore(empty, copy)


async def test_a_lost_and_a_doubled_row_make_a_difference(filled: str, copy: Path) -> None:
    connection = await asyncpg.connect(filled)
    try:
        before = Contents(**json.loads(beside(copy).read_text())).rows
        for change in (
            "UPDATE agents SET updated_at = now() WHERE name = 'agent-7'",
            "DELETE FROM chat_sessions",
            "INSERT INTO query_logs SELECT * FROM query_logs LIMIT 0;"
            "INSERT INTO query_logs (response_time_ms) VALUES (1)",
        ):
            transaction = connection.transaction(isolation="repeatable_read")
            await transaction.start()
            await connection.execute(change)
            assert await backup.rows_of(connection) != before, change
            await transaction.rollback()
        async with connection.transaction():
            assert await backup.rows_of(connection) == before
    finally:
        await connection.close()


async def test_nothing_is_restored_over_anything(filled: str, copy: Path) -> None:
    before = await every_row(filled)
    with pytest.raises(UpkeepError, match="is not empty"):
        await restore(filled, copy)
    assert await every_row(filled) == before


async def test_a_restore_that_fails_leaves_nothing(copy: Path, empty: str) -> None:
    rewrite(copy, server_major=99)
    with pytest.raises(UpkeepError, match="the backup is of PostgreSQL 99, this server is"):
        await restore(empty, copy)
    copy.write_bytes(copy.read_bytes()[: copy.stat().st_size // 2])
    rewrite(copy, sha256=digest(copy), server_major=15)
    with pytest.raises(UpkeepError):
        await restore(empty, copy)
    connection = await asyncpg.connect(empty)
    assert await connection.fetchval(TABLES) is None
    await connection.close()


async def test_a_backup_that_fails_leaves_nothing(lesser: tuple[str, str], tmp_path: Path) -> None:
    dsn, _ = lesser
    with pytest.raises(UpkeepError, match="make backups as its owner"):
        await backup.backup(dsn, tmp_path / "x.dump")
    with pytest.raises(UpkeepError, match="no backup was made"):
        await backup.backup("postgresql:///x?host=/nowhere", tmp_path / "x.dump")
    assert list(tmp_path.iterdir()) == []


async def test_a_backup_that_is_cancelled_leaves_nothing(
    filled: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = tmp_path / "slow"
    slow.mkdir()
    (slow / "pg_dump").write_text("#!/bin/sh\nexec sleep 60\n")
    (slow / "pg_dump").chmod(0o755)
    monkeypatch.setattr(backup, "tools_for", lambda _: tools.Tools(slow, 17))
    task = asyncio.create_task(backup.backup(filled, tmp_path / "x.dump"))
    await asyncio.sleep(0.5)
    assert any(path.suffix == ".part" for path in tmp_path.iterdir())
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert list(tmp_path.iterdir()) == [slow]


async def test_the_newest_stay(filled: str, tmp_path: Path) -> None:
    for stamp in ("20260101T000000Z", "20260102T000000Z", "20260103T000000Z"):
        for name in (f"autopay-{stamp}.dump", f"autopay-{stamp}.dump.json"):
            (tmp_path / name).touch()
    (tmp_path / "autopay-my-own.dump").touch()
    file, _ = await backup_into(filled, tmp_path, keep=2)
    assert [one.name for one in backups_in(tmp_path)] == [
        file.name,
        "autopay-20260103T000000Z.dump",
    ]
    assert len(list(tmp_path.iterdir())) == 5


def test_no_tool_is_as_new_as_the_server() -> None:
    with pytest.raises(UpkeepError, match="no pg_dump here is as new"):
        tools.tools_for(99)


OLD = Path("/usr/lib/postgresql/15/bin")


@pytest.mark.skipif(not OLD.exists(), reason="needs PostgreSQL 15")
async def test_an_older_server_is_backed_up_and_restored(tmp_path: Path, empty: str) -> None:
    from proxy.ledger import migrate

    with server(OLD, tls=False) as (port, _):
        dsn = f"postgresql://owner:{PASSWORD}@127.0.0.1:{port}/postgres"
        await migrate(dsn)
        contents = await backup.backup(dsn, tmp_path / "x.dump")
        assert (contents.server_major, contents.tools_major) == (15, 15)
        connection = await asyncpg.connect(dsn)
        await connection.execute("CREATE DATABASE again")
        await connection.close()
        await restore(dsn.replace("/postgres", "/again"), tmp_path / "x.dump")
        await restore(empty, tmp_path / "x.dump")
