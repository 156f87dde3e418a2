"""A real PostgreSQL for tests: one server per run, one database per test."""

import asyncio
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg

from proxy.postgres import EmbeddedPostgres


@contextmanager
def cluster() -> Iterator[str]:
    """A running embedded server of its own; the DSN of its `autopay` database.

    For a session-scoped fixture: it must be entered where no event loop runs.
    """
    # Right under the temporary directory, not under pytest's: as root, the server's account must
    # be able to walk there.
    data_dir = Path(tempfile.mkdtemp(prefix="autopay-test-"))
    server = EmbeddedPostgres(data_dir)
    try:
        yield asyncio.run(server.start())
    finally:
        asyncio.run(server.stop())
        shutil.rmtree(data_dir)


async def fresh_database(dsn: str, template: str | None = None) -> str:
    """The DSN of a new database on `dsn`'s server.

    `template` is the DSN of a database to copy (tables, functions and rows); nobody may be
    connected to it meanwhile.
    """
    name = f"test_{secrets.token_hex(6)}"
    # A server keeps one database for administration; a template that is `dsn` itself is busy.
    connection = await asyncpg.connect(dsn, database="postgres")
    try:
        source = f' TEMPLATE "{urlsplit(template).path[1:]}"' if template else ""
        await connection.execute(f'CREATE DATABASE "{name}"{source}')
    finally:
        await connection.close()
    return urlsplit(dsn)._replace(path=f"/{name}").geturl()


async def drop_database(server: str, dsn: str) -> None:
    """Drop the database of `dsn`, whoever is connected to it."""
    connection = await asyncpg.connect(server)
    drop = f'DROP DATABASE "{urlsplit(dsn).path[1:]}" WITH (FORCE)'
    try:
        async with asyncio.timeout(20):
            while True:
                try:
                    await connection.execute(drop)
                    return
                except asyncpg.InsufficientPrivilegeError:
                    # The server's own autovacuum is in there, which only its superuser may end.
                    await asyncio.sleep(0.1)
    finally:
        await connection.close()
