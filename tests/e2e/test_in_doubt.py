"""What left and was not answered: said plainly, held, and never signed a second time."""

import asyncio
import base64
import json
from typing import Any

import pytest
from solders.transaction import VersionedTransaction

from proxy.localnet import USDC_DEVNET, Localnet
from tests.e2e.house import House, house, until
from tests.e2e.seller import (
    Hang,
    HangUp,
    Seen,
    Seller,
    b64,
    challenge,
    offer,
    pays_once,
    raises,
    reply,
    settled,
    vanishing,
)


def entry(net: Localnet, **more: Any) -> dict[str, Any]:
    return offer(str(net.seller.pubkey()), str(net.fee_payer.pubkey()), **more)


async def held(home: House) -> dict[str, Any]:
    """The one payment: signed, in doubt, held and not spent."""
    payment = await home.row("SELECT * FROM payments")
    assert payment["status"] == "SIGNED"
    assert payment["in_doubt_since"] is not None
    assert await home.counters() == (0, 1000)
    assert await home.rows("SELECT * FROM x402_payment_logs") == []
    return payment


async def test_a_lost_answer(home: House, net: Localnet, seller: Seller) -> None:
    seller.answer = pays_once(challenge(entry(net)), raises(HangUp))
    answer = await home.ask(seller.url)
    assert (answer.status, answer.json["code"]) == (502, "payment_in_doubt")
    payment = await held(home)
    assert answer.json["payment"] == str(payment["id"])
    assert answer.json["held_usd"] == "0.001"
    assert payment["doubt_reason"] == "answer_lost"
    assert len(seller.payments) == 1


async def test_no_answer_in_time(net: Localnet, seller: Seller, dsn: str, tmp_path: Any) -> None:
    seller.answer = pays_once(challenge(entry(net)), raises(Hang))
    async with house(net, dsn, tmp_path, timeouts={"paid_response": 1}) as home:
        answer = await home.ask(seller.url)
        assert (answer.status, answer.json["code"]) == (502, "payment_in_doubt")
        await held(home)
    assert len(seller.payments) == 1


async def test_a_broken_answer(home: House, net: Localnet, seller: Seller) -> None:
    seller.answer = pays_once(challenge(entry(net)), lambda _: b"HTTP/9.9 nonsense\r\n\r\n")
    answer = await home.ask(seller.url)
    assert (answer.status, answer.json["code"]) == (502, "payment_in_doubt")
    await held(home)


@pytest.mark.parametrize("reason", ["transaction_simulation_failed", "settlement_pending", ""])
async def test_a_second_402_is_never_handed_on(
    home: House, net: Localnet, seller: Seller, reason: str
) -> None:
    seller.answer = pays_once(challenge(entry(net)), lambda _: challenge(entry(net), error=reason))
    answer = await home.ask(seller.url)
    assert (answer.status, answer.json["code"]) == (502, "payment_in_doubt")
    assert answer.json["reason"] == (reason or "payment_not_seen")
    await held(home)
    assert len(seller.payments) == 1


@pytest.mark.parametrize("status", [302, 404, 500, 503])
async def test_an_unsettled_error_is_handed_on_and_held(
    home: House, net: Localnet, seller: Seller, status: int
) -> None:
    where = [(b"Location", b"http://127.0.0.1:1/thief")] if status == 302 else []
    seller.answer = pays_once(
        challenge(entry(net)), lambda _: reply(status, where, b"out of order")
    )
    answer = await home.ask(seller.url)
    assert (answer.status, answer.body) == (status, b"out of order")
    assert answer.headers["Autopay-State"] == "in_doubt"
    payment = await held(home)
    assert answer.headers["Autopay-Payment"] == str(payment["id"])
    assert len(seller.payments) == 1


async def test_a_paid_error_is_final_and_said(home: House, net: Localnet, seller: Seller) -> None:
    seller.answer = pays_once(challenge(entry(net)), lambda _: settled(status=500, body=b"sorry"))
    answer = await home.ask(seller.url)
    assert (answer.status, answer.body) == (500, b"sorry")
    assert answer.headers["Autopay-State"] == "paid"
    assert await home.counters() == (1000, 0)
    receipt = await home.row("SELECT * FROM x402_payment_logs")
    assert (receipt["http_status"], receipt["success"]) == (500, False)
    delivery = await home.row("SELECT * FROM x402_procurement_receipts")
    assert (delivery["success"], delivery["paid_amount_atomic"]) == (False, "1000")


