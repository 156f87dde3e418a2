"""A connection of one's own, to hear notifications on: one out of a pool would lose its ears with
every turn."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import asyncpg

from proxy.ledger.roles import startup

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]


async def listen(
    dsn: str,
    channel: str,
    heard: Callable[..., None],
    begin: "Callable[[Connection], Awaitable[object]] | None" = None,
    *,
    name: str,
    role: str,
    timeout: float,  # noqa: ASYNC109 - it is kept, for every statement
    ended: Callable[..., None] | None = None,
    by_index: bool = False,
) -> "Connection":
    """Connects as `role` and listens, then does what there is to `begin` with: so what is notified
    in between is heard. All of it takes `timeout` seconds at most, and each statement after it.
    `ended` is told when the connection is gone; `by_index`: no table is read through. Raises one of
    TROUBLE, TimeoutError, or what `begin` raises."""
    plans = {"enable_seqscan": "off", "jit": "off"} if by_index else {}
    async with asyncio.timeout(timeout):
        connection = await asyncpg.connect(
            dsn,
            command_timeout=timeout,
            server_settings={"application_name": name, **plans, **startup(role)},
        )
        try:
            await connection.add_listener(channel, heard)
            if ended is not None:
                connection.add_termination_listener(ended)
            if begin is not None:
                await begin(connection)
        except BaseException:
            connection.terminate()
            raise
    return connection
