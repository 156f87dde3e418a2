"""Each rule of the audit finds what it is for; and the switch stops everything."""

from datetime import timedelta

import pytest

from proxy.ledger import Database, Ledger, Refused, Reserved, audit
from tests.ledger.conftest import Make
from tests.ledger.test_reserve import RECEIPT

# By hand, as its owner might: the triggers that would stop it are off.
WRONGS = {
    "held_is_open": "UPDATE budget_counters SET held_micros = held_micros + 1"
    " WHERE kind = 'agent_day'",
    "spent_is_settled": "UPDATE budget_counters SET spent_micros = 0 WHERE kind = 'fleet_day'",
    "within_limit": "UPDATE budget_counters SET top_limit_micros = 1 WHERE kind = 'agent_day'",
    "counters_exist": "DELETE FROM budget_counters WHERE kind = 'wallet_day'",
    "settled_has_receipt": "UPDATE x402_payment_logs SET amount = '1'",
    "receipt_has_payment": "UPDATE payments SET status = 'SIGNED' WHERE status = 'CONFIRMED'",
    "receipt_has_link": "DELETE FROM receipt_links",
    "link_has_receipt": "UPDATE receipt_links SET kind = 'reversal'",
    "chain_is_whole": "UPDATE receipt_links SET previous = sha256('another')",
    "no_live_duplicates": "UPDATE payments SET status = 'SIGNED', request_key = sha256('k'),"
    " in_doubt_since = now() - interval '1 hour', release_reason = NULL",
    "payment_has_decision": "UPDATE policy_decision_logs SET decision = 'deny'"
    " WHERE payment_id = (SELECT id FROM payments WHERE status = 'CONFIRMED' LIMIT 1)",
}


@pytest.fixture
async def books(ledger: Ledger, make: Make) -> None:
    """A settled payment, a released one, an open one, one in doubt; in a session and a trace."""
    settled, released, opened, doubted = (
        make(session_id="s", trace_id="t", payer="wallet") for _ in range(4)
    )
    for reservation in (settled, released, opened, doubted):
        assert isinstance(await ledger.reserve(reservation), Reserved)
    assert await ledger.settle(settled.payment_id, RECEIPT)
    assert await ledger.release(released.payment_id, "never_sent")
    assert await ledger.doubt(doubted.payment_id, "answer_lost")


@pytest.mark.usefixtures("books")
async def test_good_books_have_no_findings(database: Database) -> None:
    assert await audit.findings(database) == []
    assert await audit.findings(database, timedelta(hours=1)) == []


@pytest.mark.usefixtures("books")
@pytest.mark.parametrize("rule", sorted(audit.MEANINGS))
async def test_each_rule_finds_its_wrong(database: Database, rule: str) -> None:
    tables = (
        *("budget_counters", "payments", "x402_payment_logs", "policy_decision_logs"),
        *("receipt_links", "receipt_chains"),
    )
    for table in tables:
        await database.execute(f"ALTER TABLE {table} DISABLE TRIGGER USER")
    await database.execute(WRONGS[rule])
    for since in (None, timedelta(hours=1)):
        assert rule in {finding.rule for finding in await audit.findings(database, since)}, since


CHAINS = {
    "a receipt of another amount": (
        "UPDATE x402_payment_logs SET amount = '1', amount_micros = 1",
        {"receipt_has_link", "settled_has_receipt"},
    ),
    "a link of another agent's": (
        "UPDATE receipt_links SET agent_id = '00000000-0000-0000-0000-000000000000'",
        {"receipt_has_link", "link_has_receipt", "chain_is_whole"},
    ),
    "a receipt that is gone": (
        "ALTER TABLE receipt_links DROP CONSTRAINT receipt_links_receipt_id_fkey;"
        " DELETE FROM x402_payment_logs",
        {"link_has_receipt", "settled_has_receipt"},
    ),
    "a reversal without its link": (
        "UPDATE payments SET status = 'FAILED', release_reason = 'proved_dead'"
        " WHERE status = 'CONFIRMED'",
        {"receipt_has_link", "spent_is_settled"},
    ),
    "the newest link cut off": (
        "UPDATE receipt_chains SET length = length + 1 WHERE length > 0",
        {"chain_is_whole"},
    ),
    "another head": ("UPDATE receipt_chains SET head = sha256('x')", {"chain_is_whole"}),
}


@pytest.mark.usefixtures("books")
@pytest.mark.parametrize("what", sorted(CHAINS))
async def test_each_break_of_a_chain_is_found(database: Database, what: str) -> None:
    tables = ("payments", "x402_payment_logs", "receipt_links", "receipt_chains")
    for table in tables:
        await database.execute(f"ALTER TABLE {table} DISABLE TRIGGER USER")
    statement, rules = CHAINS[what]
    for part in statement.split(";"):
        await database.execute(part)
    for since in (None, timedelta(hours=1)):
        assert {finding.rule for finding in await audit.findings(database, since)} == rules, since


async def test_the_switch_stops_every_reservation(
    ledger: Ledger, database: Database, make: Make
) -> None:
    assert await audit.halt(database, "to be sure", by="test")
    assert not await audit.halt(database, "again", by="test")
    refused = await ledger.reserve(make())
    assert isinstance(refused, Refused)
    assert refused.code == "spending_halted"
    assert (await audit.spending(database)).reason == "to be sure"
    assert await audit.resume(database, by="test")
    assert isinstance(await ledger.reserve(make()), Reserved)
    events = await database.fetch(
        "SELECT details ->> 'code' AS code FROM audit_events WHERE event_type = 'ALARM'"
    )
    assert [event["code"] for event in events] == ["spending_halted", "spending_resumed"]
