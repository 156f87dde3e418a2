import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from proxy.localnet import Localnet
from tests.campaign.database import Server
from tests.e2e.house import House, house
from tests.e2e.seller import Seller, selling
from tests.ledger.conftest import bot, database, ledger, make

__all__ = ["bot", "database", "ledger", "make"]


@pytest.fixture(scope="session")
def machine() -> Iterator[Server]:
    """A PostgreSQL that may be killed: nobody else's."""
    server = Server()
    asyncio.run(server.start())
    yield server
    asyncio.run(server.stop())


@pytest.fixture
async def home(dsn: str, tmp_path: Path) -> AsyncIterator[House]:
    async with Localnet(slot_seconds=0.1) as net, house(net, dsn, tmp_path) as home:
        yield home


@pytest.fixture
async def seller() -> AsyncIterator[Seller]:
    async with selling() as seller:
        yield seller
