from collections.abc import AsyncIterator

import pytest

from proxy.localnet import Localnet


@pytest.fixture
async def net() -> AsyncIterator[Localnet]:
    async with Localnet(slot_seconds=0.1) as net:
        yield net
