"""How many rows every table has, and a checksum of them that does not depend on their order."""

from typing import TYPE_CHECKING

import asyncpg

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]

Rows = dict[str, str]  # "public.payments" → "42 rows, 0123…"

# Rows as text, and the same text on every server.
_PLAIN = {
    "search_path": "pg_catalog",
    "timezone": "UTC",
    "datestyle": "ISO, YMD",
    "intervalstyle": "postgres",
    "bytea_output": "hex",
    "extra_float_digits": "1",
    "xmloption": "content",
    "statement_timeout": "0",
}
# A partition's rows are its table's.
_TABLES = """
SELECT format('%I.%I', nspname, relname)
FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
WHERE relkind IN ('r', 'p') AND NOT relispartition
  AND nspname !~ '^pg_' AND nspname <> 'information_schema'
  AND NOT EXISTS (SELECT FROM pg_depend WHERE classid = 'pg_class'::regclass AND objid = c.oid
                  AND deptype = 'e')
ORDER BY 1
"""
# Each row's SHA-256 gives two numbers of 64 bits; their sums tell a row that is altered, lost,
# doubled or added, whichever order the rows come in.
_CHECKSUM = """
SELECT count(*),
       sum(('x' || encode(substr(hash, 1, 8), 'hex'))::bit(64)::bigint),
       sum(('x' || encode(substr(hash, 9, 8), 'hex'))::bit(64)::bigint)
FROM (SELECT sha256(convert_to(t::text, 'UTF8')) AS hash FROM {table} AS t) AS hashed
"""


async def rows_of(connection: "Connection") -> Rows:
    """Of every table, as the connection's transaction sees it: be in one. Reads everything.

    Raises asyncpg's errors; InsufficientPrivilegeError too if a policy would hide rows from it.
    """
    for name, value in _PLAIN.items():
        await connection.execute("SELECT set_config($1, $2, true)", name, value)
    # Better an error than a backup of what this login happens to be shown.
    await connection.execute("SET LOCAL row_security = off")
    found: Rows = {}
    for (table,) in await connection.fetch(_TABLES):
        row = await connection.fetchrow(_CHECKSUM.format(table=table))
        assert row is not None
        count, first, second = row
        found[table] = f"{count} rows, {int(first or 0):x}.{int(second or 0):x}"
    return found


def unequal(wanted: Rows, found: Rows) -> list[str]:
    """The tables whose rows differ, with both counts."""
    return [
        f"{table}: {found.get(table, 'missing')}, should be {wanted.get(table, 'missing')}"
        for table in sorted(wanted.keys() | found.keys())
        if wanted.get(table) != found.get(table)
    ]
