"""How PostgreSQL answers a question: its statements are caught as they are asked, and each is
explained with the values in it and as the generic plan that a prepared statement ends with."""

import json
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import asyncpg

from proxy.ledger import Database

Connection = asyncpg.connection.Connection
Question = Callable[[Database], Awaitable[object]]

PARTITIONED = ("policy_decision_logs", "audit_events", "transaction_logs", "query_logs")
LARGE = (
    *("payments", "x402_payment_logs", "api_requests", "x402_procurement_receipts"),
    *("x402_trace_steps", "x402_traces", "budget_counters"),
)


@dataclass(frozen=True, slots=True)
class Plan:
    """Of one statement. `generic`: made without knowing the arguments. `free`: the planner could
    choose to read a table through; the connections of `Database` tell it not to."""

    sql: str
    generic: bool
    free: bool
    root: dict[str, Any]
    milliseconds: float

    @property
    def nodes(self) -> Iterator[dict[str, Any]]:
        todo = [self.root]
        while todo:
            node = todo.pop()
            yield node
            todo += node.get("Plans", [])

    @property
    def read_through(self) -> list[str]:
        """The large tables, and partitions, that are read from end to end. A planner that is free
        takes this for the cheapest way through a partition in which there is no page to read."""
        return sorted(
            name
            for node in self.nodes
            if node["Node Type"] == "Seq Scan"
            and _is_large(name := node["Relation Name"])
            and (not self.free or node["Shared Hit Blocks"] + node["Shared Read Blocks"] > 0)
        )

    @property
    def partitions(self) -> set[str]:
        """Those that were looked into."""
        return {
            node["Relation Name"]
            for node in self.nodes
            if node.get("Relation Name", "").startswith(PARTITIONED) and node["Actual Loops"] > 0
        }

    @property
    def buffers(self) -> int:
        return int(self.root["Shared Hit Blocks"] + self.root["Shared Read Blocks"])


class _Listening(Database):
    """A database that writes down what it is asked."""

    def __init__(self, database: Database) -> None:
        self._of = database
        self.heard: list[tuple[str, tuple[object, ...]]] = []

    async def fetch(self, sql: str, *args: object) -> list[asyncpg.Record]:
        self.heard.append((sql, args))
        return await self._of.fetch(sql, *args)

    async def fetchrow(self, sql: str, *args: object) -> asyncpg.Record | None:
        self.heard.append((sql, args))
        return await self._of.fetchrow(sql, *args)


async def plans_of(
    database: Database, connection: "Connection[asyncpg.Record]", question: Question
) -> list[Plan]:
    """Of every statement that `question` asks of `database`, three plans, each run once."""
    listening = _Listening(database)
    await question(listening)
    return [
        await _explained(connection, sql, args, generic=generic, free=free)
        for sql, args in listening.heard
        for generic, free in ((False, True), (True, True), (True, False))
    ]


async def _explained(
    connection: "Connection[asyncpg.Record]",
    sql: str,
    args: Sequence[object],
    *,
    generic: bool,
    free: bool,
) -> Plan:
    values = f"({', '.join(_literal(arg) for arg in args)})" if args else ""
    await connection.execute(
        f"SET plan_cache_mode = force_{'generic' if generic else 'custom'}_plan;"
        f"SET enable_seqscan = {'on' if free else 'off'};"
        f"PREPARE question AS {sql}"
    )
    try:
        (found,) = json.loads(
            await connection.fetchval(
                f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) EXECUTE question {values}"
            )
        )
    finally:
        await connection.execute("DEALLOCATE question")
    took = found["Planning Time"] + found["Execution Time"]
    return Plan(sql, generic, free, found["Plan"], took)


def _literal(value: object) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, list):
        value = "{" + ",".join(f'"{item}"' for item in value) + "}"
    elif isinstance(value, timedelta):
        value = f"{value.total_seconds()} seconds"
    return "'" + str(value).replace("'", "''") + "'"


def _is_large(relation: str) -> bool:
    return relation in LARGE or relation.startswith(PARTITIONED)
