import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from policies import Policy
from proxy.ledger import Agent, Database, Directory, LedgerUnavailable, agents
from proxy.ledger.agents import NewAgent
from proxy.vault import Vault
from tests.ledger.wire import Wire


@pytest.fixture
async def new(database: Database, vault: Vault) -> NewAgent:
    return await agents.add(database, vault, "bot")


@pytest.fixture
async def directory(new: NewAgent, wire: Wire, vault: Vault) -> AsyncIterator[Directory]:
    """Reads by poll only every minute: what is fresh was heard."""
    directory = Directory(wire.dsn, vault, poll=60, timeout=1)
    await directory.start()
    yield directory
    await directory.close()


async def seconds_until(condition: Callable[[], bool]) -> float:
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < 20, "it never came"
        await asyncio.sleep(0.005)
    return time.monotonic() - started


async def test_who_is_this(directory: Directory, new: NewAgent) -> None:
    assert directory.by_token(new.token) == new.agent
    assert directory.authenticate("bot", new.token) == new.agent
    assert directory.agent(new.agent) == new.agent
    assert directory.policy(new.agent) == Policy("bot", version=directory.version)


async def test_who_is_that(directory: Directory, new: NewAgent) -> None:
    for token in ("", "ap_", "ap_" + "A" * 43, "\udcff", "ä"):
        assert directory.by_token(token) is None
        assert directory.authenticate("bot", token) is None
    assert directory.authenticate("other", new.token) is None
    assert directory.authenticate("\udcff", new.token) is None
    with pytest.raises(KeyError):
        directory.agent(Agent(new.agent.id, "stranger"))


async def test_every_change_is_heard_within_a_second(
    directory: Directory, database: Database, new: NewAgent, vault: Vault
) -> None:
    other = await agents.add(database, vault, "other")
    assert await seconds_until(lambda: directory.by_token(other.token) is not None) < 1

    await agents.set_frozen(database, "bot", True)
    assert await seconds_until(lambda: directory.policy(new.agent).frozen) < 1

    token = (await agents.rotate_token(database, vault, "bot")).token
    assert await seconds_until(lambda: directory.by_token(token) == new.agent) < 1
    assert directory.by_token(new.token) is None

    await agents.remove(database, "bot")
    assert await seconds_until(lambda: directory.by_token(token) is None) < 1
    assert directory.agent(new.agent) == new.agent  # one of its requests may be under way
    assert directory.policy(new.agent).frozen


async def test_without_the_database_it_goes_on_and_catches_up(
    directory: Directory, database: Database, new: NewAgent, wire: Wire
) -> None:
    wire.cut()
    await asyncio.sleep(0.05)
    assert directory.by_token(new.token) == new.agent
    await agents.set_frozen(database, "bot", True)
    await asyncio.sleep(0.05)
    assert not directory.policy(new.agent).frozen
    await wire.mend()
    assert await seconds_until(lambda: directory.policy(new.agent).frozen) < 2


async def test_a_connection_that_went_deaf_is_noticed_by_the_poll(
    new: NewAgent, database: Database, wire: Wire, vault: Vault
) -> None:
    directory = Directory(wire.dsn, vault, poll=0.2, timeout=0.3)
    await directory.start()
    wire.stall()
    await agents.set_frozen(database, "bot", True)
    await asyncio.sleep(0.6)
    assert not directory.policy(new.agent).frozen
    await wire.mend()
    assert await seconds_until(lambda: directory.policy(new.agent).frozen) < 2
    await directory.close()


async def test_it_cannot_start_without_having_read_once(vault: Vault) -> None:
    directory = Directory("postgresql:///x?host=/nowhere", vault)
    with pytest.raises(LedgerUnavailable):
        await directory.start()
    await directory.close()


async def test_it_ends_though_its_connection_is_lost_that_very_moment(
    directory: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """asyncpg puts an error of its own in the place of the interruption then, after which the
    directory would look for the database for ever, and whoever ends it would wait."""
    inside = asyncio.Event()

    async def load(connection: Any) -> None:
        async with connection.transaction():
            inside.set()
            try:
                await asyncio.sleep(3600)
            finally:
                connection.terminate()

    monkeypatch.setattr(directory, "_load", load)
    directory._wake()
    await inside.wait()
    async with asyncio.timeout(30):
        await directory.close()
