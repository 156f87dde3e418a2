from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from proxy.localnet import Localnet
from tests.e2e.conftest import net
from tests.e2e.house import House, house
from tests.e2e.seller import Seller, challenge, offer, pays_once, selling, settled

__all__ = ["net"]

PRICE = 1000  # micro-USD


@pytest.fixture
async def seller(net: Localnet) -> AsyncIterator[Seller]:
    """Of anything, at `PRICE`."""
    async with selling() as seller:
        entry = offer(str(net.seller.pubkey()), str(net.fee_payer.pubkey()), amount=PRICE)
        seller.answer = pays_once(challenge(entry), lambda seen: settled(transaction=""))
        yield seller


@pytest.fixture
def settings() -> dict[str, Any]:
    return {}


@pytest.fixture
async def home(
    net: Localnet, dsn: str, tmp_path: Path, settings: dict[str, Any]
) -> AsyncIterator[House]:
    async with house(net, dsn, tmp_path, **settings) as home:
        yield home
