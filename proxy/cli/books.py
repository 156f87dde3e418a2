"""The database as the operator's commands use it: open for one question, then let go."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from proxy.cli.errors import CommandError
from proxy.ledger import Database
from proxy.settings import Settings
from proxy.store import open_store


@asynccontextmanager
async def open_books(settings: Settings, *, new: bool = False) -> AsyncIterator[Database]:
    """The ledger's database. Only with `new` is one made that is not there yet: to ask what was
    paid shall not leave a database behind. Raises the one-line errors of `open_store`.
    """
    made = settings.database_url or (settings.data_dir / "postgres" / "data").exists()
    if not made and not new:
        raise CommandError(f"there is no database in {settings.data_dir} yet; run: autopay init")
    async with open_store(settings, name="autopay cli") as store:
        yield store.database
