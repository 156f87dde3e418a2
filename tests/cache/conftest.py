from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from proxy.localnet import Localnet
from tests.cache.stall import Stall
from tests.e2e.conftest import net, seller
from tests.e2e.house import House, house
from tests.e2e.seller import Seller

__all__ = ["net", "seller"]


@pytest.fixture
def cache() -> dict[str, Any]:
    """What is set of the provider's cache, besides that there is one."""
    return {}


@pytest.fixture
def provider() -> dict[str, Any]:
    """What else is set of the provider."""
    return {}


@pytest.fixture
def settings() -> dict[str, Any]:
    return {}


@pytest.fixture
def stall(seller: Seller, net: Localnet) -> Stall:
    return Stall(seller, net)


@pytest.fixture
async def home(
    net: Localnet,
    stall: Stall,
    dsn: str,
    tmp_path: Path,
    cache: dict[str, Any],
    provider: dict[str, Any],
    settings: dict[str, Any],
) -> AsyncIterator[House]:
    providers = {
        "stall": {"upstream": stall.url, "cache": {"enabled": True, **cache}, **provider},
        "bare": {"upstream": stall.url},  # the same, without a cache
    }
    sections = {"providers": providers, "breaker": {"enabled": False}, **settings}
    async with house(net, dsn, tmp_path, **sections) as home:
        yield home
