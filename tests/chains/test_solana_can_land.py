"""How long the same signed bytes may be sent again: by heights alone."""

import pytest

from proxy.chains.solana import SolanaChain
from proxy.localnet import Localnet
from tests.e2e.seller import DEVNET


@pytest.mark.parametrize(("blocks_left", "can"), [(11, True), (10, True), (9, False), (-1, False)])
async def test_ten_blocks_to_spare(blocks_left: int, can: bool) -> None:
    """A payment can land in block `last valid + 1` and in none after it."""
    async with Localnet(slot_seconds=None) as net:
        chain = SolanaChain(DEVNET, None, net.rpc_url)
        net.chain.advance(50)
        height = net.chain.blocks.at("confirmed")
        assert height > 0
        assert await chain.can_land(height + blocks_left - 1) is can
        await chain.close()
