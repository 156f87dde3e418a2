from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from proxy.localnet import Localnet
from tests.e2e.house import House, house
from tests.e2e.seller import Seller, selling
from tests.peers.official import official_facilitator, official_server, standard_routes


@pytest.fixture
async def net() -> AsyncIterator[Localnet]:
    async with Localnet(slot_seconds=0.1) as net:
        yield net


@pytest.fixture
async def home(net: Localnet, dsn: str, tmp_path: Path) -> AsyncIterator[House]:
    async with house(net, dsn, tmp_path) as home:
        yield home


@pytest.fixture
async def shop(net: Localnet) -> AsyncIterator[str]:
    """The official server and facilitator, version 2."""
    async with (
        official_facilitator(net.rpc_url, net.fee_payer) as facilitator,
        official_server(facilitator, standard_routes(str(net.seller.pubkey()))) as url,
    ):
        yield url


@pytest.fixture
async def seller(net: Localnet) -> AsyncIterator[Seller]:
    """A seller of our own making, whose receiver has a token account."""
    async with selling() as seller:
        yield seller
