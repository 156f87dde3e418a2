"""What is written at the very moment of an erasure does not survive it, whichever comes first."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import date
from uuid import uuid4

import asyncpg
import pytest

from proxy.ledger import Agent, Database, Ledger
from proxy.ledger.savings import Saving, add_savings

Write = Callable[[Database, Agent], Awaitable[object]]


async def save(database: Database, agent: Agent) -> None:
    await add_savings(database, [Saving(date(2026, 1, 1), agent.id, "shop", 1, 10_000)])


async def chat(database: Database, agent: Agent) -> None:
    await database.execute(
        "INSERT INTO chat_sessions (id, wallet_address, title, agent_id) VALUES ($1, 'w', 't', $2)",
        uuid4(),
        agent.id,
    )


async def reject(database: Database, agent: Agent) -> None:
    assert await Ledger(database).note_rejection(agent.id, "shop.example.com", "unknown_ca", 60.0)


WRITTEN: dict[str, Write] = {
    "cache_savings": save,
    "chat_sessions": chat,
    "certificate_rejections": reject,
}


async def waiting(connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    """Returns when somebody waits for a lock in this database."""
    async with asyncio.timeout(20):
        while not await connection.fetchval(
            "SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid)"
            " WHERE NOT l.granted AND a.datname = current_database()"
        ):
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("table", WRITTEN)
async def test_what_comes_while_it_is_erased(
    dsn: str, database: Database, bot: Agent, table: str
) -> None:
    eraser = await asyncpg.connect(dsn)
    try:
        async with eraser.transaction():
            assert await eraser.fetchval("SELECT erase_agent($1, 'test')", bot.name)
            writing = asyncio.ensure_future(WRITTEN[table](database, bot))
            await waiting(eraser)
        await asyncio.wait_for(writing, 20)
        assert await eraser.fetchval(f"SELECT count(*) FROM {table}") == 0
    finally:
        await eraser.close()


@pytest.mark.parametrize("table", WRITTEN)
async def test_what_is_not_committed_when_it_is_erased(
    dsn: str, database: Database, bot: Agent, table: str
) -> None:
    """The erasure waits for it, and takes it along."""
    await WRITTEN[table](database, bot)
    row = await database.fetchval(f"SELECT to_jsonb(t)::text FROM {table} t")
    await database.execute(f"DELETE FROM {table}")
    writer, watch = await asyncpg.connect(dsn), await asyncpg.connect(dsn)
    try:
        async with writer.transaction():
            await writer.execute(
                f"INSERT INTO {table} SELECT * FROM jsonb_populate_record(NULL::{table}, $1)", row
            )
            erasing = asyncio.create_task(
                database.fetchval("SELECT erase_agent($1, 'test')", bot.name)
            )
            await waiting(watch)
        assert await asyncio.wait_for(erasing, 20)
        assert await watch.fetchval(f"SELECT count(*) FROM {table}") == 0
    finally:
        await writer.close()
        await watch.close()


@pytest.mark.parametrize("table", WRITTEN)
async def test_what_comes_after_it_was_erased(database: Database, bot: Agent, table: str) -> None:
    await database.fetchval("SELECT erase_agent($1, 'test')", bot.name)
    await WRITTEN[table](database, bot)
    assert await database.fetchval(f"SELECT count(*) FROM {table}") == 0
