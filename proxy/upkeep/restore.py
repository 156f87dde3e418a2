"""A backup brought back, into an empty database only, and proved equal to what was backed up."""

import asyncio
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg

import sql
from proxy.ledger.errors import TROUBLE
from proxy.ledger.roles import ROLES
from proxy.upkeep.backup import Contents, digest, read_contents
from proxy.upkeep.catalog import read_catalog
from proxy.upkeep.errors import UpkeepError
from proxy.upkeep.manifest import shipped
from proxy.upkeep.rows import rows_of, unequal
from proxy.upkeep.tools import Tools, environment, run, tools_for
from proxy.upkeep.verify import Difference, differences

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]

_FIRST_OBJECT = """
SELECT format('%s.%s', nspname, relname)
FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'
  AND NOT EXISTS (SELECT FROM pg_depend WHERE classid = 'pg_class'::regclass AND objid = c.oid
                  AND deptype = 'e')
ORDER BY relkind <> 'r', relname LIMIT 1
"""


@dataclass(frozen=True, slots=True)
class Restored:
    """What came back: every row, and how its schema differs from this program's."""

    contents: Contents
    differences: list[Difference]
    behind: list[str]  # this program's migrations that the backup is older than


async def restore(dsn: str, file: Path) -> Restored:
    """Brings the dump `file` into the empty database of `dsn`; all of it, or nothing.

    Every row is counted and summed again: UpkeepError if one differs, if the dump is not what was
    written beside it, if the database is not empty, or if the tools or the server are too old.
    """
    contents = read_contents(file)
    try:
        if await asyncio.to_thread(digest, file) != contents.sha256:
            raise UpkeepError(
                f"{file} was altered or damaged since it was written: its SHA-256 differs"
            )
        connection = await asyncpg.connect(
            dsn, server_settings={"application_name": "autopay upkeep"}
        )
        try:
            return await _restore(connection, dsn, file, contents)
        finally:
            connection.terminate()
    except TROUBLE as error:
        raise UpkeepError(
            f"{file} was not restored: {str(error)[:300] or type(error).__name__}"
        ) from error


async def _restore(connection: "Connection", dsn: str, file: Path, contents: Contents) -> Restored:
    name = await connection.fetchval("SELECT current_database()")
    if found := await connection.fetchval(_FIRST_OBJECT):
        raise UpkeepError(
            f'the database "{name}" is not empty (it has {found}); a backup is restored into an'
            f" empty one only: createdb NEW, and name it in the URL"
        )
    version = int(await connection.fetchval("SHOW server_version_num")) // 10000
    if version < contents.server_major:
        raise UpkeepError(
            f"the backup is of PostgreSQL {contents.server_major}, this server is {version};"
            " restore it into one that is as new"
        )
    tools = tools_for(max(version, contents.tools_major))
    await _make_roles(connection)
    with tempfile.TemporaryDirectory() as aside:
        chosen = Path(aside) / "toc"
        await _choose(tools, file, chosen)
        await run(
            [
                *(tools.restore, "--format=custom", "--no-owner", "--single-transaction"),
                *("--exit-on-error", f"--use-list={chosen}", f"--dbname={name}", str(file)),
            ],
            environment(dsn),
            "pg_restore",
        )
    await connection.execute("ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC")
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        wrong = unequal(contents.rows, await rows_of(connection))
    if wrong:
        raise UpkeepError(
            f'the rows in "{name}" are not those that were backed up: {"; ".join(wrong)[:600]};'
            " do not use it"
        )
    behind = [one.name for one in sql.migrations() if one.name not in contents.migrations]
    found_there = [] if behind else differences(shipped(), await read_catalog(connection))
    return Restored(contents, found_there, behind)


async def _choose(tools: Tools, file: Path, chosen: Path) -> None:
    """Writes what of a dump is to be restored: all but default privileges, which are of a login
    that this server need not have."""
    with chosen.open("w+") as listed:
        listing = [tools.restore, "--list", str(file)]
        await run(listing, {}, "pg_restore --list", out=listed.fileno())
        listed.seek(0)
        kept = [line for line in listed if " DEFAULT ACL " not in line]
        listed.seek(0)
        listed.truncate()
        listed.writelines(kept)


async def _make_roles(connection: "Connection") -> None:
    """Roles are the server's, not the database's: a dump gives them rights, but does not bring
    them."""
    for role in ROLES:
        if not await connection.fetchval("SELECT true FROM pg_roles WHERE rolname = $1", role):
            await connection.execute(f"CREATE ROLE {role} NOLOGIN")
            await connection.execute(f"GRANT {role} TO CURRENT_USER")
