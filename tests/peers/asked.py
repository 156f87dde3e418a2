"""A stand-in for `Database` that need only know `fetch`."""

from typing import Any, Protocol


class Asked(Protocol):
    """What else a `Database` is asked, made of it."""

    async def fetch(self, sql: str, *args: object) -> list[Any]: ...

    async def fetchrow(self, sql: str, *args: object) -> Any:
        return next(iter(await self.fetch(sql, *args)), None)

    async def fetchval(self, sql: str, *args: object) -> Any:
        row = await self.fetchrow(sql, *args)
        return None if row is None else next(iter(row.values()))

    async def execute(self, sql: str, *args: object) -> str:
        await self.fetch(sql, *args)
        return "OK"
