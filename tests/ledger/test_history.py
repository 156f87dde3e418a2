from uuid import uuid4

from policies import Policy
from proxy.ledger import (
    Agent,
    Database,
    DecisionRow,
    Ledger,
    SettledReceipt,
    agents,
    history,
)
from proxy.vault import Vault
from tests.ledger.conftest import Make

RECEIPT = SettledReceipt(
    claimed=True, http_status=200, success=True, latency_ms=9, transaction="4" * 88
)


async def test_the_operators_questions(
    database: Database, ledger: Ledger, make: Make, bot: Agent, vault: Vault
) -> None:
    other = (await agents.add(database, vault, "other", Policy("other", daily_limit=5_000))).agent
    paid, lost, fresh, refused = make(), make(), make(), make(agent_id=other.id)
    for reservation in (paid, lost, fresh, refused):
        await ledger.reserve(reservation)
    await ledger.settle(paid.payment_id, RECEIPT)
    await ledger.doubt(lost.payment_id, "answer_lost")

    [receipt] = await history.receipts(database)
    assert (receipt.id, receipt.agent, receipt.amount) == (paid.payment_id, "bot", "10000")
    assert (receipt.price, receipt.transaction) == (10_000, "4" * 88)
    assert await history.receipts(database, "other") == []

    newest = await history.decisions(database, limit=2)
    assert [(row.agent, row.decision) for row in newest] == [("other", "deny"), ("bot", "allow")]
    assert (newest[0].reason, newest[0].limit, newest[0].payment_id) == (
        "over_daily_limit",
        5_000,
        refused.payment_id,
    )
    assert [row.held_today for row in await history.decisions(database, "bot")] == [
        30_000,
        20_000,
        10_000,
    ]

    first, second = await history.today(database)
    assert (first.agent, first.spent, first.held, first.limit, first.remaining) == (
        "bot",
        10_000,
        20_000,
        1_000_000,
        970_000,
    )
    assert first.paid_calls == 1
    assert (second.agent, second.spent, second.held, second.remaining) == ("other", 0, 0, 5_000)

    [doubtful] = await history.in_doubt(database)
    assert (doubtful.id, doubtful.doubt_reason) == (lost.payment_id, "answer_lost")
    everything = await history.in_doubt(database, silent_for=0)
    assert {row.id for row in everything} == {lost.payment_id, fresh.payment_id}


async def test_decisions_about_nobody_are_shown_too(database: Database, ledger: Ledger) -> None:
    stranger = uuid4()
    row = DecisionRow(stranger, "GET", "https://x.example/", "not_payable", "not_x402")
    await ledger.record_decision(row)
    [decision] = await history.decisions(database)
    assert (decision.id, decision.agent) == (row.id, str(stranger))
    assert (decision.reason, decision.detail) == ("not_payable", "not_x402")
