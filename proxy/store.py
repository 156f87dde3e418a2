"""The ledger's database: the embedded server, or the one that DATABASE_URL names."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from proxy import paths
from proxy.ledger import Database, migrate
from proxy.postgres import EmbeddedPostgres
from proxy.settings import Settings


@dataclass(frozen=True, slots=True)
class Store:
    """An open database with its schema up to date."""

    dsn: str
    database: Database


@asynccontextmanager
async def open_store(settings: Settings, *, name: str = "autopay") -> AsyncIterator[Store]:
    """Start or adopt the server, bring the schema up to date, connect.

    Raises PathError, PostgresError, MigrationError or LedgerUnavailable, each one clear line.
    """
    async with AsyncExitStack() as stack:
        dsn = settings.database_url
        if not dsn:
            server = EmbeddedPostgres(
                paths.private_directory(settings.data_dir), settings.postgres.user
            )
            dsn = await server.start()
            stack.push_async_callback(server.stop)
        await migrate(dsn)
        database = await Database.open(dsn, name=name)
        stack.push_async_callback(database.close)
        yield Store(dsn, database)
