"""The database as the operator's commands use it: open for one question, then let go."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from proxy.cli.errors import CommandError
from proxy.ledger import Database
from proxy.ledger.roles import ADMIN, AUDITOR, READER, WRITER, instead_of
from proxy.settings import Settings
from proxy.store import Store, open_store


@asynccontextmanager
async def open_books(settings: Settings, *, new: bool = False) -> AsyncIterator[Database]:
    """The ledger's database, for questions: nothing can be changed. As `existing_store`."""
    async with _open(settings, READER, new=new) as store:
        yield store.database


@asynccontextmanager
async def audited_store(settings: Settings) -> AsyncIterator[Store]:
    """As `open_books`, with all that an auditor may see, and the way to it."""
    async with _open(settings, AUDITOR, new=False) as store:
        yield store


@asynccontextmanager
async def existing_store(settings: Settings, *, new: bool = False) -> AsyncIterator[Store]:
    """The database, for what an operator may change, and the keys to what is sealed in it.

    Only with `new` is one made that is not there yet: to ask what was paid shall not leave a
    database behind. Raises the one-line errors of `open_store`.
    """
    async with _open(settings, ADMIN, new=new) as store:
        yield store


@asynccontextmanager
async def proxy_store(settings: Settings) -> AsyncIterator[Store]:
    """The database, for what the running proxy does. As `existing_store`."""
    async with _open(settings, WRITER, new=False) as store:
        yield store


@asynccontextmanager
async def _open(settings: Settings, role: str, *, new: bool) -> AsyncIterator[Store]:
    made = settings.database_url or (settings.data_dir / "postgres" / "data").exists()
    if not made and not new:
        raise CommandError(f"there is no database in {settings.data_dir} yet; run: autopay init")
    role = instead_of(settings.database.role, role)
    async with open_store(settings, name="autopay cli", role=role) as store:
        yield store
