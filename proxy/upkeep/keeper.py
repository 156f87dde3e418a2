"""The running proxy's own upkeep, by one proxy among all that share the database.

The leader is whoever holds an advisory lock; it goes with the leader's connection, so with the
leader. Tasks are due by the database's clock and by what it says was done: a new leader goes on
where the old one ended.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg

from proxy.ledger import LedgerUnavailable
from proxy.ledger.errors import TROUBLE
from proxy.ledger.roles import startup
from proxy.tasks import end
from proxy.upkeep import tasks
from proxy.upkeep.backup import backup_into
from proxy.upkeep.errors import UpkeepError
from proxy.upkeep.tasks import Task

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]

log = logging.getLogger(__name__)

_LEADER = (402, 22)  # beside the migrations' and the partitions' own locks
_HOUR = timedelta(hours=1)
_DAY = timedelta(days=1)
# What failed is tried again after an hour at most, however seldom it is due.
_DUE = """
SELECT (SELECT succeeded_at + $2::interval > now()
               OR failed_at + least($2::interval, '1 hour') > now()
        FROM maintenance_tasks WHERE task = $1) IS NOT TRUE
"""


class Keeper:
    """`start()` it with the proxy. `default_rows` is what an operator should be warned of: rows
    that found no partition, as last counted; `findings` what the last audit of the books found;
    `failures` counts tasks that could not be done."""

    def __init__(
        self,
        dsn: str,
        *,
        owner_dsn: str = "",
        role: str = "",
        retention_days: int = 90,
        backup_dir: Path | None = None,
        backup_hours: float = 24,
        backup_keep: int = 7,
        audit_every: timedelta = timedelta(minutes=5),
        audit_halts: bool = True,
        tick: float = 60.0,
    ) -> None:
        self._dsn = dsn
        self._owner_dsn = owner_dsn or dsn
        self._role = role
        self._retention_days = retention_days
        self._backup_dir = backup_dir
        self._backup_every = timedelta(hours=backup_hours)
        self._backup_keep = backup_keep
        self._audit_every = audit_every
        self._audit_halts = audit_halts
        self._tick = tick
        self._woken = asyncio.Event()
        self._connection: Connection | None = None
        self._worker: asyncio.Task[None] | None = None
        self.leads = False
        self.default_rows = 0
        self.failures = 0
        self.findings = 0

    async def start(self) -> None:
        """Sees to the partitions first: rows that come now shall find theirs.

        Raises LedgerUnavailable if the database cannot be reached.
        """
        try:
            await self._lead()
            if self._connection is not None:
                await self._do("partitions", self._partitions)
        except TROUBLE as error:
            self._let_go()
            words = f"the ledger's database: {_line(error)}"
            raise LedgerUnavailable(words, may_have_happened=False) from error
        self._worker = asyncio.create_task(self._work(), name="database upkeep")

    def wake(self) -> None:
        """Look now at what is due."""
        self._woken.set()

    async def close(self) -> None:
        """Stops what is under way: a backup that is not complete leaves nothing behind."""
        await end(self._worker)
        self._let_go()

    async def _work(self) -> None:
        while True:
            try:
                if await self._lead():
                    await self._round()
            except TROUBLE as error:
                self._let_go()
                log.warning("the database's upkeep is interrupted: %s", _line(error))
            with suppress(TimeoutError):
                async with asyncio.timeout(self._tick):
                    await self._woken.wait()
            self._woken.clear()

    async def _lead(self) -> bool:
        """Whether this proxy is the leader, or has become it now."""
        if self._connection is not None and not self._connection.is_closed():
            return True
        self._let_go()
        connection = await asyncpg.connect(
            self._dsn,
            timeout=10,
            server_settings={
                "application_name": "autopay upkeep",
                # Whoever waits for a lock on a whole table makes others wait behind it.
                "lock_timeout": "5000",
                "idle_in_transaction_session_timeout": "10000",
                **startup(self._role),
            },
        )
        try:
            if await connection.fetchval("SELECT pg_try_advisory_lock($1, $2)", *_LEADER):
                self._connection, self.leads = connection, True
        finally:
            if not self.leads:
                connection.terminate()
        return self.leads

    def _let_go(self) -> None:
        self.leads = False
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None

    async def _round(self) -> None:
        for task, every, act in (
            ("audit", self._audit_every, self._audit),
            ("partitions", _HOUR, self._partitions),
            ("prune", _DAY, self._prune),
            ("backup", self._backup_every, self._backup),
        ):
            if task == "backup" and self._backup_dir is None:
                continue
            assert self._connection is not None
            if await self._connection.fetchval(_DUE, task, every):
                await self._do(task, act)  # type: ignore[arg-type]

    async def _do(self, task: Task, act: Callable[["Connection"], Awaitable[None]]) -> None:
        """Does a task, or says loudly and in the books that it could not be done."""
        connection = self._connection
        assert connection is not None
        try:
            await act(connection)
        except (*TROUBLE, UpkeepError) as error:
            self.failures += 1
            log.error("database upkeep: %s failed: %s", task, _line(error))
            if connection.is_closed():
                raise
            await tasks.note(connection, task, error=_line(error))

    async def _partitions(self, connection: "Connection") -> None:
        made = await tasks.ensure_partitions(connection)
        stray = await tasks.default_rows(connection)
        await tasks.note(connection, "partitions", details={"made": made} if made else None)
        before, self.default_rows = self.default_rows, sum(stray.values())
        if stray:
            log.error(
                "rows are in default partitions, where no month's end removes them: %s", stray
            )
            if self.default_rows != before:
                await tasks.alarm(connection, {"default_partition_rows": stray})

    async def _audit(self, connection: "Connection") -> None:
        """The books since a while before the last time, so that nothing falls between two."""
        if await tasks.note_takeover(connection):
            log.error(
                "the database was taken over by another server, and what was acknowledged last may"
                " be lost: all spending is halted (autopay resume)"
            )
        findings = await tasks.audit(connection, self._audit_every + _HOUR, halt=self._audit_halts)
        self.findings = len(findings)
        for finding in findings[:20]:
            log.error("the books are wrong: %s", finding)
        if findings and self._audit_halts:
            log.error("all spending is halted; when it is clear why: autopay resume")
        await tasks.note(connection, "audit")

    async def _prune(self, connection: "Connection") -> None:
        gone = await tasks.prune(connection, self._retention_days)
        if gone:
            log.info("dropped %s", ", ".join(old.name for old in gone))

    async def _backup(self, connection: "Connection") -> None:
        assert self._backup_dir is not None
        file, contents = await backup_into(self._owner_dsn, self._backup_dir, self._backup_keep)
        log.info("backed up to %s (%d bytes)", file, contents.bytes)
        known = asdict(contents)
        details = {"file": str(file), "bytes": known["bytes"], "sha256": known["sha256"]}
        await tasks.note(connection, "backup", details=details)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
