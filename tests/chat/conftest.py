from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from proxy.authority import Authority
from proxy.localnet import Localnet
from tests.chat.talk import Talk
from tests.e2e.house import house
from tests.e2e.seller import selling
from tests.wire.wire_tls import Authority as Issuer


@pytest.fixture
async def net() -> AsyncIterator[Localnet]:
    async with Localnet(slot_seconds=0.1) as net:
        yield net


@pytest.fixture
def settings() -> dict[str, Any]:
    """Sections of autopay.toml; of a provider, `upstream` is filled in."""
    return {}


@pytest.fixture
def https() -> bool:
    return False


@pytest.fixture
async def talk(
    net: Localnet, dsn: str, tmp_path: Path, settings: dict[str, Any], https: bool
) -> AsyncIterator[Talk]:
    """A seller of answers, and an agent whose chats are kept."""
    issuer = Issuer(tmp_path)
    authority = Authority.create(tmp_path / "ca")
    ours = tmp_path / "ours.pem"
    ours.write_bytes(authority.certificate_pem)
    async with selling(issuer.context("localhost") if https else None) as seller:
        for provider in settings.get("providers", {}).values():
            provider["upstream"] = seller.url
        settings |= {"tls": {"ca_file": str(issuer.ca_file)}}
        async with house(net, dsn, tmp_path, **settings) as home:
            talk = Talk(home, seller, ours)
            await talk.capture(True)
            yield talk
