import asyncio
import base64
import json
import logging
import random
from dataclasses import replace
from decimal import Decimal
from hashlib import sha256
from uuid import uuid4

import pytest

from policies import Policy
from proxy.ledger import (
    Agent,
    Database,
    DecisionRow,
    Delivery,
    Ledger,
    Refused,
    Reserved,
    SettledReceipt,
    agents,
)
from tests.ledger.books import check_books, counter, status
from tests.ledger.conftest import Make

TX = "5" * 88
RESPONSE = {
    "success": True,
    "transaction": TX,
    "network": "solana",
    "payer": "P",
    "settlementId": "set_1",
    "paymentId": "pay_1",
    "extensions": {"bazaar": {"x": 1}},
}
HEADER = base64.b64encode(json.dumps(RESPONSE).encode()).decode()
RECEIPT = SettledReceipt(
    claimed=True,
    http_status=200,
    success=True,
    latency_ms=412,
    transaction=TX,
    payer="P",
    network="solana",
    amount=10_000,
    response_header=HEADER,
)


async def test_settling_spends_what_was_held_and_writes_the_receipt(
    ledger: Ledger, database: Database, make: Make
) -> None:
    reservation = make(session_id="s", trace_id="t")
    await ledger.reserve(reservation)
    assert await ledger.settle(reservation.payment_id, RECEIPT)
    assert await counter(database) == (10_000, 0)
    assert await counter(database, "session") == (10_000, 0)
    payment = await database.fetchrow("SELECT * FROM payments")
    receipt = await database.fetchrow("SELECT * FROM x402_payment_logs")
    assert payment is not None
    assert receipt is not None
    assert (payment["status"], payment["payment_hash"]) == ("CONFIRMED", TX)
    assert json.loads(payment["verification_callback"]) == RESPONSE
    assert receipt["id"] == reservation.payment_id
    assert (receipt["amount"], receipt["amount_usd"]) == ("10000", Decimal("0.010000"))
    assert (receipt["tx_hash"], receipt["settle_tx_hash"]) == (TX, TX)
    assert receipt["payment_response_hash"] == sha256(HEADER.encode()).hexdigest()
    assert json.loads(receipt["settle_response"]) == RESPONSE
    assert receipt["facilitator_settlement_id"] == "set_1"
    assert receipt["facilitator_payment_id"] == "pay_1"
    assert json.loads(receipt["settle_extensions"]) == {"bazaar": {"x": 1}}
    assert json.loads(receipt["payment_payload"]) == {"transaction": "AQ=="}
    assert (receipt["session_id"], receipt["trace_id"]) == ("s", "t")
    assert (receipt["latency_ms"], receipt["success"], receipt["source"]) == (412, True, "provider")
    session = await database.fetchrow("SELECT * FROM x402_session_spend")
    assert session is not None
    assert (session["session_id"], session["paid_calls"]) == ("s", 1)
    assert session["total_spend_usd"] == Decimal("0.010000")


async def test_settling_twice_spends_once(ledger: Ledger, database: Database, make: Make) -> None:
    reservation = make()
    await ledger.reserve(reservation)
    done = await asyncio.gather(*(ledger.settle(reservation.payment_id, RECEIPT) for _ in range(5)))
    assert done == [True] * 5
    assert await counter(database) == (10_000, 0)
    await check_books(database)


