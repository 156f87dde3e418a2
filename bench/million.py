"""The operator's questions, and the cost of a payment, with a million receipts in the database.

`python -m bench.million [--receipts N] [--payments N]`. On an embedded server of its own: what a
payment costs while there is next to nothing; N receipts with all their rows by COPY; every question
asked as the commands and the API ask it, timed, and explained both with its values and as a generic
plan; what a payment costs now; and a month of logs dropped. Exits 1 if any plan reads a partition,
or a table of payments, from end to end.
"""

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from shutil import rmtree
from typing import Any
from uuid import UUID

import asyncpg
import uvloop

from bench.moves import hot_agent, measure
from bench.plans import Question, plans_of
from bench.rows import RARE, Scale, load
from proxy.ledger import Database, history, migrate
from proxy.ledger.questions.events import events
from proxy.ledger.questions.spend import spend
from proxy.ledger.questions.story import story
from proxy.ledger.questions.tasks import sessions, steps, traces
from proxy.ledger.questions.totals import totals
from proxy.postgres import EmbeddedPostgres
from proxy.upkeep import tasks

AGENT = "agent-003"
ROUNDS = 20
WARM = 6  # from the sixth run on, a prepared statement may have its generic plan
WEEK = timedelta(days=7)


async def questions(database: Database) -> dict[str, Question]:
    """Name → the question. The arguments are those of rows that are there."""
    now = await database.fetchval("SELECT now()")
    paid = await history.receipts(database, AGENT, 1, (now - timedelta(days=100), UUID(int=0)))
    deep = paid[0].created_at, paid[0].id
    task = await database.fetchrow(
        "SELECT trace_id, session_id FROM payments WHERE id = $1", paid[0].id
    )
    assert task is not None
    trace, session = task["trace_id"], task["session_id"]
    doubtful = (await history.in_doubt(database, limit=1))[0].id

    return {
        "audit trail of one agent, newest 50": lambda db: events(db, agent=AGENT),
        "audit trail of one agent, a week two months ago": lambda db: events(
            db, agent=AGENT, since=now - 9 * WEEK, until=now - 8 * WEEK
        ),
        "audit trail of all, newest 50": events,
        "search: a common word": lambda db: events(db, words="settled"),
        "search: a rare word": lambda db: events(db, words=RARE),
        "search: no such word": lambda db: events(db, words="nowhere"),
        "search: a common and a rare word": lambda db: events(db, words=f"api7.example.com {RARE}"),
        "search: a provider, of one agent": lambda db: events(
            db, words="api7.example.com", agent=AGENT
        ),
        "search: a word, one type and severity, in 7 days": lambda db: events(
            db, words="answer_lost", types=["NETWORK_ISSUE"], severities=["WARNING"], since=WEEK
        ),
        "alarms, newest 50": lambda db: events(db, types=["ALARM"]),
        "spend by provider, 30 days": lambda db: spend(db, "provider", since=timedelta(days=30)),
        "spend by provider and day, 30 days": lambda db: spend(
            db, "provider", since=timedelta(days=30), daily=True, limit=10_000
        ),
        "spend by agent and day, 30 days": lambda db: spend(
            db, "agent", since=timedelta(days=30), daily=True, limit=10_000
        ),
        "spend of one agent by provider, 30 days": lambda db: spend(
            db, "provider", agent=AGENT, since=timedelta(days=30)
        ),
        "dashboard totals": totals,
        "payments in doubt": history.in_doubt,
        "payments not yet seen finalized": history.unverified,
        "providers that refused a memo": history.memo_less,
        "receipts of one agent, newest 50": lambda db: history.receipts(db, AGENT),
        "receipts of one agent, a page 100 days back": lambda db: history.receipts(
            db, AGENT, 50, deep
        ),
        "receipts of all, a page 100 days back": lambda db: history.receipts(db, None, 50, deep),
        "payments of all, newest 50": history.payments,
        "decisions of one agent, a page 100 days back": lambda db: history.decisions(
            db, AGENT, 50, deep
        ),
        "one payment whole, settled 100 days ago": lambda db: story(db, paid[0].id),
        "one payment whole, in doubt": lambda db: story(db, doubtful),
        "a trace and its steps": lambda db: _both(traces(db, trace_id=trace), steps(db, trace)),
        "a session: its spend and its traces": lambda db: _both(
            sessions(db, session), traces(db, session_id=session)
        ),
        "what every agent has left today": history.today,
    }


