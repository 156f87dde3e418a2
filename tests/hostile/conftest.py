"""One proxy for all of a module's cases: what one leaves broken, the next ones meet."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import pytest
import pytest_asyncio
import uvloop

from proxy.wire import downstream, plane
from tests.hostile.arena import Arena, arena


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": uvloop.new_event_loop}  # what the service runs on


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ring(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Arena]:
    spool = tmp_path_factory.mktemp("spool")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plane, "WATCH_SECONDS", 0.02)
        patch.setattr(plane, "CLOSE_POLL_SECONDS", 0.001)
        patch.setattr(downstream, "LINGER_SECONDS", 0.02)
        patch.setattr(tempfile, "tempdir", str(spool))
        async with arena(Path(tmp_path_factory.mktemp("ca"))) as it:
            yield it
    assert not list(spool.iterdir()), "a temporary file was left behind"
