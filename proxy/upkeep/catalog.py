"""What a database is made of, as plain texts: every object, each of its parts, and what it is.

The texts come from PostgreSQL's own deparsing, so two databases of one schema give the same ones
whoever owns them. Rows are no part of it, and neither are the months' partitions: those come and
go, and are told apart.
"""

from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING

import asyncpg

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]

Parts = dict[str, str]  # "column id" → "uuid NOT NULL DEFAULT gen_random_uuid()"; "" is itself

_QUERY = (files(__package__) / "catalog.sql").read_text(encoding="utf-8")
DEFINITION = "definition"  # of a view: each major version of PostgreSQL writes it its own way


@dataclass(frozen=True, slots=True)
class Catalog:
    """`objects` by name ("table payments"); `partitions` by parent table, then by their name."""

    server_major: int
    objects: dict[str, Parts]
    partitions: dict[str, dict[str, Parts]]


async def read_catalog(connection: "Connection") -> Catalog:
    """Reads all of it in one snapshot. Raises asyncpg's errors."""
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        # Names in deparsed texts are qualified, or not, by this.
        await connection.execute("SET LOCAL search_path = public")
        await connection.execute("SET LOCAL timezone = 'UTC'")
        version = int(await connection.fetchval("SHOW server_version_num")) // 10000
        objects: dict[str, Parts] = {}
        partitions: dict[str, dict[str, Parts]] = {}
        for parent, name, part, text in await connection.fetch(_QUERY):
            if parent is None:
                objects.setdefault(name, {})[part] = text
            else:
                partitions.setdefault(parent, {}).setdefault(name, {})[part] = text
    return Catalog(version, objects, partitions)
