"""Tests at the socket run on both event loops; those of whole programs start processes of their
own and need none."""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path

import pytest
import uvloop

from proxy.authority import Authority, Leaves
from proxy.wire import downstream, plane

sys.path.insert(0, str(Path(__file__).parent.parent / "wire"))  # its rig, and its tests

from tunnel_rig import Ca, Inside, inside
from wire_tls import Authority as Issuer


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture(scope="session")
def ca(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ca]:
    folder = tmp_path_factory.mktemp("ca")
    ours = Authority.create(folder / "ours")
    leaves = Leaves(ours)
    yield Ca(Issuer(folder), leaves, ours.certificate_pem.decode())
    leaves.close()


@pytest.fixture(autouse=True)
def quick_close(monkeypatch: pytest.MonkeyPatch) -> None:
    """TLS knows no half-close, so a program that is refused sees the end when lingering is over."""
    monkeypatch.setattr(plane, "CLOSE_POLL_SECONDS", 0.001)
    monkeypatch.setattr(plane, "WATCH_SECONDS", 0.05)
    monkeypatch.setattr(downstream, "LINGER_SECONDS", 0.1)


@pytest.fixture
def scheme() -> str:
    return "https"


@pytest.fixture
async def rig(ca: Ca, scheme: str) -> AsyncIterator[Inside]:
    async with inside(ca, scheme) as it:
        yield it
