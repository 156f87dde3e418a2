"""The official x402 facilitator, server and client, end to end on our node."""

import base64
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from solders.keypair import Keypair

from proxy.localnet import CASH, USDC_DEVNET, Localnet
from tests.peers.official import (
    official_facilitator,
    official_pay,
    official_server,
    standard_routes,
)

# The SDK warns of its own Solana client.
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning:x402.*")


@pytest.fixture
async def net() -> AsyncIterator[Localnet]:
    async with Localnet() as net:
        yield net


@pytest.fixture
async def shop(net: Localnet) -> AsyncIterator[str]:
    async with (
        official_facilitator(net.rpc_url, net.fee_payer) as facilitator,
        official_server(facilitator, standard_routes(str(net.seller.pubkey()))) as url,
    ):
        yield url


def settlement(response: Any) -> Any:
    return json.loads(base64.b64decode(response.headers["PAYMENT-RESPONSE"]))


async def test_every_route_that_sells(net: Localnet, shop: str) -> None:
    payer = Keypair()
    net.fund(payer.pubkey(), usdc=10_000, cash=10_000)
    spent = 0
    for key in ("GET /paid", "POST /echo", "GET /memo", "GET /upfront"):
        method, path = key.split()
        body = b"{}" if method == "POST" else None
        response = await official_pay(net.rpc_url, payer, method, shop + path, data=body)
        assert response.status_code == 200, path
        assert settlement(response)["success"] is True
        spent += 1_000
        assert net.chain.balance(payer.pubkey(), USDC_DEVNET) == 10_000 - spent
        assert net.chain.balance(net.seller.pubkey(), USDC_DEVNET) == spent
    response = await official_pay(net.rpc_url, payer, "GET", f"{shop}/cash")
    assert response.status_code == 200
    assert net.chain.balance(payer.pubkey(), CASH) == 9_000
    assert net.chain.balance(net.seller.pubkey(), CASH) == 1_000
    response = await official_pay(net.rpc_url, payer, "GET", f"{shop}/free")
    assert response.status_code == 200


@pytest.mark.parametrize(
    ("path", "status", "taken"), [("/fail", 503, 0), ("/boom", 500, 0), ("/upfront503", 503, 1_000)]
)
async def test_handlers_that_fail(
    net: Localnet, shop: str, path: str, status: int, taken: int
) -> None:
    payer = Keypair()
    net.fund(payer.pubkey(), usdc=10_000)
    response = await official_pay(net.rpc_url, payer, "GET", shop + path)
    assert response.status_code == status
    assert net.chain.balance(net.seller.pubkey(), USDC_DEVNET) == taken
    assert ("PAYMENT-RESPONSE" in response.headers) == (taken > 0)


async def test_an_empty_wallet_buys_nothing(net: Localnet, shop: str) -> None:
    payer = Keypair()
    net.fund(payer.pubkey(), usdc=999)
    response = await official_pay(net.rpc_url, payer, "GET", f"{shop}/paid")
    assert response.status_code == 402
    required = json.loads(base64.b64decode(response.headers["PAYMENT-REQUIRED"]))
    assert required["error"] == "transaction_simulation_failed"


async def test_our_facilitator_serves_the_official_server(net: Localnet) -> None:
    payer = Keypair()
    net.fund(payer.pubkey(), usdc=10_000)
    async with official_server(
        net.facilitator_url, standard_routes(str(net.seller.pubkey()))
    ) as shop:
        for path in ("/paid", "/memo", "/upfront"):
            response = await official_pay(net.rpc_url, payer, "GET", shop + path)
            assert response.status_code == 200, path
    assert net.chain.balance(net.seller.pubkey(), USDC_DEVNET) == 3_000
