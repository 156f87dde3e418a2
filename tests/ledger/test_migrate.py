import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from hashlib import sha256

import asyncpg
import pytest

from proxy.ledger import MigrationError, migrate
from sql import Migration, migrations
from tests.peers.postgres import drop_database, fresh_database


@pytest.fixture
async def empty(server: str) -> AsyncIterator[str]:
    dsn = await fresh_database(server)
    yield dsn
    await drop_database(server, dsn)


def extra(name: str, text: str) -> Migration:
    return Migration(name, text, sha256(text.encode()).hexdigest())


async def test_files_are_numbered_without_gaps() -> None:
    numbers = [int(migration.name.split("_")[0]) for migration in migrations()]
    assert numbers == list(range(1, len(numbers) + 1))


async def test_once_and_only_once(empty: str) -> None:
    names = [migration.name for migration in migrations()]
    assert await migrate(empty) == names
    assert await migrate(empty) == []


async def test_replicas_that_start_together(empty: str) -> None:
    applied = await asyncio.gather(*(migrate(empty) for _ in range(4)))
    assert sorted(map(len, applied)) == [0, 0, 0, len(migrations())]


async def test_an_altered_file_is_refused(dsn: str) -> None:
    altered = [replace(migration, sha256="0" * 64) for migration in migrations()]
    with pytest.raises(MigrationError, match="0001_agents was altered after it was applied"):
        await migrate(dsn, files=altered)


async def test_a_database_of_a_newer_program_is_refused(dsn: str) -> None:
    await migrate(dsn, files=[*migrations(), extra("9999_future", "SELECT 1")])
    with pytest.raises(MigrationError, match="9999_future, which this autopay does not know"):
        await migrate(dsn)


async def test_a_file_out_of_order_is_refused(dsn: str) -> None:
    with pytest.raises(MigrationError, match="0001a_late is missing"):
        await migrate(dsn, files=[*migrations(), extra("0001a_late", "SELECT 1")])


async def test_a_failing_file_leaves_nothing_behind(dsn: str) -> None:
    broken = extra("9999_broken", "CREATE TABLE half (); SELECT 1/0")
    with pytest.raises(MigrationError, match="9999_broken failed: division by zero"):
        await migrate(dsn, files=[*migrations(), broken])
    connection = await asyncpg.connect(dsn)
    try:
        assert await connection.fetchval("SELECT to_regclass('half')") is None
    finally:
        await connection.close()
    assert await migrate(dsn) == []


async def test_no_database_is_one_clear_line() -> None:
    with pytest.raises(MigrationError) as error:
        await migrate("postgresql:///x?host=/nowhere")
    assert "\n" not in str(error.value)