async def test_a_settled_payment_is_not_released(
    ledger: Ledger, database: Database, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    reservation = make()
    await ledger.reserve(reservation)
    await ledger.settle(reservation.payment_id, RECEIPT)
    with caplog.at_level(logging.ERROR):
        assert not await ledger.release(reservation.payment_id, "never_sent")
    assert "'settled'" in caplog.text
    assert await counter(database) == (10_000, 0)


async def test_releasing_gives_it_back_once(ledger: Ledger, database: Database, make: Make) -> None:
    reservation, other = make(session_id="s"), make(session_id="s")
    await ledger.reserve(reservation)
    await ledger.reserve(other)
    done = await asyncio.gather(
        *(ledger.release(reservation.payment_id, "never_sent") for _ in range(5))
    )
    assert done == [True] * 5
    assert await counter(database) == (0, 10_000)
    assert await counter(database, "session") == (0, 10_000)
    assert await status(database, reservation.payment_id) == "FAILED"


async def test_only_two_reasons_release(
    ledger: Ledger, database: Database, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    reservation = make()
    await ledger.reserve(reservation)
    assert not await ledger.release(reservation.payment_id, "timeout")
    assert "was refused" in caplog.text
    assert await counter(database) == (0, 10_000)


async def test_settling_what_was_released_or_never_was_is_reported(
    ledger: Ledger, database: Database, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    reservation = make()
    await ledger.reserve(reservation)
    await ledger.release(reservation.payment_id, "never_sent")
    assert not await ledger.settle(reservation.payment_id, RECEIPT)
    assert "'released'" in caplog.text
    assert not await ledger.settle(uuid4(), RECEIPT)
    assert "'absent'" in caplog.text
    assert await counter(database) == (0, 0)


async def test_a_doubted_payment_stays_held_and_can_still_be_settled(
    ledger: Ledger, database: Database, make: Make
) -> None:
    reservation = make()
    await ledger.reserve(reservation)
    assert await ledger.doubt(reservation.payment_id, "answer_lost", detail="reset\0")
    first = await database.fetchrow("SELECT * FROM payments")
    assert await ledger.doubt(reservation.payment_id, "asked_again", http_status=402)
    second = await database.fetchrow("SELECT * FROM payments")
    assert first is not None
    assert second is not None
    assert (first["doubt_reason"], first["doubt_detail"]) == ("answer_lost", "reset")
    assert (second["doubt_reason"], second["doubt_http_status"]) == ("asked_again", 402)
    assert first["in_doubt_since"] == second["in_doubt_since"]
    assert second["status"] == "SIGNED"
    assert await counter(database) == (0, 10_000)
    assert await ledger.settle(reservation.payment_id, RECEIPT)
    assert await ledger.doubt(reservation.payment_id, "late")
    assert await status(database, reservation.payment_id) == "CONFIRMED"


async def test_a_provider_that_names_anothers_transaction_is_booked_all_the_same(
    ledger: Ledger, database: Database, make: Make
) -> None:
    payments = [make() for _ in range(4)]
    for payment in payments:
        await ledger.reserve(payment)
    done = await asyncio.gather(*(ledger.settle(p.payment_id, RECEIPT) for p in payments))
    assert done == [True] * 4
    hashes = await database.fetch(
        "SELECT payment_hash FROM payments WHERE payment_hash IS NOT NULL"
    )
    assert [row["payment_hash"] for row in hashes] == [TX]
    claims = await database.fetch("SELECT settle_tx_hash FROM x402_payment_logs")
    assert [row["settle_tx_hash"] for row in claims] == [TX] * 4
    assert await counter(database) == (40_000, 0)


def header(data: bytes) -> str:
    return base64.b64encode(data).decode()


async def test_nothing_a_provider_says_can_spoil_its_receipt(
    ledger: Ledger, database: Database, make: Make
) -> None:
    for spoiled in (
        replace(
            RECEIPT,
            response_header="not base64 \0 \ud800 \u00e9",
            transaction="\0",
            payer="x" * 9999,
        ),
        replace(RECEIPT, response_header=header(b'{"a": "\\u0000"}')),
        replace(RECEIPT, response_header=header(b'{"a": 1e999999}')),
        replace(RECEIPT, response_header=header(b"[" * 6000)),
        replace(RECEIPT, response_header=header(b"\xff\xfe")),
        replace(RECEIPT, response_header=header(b"[1]")),
        replace(RECEIPT, amount=10**40, latency_ms=2**40, error="\ud83d", transaction="<b>" * 9),
    ):
        reservation = make()
        await ledger.reserve(reservation)
        assert await ledger.settle(reservation.payment_id, spoiled)
    await check_books(database)


async def test_a_delivery_is_recorded_once(
    ledger: Ledger, database: Database, make: Make, bot: Agent
) -> None:
    reservation = make()
    await ledger.reserve(reservation)
    delivery = Delivery(
        provider=reservation.provider,
        url=reservation.endpoint,
        method="GET",
        status=200,
        response_hash="ab" * 32,
        latency_ms=412,
        success=True,
        schema_ok=True,
        score=0.8512345678,
        payment_id=reservation.payment_id,
        agent_id=bot.id,
        amount=10_000,
        transaction=TX,
        pay_to=reservation.pay_to,
    )
    assert await ledger.deliver(delivery)
    assert await ledger.deliver(delivery)
    row = await database.fetchrow("SELECT * FROM x402_procurement_receipts")
    assert row is not None
    assert await database.fetchval("SELECT count(*) FROM x402_procurement_receipts") == 1
    assert row["intent"] == "GET https://api.example.com/v1/quote"
    assert (row["paid_amount_atomic"], row["score"]) == ("10000", Decimal("0.851235"))


async def test_a_denial_of_the_policy_carries_the_numbers_of_the_day(
    ledger: Ledger, database: Database, make: Make, bot: Agent
) -> None:
    await ledger.reserve(make())
    denial = DecisionRow(
        agent_id=bot.id,
        method="GET",
        endpoint="https://x.example/",
        reason="over_per_call_limit",
        detail="too much",
        price=2**70,
        limit=50_000,
        policy_version=1,
    )
    assert await ledger.record_decision(denial)
    assert await ledger.record_decision(denial)
    row = await database.fetchrow("SELECT * FROM policy_decision_logs WHERE decision = 'deny'")
    assert row is not None
    assert (row["reason"], row["limit_micros"], row["detail"]) == (
        "over_per_call_limit",
        50_000,
        "too much",
    )
    assert (row["reserved_micros"], row["remaining_daily_micros"]) == (10_000, 990_000)
    assert row["quoted_price_usd"] == Decimal("999999999999.999999")


async def test_a_402_that_cannot_be_paid_is_a_denial_too(
    ledger: Ledger, database: Database
) -> None:
    stranger = uuid4()
    assert await ledger.record_decision(
        DecisionRow(stranger, "GET", "https://x.example/", "not_payable", "other_protocol")
    )
    row = await database.fetchrow("SELECT * FROM policy_decision_logs")
    assert row is not None
    assert (row["decision"], row["reason"], row["detail"]) == (
        "deny",
        "not_payable",
        "other_protocol",
    )


async def test_a_storm_of_everything_leaves_exact_books(
    dsn: str, database: Database, make: Make, policy: Policy
) -> None:
    await agents.set_policy(database, replace(policy, daily_limit=600_000, session_limit=250_000))
    pools = [await Database.open(dsn, size=6) for _ in range(2)]
    ledgers = [Ledger(pool) for pool in pools]
    dice = random.Random(402)

    async def one(i: int) -> None:
        ledger = ledgers[i % 2]
        reservation = make(
            price=dice.randrange(1, 20_000), session_id=dice.choice([None, "a", "b", "c"])
        )
        if isinstance(await ledger.reserve(reservation), Refused):
            return
        # Two replicas may finish the same payment, in different ways, any number of times.
        moves = [
            ledger.settle(reservation.payment_id, replace(RECEIPT, transaction=f"{i:x}" * 32)),
            ledger.release(reservation.payment_id, "proved_dead"),
            ledger.doubt(reservation.payment_id, "answer_lost"),
            ledgers[(i + 1) % 2].settle(reservation.payment_id, RECEIPT),
        ]
        dice.shuffle(moves)
        keep = dice.randrange(1, 5)
        for move in moves[keep:]:
            move.close()
        await asyncio.gather(*moves[:keep])

    await asyncio.gather(*(one(i) for i in range(150)))
    await check_books(database)
    for kind in ("agent_day", "session"):
        over = await database.fetchval(
            "SELECT count(*) FROM budget_counters WHERE kind = $1::budget_kind "
            "AND spent_micros + held_micros > $2",
            kind,
            600_000 if kind == "agent_day" else 250_000,
        )
        assert over == 0
    for pool in pools:
        await pool.close()


async def test_a_lowered_limit_lets_what_is_held_finish(
    ledger: Ledger, database: Database, make: Make, policy: Policy
) -> None:
    held = [make() for _ in range(3)]
    for reservation in held:
        await ledger.reserve(reservation)
    await agents.set_policy(database, replace(policy, daily_limit=15_000))
    assert await ledger.settle(held[0].payment_id, RECEIPT)
    assert await ledger.release(held[1].payment_id, "never_sent")
    refused = await ledger.reserve(make())
    assert isinstance(refused, Refused)
    assert (refused.spent, refused.held) == (10_000, 10_000)
    await agents.set_policy(database, replace(policy, daily_limit=30_000))
    assert isinstance(await ledger.reserve(make()), Reserved)
