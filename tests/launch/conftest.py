"""A shop on a loopback address that no NO_PROXY names, and an autopay with money to spend there."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from proxy.localnet import Localnet
from tests.cli.conftest import Autopay, free_ports, private
from tests.peers.postgres import drop_database, fresh_database

__all__ = ["private"]


@pytest.fixture
async def net() -> AsyncIterator[Localnet]:
    async with Localnet(slot_seconds=0.1, host="127.0.0.2") as net:
        yield net


@pytest.fixture
def autopay(private: Path, dsn: str, net: Localnet) -> Autopay:
    """As a process, whose signals and streams are its own. `run` is the agent that runs take."""
    proxy, mounts = free_ports(2)
    autopay = Autopay(private, {"DATABASE_URL": dsn})
    autopay.config.write_text(
        f'[listen]\nproxy = "127.0.0.1:{proxy}"\nmounts = "127.0.0.1:{mounts}"\nadmin = "off"\n'
        f'[networks.devnet]\nrpc_url = "{net.rpc_url}"\n'
    )
    inside = Autopay(private, autopay.env, inside=True)
    net.fund(inside.well("wallet", "new").split()[0], usdc=10_000_000)
    inside.well("agent", "add", "run", "--allow-target", "127.0.0.0/8")
    return autopay


@pytest.fixture
async def another(server: str, template: str, tmp_path: Path) -> AsyncIterator[Autopay]:
    """Another autopay of this machine, with books of its own."""
    dsn = await fresh_database(server, template)
    data = tmp_path / "other"
    data.mkdir(mode=0o700)
    yield Autopay(data, {"DATABASE_URL": dsn})
    await drop_database(server, dsn)
