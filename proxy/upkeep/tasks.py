"""The tasks that keep a database well, each one call: partitions made, old ones dropped, noted."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Literal

import asyncpg

from proxy.ledger.audit import Finding

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]

Task = Literal["partitions", "prune", "backup", "audit"]

MONTHS_AHEAD = 3


@dataclass(frozen=True, slots=True)
class Old:
    """A partition that is too old; its rows are all from before `ended_at`."""

    name: str
    ended_at: datetime
    bytes: int


async def ensure_partitions(connection: "Connection") -> int:
    """Makes this month's partitions and the next three's; how many were missing."""
    return int(await connection.fetchval("SELECT ensure_partitions($1)", MONTHS_AHEAD))


async def default_rows(connection: "Connection") -> dict[str, int]:
    """Table → rows that found no partition of their month. Each of them is an alarm."""
    rows = await connection.fetch("SELECT name, row_count FROM default_partition_rows()")
    return {row["name"]: row["row_count"] for row in rows}


async def audit(connection: "Connection", since: timedelta, *, halt: bool) -> list[Finding]:
    """What is wrong with what changed in the books within `since`; with `halt`, all spending ends
    if anything is."""
    rows = await connection.fetch("SELECT * FROM audit_books(now() - $1::interval)", since)
    findings = [Finding(**dict(row)) for row in rows]
    if findings:
        await alarm(connection, {"audit": [str(finding) for finding in findings[:20]]})
        if halt:
            reason = f"the audit: {findings[0]}"[:500]
            await connection.execute("SELECT halt_spending(true, $1, 'autopay audit')", reason)
    return findings


async def note_takeover(connection: "Connection") -> bool:
    """Whether another server has taken over, so that all spending is halted, just now."""
    return bool(await connection.fetchval("SELECT note_takeover()"))


async def prune(connection: "Connection", days: int, *, dry_run: bool = False) -> list[Old]:
    """Drops the logs' partitions that lie wholly more than `days` back, and notes it; `dry_run`
    only tells which they are. Counters of hours that no limit looks back to go too, and of that
    age savings, retries without a payment, and providers not seen since. Raises asyncpg's
    errors."""
    async with connection.transaction():
        if not dry_run:
            # First: it holds the book of policies, which nobody waits for who has taken a table.
            await connection.execute("SELECT prune_hours()")
            await connection.execute("SELECT prune_savings($1)", days)
            await connection.execute("SELECT prune_retries($1)", days)
            await connection.execute("SELECT prune_providers($1)", days)
        rows = await connection.fetch(
            "SELECT name, ended_at, bytes FROM prune_partitions($1, $2)", days, dry_run
        )
        gone = [Old(row["name"], row["ended_at"], row["bytes"]) for row in rows]
        if not dry_run:
            details = {"days": days, "dropped": [old.name for old in gone]} if gone else None
            await note(connection, "prune", details=details)
    return gone


async def note(
    connection: "Connection",
    task: Task,
    *,
    error: str | None = None,
    details: Mapping[str, object] | None = None,
) -> None:
    """Writes that a task was done, or why not; an error, or details, leave an audit event too."""
    await connection.execute(
        "SELECT note_maintenance($1, $2, $3)",
        task,
        error,
        None if details is None else json.dumps(details),
    )


async def alarm(connection: "Connection", details: Mapping[str, object]) -> None:
    """An audit event that somebody must look at."""
    await connection.execute(
        "SELECT note_event(NULL, 'ALARM', NULL, $1, 'ERROR')", json.dumps(details)
    )
