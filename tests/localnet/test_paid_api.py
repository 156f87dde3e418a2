"""The demo API, bought from by the official client; every balance is the chain's."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import ClientSession, web
from solders.keypair import Keypair

from proxy.localnet import CASH, USDC_DEVNET, Localnet
from proxy.localnet.paid_api import paid_api
from proxy.localnet.till import FacilitatorClient, TillV2
from proxy.localnet.tokens import MAINNET
from tests.localnet.wallets import Parties, as_base64, half_signed, instructions
from tests.peers.official import official_pay

# The SDK warns of its own Solana client.
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning:x402.*")


@pytest.fixture
async def net() -> AsyncIterator[Localnet]:
    async with Localnet(slot_seconds=None) as net:
        yield net


@pytest.fixture
async def http() -> AsyncIterator[ClientSession]:
    async with ClientSession() as session:
        yield session


@pytest.fixture
def payer(net: Localnet) -> Keypair:
    keypair = Keypair()
    net.fund(keypair.pubkey(), usdc=1_000_000, cash=1_000_000)
    return keypair


@asynccontextmanager
async def serving(app: web.Application) -> AsyncIterator[str]:
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


def decoded(header: str) -> Any:
    return json.loads(base64.b64decode(header))


async def challenge(http: ClientSession, url: str) -> dict[str, Any]:
    async with http.get(url) as response:
        assert response.status == 402
        required: dict[str, Any] = decoded(response.headers["PAYMENT-REQUIRED"])
        return required


@pytest.mark.parametrize(
    ("method", "path", "price"),
    [
        ("GET", "/weather", 1_000),
        ("POST", "/echo", 1_000),
        ("GET", "/stream", 2_000),
        ("GET", "/premium", 500_000),
        ("GET", "/v1/quote", 1_000),
        ("GET", "/free", 0),
    ],
)
async def test_the_official_client_buys(
    net: Localnet, payer: Keypair, method: str, path: str, price: int
) -> None:
    body = b"over and over" if method == "POST" else None
    response = await official_pay(net.rpc_url, payer, method, net.api_url + path, data=body)
    assert response.status_code == 200
    assert net.chain.balance(payer.pubkey(), USDC_DEVNET) == 1_000_000 - price
    assert net.chain.balance(net.seller.pubkey(), USDC_DEVNET) == price
    if path == "/echo":
        assert response.content == body
    if path == "/stream":
        assert response.headers["Content-Type"] == "text/event-stream"
        assert response.text.count("data: ") == 6
    if price:
        name = "X-PAYMENT-RESPONSE" if path.startswith("/v1") else "PAYMENT-RESPONSE"
        settled = decoded(response.headers[name])
        assert settled["success"] is True
        assert settled["payer"] == str(payer.pubkey())


async def test_cash_is_a_token_2022_on_mainnet_s_id(net: Localnet, payer: Keypair) -> None:
    response = await official_pay(net.rpc_url, payer, "GET", f"{net.api_url}/cash")
    assert response.status_code == 200
    assert decoded(response.headers["PAYMENT-RESPONSE"])["network"] == MAINNET
    assert net.chain.balance(payer.pubkey(), CASH) == 999_000
    assert net.chain.balance(net.seller.pubkey(), CASH) == 1_000


async def test_the_version_2_challenge(net: Localnet, http: ClientSession) -> None:
    required = await challenge(http, f"{net.api_url}/weather?city=lisbon")
    assert required["x402Version"] == 2
    assert required["resource"]["url"] == f"{net.api_url}/weather?city=lisbon"
    assert required["accepts"][0]["extra"] == {"feePayer": str(net.fee_payer.pubkey())}


async def test_the_version_1_challenge(net: Localnet, http: ClientSession) -> None:
    async with http.get(f"{net.api_url}/v1/quote") as response:
        assert response.status == 402
        assert "PAYMENT-REQUIRED" not in response.headers
        body = await response.json()
    assert (body["x402Version"], body["accepts"][0]["network"]) == (1, "solana-devnet")
    assert body["accepts"][0]["maxAmountRequired"] == "1000"


async def pay_once(net: Localnet, http: ClientSession, payer: Keypair, path: str) -> str:
    """A PAYMENT-SIGNATURE for the path, not sent yet."""
    required = await challenge(http, net.api_url + path)
    who = Parties(payer, net.seller, net.fee_payer)
    blockhash, _ = net.chain.blocks.latest("confirmed")
    amount = int(required["accepts"][0]["amount"])
    tx = half_signed(who, blockhash, instructions(who, amount=amount))
    payment = {
        "x402Version": 2,
        "payload": {"transaction": as_base64(tx)},
        "accepted": required["accepts"][0],
    }
    return base64.b64encode(json.dumps(payment).encode()).decode()


async def test_the_same_payment_buys_once(
    net: Localnet, http: ClientSession, payer: Keypair
) -> None:
    header = {"PAYMENT-SIGNATURE": await pay_once(net, http, payer, "/weather")}
    async with http.get(f"{net.api_url}/weather", headers=header) as response:
        assert response.status == 200
    async with http.get(f"{net.api_url}/weather", headers=header) as response:
        assert response.status == 402
        required = decoded(response.headers["PAYMENT-REQUIRED"])
    assert required["error"] == "transaction_simulation_failed"
    assert net.chain.balance(net.seller.pubkey(), USDC_DEVNET) == 1_000


async def test_a_payment_for_another_price_does_not_match(
    net: Localnet, http: ClientSession, payer: Keypair
) -> None:
    header = {"PAYMENT-SIGNATURE": await pay_once(net, http, payer, "/weather")}
    async with http.get(f"{net.api_url}/premium", headers=header) as response:
        assert response.status == 402
        required = decoded(response.headers["PAYMENT-REQUIRED"])
    assert required["error"] == "No matching payment requirements"


@pytest.mark.parametrize("header", ["", "%%%", "bm90IGpzb24=", "W10="])
async def test_an_unreadable_payment_is_none(
    net: Localnet, http: ClientSession, header: str
) -> None:
    async with http.get(
        f"{net.api_url}/weather", headers={"PAYMENT-SIGNATURE": header}
    ) as response:
        assert response.status == 402
        assert decoded(response.headers["PAYMENT-REQUIRED"])["error"] == "Payment required"


async def test_a_payment_that_does_not_settle_buys_nothing_and_says_so(http: ClientSession) -> None:
    async with Localnet(slot_seconds=None, confirm_seconds=0.05) as net:
        payer = Keypair()
        net.fund(payer.pubkey(), usdc=1_000_000)
        net.chain.hold()
        header = {"PAYMENT-SIGNATURE": await pay_once(net, http, payer, "/weather")}
        async with http.get(f"{net.api_url}/weather", headers=header) as response:
            assert response.status == 402
            assert "PAYMENT-REQUIRED" not in response.headers
            settled = decoded(response.headers["PAYMENT-RESPONSE"])
            assert await response.json() == {}
        assert (settled["success"], settled["errorReason"]) == (False, "settlement_pending")
        assert [str(signature) for signature in net.chain.release()] == [settled["transaction"]]
        assert net.chain.balance(net.seller.pubkey(), USDC_DEVNET) == 1_000, "paid all the same"


async def test_a_payment_that_is_slow_to_confirm_is_asked_for_twice(http: ClientSession) -> None:
    async with Localnet(slot_seconds=None, confirm_seconds=0.4) as net:
        payer = Keypair()
        net.fund(payer.pubkey(), usdc=1_000_000)
        net.chain.blocks.set_lag(1, 32)
        header = {"PAYMENT-SIGNATURE": await pay_once(net, http, payer, "/weather")}
        buying = asyncio.create_task(http.get(f"{net.api_url}/weather", headers=header))
        while not net.node.calls["sendTransaction"]:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.6)  # the first wait is over, the second is not
        net.chain.advance(1)
        async with await buying as response:
            assert response.status == 200
        assert net.node.calls["sendTransaction"] == 1


async def test_a_handler_that_fails_costs_nothing(
    net: Localnet, http: ClientSession, payer: Keypair
) -> None:
    async def broken(_request: web.Request) -> web.Response:
        return web.Response(status=503)

    facilitator = FacilitatorClient(net.facilitator_url)
    till = TillV2(
        facilitator, pay_to=str(net.seller.pubkey()), asset=str(USDC_DEVNET), amount=1_000
    )
    app = web.Application()
    app.cleanup_ctx.append(facilitator.connected)
    app.router.add_get("/weather", till.sells(broken))
    async with serving(app) as url:
        header = {"PAYMENT-SIGNATURE": await pay_once(net, http, payer, "/weather")}
        async with http.get(f"{url}/weather", headers=header) as response:
            assert response.status == 503
            assert "PAYMENT-RESPONSE" not in response.headers
    assert net.chain.balance(payer.pubkey(), USDC_DEVNET) == 1_000_000


async def test_without_a_facilitator_it_is_a_bad_gateway(http: ClientSession) -> None:
    async with serving(paid_api("http://127.0.0.1:9", str(Keypair().pubkey()))) as url:
        async with http.get(f"{url}/weather") as response:
            assert response.status == 502
        async with http.get(f"{url}/free") as response:
            assert response.status == 200
