"""Tasks that go on until they are ended."""

import asyncio
from typing import Any

_PATIENCE = 5.0


async def end(*tasks: asyncio.Task[Any] | None) -> None:
    """Cancel them, and wait; what else they ended with is of no interest any more.

    They are told again until they hear it: a library that is interrupted may put an error of its
    own in the place of the interruption (asyncpg does, in a transaction whose connection is lost),
    and whoever goes on after errors goes on after that. What a task has to do when it is cancelled,
    it does within five seconds, or is interrupted in it.
    """
    pending = {task for task in tasks if task is not None}
    while pending:
        for task in pending:
            task.cancel()
        done, pending = await asyncio.wait(pending, timeout=_PATIENCE)
        for task in done:
            if not task.cancelled():
                task.exception()  # or asyncio reports that nobody asked for it
