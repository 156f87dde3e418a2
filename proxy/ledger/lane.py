"""Group commit: while one batch of moves is with the database, the next one collects.

One round trip, one wait for the hot counters and one flush to disk serve the whole batch. A lone
move pays nothing for it: it is a batch of one, sent at once.
"""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from proxy.crashpoints import reached
from proxy.ledger.database import Database, is_server_trouble
from proxy.ledger.errors import LedgerError, LedgerFault, LedgerUnavailable

_TICK = "SELECT ordinal, outcome, failure, sqlstate_ FROM tick($1)"
_MOST = 256  # moves a batch: past that a batch takes longer than it saves


@dataclass(frozen=True, slots=True)
class _Move:
    name: str
    args: Mapping[str, object]
    done: asyncio.Future[Any]


class Lane:
    """All moves of one process, in the order they were asked for."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: list[_Move] = []
        self._runner: asyncio.Task[None] | None = None
        self.batches = 0
        self.moves = 0

    async def move(self, name: str, args: Mapping[str, object]) -> Any:
        """What `tick` says of this move, as JSON reads it. Repeatable, if the move is.

        Raises LedgerFault if the database refuses it, LedgerUnavailable if it gives no answer.
        A caller that is cancelled does not take it back.
        """
        move = _Move(name, args, asyncio.get_running_loop().create_future())
        self._waiting.append(move)
        if self._runner is None:
            self._runner = asyncio.create_task(self._run(), name="ledger lane")
        return await move.done

    async def close(self) -> None:
        """Waits for the batch under way; what waits behind it is told that there is no database."""
        waiting, self._waiting = self._waiting, []
        for move in waiting:
            _fail(move, LedgerUnavailable("the ledger is closed", may_have_happened=False))
        if self._runner is not None:
            await asyncio.gather(self._runner, return_exceptions=True)

    async def _run(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[:_MOST], self._waiting[_MOST:]
                await self._send(batch)
        finally:
            # No await since the queue was seen empty, so nobody can have been left in it.
            self._runner = None

    async def _send(self, batch: list[_Move]) -> None:
        self.batches += 1
        self.moves += len(batch)
        try:
            rows = await self._database.fetch(
                _TICK, json.dumps([{"move": move.name, "args": move.args} for move in batch])
            )
        except LedgerFault as error:
            # One of them could not even be read. Alone, each gets its own answer.
            if len(batch) == 1:
                _fail(batch[0], error)
                return
            for move in batch:
                await self._send([move])
        except LedgerError as error:
            for move in batch:
                _fail(move, error)
        except BaseException as error:
            for move in batch:
                _fail(move, LedgerUnavailable(f"the ledger: {error!r}", may_have_happened=True))
            raise
        else:
            reached("tick.after")
            for move, row in zip(batch, rows, strict=True):
                if row["failure"] is not None:
                    _fail(move, _refusal(row["sqlstate_"], row["failure"]))
                elif not move.done.done():
                    move.done.set_result(json.loads(row["outcome"]))


def _refusal(sqlstate: str, text: str) -> LedgerError:
    """Of one move of a batch: it was rolled back alone, so it did not happen."""
    if is_server_trouble(sqlstate, text):
        return LedgerUnavailable(f"the ledger's database: {text[:300]}", may_have_happened=False)
    return LedgerFault(f"the ledger's database: {text[:300]}")


def _fail(move: _Move, error: LedgerError) -> None:
    if move.done.done():
        return
    if isinstance(error, LedgerUnavailable):  # an exception has one traceback: each gets its own
        error = LedgerUnavailable(str(error), may_have_happened=error.may_have_happened)
    else:
        error = LedgerFault(str(error))
    move.done.set_exception(error)