async def _both(*asked: Awaitable[object]) -> object:
    return [await one for one in asked]


async def ask_all(dsn: str, superuser_dsn: str, say: Callable[[str], object]) -> list[str]:
    """Says each question's time and plans; returns what was read through by which."""
    database = await Database.open(
        dsn, size=1, timeout=60
    )  # one connection: it knows the statements
    connection = await asyncpg.connect(superuser_dsn)
    faults = []
    try:
        for name, question in (await questions(database)).items():
            plans = await plans_of(database, connection, question)
            read = sorted({table for plan in plans for table in plan.read_through})
            faults += [f"{name}: {table}" for table in read]
            took = []
            for at in range(WARM + ROUNDS):
                begun = time.perf_counter()
                await question(database)
                if at >= WARM:
                    took.append((time.perf_counter() - begun) * 1e3)
            partitions = max(len(plan.partitions) for plan in plans)
            buffers = max(plan.buffers for plan in plans)
            say(
                f"{name:<50} {statistics.median(took):8.1f} {max(took):8.1f}"
                f" {partitions:3} {buffers:7}{'  READS ' + ', '.join(read) if read else ''}"
            )
    finally:
        await connection.close()
        await database.close()
    return faults


async def moves(dsn: str, payments: int, say: Callable[[str], object]) -> None:
    database = await Database.open(dsn, timeout=60)
    try:
        for callers in (1, 32):
            cost = await measure(database, await hot_agent(database), callers, payments)
            pieces = "  ".join(f"{of} {cost.p50[of]:.2f}/{cost.p99[of]:.2f}" for of in cost.p50)
            say(
                f"{callers:3} callers {cost.payments_per_second:6.0f}/s  {pieces}"
                f"  {cost.width:.1f} moves a batch, {cost.cpu:.2f} ms of CPU a payment"
            )
    finally:
        await database.close()


async def retention(dsn: str, say: Callable[[str], object]) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        begun = time.perf_counter()
        gone = await tasks.prune(connection, 90)
        took = (time.perf_counter() - begun) * 1e3
        say(
            f"{len(gone)} partitions, {sum(old.bytes for old in gone) >> 20} MiB,"
            f" dropped in {took:.0f} ms"
        )
    finally:
        await connection.close()


async def run(options: argparse.Namespace, home: Path) -> int:
    server = EmbeddedPostgres(home)
    dsn = await server.start()
    superuser_dsn = dsn.replace("//autopay@", "//postgres@", 1)
    try:
        await migrate(dsn)
        say("a payment, while there is next to nothing (p50/p99 in ms)")
        await moves(dsn, options.payments, say)
        begun = time.perf_counter()
        await _settings(superuser_dsn, "autovacuum = off", "max_wal_size = '4GB'")
        await load(superuser_dsn, Scale(options.receipts))
        await _settings(superuser_dsn, "autovacuum TO DEFAULT", "max_wal_size TO DEFAULT")
        say(f"{options.receipts:,} receipts loaded in {time.perf_counter() - begun:.0f} s")
        say(f"{'question':<50} {'p50 ms':>8} {'max ms':>8} {'months':>3} {'pages':>7}")
        faults = await ask_all(dsn, superuser_dsn, say)
        say("a payment, now")
        await moves(dsn, options.payments, say)
        await retention(dsn, say)
    finally:
        await server.stop()
    for fault in faults:
        say(f"read from end to end: {fault}")
    return 1 if faults else 0


async def _settings(superuser_dsn: str, *settings: str) -> None:
    connection = await asyncpg.connect(superuser_dsn)
    for setting in settings:
        await connection.execute(f"ALTER SYSTEM SET {setting}")
    await connection.execute("SELECT pg_reload_conf()")
    await connection.close()


def say(text: str) -> Any:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--receipts", type=int, default=1_000_000)
    parser.add_argument("--payments", type=int, default=2_000, help="timed, for each measurement")
    options = parser.parse_args()
    # Right under the temporary directory: as root, the server's account must reach it.
    home = Path(tempfile.mkdtemp(prefix="autopay-bench-"))
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(run(options, home))
    finally:
        rmtree(home)


if __name__ == "__main__":
    sys.exit(main())
