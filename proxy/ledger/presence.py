"""That this process lives, as others on the same database can see.

An advisory lock of a session says so: it is gone with its connection, so a process that was killed
is known to be gone at once, and no clock has a say in it. Should a live process lose the connection
for a moment, others may take its payments for forsaken and send the very same bytes again, which
moves no money twice.
"""

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING
from uuid import UUID

import asyncpg

from proxy.ledger.roles import startup

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]

log = logging.getLogger(__name__)

_TROUBLE = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
# Shared: several services of one process are the same process.
_SAY = "SELECT pg_advisory_lock_shared(instance_key($1))"
_LOOK_SECONDS = 5.0
_LONGEST_PAUSE = 5.0


class Presence:
    """`start()` before the first payment, `close()` after the last."""

    def __init__(
        self,
        dsn: str,
        instance: UUID,
        *,
        role: str = "",
        timeout: float = 5.0,
    ) -> None:
        self._dsn = dsn
        self._instance = instance
        self._role = role
        self._timeout = timeout
        self._connection: Connection | None = None
        self._keeper: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """An unreachable database is no error here: it is tried again and again."""
        with contextlib.suppress(*_TROUBLE):
            await self._say()
        self._keeper = asyncio.create_task(self._keep(), name="presence")

    async def close(self) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        if self._connection is not None:
            self._connection.terminate()

    async def _keep(self) -> None:
        pause = 0.1
        while True:
            try:
                await self._say()
            except _TROUBLE as error:
                log.warning("others cannot see that this process lives: %s", error)
                await asyncio.sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE)
            else:
                pause = 0.1
                await asyncio.sleep(_LOOK_SECONDS)

    async def _say(self) -> None:
        connection = self._connection
        if connection is not None and not connection.is_closed():
            try:
                await connection.execute("SELECT 1")
            except BaseException:
                connection.terminate()
                raise
            return
        async with asyncio.timeout(self._timeout):
            connection = await asyncpg.connect(
                self._dsn,
                command_timeout=self._timeout,
                server_settings={"application_name": "autopay presence", **startup(self._role)},
            )
            try:
                await connection.execute(_SAY, self._instance)
            except BaseException:
                connection.terminate()
                raise
        self._connection = connection
