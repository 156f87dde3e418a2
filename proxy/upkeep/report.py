"""How the database is: its server, schema, sizes and ages, and what was done for it last."""

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import asyncpg

import sql
from proxy.ledger.roles import ROLES
from proxy.upkeep import tasks

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]

# A partitioned table with all its partitions. Row counts are the planner's estimates.
_TABLES = """
SELECT c.oid::regclass::text AS name,
       count(*) FILTER (WHERE c.relkind = 'p') AS partitions,
       sum(greatest(p.reltuples, 0))::bigint AS row_estimate,
       sum(pg_total_relation_size(p.oid))::bigint AS bytes
FROM pg_class c
JOIN pg_class p ON p.oid = c.oid AND c.relkind = 'r'
    OR p.oid IN (SELECT inhrelid FROM pg_inherits WHERE inhparent = c.oid)
WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition
  AND c.relnamespace = 'public'::regnamespace
GROUP BY c.oid ORDER BY bytes DESC, 1
"""
_MONTHS = """
SELECT i.inhparent::regclass::text AS parent, i.inhrelid::regclass::text AS name,
       pg_total_relation_size(i.inhrelid) AS bytes
FROM pg_inherits i
JOIN pg_class c ON c.oid = i.inhrelid AND c.relkind = 'r'
WHERE i.inhparent = ANY (kept_by_the_month()) ORDER BY 1, 2
"""
_AHEAD = """
SELECT coalesce(min(months), 0) FROM (
    SELECT count(i.inhrelid) FILTER (WHERE right(i.inhrelid::regclass::text, 7)
               > to_char(now() AT TIME ZONE 'UTC', 'YYYY_MM')
               AND right(i.inhrelid::regclass::text, 7) ~ '^[0-9]{4}_[0-9]{2}$') AS months
    FROM unnest(kept_by_the_month()) AS parent LEFT JOIN pg_inherits i ON i.inhparent = parent
    GROUP BY parent) AS counted
"""
_TASKS = "SELECT task, succeeded_at, failed_at, error, details FROM maintenance_tasks ORDER BY task"


@dataclass(frozen=True, slots=True)
class Table:
    """`rows` is an estimate; `oldest` is known of the logs that are kept by the month."""

    name: str
    partitions: int
    rows: int
    bytes: int
    oldest: datetime | None


@dataclass(frozen=True, slots=True)
class Partition:
    parent: str
    name: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Done:
    """When a task of the upkeep was done last, and why it was not, if it failed since."""

    task: str
    succeeded_at: datetime | None
    failed_at: datetime | None
    error: str | None
    details: str | None


@dataclass(frozen=True, slots=True)
class Report:
    server: str
    database: str
    login: str
    bytes: int
    schema: str  # the newest migration that was applied; "" if none was
    missing: list[str]  # migrations that this program has and the database has not
    tables: list[Table]
    partitions: list[Partition]
    months_ahead: int
    default_rows: dict[str, int]
    roles: dict[str, bool]  # of those that exist: whether this login may act as it
    tasks: list[Done]

    @property
    def well(self) -> bool:
        """Nothing here needs somebody."""
        return (
            not self.missing
            and not self.default_rows
            and self.months_ahead > 0
            and not any(done.error for done in self.tasks)
        )


async def report(connection: "Connection") -> Report:
    """Looks at everything. Of a schema that is not up to date, only what any has."""
    server = await connection.fetchrow(
        "SELECT current_setting('server_version') AS server, current_database() AS database,"
        " session_user::text AS login, pg_database_size(current_database()) AS bytes"
    )
    assert server is not None
    applied = await _applied(connection)
    missing = [one.name for one in sql.migrations() if one.name not in applied]
    whole = not missing
    logs = await connection.fetchval("SELECT kept_by_the_month()::text[]") if whole else []
    return Report(
        **dict(server),
        schema=max(applied, default=""),
        missing=missing,
        tables=[
            Table(
                row["name"],
                row["partitions"],
                row["row_estimate"],
                row["bytes"],
                await _oldest(connection, row["name"]) if row["name"] in logs else None,
            )
            for row in await connection.fetch(_TABLES)
        ],
        partitions=[Partition(**dict(row)) for row in await connection.fetch(_MONTHS)]
        if whole
        else [],
        months_ahead=await connection.fetchval(_AHEAD) if whole else 0,
        default_rows=await tasks.default_rows(connection) if whole else {},
        roles={
            row["rolname"]: row["member"]
            for row in await connection.fetch(
                "SELECT rolname, pg_has_role(rolname, 'MEMBER') AS member FROM pg_roles"
                " WHERE rolname = ANY ($1) ORDER BY rolname",
                list(ROLES),
            )
        },
        tasks=[Done(**dict(row)) for row in await connection.fetch(_TASKS)] if whole else [],
    )


async def _applied(connection: "Connection") -> list[str]:
    if not await connection.fetchval("SELECT to_regclass('schema_migrations') IS NOT NULL"):
        return []
    return [row["name"] for row in await connection.fetch("SELECT name FROM schema_migrations")]


async def _oldest(connection: "Connection", table: str) -> datetime | None:
    found: datetime | None = await connection.fetchval(
        f"SELECT min(created_at) FROM {table}"  # noqa: S608 - a name from PostgreSQL's catalog
    )
    return found
