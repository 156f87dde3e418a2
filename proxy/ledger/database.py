"""Connections to PostgreSQL that fail in two ways only: unreachable, or "no".

Every statement of this package is one round trip and its own transaction, so a statement is all
that is offered here.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Self, TypeVar

import asyncpg

from proxy.ledger.errors import LedgerError, LedgerFault, LedgerUnavailable
from proxy.ledger.roles import role_refused, startup

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

    Connection = asyncpg.Connection[asyncpg.Record]
else:
    Connection = asyncpg.Connection

_Result = TypeVar("_Result")

# SQLSTATE classes and codes that tell about the server, not about the statement: it is going away
# or coming up, out of something, read-only, or was made to stop waiting.
_SERVER_TROUBLE = ("08", "25006", "40", "53", "55P03", "57", "58")
_NO_ROOM = ("could not extend file", "could not write")
_UNREACHABLE = (
    OSError,  # TimeoutError is one
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # what asyncpg may raise when a server dies in mid-message
)


def is_server_trouble(sqlstate: str, text: str) -> bool:
    """Whether this code tells about the server rather than about the statement."""
    # A quota and a limit on files are a full disk too, but PostgreSQL has no code for them.
    return sqlstate.startswith(_SERVER_TROUBLE) or (
        sqlstate == "XX000" and text.startswith(_NO_ROOM)
    )


class _Connection(Connection):
    """Goes back to the pool as it is: nothing here changes a session, so nothing needs a reset.

    asyncpg would otherwise send a RESET ALL each time: a second round trip for every statement.
    """

    __slots__ = ()

    def get_reset_query(self) -> str:
        return ""


class Database:
    """A pool of connections that heals by itself. Make it with `Database.open`."""

    def __init__(self, pool: "asyncpg.Pool[asyncpg.Record]", timeout: float) -> None:
        self._pool = pool
        self._timeout = timeout

    @classmethod
    async def open(
        cls,
        dsn: str,
        *,
        size: int = 8,
        timeout: float = 5.0,  # noqa: ASYNC109 - it is kept, for every statement
        name: str = "autopay",
        role: str = "",
    ) -> Self:
        """Connects to `dsn`, to act as `role` ("": as the login itself).

        Raises LedgerUnavailable if nobody answers within `timeout` seconds, RoleRefused if the
        login may not act as `role`. `timeout` then bounds every statement, the wait for a free
        connection included.
        """
        milliseconds = str(int(timeout * 1000))
        try:
            async with asyncio.timeout(timeout):
                pool = await asyncpg.create_pool(
                    dsn,
                    min_size=0,  # with a floor, asyncpg dials, and logs, all through an outage
                    max_size=size,
                    max_inactive_connection_lifetime=0,
                    timeout=timeout,
                    connection_class=_Connection,
                    # Here and not by SET: a SET would not survive the pool. The server's own limits
                    # stop a statement whose caller has given up.
                    server_settings={
                        "application_name": name,
                        "statement_timeout": milliseconds,
                        "lock_timeout": milliseconds,
                        # A process that was stopped in mid-transaction must not hold the policies.
                        "idle_in_transaction_session_timeout": milliseconds,
                        "timezone": "UTC",
                        # Plans stay cached: one made while a partition was empty would read it
                        # through when it has filled up. And what is answered from indexes is
                        # never worth a compilation.
                        "enable_seqscan": "off",
                        "jit": "off",
                        **startup(role),
                    },
                )
        except (*_UNREACHABLE, asyncpg.PostgresError, ValueError) as error:
            raise LedgerUnavailable(_line(error), may_have_happened=False) from error
        database = cls(pool, timeout)
        try:
            await database.execute("SELECT 1")
        except LedgerUnavailable as error:
            pool.terminate()
            if refused := role_refused(error.__cause__, dsn, role):
                raise refused from error
            raise LedgerUnavailable(str(error), may_have_happened=False) from error
        return database

    async def close(self) -> None:
        """Closes the connections; those still busy after the timeout are cut."""
        try:
            async with asyncio.timeout(self._timeout):
                await self._pool.close()
        except (*_UNREACHABLE, asyncpg.PostgresError):
            self._pool.terminate()

    async def fetch(self, sql: str, *args: object) -> list[asyncpg.Record]:
        """Runs one statement. Raises LedgerUnavailable or LedgerFault, and nothing else."""
        return await self._run(lambda connection: connection.fetch(sql, *args))

    async def fetchrow(self, sql: str, *args: object) -> asyncpg.Record | None:
        """Like `fetch`, for the first row."""
        return await self._run(lambda connection: connection.fetchrow(sql, *args))

    async def fetchval(self, sql: str, *args: object) -> Any:
        """Like `fetch`, for the first column of the first row."""
        return await self._run(lambda connection: connection.fetchval(sql, *args))

    async def execute(self, sql: str, *args: object) -> str:
        """Like `fetch`, for the command tag ("UPDATE 1")."""
        return await self._run(lambda connection: connection.execute(sql, *args))

    async def _run(
        self, statement: Callable[["PoolConnectionProxy[asyncpg.Record]"], Awaitable[_Result]]
    ) -> _Result:
        connection = None
        try:
            async with asyncio.timeout(self._timeout):
                connection = await self._pool.acquire()
                result = await statement(connection)
        except BaseException as error:
            trouble = _translated(error, sent=connection is not None)
            if connection is not None:
                with suppress(*_UNREACHABLE, asyncpg.PostgresError):  # it may be gone by itself
                    if not isinstance(trouble, LedgerFault):
                        # Its state is unknown, and asking it to finish in order could take as
                        # long as the statement did. The pool dials a new one.
                        connection.terminate()
                    await self._pool.release(connection)
            if trouble is None:
                raise
            raise trouble from error
        await self._pool.release(connection)
        return result


def _translated(error: BaseException, *, sent: bool) -> LedgerError | None:
    """What an exception of asyncpg means here; None if it is none of its own (a cancellation)."""
    if isinstance(error, asyncpg.PostgresError):
        # Before a statement was sent, every "no" (password, database, too many clients) means the
        # same to us; after, it is the statement's fault unless the server has trouble of its own.
        if sent and not is_server_trouble(str(error.sqlstate), str(error)):
            return LedgerFault(_line(error))
    elif isinstance(error, ValueError):  # from asyncpg: an argument it cannot encode, or the DSN
        if sent:
            return LedgerFault(_line(error))
    elif not isinstance(error, _UNREACHABLE):
        return None
    return LedgerUnavailable(_line(error), may_have_happened=sent)


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or "no answer in time"
    return f"the ledger's database: {text[:300]}"
