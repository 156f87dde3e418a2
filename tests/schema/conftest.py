"""A database with rows in every table, made once; each test has a transaction of its own."""

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import asyncpg
import pytest

from sql import migrations
from tests.peers.postgres import fresh_database
from tests.schema import rows

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]

NEWEST = int(migrations()[-1].name.split("_")[0])


@pytest.fixture(scope="module")
def filled(server: str, template: str) -> str:
    """The DSN of a migrated database with rows in all its tables."""

    async def make() -> str:
        dsn = await fresh_database(server, template)
        connection = await asyncpg.connect(dsn)
        try:
            # What the migrations themselves wrote makes room for the rows of here.
            await connection.execute(
                "SELECT ensure_partitions(1, (now() - interval '80 days')::date)"
            )
            await rows.fill(connection, NEWEST)
        finally:
            await connection.close()
        return dsn

    return asyncio.run(make())


@pytest.fixture
async def books(filled: str) -> "AsyncIterator[Connection]":
    """A connection to it, as the owner, in a transaction that is taken back."""
    connection = await asyncpg.connect(filled)
    transaction = connection.transaction()
    await transaction.start()
    yield connection
    await transaction.rollback()
    await connection.close()