async def test_served_without_a_settlement_header_counts_as_paid(
    home: House, net: Localnet, seller: Seller
) -> None:
    seller.answer = pays_once(challenge(entry(net)), lambda _: reply(200, body=b"goods"))
    answer = await home.ask(seller.url)
    assert (answer.status, answer.headers["Autopay-State"]) == (200, "paid")
    assert "Autopay-Transaction" not in answer.headers
    assert (await home.row("SELECT claimed FROM x402_payment_logs"))["claimed"] is False
    assert await home.counters() == (1000, 0)


async def test_never_sent_frees_the_money(home: House, net: Localnet, seller: Seller) -> None:
    """The seller answers 402, closes, and is gone when the paid request comes."""
    answer = await home.ask(await vanishing(challenge(entry(net))))
    assert (answer.status, answer.json["code"]) == (502, "upstream_unreachable")
    assert "never left" in answer.json["detail"]
    payment = await home.row("SELECT * FROM payments")
    assert (payment["status"], payment["release_reason"]) == ("FAILED", "never_sent")
    assert await home.counters() == (0, 0)


async def test_a_program_that_hangs_up_has_still_paid(
    home: House, net: Localnet, seller: Seller
) -> None:
    """The answer to a payment that left is waited for and booked, whoever still listens."""
    seller.answer = pays_once(challenge(entry(net)), lambda _: settled())
    seller.hold = asyncio.Event()
    program = asyncio.create_task(home.ask(seller.url))
    await until(lambda: bool(seller.payments))
    program.cancel()
    await asyncio.gather(program, return_exceptions=True)
    await asyncio.sleep(0.1)
    seller.hold.set()
    async with asyncio.timeout(20):
        while await home.counters() != (1000, 0):
            await asyncio.sleep(0.02)
    assert (await home.row("SELECT status FROM payments"))["status"] == "CONFIRMED"
    await home.row("SELECT * FROM x402_payment_logs")


async def test_a_replay_by_the_seller_lands_once(
    home: House, net: Localnet, seller: Seller
) -> None:
    """The signed message is money in the seller's hands: it can take it once, not twice."""
    seller.answer = pays_once(challenge(entry(net)), raises(HangUp))
    await home.ask(seller.url)
    before = net.chain.balance(net.seller.pubkey(), USDC_DEVNET)
    payload = json.loads(base64.b64decode(seller.payments[0]))
    body = {"x402Version": 2, "paymentPayload": payload, "paymentRequirements": payload["accepted"]}
    results = []
    for _ in range(2):
        async with home.session.post(f"{net.facilitator_url}/settle", json=body) as response:
            results.append((await response.json())["success"])
    assert results == [True, False]
    assert net.chain.balance(net.seller.pubkey(), USDC_DEVNET) == before + 1000
    await held(home)  # the books still say held: the reconciler will find it on the chain


async def test_v1_facilitator_that_wants_no_memo_is_learned(
    home: House, net: Localnet, seller: Seller
) -> None:
    """The payment that taught it is held; later ones go without a memo, none equal to another."""
    pay_to, fee_payer = str(net.seller.pubkey()), str(net.fee_payer.pubkey())
    accepts = {
        "scheme": "exact",
        "network": "solana-devnet",
        "maxAmountRequired": "1000",
        "resource": seller.url,
        "payTo": pay_to,
        "maxTimeoutSeconds": 60,
        "asset": "4zMMC9srt5Ri5X14GAgXhaHii3GnPAEERYPJgZJDncDU",
        "extra": {"feePayer": fee_payer},
    }

    def document(error: str) -> bytes:
        body = {"x402Version": 1, "error": error, "accepts": [accepts]}
        return reply(402, [], json.dumps(body).encode())

    def judge(seen: Seen) -> bytes:
        payload = json.loads(base64.b64decode(seen.payment or ""))["payload"]
        transaction = VersionedTransaction.from_bytes(base64.b64decode(payload["transaction"]))
        if len(transaction.message.instructions) != 3:
            return document("invalid_exact_svm_payload_transaction_instructions_length")
        done = {"success": True, "transaction": "", "network": "solana-devnet", "payer": ""}
        return reply(200, [(b"X-PAYMENT-RESPONSE", b64(done))], b"goods")

    seller.answer = pays_once(document("X-PAYMENT header is required"), judge)
    first = await home.ask(seller.url)
    assert (first.status, first.json["code"]) == (502, "payment_in_doubt")
    await held(home)
    answers = await asyncio.gather(*(home.ask(f"{seller.url}/{number}") for number in range(3)))
    assert [answer.status for answer in answers] == [200, 200, 200]
    rows = await home.rows("SELECT memo, blockhash FROM payments WHERE status = 'CONFIRMED'")
    assert [row["memo"] for row in rows] == [None, None, None]
    assert len({row["blockhash"] for row in rows}) == 3
    assert await home.counters() == (3000, 1000)
