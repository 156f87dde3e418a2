"""The schema as it ships, written down: what a freshly migrated database is made of.

`python -m proxy.upkeep.manifest` writes `sql/manifest.json` anew, from a database of its own.
"""

import asyncio
import json
import sys
import tempfile
from pathlib import Path

import asyncpg

import sql
from proxy.ledger import migrate
from proxy.postgres import EmbeddedPostgres
from proxy.upkeep.catalog import Catalog, read_catalog

REGENERATE = "python -m proxy.upkeep.manifest"


def as_text(catalog: Catalog) -> str:
    """The manifest's file: sorted, so that a change of the schema is a change of its own lines."""
    record = {"server_major": catalog.server_major, "objects": catalog.objects}
    return json.dumps(record, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def shipped() -> Catalog:
    """The manifest that this program carries."""
    record = json.loads(sql.manifest())
    return Catalog(record["server_major"], record["objects"], {})


async def catalog_of(dsn: str) -> Catalog:
    """What the database of `dsn` is made of."""
    connection = await asyncpg.connect(dsn)
    try:
        return await read_catalog(connection)
    finally:
        await connection.close()


async def _regenerate(directory: Path) -> str:
    server = EmbeddedPostgres(directory)
    dsn = await server.start()
    try:
        await migrate(dsn)
        return as_text(await catalog_of(dsn))
    finally:
        await server.stop()


if __name__ == "__main__":
    # Right under the temporary directory: as root, the server's account must be able to go there.
    with tempfile.TemporaryDirectory(prefix="autopay-manifest-") as home:
        text = asyncio.run(_regenerate(Path(home)))
    file = Path(sql.__file__).parent / sql.MANIFEST
    file.write_text(text, encoding="utf-8")
    sys.stdout.write(f"{file} is written\n")
