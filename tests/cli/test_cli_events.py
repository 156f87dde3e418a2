"""`autopay events`, `spend` and `show`: what happened, where the money went, one payment whole."""

import asyncio
import json
from collections.abc import AsyncIterator
from uuid import UUID, uuid4

import pytest

from proxy.ledger import Database, Delivery, Ledger, Met402, Retry, SettledReceipt, agents
from proxy.vault import Vault
from tests.cli.conftest import Autopay
from tests.cli.test_cli_books import NASTY, TRANSACTION, ask
from tests.ledger.reservations import reservation


@pytest.fixture
async def paid(dsn: str, vault: Vault) -> AsyncIterator[UUID]:
    """`bot` paid once, at the second try; a second payment is in doubt, and `other` did nothing."""
    database = await Database.open(dsn)
    ledger = Ledger(database)
    bot = (await agents.add(database, vault, "bot")).agent
    await agents.add(database, vault, "other")
    cheap = {"price": 1_500, "amount": 1_500, "provider": "http://api.example:80"}
    one = reservation(
        bot.id, endpoint="http://api.example/paid", session_id="my-session", trace_id="my-task",
        met=Met402("http://api.example:80", instructions={"version": 2}), **cheap,
    )  # fmt: skip
    lost = reservation(bot.id, endpoint=NASTY, **cheap)
    for each in (one, lost):
        await ledger.reserve(each)
    await ledger.note_retry(
        Retry(one.payment_id, 1, 0.2, success=True, error_class="connect_failed")
    )
    await ledger.settle(
        one.payment_id,
        SettledReceipt(
            claimed=True, http_status=200, success=True, latency_ms=9, transaction=TRANSACTION
        ),
    )
    await ledger.deliver(
        Delivery(
            "http://api.example:80", one.endpoint, "GET", 200, "00", 9, True, True, 0.5,
            payment_id=one.payment_id, agent_id=bot.id,
        )
    )  # fmt: skip
    await ledger.doubt(lost.payment_id, "answer_lost")
    yield one.payment_id
    await ledger.close()
    await database.close()


async def wrong(autopay: Autopay, *words: str) -> str:
    """What is said on stderr of a wrong use."""
    done = await asyncio.to_thread(autopay.command, *words)
    process = await asyncio.create_subprocess_exec(
        *done, stderr=asyncio.subprocess.PIPE, env=autopay.environment()
    )
    _, said = await process.communicate()
    assert process.returncode == 2
    return said.decode()


async def test_events(autopay: Autopay, paid: UUID) -> None:
    heading, *rows = await ask(autopay, "events", "--agent", "bot", "--type", "payment_success")
    assert heading.split()[:4] == ["TIME", "(UTC)", "AGENT", "TYPE"]
    (row,) = rows
    assert "PAYMENT_SUCCESS" in row and "reason=settled" in row and str(paid) in row
    lines = [json.loads(line) for line in await ask(autopay, "events", "--json", "--limit", "100")]
    assert [line["created_at"] for line in lines] == sorted(
        (line["created_at"] for line in lines), reverse=True
    )
    assert {"PAYMENT_STATUS", "API_ACCESS", "NETWORK_ISSUE", "AGENT_CHANGE"} <= {
        line["type"] for line in lines
    }
    assert await ask(autopay, "events", "--agent", "nobody") == ["There is no such event."]


@pytest.mark.usefixtures("paid")
async def test_events_are_searched(autopay: Autopay) -> None:
    (line,) = await ask(autopay, "events", "--json", "--search", "IN_DOUBT answer_lo")
    event = json.loads(line)
    assert (event["type"], event["severity"]) == ("NETWORK_ISSUE", "WARNING")
    assert event["details"]["reason"] == "answer_lost"
    found = await ask(autopay, "events", "--json", "--search", TRANSACTION)
    assert [json.loads(line)["details"]["transaction"] for line in found] == [TRANSACTION]
    assert len(await ask(autopay, "events", "--json", "--severity", "warning")) == 1
    assert await ask(autopay, "events", "--search", "x' | 'y") == ["There is no such event."]


