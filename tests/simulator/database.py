"""PostgreSQL as one process sees it: the books in memory behind a wire that loses things."""

import asyncio
from collections.abc import Callable
from contextvars import Context
from typing import Any
from uuid import UUID

from proxy.ledger import LedgerUnavailable
from proxy.ledger.errors import LedgerError
from tests.model.memory import Memory
from tests.peers.asked import Asked
from tests.simulator.faults import DB_TIMEOUT, Faults
from tests.simulator.loop import LIFE

Rows = list[dict[str, Any]]


class Here:
    """Stands in for the constant that names this process: there are several here."""

    def __init__(self, name: Callable[[], UUID]) -> None:
        self.name = name

    def __str__(self) -> str:
        return str(self.name())


class SimDatabase(Asked):
    """A `Database` that loses requests and answers, is away, or is late: a statement may still
    happen after its caller was told that nobody knows. What is on its way outlives its sender."""

    def __init__(self, memory: Memory, faults: Faults, told: Callable[..., None]) -> None:
        """`told(sender, fate, sql, args, result)` hears of every statement that happens."""
        self._memory = memory
        self._faults = faults
        self._told = told

    async def fetch(self, sql: str, *args: object) -> Rows:
        loop, life, faults = asyncio.get_running_loop(), LIFE.get(), self._faults
        answer: asyncio.Future[Rows] = loop.create_future()
        if life is not None and not life.alive:
            return await answer  # nobody is there any more to ask
        args = tuple(arg.name() if isinstance(arg, Here) else arg for arg in args)
        kind = faults.statement(life)
        there, back = faults.database_latency(), faults.database_latency()

        def later(seconds: float, callback: Callable[..., None], *what: Any) -> None:
            loop.call_later(seconds, callback, *what, context=Context())  # of no process

        def happen(tell: bool) -> None:
            result: Rows | LedgerError
            try:
                result = self._memory.run(sql, *args)
            except LedgerError as error:
                result = error
            self._told(life, kind, sql, args, result)
            if tell:
                later(back, give, result)

        def give(result: Rows | LedgerError) -> None:
            if answer.done():
                return
            if isinstance(result, LedgerError):
                answer.set_exception(result)
            else:
                answer.set_result(result)

        def away(may_have_happened: bool) -> LedgerUnavailable:
            return LedgerUnavailable("no answer", may_have_happened=may_have_happened)

        if kind == "refused":
            later(there, give, away(False))
        elif kind == "lost_request":
            later(DB_TIMEOUT, give, away(True))
        else:
            if kind == "lost_answer":
                later(faults.random.uniform(there, DB_TIMEOUT), give, away(True))
            elif kind == "late":
                later(DB_TIMEOUT, give, away(True))
                there = faults.random.uniform(DB_TIMEOUT, 3 * DB_TIMEOUT)
            later(there, happen, kind == "ok")
        return await answer
