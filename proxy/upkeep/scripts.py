"""SQL that is run when somebody asks for it: profiles of rights, and demo data."""

from typing import TYPE_CHECKING, Literal

import asyncpg

from proxy.upkeep.errors import UpkeepError
from sql import script

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]

Profile = Literal["development", "production"]


async def apply_profile(connection: "Connection", profile: Profile) -> None:
    """Opens tables to every role ("development"), or closes them again. Repeatable."""
    async with connection.transaction():
        await connection.execute(script(f"profiles/{profile}.sql"))


async def plant_demo(connection: "Connection") -> int:
    """Writes the demo data once; returns how many payments that made.

    Raises UpkeepError if there are payments of anybody else.
    """
    count = "SELECT count(*) FROM payments"
    before: int = await connection.fetchval(count)
    try:
        async with connection.transaction():
            await connection.execute(script("seeds/demo.sql"))
    except asyncpg.ObjectNotInPrerequisiteStateError as error:
        raise UpkeepError(f"no demo data was written: {error}") from error
    after: int = await connection.fetchval(count)
    return after - before
