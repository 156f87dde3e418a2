"""A fresh, migrated database per test on one real server; agents; and a wire that can be cut."""

from collections.abc import AsyncIterator, Callable
from functools import partial
from urllib.parse import parse_qs, urlsplit

import pytest

from policies import Policy
from proxy.ledger import Agent, Database, Ledger, Reservation, agents
from proxy.vault import Vault
from tests.ledger.reservations import reservation
from tests.ledger.wire import Wire

Make = Callable[..., Reservation]


@pytest.fixture
async def database(dsn: str) -> AsyncIterator[Database]:
    database = await Database.open(dsn)
    yield database
    await database.close()


@pytest.fixture
async def ledger(database: Database) -> AsyncIterator[Ledger]:
    ledger = Ledger(database)
    yield ledger
    await ledger.close()


@pytest.fixture
async def bot(database: Database, vault: Vault) -> Agent:
    """An agent under the default policy: $0.05 per call, $1.00 per day and per session."""
    return (await agents.add(database, vault, "bot")).agent


@pytest.fixture
def make(bot: Agent) -> Make:
    """Makes reservations of one cent that differ in nothing but their id and their message."""
    return partial(reservation, agent_id=bot.id)


@pytest.fixture
def policy() -> Policy:
    return Policy("bot")


@pytest.fixture
async def wire(dsn: str) -> AsyncIterator[Wire]:
    """A way to the database that tests can cut, stall and deafen; `wire.dsn` leads through it."""
    parts = urlsplit(dsn)
    query = parse_qs(parts.query)
    wire = await Wire.open(query["host"][0], int(query.get("port", ["5432"])[0]), dsn)
    yield wire
    await wire.close()
