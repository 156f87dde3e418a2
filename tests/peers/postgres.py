"""A real PostgreSQL for tests: one server per run, one database per test."""

import asyncio
import os
import secrets
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg

from proxy.postgres import EmbeddedPostgres
from proxy.postgres.processes import servers_in

_MEMORY = Path("/dev/shm")
_ROOM = 4 << 30  # for a server of each worker, and those that tests start themselves


@contextmanager
def cluster() -> Iterator[str]:
    """A running embedded server of its own; the DSN of its `autopay` database.

    For a session-scoped fixture: it must be entered where no event loop runs.
    """
    data_dir = server_directory()
    server = EmbeddedPostgres(data_dir)
    try:
        yield asyncio.run(server.start())
    finally:
        asyncio.run(server.stop())
        shutil.rmtree(data_dir)


def server_directory() -> Path:
    """A new directory for a server's files, in memory where the machine has room there: a database
    is hundreds of files, which a disk that others use too takes a second to make.

    Never under pytest's own: as root, the server's account must be able to walk there.
    """
    memory = _MEMORY.is_dir() and shutil.disk_usage(_MEMORY).free > _ROOM
    return Path(tempfile.mkdtemp(prefix="autopay-test-", dir=_MEMORY if memory else None))


def kill_servers(data: Path) -> list[int]:
    """SIGKILL to every process of the server over `data`, at once. Their pids; they are dead."""
    pids = servers_in(data)
    for pid in pids:
        with suppress(ProcessLookupError):  # the first one's end may have been another's
            os.kill(pid, signal.SIGKILL)
    end = time.monotonic() + 20
    while set(pids) & set(servers_in(data)):  # a signal waits for its process to have its turn
        assert time.monotonic() < end, f"{pids} outlive SIGKILL"
        time.sleep(0.01)
    return pids


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
