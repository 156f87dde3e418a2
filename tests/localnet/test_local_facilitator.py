"""Our facilitator over its socket, on our node."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import ClientSession
from solders.keypair import Keypair

from proxy.localnet import Localnet
from proxy.localnet.faults import Fault
from proxy.localnet.params import RpcError
from proxy.localnet.tokens import DEVNET, MAINNET, USDC_DEVNET
from tests.localnet.wallets import Parties, as_base64, half_signed, instructions

DUPLICATE = "duplicate_settlement"


@pytest.fixture
async def net() -> AsyncIterator[Localnet]:
    async with Localnet(slot_seconds=None, confirm_seconds=0.3) as net:
        yield net


@pytest.fixture
async def http() -> AsyncIterator[ClientSession]:
    async with ClientSession() as session:
        yield session


def buyer(net: Localnet, usdc: int = 1_000_000) -> Parties:
    payer = Keypair()
    net.fund(payer.pubkey(), usdc=usdc)
    return Parties(payer, net.seller, net.fee_payer)


def request(net: Localnet, who: Parties, *, version: int = 2, **options: Any) -> dict[str, Any]:
    """The body of a /verify or /settle."""
    blockhash, _ = net.chain.blocks.latest("confirmed")
    tx = half_signed(who, blockhash, instructions(who, **options))
    wanted: dict[str, Any] = {
        "scheme": "exact",
        "network": DEVNET if version == 2 else "solana-devnet",
        "amount": "1000",
        "maxAmountRequired": "1000",
        "asset": str(USDC_DEVNET),
        "payTo": str(who.seller.pubkey()),
        "extra": {"feePayer": str(net.fee_payer.pubkey())},
    }
    payload = {"x402Version": version, "payload": {"transaction": as_base64(tx)}}
    if version == 2:
        payload["accepted"] = wanted
    else:
        payload |= {"scheme": "exact", "network": wanted["network"]}
    return {"x402Version": version, "paymentPayload": payload, "paymentRequirements": wanted}


async def post(http: ClientSession, url: str, body: Any) -> Any:
    async with http.post(url, json=body) as response:
        assert response.status == 200
        return await response.json()


async def test_verify_promises_and_moves_nothing(net: Localnet, http: ClientSession) -> None:
    who = buyer(net)
    answer = await post(http, f"{net.facilitator_url}/verify", request(net, who))
    assert answer == {"isValid": True, "payer": str(who.payer.pubkey())}
    assert net.chain.balance(net.seller.pubkey(), USDC_DEVNET) == 0


@pytest.mark.parametrize("version", [1, 2])
async def test_settle_moves_the_money_once(
    net: Localnet, http: ClientSession, version: int
) -> None:
    who = buyer(net)
    body = request(net, who, version=version)
    settled = await post(http, f"{net.facilitator_url}/settle", body)
    assert settled["success"] is True
    assert settled["payer"] == str(who.payer.pubkey())
    assert settled["network"] == body["paymentRequirements"]["network"]
    assert net.chain.balance(net.seller.pubkey(), USDC_DEVNET) == 1_000
    again = await post(http, f"{net.facilitator_url}/settle", body)
    assert (again["success"], again["errorReason"]) == (False, DUPLICATE)
    verdict = await post(http, f"{net.facilitator_url}/verify", body)
    assert verdict["invalidReason"] == "transaction_simulation_failed"
    assert net.chain.balance(net.seller.pubkey(), USDC_DEVNET) == 1_000


async def test_of_many_at_once_one_settles(net: Localnet, http: ClientSession) -> None:
    body = request(net, buyer(net))
    answers = await asyncio.gather(
        *(post(http, f"{net.facilitator_url}/settle", body) for _ in range(10))
    )
    assert sum(answer["success"] for answer in answers) == 1
    assert {answer.get("errorReason") for answer in answers} == {None, DUPLICATE}
    assert net.chain.balance(net.seller.pubkey(), USDC_DEVNET) == 1_000


async def test_what_would_fail_is_not_sent(net: Localnet, http: ClientSession) -> None:
    who = buyer(net, usdc=999)
    body = request(net, who)
    verdict = await post(http, f"{net.facilitator_url}/verify", body)
    assert verdict["invalidReason"] == "transaction_simulation_failed"
    assert (await post(http, f"{net.facilitator_url}/settle", body))["errorReason"] == (
        "transaction_simulation_failed"
    )
    assert net.node.calls["sendTransaction"] == 0
    net.fund(who.payer.pubkey(), usdc=1)
    assert (await post(http, f"{net.facilitator_url}/settle", body))["success"], (
        "a payment that never was sent is no duplicate"
    )


async def test_unconfirmed_is_pending_and_asked_again_it_is_settled(
    net: Localnet, http: ClientSession
) -> None:
    net.chain.blocks.set_lag(1, 32)
    body = request(net, buyer(net))
    pending = await post(http, f"{net.facilitator_url}/settle", body)
    assert (pending["success"], pending["errorReason"]) == (False, "settlement_pending")
    net.chain.advance(1)
    settled = await post(http, f"{net.facilitator_url}/settle", body)
    assert settled["success"] is True
    assert settled["transaction"] == pending["transaction"] != ""
    assert net.node.calls["sendTransaction"] == 1
    assert (await post(http, f"{net.facilitator_url}/settle", body))["errorReason"] == DUPLICATE


async def test_a_dropped_payment_stays_pending(net: Localnet, http: ClientSession) -> None:
    net.chain.drop_next(1)
    body = request(net, buyer(net))
    for _ in range(2):
        answer = await post(http, f"{net.facilitator_url}/settle", body)
        assert answer["errorReason"] == "settlement_pending"
    assert net.chain.balance(net.seller.pubkey(), USDC_DEVNET) == 0


async def test_a_lost_answer_of_the_node_is_no_failure(net: Localnet, http: ClientSession) -> None:
    net.node.faults.add(Fault("sendTransaction", status=504, after=True, times=1))
    settled = await post(http, f"{net.facilitator_url}/settle", request(net, buyer(net)))
    assert settled["success"] is True


async def test_a_payment_that_fails_on_chain(net: Localnet, http: ClientSession) -> None:
    """Spent elsewhere between simulation and block."""
    who = buyer(net, usdc=1_000)
    net.chain.hold()
    settling = asyncio.create_task(post(http, f"{net.facilitator_url}/settle", request(net, who)))
    while not net.chain.held:
        await asyncio.sleep(0.01)
    net.chain.transfer(who.payer, net.seller.pubkey(), USDC_DEVNET, 1)
    net.chain.release()
    answer = await settling
    assert (answer["success"], answer["errorReason"]) == (False, "transaction_failed")


async def test_without_a_node_nothing_is_verified(net: Localnet, http: ClientSession) -> None:
    net.node.faults.add(Fault("*", error=RpcError(-32005, "Node is behind")))
    answer = await post(http, f"{net.facilitator_url}/verify", request(net, buyer(net)))
    assert (answer["isValid"], answer["invalidReason"]) == (False, "unexpected_verify_error")


async def test_strict_version_1_refuses_the_memo_and_only_there(http: ClientSession) -> None:
    async with Localnet(slot_seconds=None, strict_v1_no_memo=True) as net:
        who = buyer(net)
        verify = f"{net.facilitator_url}/verify"
        answer = await post(http, verify, request(net, who, version=1))
        assert answer["invalidReason"] == (
            "invalid_exact_svm_payload_transaction_instructions_length"
        )
        assert (await post(http, verify, request(net, who, version=1, memo=None)))["isValid"]
        assert (await post(http, verify, request(net, who, version=2)))["isValid"]


async def test_what_it_supports(net: Localnet, http: ClientSession) -> None:
    async with http.get(f"{net.facilitator_url}/supported") as response:
        supported = await response.json()
    kinds = {(kind["x402Version"], kind["network"]) for kind in supported["kinds"]}
    assert kinds == {(2, DEVNET), (2, MAINNET), (1, "solana-devnet"), (1, "solana")}
    assert supported["signers"] == {"solana:*": [str(net.fee_payer.pubkey())]}


@pytest.mark.parametrize("body", [[], {}, {"paymentPayload": [], "paymentRequirements": {}}])
async def test_what_is_no_request_at_all(net: Localnet, http: ClientSession, body: Any) -> None:
    async with http.post(f"{net.facilitator_url}/settle", json=body) as response:
        assert response.status == 400
