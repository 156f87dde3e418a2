from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from proxy.localnet import Localnet
from tests.admin.desk import Desk
from tests.e2e.conftest import net, seller
from tests.e2e.house import House, house

__all__ = ["net", "seller"]


@pytest.fixture
def settings() -> dict[str, Any]:
    return {}


@pytest.fixture
async def home(
    net: Localnet, dsn: str, tmp_path: Path, settings: dict[str, Any]
) -> AsyncIterator[House]:
    async with house(net, dsn, tmp_path, **settings) as home:
        yield home


@pytest.fixture
async def desk(home: House) -> Desk:
    return Desk(home)
