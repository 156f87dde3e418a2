from collections.abc import AsyncIterator

import pytest
from aiohttp import ClientSession, web
from solana.rpc.async_api import AsyncClient

from proxy.localnet.chain import LocalChain
from proxy.localnet.rpc import RpcNode
from tests.localnet.wallets import Wire


@pytest.fixture
def chain() -> LocalChain:
    return LocalChain()


@pytest.fixture
async def node(chain: LocalChain) -> RpcNode:
    """Blocks are made by the test."""
    return RpcNode(chain, slot_seconds=None)


@pytest.fixture
async def node_url(node: RpcNode) -> AsyncIterator[str]:
    runner = web.AppRunner(node.app(), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


@pytest.fixture
async def rpc(node_url: str) -> AsyncIterator[AsyncClient]:
    """The client that Solana programs in Python use."""
    async with AsyncClient(node_url) as client:
        yield client


@pytest.fixture
async def wire(node_url: str) -> AsyncIterator[Wire]:
    """JSON-RPC in plain JSON, for what the client hides."""
    async with ClientSession() as session:
        yield Wire(session, node_url)
