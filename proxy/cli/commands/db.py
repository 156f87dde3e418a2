"""The database: its schema, its copies, its age.

What changes the schema or reads all of it is done as the database's owner: [database] owner_url, or
AUTOPAY_DATABASE__OWNER_URL, where database_url is a lesser login's.
"""

import argparse
import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from typing import Any, get_args

import asyncpg

from proxy.cli.actions import Actions
from proxy.cli.errors import CommandError
from proxy.cli.questions import positive
from proxy.cli.render import moment, note, say, table
from proxy.ledger import migrate
from proxy.ledger.address import sealed
from proxy.ledger.errors import TROUBLE
from proxy.settings import Settings
from proxy.store import Server, open_server
from proxy.upkeep import UpkeepError, tasks
from proxy.upkeep.backup import backup, backup_into, backups_in
from proxy.upkeep.manifest import catalog_of, shipped
from proxy.upkeep.report import Report, report
from proxy.upkeep.restore import restore
from proxy.upkeep.scripts import Profile, apply_profile, plant_demo
from proxy.upkeep.verify import Kind, differences
from proxy.vault import Vault, source_of

Action = Callable[[argparse.Namespace, Settings, Server], Coroutine[Any, Any, int]]


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(new=False)
    action = Actions[Action](parser).add
    bring = action("migrate", "bring the schema up to date", _migrate, new=True)
    bring.add_argument(
        "--owner-url",
        metavar="URL",
        help="connect as this login; one with a password is better in AUTOPAY_DATABASE__OWNER_URL",
    )
    bring.add_argument(
        "--profile",
        choices=get_args(Profile),
        help="development: open the tables to every role; production: close them again",
    )
    action("seed", "write demo data into a database that has no payments yet", _seed, new=True)
    asked = action("status", "sizes, ages, partitions, roles, last backup; 1 if not well", _status)
    asked.add_argument("--json", action="store_true", help="one JSON object")
    action("verify", "compare the schema with this program's; 1 if something differs", _verify)
    copy = action("backup", "copy the whole database into FILE, or into a directory", _backup)
    copy.add_argument("file", metavar="FILE", nargs="?", type=Path, help="a new file")
    copy.add_argument("--dir", metavar="D", type=Path, help="a directory of dated backups")
    copy.add_argument(
        "--keep", metavar="N", type=positive, help="with --dir: keep the newest N, remove others"
    )
    back = action("restore", "bring a backup back into an empty database", _restore, new=True)
    back.add_argument("file", metavar="FILE", type=Path)
    erase = action("erase-agent", "destroy what identifies an agent; its books stay", _erase)
    erase.add_argument("name", metavar="NAME")
    erase.add_argument("--yes", action="store_true", help="do not ask")
    prune = action("prune", "drop the months of logs that are older than retention_days", _prune)
    prune.add_argument("--days", metavar="N", type=positive, help="instead of retention_days")
    prune.add_argument("--dry-run", action="store_true", help="only tell what would go")


def run(options: argparse.Namespace) -> int:
    return asyncio.run(_run(options))


async def _run(options: argparse.Namespace) -> int:
    settings = Settings.load(options.config)
    made = settings.database_url or (settings.data_dir / "postgres" / "data").exists()
    if not made and not options.new:
        raise CommandError(f"there is no database in {settings.data_dir} yet; run: autopay init")
    async with open_server(settings) as server:
        act: Action = options.act
        return await act(options, settings, server)


async def _migrate(options: argparse.Namespace, settings: Settings, server: Server) -> int:
    owner = server.owner_dsn
    if options.owner_url:
        owner = sealed(options.owner_url, allow_plaintext=settings.database.allow_plaintext)
    applied = await migrate(owner, vault=Vault(source_of(settings)))
    for name in applied:
        say(f"applied  {name}")
    if not applied:
        say("Nothing to apply: the schema is up to date.")
    if options.profile:
        async with _connection(replace(server, owner_dsn=owner)) as connection:
            await apply_profile(connection, options.profile)
        say(f"The {options.profile} profile is in force.")
    return 0


async def _seed(_options: argparse.Namespace, settings: Settings, server: Server) -> int:
    await migrate(server.owner_dsn, vault=Vault(source_of(settings)))
    async with _connection(server) as connection:
        made = await plant_demo(connection)
    say(
        f"Wrote {made} payments of DemoAutopayAgent." if made else "The demo data is there already."
    )
    return 0


async def _status(options: argparse.Namespace, settings: Settings, server: Server) -> int:
    async with _connection(server) as connection:
        found = await report(connection)
    if options.json:
        record = asdict(found) | {
            "well": found.well,
            "retention_days": settings.database.retention_days,
        }
        say(json.dumps(record, default=_plain))
    else:
        _show(found, settings)
    return 0 if found.well else 1


async def _verify(_options: argparse.Namespace, _settings: Settings, server: Server) -> int:
    try:
        found = differences(shipped(), await catalog_of(server.owner_dsn))
    except TROUBLE as error:
        raise UpkeepError(f"the database cannot be read: {error}") from error
    for difference in found:
        say(str(difference))
    wrong = [one for one in found if one.kind is not Kind.EXTRA]
    if wrong:
        note(f"autopay: {len(wrong)} things are missing or were altered; see above")
        return 1
    say("The schema is whole: nothing is missing, nothing was altered.")
    return 0


