"""What every room's tests share: one PostgreSQL server a run, one database a test."""

import asyncio
import secrets
import signal
from collections.abc import AsyncIterator, Iterator

import pytest

from proxy.ledger import migrate
from proxy.vault import GivenKeys, Vault
from tests.peers.postgres import cluster, drop_database, fresh_database

# A shell that has us in the background has us ignore this, and so would all that the tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """A running embedded server: the DSN of a database of it, with nothing in it."""
    with cluster() as dsn:
        yield dsn


@pytest.fixture(scope="session")
def template(server: str) -> str:
    """The DSN of a database to copy: our schema, no rows, nobody connected."""

    async def make() -> str:
        dsn = await fresh_database(server)
        await migrate(dsn)
        return dsn

    return asyncio.run(make())


@pytest.fixture
async def dsn(server: str, template: str) -> AsyncIterator[str]:
    """A database of this test's own, with our schema and no rows."""
    dsn = await fresh_database(server, template)
    yield dsn
    await drop_database(server, dsn)


@pytest.fixture
def vault() -> Vault:
    """With a secret key that is nobody else's."""
    return Vault(GivenKeys(secrets.token_hex(32)))
