"""Who may ask the chain about an account: one process at a time, of any number on one database.

An advisory lock of a session: it ends with its connection, so a leader that dies is followed at
once, and no clock has a say in it. Should a leader not notice that its connection is gone, two look
at the same chain for a moment: every move is repeatable, so that only costs calls.
"""

import asyncio
from typing import TYPE_CHECKING

import asyncpg

from proxy.ledger import LedgerUnavailable
from proxy.ledger.errors import TROUBLE
from proxy.reconciler.books import Account

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]

_KEY = "hashtextextended('reconciler ' || $1 || ' ' || $2, 402)"


class Leadership:
    """The accounts that this process leads, on a connection of its own."""

    def __init__(self, dsn: str, *, timeout: float = 5.0) -> None:
        self._dsn = dsn
        self._timeout = timeout
        self.term = 0
        """Of the connection. What was known of an account under another may be out of date."""
        self._connection: Connection | None = None
        self._led: set[Account] = set()

    async def lead(self, account: Account) -> bool:
        """Whether we lead it, now or since before. Raises LedgerUnavailable."""
        try:
            connection = await self._alive()
            if account not in self._led:
                taken = await connection.fetchval(
                    f"SELECT pg_try_advisory_lock({_KEY})", account.network, account.address
                )
                if taken:
                    self._led.add(account)
        except TROUBLE as error:
            self.close()
            words = " ".join(str(error).split()) or "no answer in time"
            raise LedgerUnavailable(
                f"the ledger's database: {words[:300]}", may_have_happened=False
            ) from error
        return account in self._led

    async def leave(self, account: Account) -> None:
        """Let another lead it, or nobody."""
        if account not in self._led or self._connection is None:
            return
        self._led.discard(account)
        try:
            await self._connection.execute(
                f"SELECT pg_advisory_unlock({_KEY})", account.network, account.address
            )
        except TROUBLE:
            self.close()

    def close(self) -> None:
        """Give up everything."""
        self._led.clear()
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None

    async def _alive(self) -> "Connection":
        """The connection, asked whether it still is one; or a new one, which leads nothing."""
        if self._connection is not None and not self._connection.is_closed():
            await self._connection.execute("SELECT 1")
            return self._connection
        self._led.clear()
        async with asyncio.timeout(self._timeout):
            self._connection = await asyncpg.connect(
                self._dsn,
                command_timeout=self._timeout,
                server_settings={"application_name": "autopay reconciler"},
            )
        self.term += 1
        return self._connection