async def _backup(options: argparse.Namespace, settings: Settings, server: Server) -> int:
    if (options.file is None) == (options.dir is None):
        raise CommandError("name either a FILE or a directory (--dir D)")
    if options.keep and not options.dir:
        raise CommandError("--keep goes with --dir")
    if options.dir:
        keep = options.keep or settings.backup.keep
        file, contents = await backup_into(server.owner_dsn, options.dir, keep)
    else:
        file, contents = options.file, await backup(server.owner_dsn, options.file)
    async with _connection(server) as connection:
        details = {"file": str(file), "bytes": contents.bytes, "sha256": contents.sha256}
        await tasks.note(connection, "backup", details=details)
    rows = sum(int(text.partition(" ")[0]) for text in contents.rows.values())
    say(f"{file}  {_size(contents.bytes)}, {rows} rows of {len(contents.rows)} tables")
    return 0


async def _restore(options: argparse.Namespace, _settings: Settings, server: Server) -> int:
    done = await restore(server.owner_dsn, options.file)
    taken = done.contents
    say(f"restored the backup of {taken.taken_at}: {len(taken.rows)} tables, equal row for row")
    async with _connection(server) as connection:
        # One from before there was the switch is migrated first.
        if await connection.fetchval("SELECT to_regclass('spending') IS NOT NULL"):
            await connection.execute(
                "SELECT halt_spending(true, 'restored from the backup of ' || $1::text, $2)",
                str(taken.taken_at),
                "autopay db restore",
            )
    say("What was paid after that backup is not in these books, so all spending is halted.")
    say("When you know what it was, or the day is over:  autopay resume")
    if done.behind:
        say(f"It is {len(done.behind)} migrations behind this autopay; run: autopay db migrate")
    for difference in done.differences:
        say(str(difference))
    return 1 if any(one.kind is not Kind.EXTRA for one in done.differences) else 0


async def _prune(options: argparse.Namespace, settings: Settings, server: Server) -> int:
    days = options.days or settings.database.retention_days
    async with _connection(server) as connection:
        gone = await tasks.prune(connection, days, dry_run=options.dry_run)
    verb = "would drop" if options.dry_run else "dropped"
    for old in gone:
        say(f"{verb}  {old.name}  ({_size(old.bytes)}, ended {moment(old.ended_at)})")
    if not gone:
        say(f"Nothing is older than {days} days.")
    return 0


async def _erase(options: argparse.Namespace, _settings: Settings, server: Server) -> int:
    name = options.name
    if not options.yes and not _confirmed(name):
        raise CommandError("nothing was erased")
    async with _connection(server) as connection:
        alias = await connection.fetchval("SELECT erase_agent($1, 'autopay db erase-agent')", name)
    if alias is None:
        raise CommandError(f"there is no agent {name[:100]!r}")
    say(f"Agent {name} is erased. Its payments stay in the books, as those of {alias}.")
    say("Backups from before still hold what was erased: erase it again after restoring one.")
    return 0


def _confirmed(name: str) -> bool:
    if not sys.stdin.isatty():
        raise CommandError("erasing can't be undone: give --yes")
    note(
        f"Agent {name}: its name, tokens, chats, stored requests and answers, and the names of its"
        " sessions and traces will be destroyed for good."
    )
    return input("Type its name to go on: ") == name


@asynccontextmanager
async def _connection(server: Server) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    try:
        connection = await asyncpg.connect(server.owner_dsn)
        try:
            yield connection
        finally:
            connection.terminate()
    except TROUBLE as error:
        raise UpkeepError(f"the database: {error}") from error


def _show(found: Report, settings: Settings) -> None:
    say(f"server      PostgreSQL {found.server}, database {found.database}, login {found.login}")
    say(f"size        {_size(found.bytes)}")
    behind = f"; missing: {', '.join(found.missing)}: run autopay db migrate"
    say(f"schema      {found.schema or 'none'}" + (behind if found.missing else ", up to date"))
    roles = [name if may else f"{name} (not this login's)" for name, may in found.roles.items()]
    say(f"roles       {', '.join(roles) or 'none'}")
    say(f"retention   {settings.database.retention_days} days, by whole months")
    say(f"partitions  {found.months_ahead} months ahead")
    for name, rows in found.default_rows.items():
        say(f"ALARM       {rows} rows of {name} are in its default partition")
    for done in found.tasks:
        when = moment(done.succeeded_at) if done.succeeded_at else "never"
        failed = f"; FAILED {moment(done.failed_at)}: {done.error}" if done.failed_at else ""
        say(f"{done.task:<11} last done {when}" + (failed if done.error else ""))
    if settings.backup.dir is not None:
        newest = next(iter(backups_in(settings.backup.dir)), None)
        say(f"backups     {newest or f'none in {settings.backup.dir}'}")
    elif not any(done.task == "backup" for done in found.tasks):
        say("backup      never; see [backup] in autopay.toml, or autopay db backup")
    say()
    headings = ("TABLE", ">PARTITIONS", ">ROWS (ABOUT)", ">SIZE", "OLDEST (UTC)")
    say(
        table(
            headings,
            [
                [
                    one.name,
                    str(one.partitions or ""),
                    str(one.rows),
                    _size(one.bytes),
                    moment(one.oldest) if one.oldest else "",
                ]
                for one in found.tables
            ],
        )
    )
    say()
    months = [[one.parent, one.name, _size(one.bytes)] for one in found.partitions]
    say(table(("LOG", "PARTITION", ">SIZE"), months))


def _size(count: int) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 10_240:
            return f"{count} {unit}"
        count //= 1024
    return f"{count} TiB"


def _plain(value: object) -> str:
    assert isinstance(value, datetime)
    return value.isoformat()
