"""Brings a database to this program's schema: each file of `sql/migrations/` once, in order."""

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

import asyncpg

from proxy.ledger import seals
from proxy.ledger.errors import TROUBLE, LedgerError
from proxy.vault import Vault
from sql import Migration, migrations

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]

# One migrator at a time, whoever they are: replicas that start together wait for each other here.
_LOCK = (402, 1)
# With this one, and never again: what is not sealed by then is not ours.
_SEALS = "0009_sealing"
_TABLE = """
CREATE TABLE IF NOT EXISTS schema_migrations (
    name       text PRIMARY KEY,
    sha256     text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
)
"""


class MigrationError(LedgerError):
    """The schema cannot be brought up to date. `str()` is one line: which file, and what to do."""


class MigrationRefused(MigrationError):
    """The schema is not up to date, and this login may not bring it there, or not even see it."""


# The second: a login that may use no schema at all.
_NOT_ALLOWED = (asyncpg.InsufficientPrivilegeError, asyncpg.InvalidSchemaNameError)


async def migrate(
    dsn: str,
    *,
    vault: Vault | None = None,
    files: Sequence[Migration] | None = None,
    timeout: float = 120.0,  # noqa: ASYNC109 - its end is reported as a MigrationError
) -> list[str]:
    """Applies what is missing and returns its names.

    A schema that is up to date is only read, so that a login which owns nothing can find it so.
    Each file is one transaction, so a failing one leaves nothing behind. Raises MigrationError if
    a file that was applied has been altered since, if the database knows files that this program
    does not, if a file fails, or if the database cannot be reached within `timeout` seconds.
    `vault` seals the tokens of a database from before tokens were sealed; it raises VaultError.
    """
    wanted = migrations() if files is None else files
    try:
        async with asyncio.timeout(timeout):
            connection = await asyncpg.connect(dsn)
            try:
                if not await _missing(connection, wanted):
                    return []
                await connection.execute("SELECT pg_advisory_lock($1, $2)", *_LOCK)
                return await _apply(connection, wanted, vault)
            finally:
                connection.terminate()  # which also gives the lock back
    except _NOT_ALLOWED as error:
        raise MigrationRefused(
            "the schema is not up to date, and this login may not bring it there"
            f" ({' '.join(str(error).split())}); run: autopay db migrate --owner-url URL"
        ) from error
    except (*TROUBLE, ValueError) as error:
        reason = " ".join(str(error).split()) or f"no answer within {timeout:g} s"
        raise MigrationError(f"the database cannot be migrated: {reason}") from error


async def _missing(connection: "Connection", wanted: Sequence[Migration]) -> list[Migration]:
    """What is not applied yet. Raises MigrationError if what is applied does not fit."""
    if not await connection.fetchval("SELECT to_regclass('schema_migrations') IS NOT NULL"):
        return list(wanted)
    rows = await connection.fetch("SELECT name, sha256 FROM schema_migrations ORDER BY name")
    applied: dict[str, str] = {row["name"]: row["sha256"] for row in rows}
    _check(applied, wanted)
    return [migration for migration in wanted if migration.name not in applied]


async def _apply(
    connection: "Connection", wanted: Sequence[Migration], vault: Vault | None
) -> list[str]:
    await connection.execute(_TABLE)
    missing = await _missing(connection, wanted)  # again: another one may have been before us
    for migration in missing:
        try:
            async with connection.transaction():
                await connection.execute(migration.text)
                if migration.name == _SEALS:
                    await seals.seal_rows_from_before(connection, vault)
                await connection.execute(
                    "INSERT INTO schema_migrations (name, sha256) VALUES ($1, $2)",
                    migration.name,
                    migration.sha256,
                )
        except _NOT_ALLOWED:
            raise
        except asyncpg.PostgresError as error:
            raise MigrationError(f"migration {migration.name} failed: {error}") from error
    return [migration.name for migration in missing]


def _check(applied: dict[str, str], wanted: Sequence[Migration]) -> None:
    known = {migration.name: migration.sha256 for migration in wanted}
    for name, sha256 in applied.items():
        if name not in known:
            raise MigrationError(
                f"the database has migration {name}, which this autopay does not know: "
                "it is newer than this program, so run a newer autopay"
            )
        if known[name] != sha256:
            raise MigrationError(
                f"migration {name} was altered after it was applied: "
                "restore the file as it was, and write the change as a new migration"
            )
    newest = max(applied, default="")
    for name in known.keys() - applied.keys():
        if name < newest:
            raise MigrationError(
                f"migration {name} is missing, but {newest}, which comes after it, was applied"
            )
