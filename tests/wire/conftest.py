"""Every test of the data plane runs on both event loops, unless it says otherwise."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping

import pytest
import uvloop
from wire_rig import Rig
from wire_rig import rig as open_rig

from proxy.wire import plane


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture(autouse=True)
def quick_close(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plane, "CLOSE_POLL_SECONDS", 0.001)


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    async with open_rig() as it:
        yield it


@pytest.fixture
def quick_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    """A watchdog that looks twenty times a second."""
    monkeypatch.setattr(plane, "WATCH_SECONDS", 0.05)
