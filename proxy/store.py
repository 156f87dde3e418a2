"""The ledger's database: the embedded server, or the one that DATABASE_URL names."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from proxy import paths
from proxy.ledger import Database, migrate
from proxy.ledger.address import sealed
from proxy.ledger.migrate import MigrationRefused
from proxy.ledger.roles import role_trouble
from proxy.postgres import EmbeddedPostgres
from proxy.settings import Settings
from proxy.vault import Vault, source_of


@dataclass(frozen=True, slots=True)
class Server:
    """A server that runs, by its connection URLs: for everyday, and for whoever owns the schema."""

    dsn: str = field(repr=False)
    owner_dsn: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Store:
    """An open database with its schema up to date, used as `role` ("": as the login itself), and
    the keys that what is in it is sealed with."""

    dsn: str = field(repr=False)
    owner_dsn: str = field(repr=False)
    database: Database
    role: str
    vault: Vault


@asynccontextmanager
async def open_server(settings: Settings) -> AsyncIterator[Server]:
    """Start or adopt the server, or find the one that is named; nothing in it is looked at.

    Raises PathError, PostgresError or AddressError, each one clear line.
    """
    plain = settings.database.allow_plaintext
    owner_url = settings.database.owner_url
    owner = sealed(owner_url, allow_plaintext=plain) if owner_url else ""
    if settings.database_url:
        dsn = sealed(settings.database_url, allow_plaintext=plain)
        yield Server(dsn, owner or dsn)
        return
    embedded = EmbeddedPostgres(paths.private_directory(settings.data_dir), settings.postgres.user)
    dsn = await embedded.start()
    try:
        yield Server(dsn, owner or dsn)
    finally:
        await embedded.stop()


@asynccontextmanager
async def open_store(
    settings: Settings, *, name: str = "autopay", role: str | None = None
) -> AsyncIterator[Store]:
    """Bring the schema of the server up to date, and connect as `role` (None: [database] role).

    Raises what `open_server` raises, MigrationError, RoleRefused or LedgerUnavailable;
    VaultError if the database is from before tokens were sealed, and the key cannot be had.
    """
    role = settings.database.role if role is None else role
    async with open_server(settings) as server:
        vault = Vault(source_of(settings))
        try:
            await migrate(server.owner_dsn, vault=vault)
        except MigrationRefused as error:
            # One that was not given its role sees no schema: then that is what to say.
            if refused := await role_trouble(server.dsn, role):
                raise refused from error
            raise
        database = await Database.open(server.dsn, name=name, role=role)
        try:
            yield Store(server.dsn, server.owner_dsn, database, role, vault)
        finally:
            await database.close()