async def test_events_since(autopay: Autopay, paid: UUID, dsn: str) -> None:
    database = await Database.open(dsn)
    await database.execute(
        "INSERT INTO audit_events (agent_id, event_type, related_id, details, created_at)"
        " SELECT id, 'ALARM', $1, '{}', now() - interval '25 hours' FROM agents WHERE name = 'bot'",
        paid,
    )
    await database.close()
    assert len(await ask(autopay, "events", "--json", "--type", "ALARM", "--since", "2d")) == 1
    assert await ask(autopay, "events", "--json", "--type", "ALARM", "--since", "24h") == []
    assert "is not a time like 30m, 24h or 7d" in await wrong(autopay, "events", "--since", "soon")


@pytest.mark.usefixtures("paid")
async def test_spend(autopay: Autopay) -> None:
    heading, row = await ask(autopay, "spend")
    assert heading.split() == ["PROVIDER", "PAID", "HELD", "PAYMENTS"]
    assert row.split() == ["http://api.example:80", "$0.0015", "$0.0015", "1"]
    heading, row = await ask(autopay, "spend", "--by", "agent", "--daily")
    assert heading.split() == ["DAY", "AGENT", "PAID", "HELD", "PAYMENTS"]
    assert row.split()[1:] == ["bot", "$0.0015", "$0.0015", "1"]
    (line,) = await ask(autopay, "spend", "--by", "day", "--agent", "bot", "--json")
    day = json.loads(line)
    assert (day["name"], day["spent_usd"], day["paid_calls"]) == (day["day"], "0.0015", 1)
    assert await ask(autopay, "spend", "--agent", "other") == ["Nothing was spent."]


async def test_show(autopay: Autopay, paid: UUID) -> None:
    said = await ask(autopay, "show", str(paid))
    text = "\n".join(said)
    for part in (str(paid), "CONFIRMED", "$0.0015 (1500 atomic USDC)", TRANSACTION, "my-session"):
        assert part in text
    told = [line.split()[2] for line in said[said.index("") + 2 :]]
    assert told[:2] == ["402", "allow"]
    assert {"step", "retry", "receipt", "delivery", "PAYMENT_SUCCESS", "API_ACCESS"} <= set(told)
    (line,) = await ask(autopay, "show", str(paid), "--json")
    story = json.loads(line)
    assert story["payment"]["price_usd"] == "0.0015"
    assert story["request"]["instructions"] == {"version": 2}
    assert [one["outcome"] for one in story["steps"]] == ["paid"]
    assert [one["delay_seconds"] for one in story["retries"]] == [0.2]
    assert [one["type"] for one in story["events"]] == [
        "PAYMENT_STATUS", "PAYMENT_SUCCESS", "API_ACCESS",
    ]  # fmt: skip


async def test_show_says_what_it_cannot(autopay: Autopay, paid: UUID) -> None:
    stranger = uuid4()
    refused = await asyncio.to_thread(autopay.refused, "show", str(stranger))
    assert refused == f"there is no payment {stranger}"
    assert "is neither a payment's id" in await wrong(autopay, "show", str(paid)[:8])
    refused = await asyncio.to_thread(autopay.refused, "show", "5" * 88)
    assert refused == f"there is no payment of transaction or signature {'5' * 88}"


async def test_show_by_transaction_and_by_our_signature(
    autopay: Autopay, paid: UUID, dsn: str
) -> None:
    whole = await ask(autopay, "show", str(paid), "--json")
    database = await Database.open(dsn)
    ours = await database.fetchval("SELECT client_signature FROM payments WHERE id = $1", paid)
    assert await ask(autopay, "show", TRANSACTION, "--json") == whole
    assert await ask(autopay, "show", ours, "--json") == whole
    # Booked as nobody's, and claimed by the provider still.
    await database.execute("UPDATE payments SET payment_hash = NULL WHERE id = $1", paid)
    await database.close()
    assert str(paid) in (await ask(autopay, "show", TRANSACTION))[0]


async def test_no_escape_sequence_reaches_the_terminal(autopay: Autopay, paid: UUID) -> None:
    (line,) = await ask(autopay, "receipts", "--in-doubt", "--json")
    for words in (["show", json.loads(line)["id"]], ["events"], ["events", "--json"]):
        said = "\n".join(await ask(autopay, *words))
        assert "\x1b" not in said
