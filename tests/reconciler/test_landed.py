"""What landed is found, whatever became of its answer; the balances on the chain are the judge."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.seller import HangUp, b64, pays_once, raises, reply
from tests.reconciler.conftest import PRICE, Desk, opened, signatures


async def test_a_lost_answer_is_rebuilt_from_the_chain(desk: Desk) -> None:
    payment = await desk.buy()
    transaction = desk.land()
    assert await desk.home.counters() == (0, PRICE)
    assert await desk.outcome() == "settled"
    assert await desk.home.counters() == (PRICE, 0)
    receipt = await desk.home.row("SELECT * FROM x402_payment_logs")
    assert (str(receipt["id"]), receipt["source"], receipt["claimed"]) == (payment, "chain", False)
    assert receipt["tx_hash"] == receipt["settle_tx_hash"] == transaction
    assert await desk.levels() == ["CONFIRMED"]
    assert await desk.outcome() == "held: not_finalized"
    desk.chain.advance(32)
    assert await desk.outcome() == "verified"
    row = await desk.payment(payment)
    assert (row["status"], row["payment_hash"]) == ("VERIFIED", transaction)
    assert await desk.levels() == ["CONFIRMED", "FINALIZED"]
    log = await desk.home.row(
        "SELECT * FROM transaction_logs WHERE confirmation_status = 'FINALIZED'"
    )
    assert (log["gas_fees"], log["is_duplicate"], log["error_message"]) == (10_000, False, None)
    assert json.loads(log["solana_tx_metadata"])["signature"] == transaction
    assert desk.home.paid_on_chain() == PRICE
    assert await desk.home.service.reconciler.reconcile_once() == {}


async def test_a_claim_that_is_true_is_verified(desk: Desk) -> None:
    payment = await desk.buy(claims="placeholder")
    transaction = desk.land()
    assert (await desk.payment(payment))["status"] == "CONFIRMED"
    desk.chain.advance(33)
    assert await desk.outcome() == "verified"
    assert (await desk.payment(payment))["payment_hash"] == transaction
    (event,) = [
        event for event in await desk.events("PAYMENT_STATUS") if event.get("code") is not None
    ]
    assert (event["code"], event["claimed"]) == ("other_transaction_claimed", "placeholder")
    assert await desk.home.counters() == (PRICE, 0)


async def test_landing_in_the_very_last_block(pair: Desk) -> None:
    """Two RPCs, so that an early release would need nothing more than an early height."""
    for paid, before_the_end in ((PRICE, 1), (2 * PRICE, 0)):
        payment = await pair.buy(path=str(paid))
        last = await pair.past(payment)
        pair.make(last - before_the_end)
        pair.land()
        pair.finalize(last - before_the_end - 1)
        await pair.look()
        assert await pair.home.counters() == (paid, 0)  # seen confirmed
        pair.finalize(last + 1)
        await pair.look()
        assert (await pair.payment(payment))["status"] == "VERIFIED"
        assert pair.home.paid_on_chain() == paid


async def test_nothing_is_freed_while_the_last_block_is_not_final(pair: Desk) -> None:
    """It is in the last block, and no index shows it yet: only the height tells that it may be."""
    payment = await pair.buy()
    last = await pair.past(payment)
    pair.make(last)
    transaction = pair.land()
    for node in (pair.net.node, *pair.second):  # as of before that block
        node.faults.lies["getSignaturesForAddress"] = lambda lines: [
            line for line in lines if line["signature"] != transaction
        ]
    for height in (last - 2, last - 1):
        pair.finalize(height)
        assert await pair.outcome() == "held: alive"
        assert await pair.home.counters() == (0, PRICE)
    for node in (pair.net.node, *pair.second):
        node.faults.clear()
    pair.finalize(last)
    assert await pair.outcome() == "verified"


async def test_a_block_later_nothing_lands(pair: Desk) -> None:
    payment = await pair.buy()
    pair.make(await pair.past(payment) + 1)
    pair.land()
    assert pair.home.paid_on_chain() == 0
    pair.finalize(await pair.past(payment) + 1)
    assert await pair.outcome() == "released"
    assert await pair.home.counters() == (0, 0)


async def test_one_memo_of_the_sellers_for_two_payments(pair: Desk) -> None:
    """The memo says nothing; our signature says which of the two it was."""
    first = await pair.buy(extra={"memo": "inv-42"}, path="1")
    pair.chain.advance(2)  # another blockhash: the messages are equal else
    second = await pair.buy(extra={"memo": "inv-42"}, path="2")
    assert (await pair.payment(first))["memo"] == (await pair.payment(second))["memo"] == "inv-42"
    transaction = pair.land(1)
    pair.finalize(await pair.past(second) + 1)
    assert {ruling.outcome for ruling in await pair.look()} == {"verified", "released"}
    assert (await pair.payment(first))["status"] == "FAILED"
    assert (await pair.payment(second))["payment_hash"] == transaction
    assert await pair.home.counters() == (PRICE, 0)
    assert pair.home.paid_on_chain() == PRICE


async def test_version_1_without_a_memo(dsn: str, tmp_path: Path) -> None:
    async with opened(dsn, tmp_path) as desk:
        accepts = {
            "scheme": "exact",
            "network": "solana-devnet",
            "maxAmountRequired": str(PRICE),
            "resource": desk.seller.url,
            "payTo": str(desk.net.seller.pubkey()),
            "maxTimeoutSeconds": 60,
            "asset": "4zMMC9srt5Ri5X14GAgXhaHii3GnPAEERYPJgZJDncDU",
            "extra": {"feePayer": str(desk.net.fee_payer.pubkey())},
        }

        def asks(error: str) -> bytes:
            body = {"x402Version": 1, "error": error, "accepts": [accepts]}
            return reply(402, [], json.dumps(body).encode())

        reason = "invalid_exact_svm_payload_transaction_instructions_length"
        desk.seller.answer = pays_once(asks("pay"), lambda _: asks(reason))
        await desk.home.ask(f"{desk.seller.url}/1")
        desk.chain.advance(2)
        desk.seller.answer = pays_once(asks("pay"), raises(HangUp))
        await desk.home.ask(f"{desk.seller.url}/2")
        payment = await desk.home.row("SELECT * FROM payments WHERE memo IS NULL")
        transaction = desk.land(1)
        desk.chain.advance(33)
        await desk.look()
        row = await desk.payment(str(payment["id"]))
        assert (row["status"], row["payment_hash"]) == ("VERIFIED", transaction)
        assert await desk.home.counters() == (PRICE, PRICE)  # the first may still land
        assert desk.home.paid_on_chain() == PRICE


async def test_what_the_index_leaves_out_is_found_by_its_name(desk: Desk) -> None:
    def claims(transaction: str) -> bytes:
        body = {"success": True, "transaction": transaction, "network": "devnet", "payer": "p"}
        return reply(200, [(b"PAYMENT-RESPONSE", b64(body))], b"goods")

    payment = await desk.buy()
    transaction = desk.land()
    desk.chain.unindexed |= signatures([transaction])
    # As if the provider had been heard: its word is in the receipt.
    await desk.home.rows(
        "SELECT settle($1::jsonb)",
        json.dumps(
            {
                "payment_id": payment,
                "claimed": True,
                "transaction": transaction,
                "success": True,
                "latency_ms": 1,
                "source": "provider",
                "response": base64.b64encode(claims(transaction)).decode(),
            }
        ),
    )
    desk.chain.advance(33)
    await desk.look()
    assert (await desk.payment(payment))["status"] == "VERIFIED"


async def test_many_pages(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.chains.solana.node.PAGE", 2)
    monkeypatch.setattr("proxy.chains.solana.scan.PAGE", 2)
    ids = [await desk.buy(path=str(n)) for n in range(5)]
    landed = [desk.land(n) for n in range(5)]
    assert [ruling.outcome for ruling in await desk.look()] == ["settled"] * 5
    desk.chain.advance(33)
    assert [ruling.outcome for ruling in await desk.look()] == ["verified"] * 5
    assert [(await desk.payment(one))["payment_hash"] for one in ids] == landed
    assert desk.home.paid_on_chain() == 5 * PRICE
    assert await desk.home.counters() == (5 * PRICE, 0)


async def test_an_answer_that_is_still_waited_for_is_left_alone(desk: Desk) -> None:
    """The provider's own receipt is the better one, and the money is held either way."""
    payment = await desk.buy()
    await desk.by_hand("UPDATE payments SET in_doubt_since = NULL")
    desk.land()
    desk.chain.advance(33)
    assert await desk.outcome() == "in_flight"
    assert (await desk.payment(payment))["status"] == "SIGNED"
    desk.finalize(await desk.past(payment) + 1)
    assert await desk.outcome() == "verified"
    receipt: dict[str, Any] = await desk.home.row("SELECT source FROM x402_payment_logs")
    assert receipt["source"] == "chain"
