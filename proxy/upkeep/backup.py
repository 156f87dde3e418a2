"""A copy of the whole database in one file, and beside it what must be found in it.

Both come from one snapshot: pg_dump sees exactly the rows that were counted and summed. The dump is
PostgreSQL's own custom format, so that `pg_restore` can read it without autopay.
"""

import asyncio
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg

from proxy import __version__
from proxy.ledger.errors import TROUBLE
from proxy.upkeep.errors import UpkeepError
from proxy.upkeep.rows import Rows, rows_of
from proxy.upkeep.tools import environment, run, tools_for

_PREFIX, _SUFFIX = "autopay-", ".dump"
_STAMP = "%Y%m%dT%H%M%SZ"
_LINE = 300


@dataclass(frozen=True, slots=True)
class Contents:
    """What a dump holds: `FILE.json` beside it."""

    autopay: str
    taken_at: str
    database: str
    server_major: int
    tools_major: int  # of the pg_dump that wrote it: no older pg_restore reads it
    migrations: list[str]
    sha256: str
    bytes: int
    rows: Rows


def beside(file: Path) -> Path:
    """Where what a dump holds is written down."""
    return file.with_name(file.name + ".json")


def read_contents(file: Path) -> Contents:
    """What was written beside the dump `file`. Raises UpkeepError."""
    try:
        return Contents(**json.loads(beside(file).read_text(encoding="utf-8")))
    except OSError as error:
        raise UpkeepError(f"{beside(file)} cannot be read: {error.strerror}") from None
    except (ValueError, TypeError) as error:
        raise UpkeepError(f"{beside(file)} is not what a backup writes: {error}") from None


async def backup(dsn: str, file: Path) -> Contents:
    """Copies the database of `dsn` into `file`, which must not be there yet, open to its owner
    only; it is there whole or not at all. Raises UpkeepError.
    """
    if await asyncio.to_thread(_is_taken, file):
        raise UpkeepError(f"{file} is there already; name another file")
    try:
        connection = await asyncpg.connect(
            dsn, server_settings={"application_name": "autopay upkeep"}
        )
        try:
            return await _backup(connection, dsn, file)
        finally:
            connection.terminate()
    # Who may not look into the schema is told that nothing is there.
    except (asyncpg.InsufficientPrivilegeError, asyncpg.UndefinedTableError) as error:
        raise UpkeepError(
            f"this login may not read the whole database ({str(error)[:_LINE]});"
            " make backups as its owner: set [database] owner_url"
        ) from error
    except TROUBLE as error:
        raise UpkeepError(
            f"no backup was made: {str(error)[:_LINE] or type(error).__name__}"
        ) from error


async def _backup(
    connection: "asyncpg.Connection[asyncpg.Record]", dsn: str, file: Path
) -> Contents:
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        snapshot = await connection.fetchval("SELECT pg_export_snapshot()")
        version = int(await connection.fetchval("SHOW server_version_num")) // 10000
        migrations = await connection.fetch("SELECT name FROM schema_migrations ORDER BY name")
        tools = tools_for(version)
        with _private(file) as dump, _private(beside(file)) as record:
            await run(
                [tools.dump, "--format=custom", "--no-owner", f"--snapshot={snapshot}"],
                environment(dsn),
                "pg_dump",
                out=dump.descriptor,
            )
            contents = Contents(
                autopay=__version__,
                taken_at=datetime.now(UTC).isoformat(timespec="seconds"),
                database=str(await connection.fetchval("SELECT current_database()")),
                server_major=version,
                tools_major=tools.major,
                migrations=[row["name"] for row in migrations],
                sha256=await asyncio.to_thread(digest, dump.path),
                bytes=dump.path.stat().st_size,
                rows=await rows_of(connection),
            )
            text = json.dumps(asdict(contents), indent=1) + "\n"
            os.write(record.descriptor, text.encode())
            # What a dump must hold is there before the dump is.
            await asyncio.to_thread(_put_in_place, record, dump)
    return contents


def _is_taken(file: Path) -> bool:
    return file.exists() or beside(file).exists()


def digest(file: Path) -> str:
    """SHA-256 of a file, in hex."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


@dataclass(frozen=True, slots=True)
class _Fresh:
    """A file that is being written under another name."""

    descriptor: int
    path: Path
    final: Path


@contextmanager
def _private(final: Path) -> Iterator[_Fresh]:
    """A new file for its owner only, under a name aside; gone at the end unless put in place."""
    path = final.with_name(f".{final.name}.{os.getpid()}.part")
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        yield _Fresh(descriptor, path, final)
    finally:
        os.close(descriptor)
        path.unlink(missing_ok=True)


def _put_in_place(*files: _Fresh) -> None:
    for one in files:
        os.fsync(one.descriptor)
    for one in files:
        # A link and not a rename: it never takes the place of a file that is there.
        one.final.hardlink_to(one.path)
    directory = os.open(files[0].final.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


async def backup_into(dsn: str, directory: Path, keep: int) -> tuple[Path, Contents]:
    """A backup under the hour's name in `directory`; of those there, the newest `keep` stay.

    Nothing is removed before the new one is complete. Raises UpkeepError.
    """
    try:
        await asyncio.to_thread(directory.mkdir, mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise UpkeepError(f"{directory} cannot be made: {error.strerror}") from None
    file = directory / f"{_PREFIX}{datetime.now(UTC).strftime(_STAMP)}{_SUFFIX}"
    contents = await backup(dsn, file)
    for old in backups_in(directory)[keep:]:
        old.unlink(missing_ok=True)
        beside(old).unlink(missing_ok=True)
    return file, contents


def backups_in(directory: Path) -> list[Path]:
    """The backups that `backup_into` made there, newest first."""
    return sorted(
        (file for file in directory.glob(f"{_PREFIX}*{_SUFFIX}") if _is_stamped(file)), reverse=True
    )


def _is_stamped(file: Path) -> bool:
    stamp: Any = file.name.removeprefix(_PREFIX).removesuffix(_SUFFIX)
    try:
        datetime.strptime(stamp, _STAMP).replace(tzinfo=UTC)
    except ValueError:
        return False
    return True
