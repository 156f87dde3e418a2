"""The world that the state machines run in."""

import asyncio
from collections.abc import Iterator

import asyncpg
import pytest

from proxy.ledger import Database
from tests.model.world import World, superuser
from tests.peers.postgres import drop_database, fresh_database


@pytest.fixture
def world(server: str, template: str) -> Iterator[World]:
    with asyncio.Runner() as runner:
        dsn = runner.run(fresh_database(server, template))
        real = runner.run(Database.open(dsn))
        owner = runner.run(asyncpg.connect(superuser(dsn)))
        yield World(runner, real, owner)
        runner.run(real.close())
        runner.run(owner.close())
        runner.run(drop_database(superuser(server), dsn))
