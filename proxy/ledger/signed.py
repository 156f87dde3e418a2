"""Changes that are signed: who made them and from where, in the same transaction as the change."""

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import asyncpg

from proxy.ledger.database import Database

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

_Result = TypeVar("_Result")

_SIGN = "SELECT set_config('autopay.by', $1, true), set_config('autopay.origin', $2, true)"
_NOTE = "SELECT note_change($1, $2)"


@dataclass(frozen=True, slots=True)
class Signature:
    """`by`: who it is; `origin`: where from; `agent`: the name of the agent that it is about, if it
    is about one; `details`: what was asked for. Nothing secret, and no agent's name."""

    by: str
    origin: str
    agent: str | None = None
    details: Mapping[str, Any] = field(default_factory=dict)


class SignedDatabase(Database):
    """The same pool. Each statement that writes leaves one OPERATOR_ACTION event, or is not done;
    one that changes nothing leaves none."""

    def __init__(self, database: Database, signature: Signature) -> None:
        super().__init__(database._pool, database._timeout)
        self._signature = signature

    async def _run(
        self, statement: Callable[["PoolConnectionProxy[asyncpg.Record]"], Awaitable[_Result]]
    ) -> _Result:
        signature = self._signature
        details = {"by": signature.by, "origin": signature.origin, **signature.details}

        async def signed(connection: "PoolConnectionProxy[asyncpg.Record]") -> _Result:
            async with connection.transaction():
                await connection.execute(_SIGN, signature.by, signature.origin)
                result = await statement(connection)
                await connection.execute(_NOTE, signature.agent, json.dumps(details))
            return result

        return await super()._run(signed)
