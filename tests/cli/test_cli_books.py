"""`autopay receipts` and `decisions`: what the ledger has, as tables and as JSON lines."""

import asyncio
import json
from collections.abc import AsyncIterator

import pytest

from proxy.ledger import Database, DecisionRow, Ledger, SettledReceipt, agents, circuits
from tests.cli.conftest import Autopay
from tests.ledger.reservations import reservation

NASTY = "http://api.example/\x1b[31mred"
TRANSACTION = "4" * 80 + "12345678"


@pytest.fixture
async def ledger(dsn: str, autopay: Autopay) -> AsyncIterator[Ledger]:
    """`bot` paid, has a payment in doubt, and was denied; `other` did nothing."""
    database = await Database.open(dsn)
    ledger = Ledger(database)
    bot = (await agents.add(database, autopay.vault, "bot")).agent
    await agents.add(database, autopay.vault, "other")
    cheap = {"price": 1_500, "amount": 1_500, "provider": "http://api.example:80"}
    paid = reservation(bot.id, endpoint="http://api.example/paid", **cheap)
    lost = reservation(bot.id, endpoint=NASTY, **cheap)
    for one in (paid, lost):
        await ledger.reserve(one)
    await ledger.settle(
        paid.payment_id,
        SettledReceipt(
            claimed=True, http_status=200, success=True, latency_ms=9, transaction=TRANSACTION
        ),
    )
    await ledger.doubt(lost.payment_id, "answer_lost")
    await ledger.record_decision(
        DecisionRow(
            bot.id, "POST", NASTY, "over_per_call_limit", "Too much.", price=500_000, limit=50_000
        )
    )
    yield ledger
    await ledger.close()
    await database.close()


async def ask(autopay: Autopay, *words: str) -> list[str]:
    return (await asyncio.to_thread(autopay.well, *words)).splitlines()


@pytest.mark.usefixtures("ledger")
async def test_receipts(autopay: Autopay) -> None:
    heading, row = await ask(autopay, "receipts")
    assert heading.split()[:4] == ["TIME", "(UTC)", "AGENT", "METHOD"]
    assert row.split()[2:] == [
        *("bot", "GET", "http://api.example/paid", "$0.0015", "USDC", "200", "9"),
        "44444444…12345678",
    ]
    assert heading.index("PAID") + len("PAID") == row.index("$0.0015") + len("$0.0015")
    (line,) = await ask(autopay, "receipts", "--json", "--agent", "bot")
    receipt = json.loads(line)
    assert (receipt["agent"], receipt["price_usd"], receipt["amount"]) == ("bot", "0.0015", "1500")
    assert receipt["transaction"] == TRANSACTION
    assert receipt["created_at"].endswith("Z")
    assert await ask(autopay, "receipts", "--agent", "other") == ["Nothing was paid yet."]
    assert await ask(autopay, "receipts", "--agent", "other", "--json") == []


@pytest.mark.usefixtures("ledger")
async def test_payments_in_doubt(autopay: Autopay) -> None:
    (line,) = await ask(autopay, "receipts", "--in-doubt", "--json")
    payment = json.loads(line)
    assert (payment["doubt_reason"], payment["price_usd"]) == ("answer_lost", "0.0015")
    _, row = await ask(autopay, "receipts", "--in-doubt")
    assert payment["id"] in row and "$0.0015" in row and "answer_lost" in row
    nothing = await ask(autopay, "receipts", "--in-doubt", "--agent", "other")
    assert nothing == ["No payment is in doubt."]


@pytest.mark.usefixtures("ledger")
async def test_decisions(autopay: Autopay) -> None:
    heading, denied, *allowed = await ask(autopay, "decisions")
    assert heading.endswith("LEFT TODAY")
    assert "deny      over_per_call_limit  POST" in denied
    assert denied.split()[-3:] == ["$0.50", "$0.05", "$0.997"]
    assert len(allowed) == 2 and all(" allow " in row for row in allowed)
    (newest,) = await ask(autopay, "decisions", "--json", "--limit", "1")
    decision = json.loads(newest)
    assert (decision["reason"], decision["price_usd"], decision["limit_usd"]) == (
        "over_per_call_limit",
        "0.50",
        "0.05",
    )
    assert await ask(autopay, "decisions", "--agent", "other") == ["Nothing was decided yet."]


@pytest.mark.usefixtures("ledger")
async def test_no_escape_sequence_reaches_the_terminal(autopay: Autopay) -> None:
    for words in (["decisions"], ["receipts", "--in-doubt"], ["decisions", "--json"]):
        said = "\n".join(await ask(autopay, *words))
        assert "red" in said and "\x1b" not in said


@pytest.mark.usefixtures("ledger")
async def test_status_counts_what_is_in_doubt(autopay: Autopay) -> None:
    done = await asyncio.to_thread(autopay, "status")
    assert done.returncode == 1  # nothing listens
    assert "Payments in doubt: 1, which hold $0.0015;" in done.stdout
    (row,) = [line for line in done.stdout.splitlines() if line.startswith("bot ")]
    assert row.split() == ["bot", "active", "$0.0015", "$0.0015", "$0.997", "$1.00", "1"]
    record = json.loads((await asyncio.to_thread(autopay, "status", "--json")).stdout)
    assert record["in_doubt"] == {"payments": 1, "held_usd": "0.0015"}
    assert record["today"][0]["remaining_usd"] == "0.997"


@pytest.mark.usefixtures("ledger")
async def test_status_tells_of_breakers(autopay: Autopay, dsn: str) -> None:
    database = await Database.open(dsn)
    try:
        await circuits.open_all(
            database,
            [
                circuits.Opening("https://down.example:443", 170, "no\x1b[31m answer", 3),
                circuits.Opening("https://back.example:443", -5, "answered 500", 3),
            ],
        )
    finally:
        await database.close()
    said = (await asyncio.to_thread(autopay, "status")).stdout
    down, back = (
        next(line for line in said.splitlines() if line.startswith(f"https://{name}"))
        for name in ("down", "back")
    )
    assert " open " in down and " s " in down and "answer" in down and "\x1b" not in said
    assert "half-open" in back and "by the next call" in back
    record = json.loads((await asyncio.to_thread(autopay, "status", "--json")).stdout)
    by_name = {one["provider"]: one for one in record["breakers"]}
    assert by_name["https://back.example:443"] == {
        "provider": "https://back.example:443",
        "state": "half-open",
        "last_error": "answered 500",
        "retry_after_seconds": 0,
        "probing": False,
    }
    assert 0 < by_name["https://down.example:443"]["retry_after_seconds"] <= 170
