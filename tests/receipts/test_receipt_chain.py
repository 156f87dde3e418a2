"""Every receipt is a link of its agent's chain, whoever settles, whatever becomes of it."""

import asyncio
import json
from hashlib import sha256
from uuid import UUID

import asyncpg
import pytest

from proxy.ledger import Agent, Database, Ledger
from proxy.receipts.canonical import read_canonical
from proxy.receipts.signer import ReceiptSigner
from proxy.receipts.verify import verify
from sql import migrations
from tests.ledger.books import check_books
from tests.ledger.conftest import Make
from tests.receipts.conftest import Export, Pay, settled

LINKS = "SELECT * FROM receipt_links ORDER BY agent_id, seq"


async def contents(database: Database) -> list[dict[str, object]]:
    return [read_canonical(row["canonical"]) for row in await database.fetch(LINKS)]


async def test_a_receipt_is_a_link(database: Database, pay: Pay, bot: Agent) -> None:
    body = sha256(b"body").digest()
    first = await pay(
        session_id="s", trace_id="t", request_body_sha256=body, transaction="5" * 88,
        endpoint="https://api.example.com/v1/ä\n\"quote?who=Rosebud",
    )  # fmt: skip
    await pay()
    one, two = await database.fetch(LINKS)
    text, row = read_canonical(one["canonical"]), await database.fetchrow("SELECT * FROM payments")
    assert row is not None
    salt = await database.fetchval("SELECT salt FROM receipt_chains WHERE agent_id = $1", bot.id)
    assert text == {
        "v": 1, "kind": "receipt", "agent_id": str(bot.id), "receipt_id": str(first), "seq": 1,
        "previous": "00" * 32, "amount_atomic": "10000", "price_micros": "10000", "decimals": 6,
        "asset": row["asset"], "symbol": "USDC", "network": row["network"],
        "pay_to": row["pay_to"], "payer": None, "source_account": None,
        "destination_account": None, "method": "GET",
        "endpoint": 'https://api.example.com/v1/ä\n"quote', "provider": row["provider"],
        "transaction": "5" * 88, "claimed_transaction": "5" * 88,
        "client_signature": row["client_signature"],
        "message_sha256": row["message_sha256"].hex(),
        "payment_payload_sha256": sha256(row["payment_payload"].encode()).hexdigest(),
        "settle_response_sha256": sha256(b'{"success":true}').hexdigest(),
        "request_body_commitment": sha256(salt + b"body:" + body.hex().encode()).hexdigest(),
        "session_commitment": sha256(salt + b"session:s").hexdigest(),
        "trace_commitment": sha256(salt + b"trace:t").hexdigest(),
        "source": "provider", "claimed": True, "success": True, "http_status": 200,
        "policy_version": row["policy_version"], "recorded_at": text["recorded_at"],
    }  # fmt: skip
    assert text["recorded_at"] == row["settled_at"].strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    assert one["sha256"] == sha256(one["canonical"].encode()).digest()
    assert (two["seq"], two["previous"]) == (2, one["sha256"])
    chain = await database.fetchrow("SELECT * FROM receipt_chains WHERE length > 0")
    assert chain is not None
    assert (chain["length"], chain["head"]) == (2, two["sha256"])
    assert read_canonical(two["canonical"])["session_commitment"] is None


async def test_two_replicas_settle_for_one_agent_at_once(
    dsn: str, database: Database, make: Make, signer: ReceiptSigner, export: Export
) -> None:
    other = await Database.open(dsn)
    ledgers = [Ledger(database), Ledger(other)]

    async def settle(ledger: Ledger) -> None:
        reservation = make(price=1, amount=1)
        await ledger.reserve(reservation)
        assert await ledger.settle(reservation.payment_id, settled())

    await asyncio.gather(*(settle(ledger) for ledger in ledgers for _ in range(50)))
    for ledger in ledgers:
        await ledger.close()
    await other.close()
    await signer.sign()
    verdict = verify(await export())
    assert (verdict.problems, verdict.links, verdict.proved) == ([], 100, True)
    await check_books(database)


async def test_two_days_are_settled_at_once(
    dsn: str, database: Database, ledger: Ledger, make: Make, bot: Agent
) -> None:
    """Around midnight an agent's payments have no counter in common that would make them wait."""
    today, yesterday = make(), make()
    for reservation in (today, yesterday):
        await ledger.reserve(reservation)
    connection = await asyncpg.connect(dsn)
    await connection.execute("ALTER TABLE payments DISABLE TRIGGER payments_guard")
    await connection.execute(
        "INSERT INTO budget_counters (scope, kind, agent_id, day, held_micros, held_calls)"
        " VALUES ('10/yesterday', 'agent_day', $1, '2020-01-01', 10000, 1)",
        bot.id,
    )
    await connection.execute(
        "UPDATE payments SET scopes = '{10/yesterday}' WHERE id = $1", yesterday.payment_id
    )
    transaction = connection.transaction()
    await transaction.start()
    args = {"payment_id": str(today.payment_id), "source": "provider", "claimed": False,
            "success": True, "latency_ms": 1}  # fmt: skip
    assert await connection.fetchval("SELECT settle($1)", json.dumps(args)) == "settled"
    other = asyncio.create_task(ledger.settle(yesterday.payment_id, settled()))
    await asyncio.sleep(0.2)
    assert not other.done()
    await transaction.commit()
    assert await other
    await connection.close()
    assert [link["seq"] for link in await contents(database)] == [1, 2]


async def test_chains_are_locked_in_one_order(
    dsn: str, database: Database, ledger: Ledger, make: Make, bot: Agent, second: Agent
) -> None:
    """Or else two batches that share no counter, as those of two days, could wait in a circle."""
    low, high = sorted([bot.id, second.id])
    moves = []
    for agent in (high, low):
        reservation = make(agent_id=agent)
        await ledger.reserve(reservation)
        args = {"payment_id": str(reservation.payment_id), "source": "provider", "claimed": False,
                "success": True, "latency_ms": 1}  # fmt: skip
        moves.append({"move": "settle", "args": args})
    lock = "SELECT 1 FROM receipt_chains WHERE agent_id = $1 FOR UPDATE"
    connection = await asyncpg.connect(dsn)
    transaction = connection.transaction()
    await transaction.start()
    await connection.execute(lock, low)
    batch = asyncio.create_task(database.fetch("SELECT * FROM tick($1)", json.dumps(moves)))
    waits = (
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    while not await connection.fetchval(waits):
        await asyncio.sleep(0.01)
    await connection.execute(f"{lock} NOWAIT", high)
    await transaction.rollback()
    assert [row["outcome"] for row in await batch] == ['"settled"', '"settled"']
    await connection.close()


async def test_what_the_chain_disproves_is_taken_back_by_a_link(
    database: Database, pay: Pay, signer: ReceiptSigner, export: Export
) -> None:
    kept, dead = await pay(), await pay(transaction="D" * 88)
    assert await database.fetchval("SELECT disprove($1, 'absent')", dead) == "reversed"
    assert await database.fetchval("SELECT disprove($1, 'absent')", dead) == "already"
    *_, last = await contents(database)
    assert (last["kind"], last["seq"], last["receipt_id"]) == ("reversal", 3, str(dead))
    assert (last["amount_atomic"], last["transaction"]) == ("10000", None)
    await signer.sign()
    verdict = verify(await export())
    (total,) = verdict.totals.values()
    assert verdict.proved
    assert (total.receipts, total.amount, total.reversed) == (1, 10_000, 1)
    assert {paid.receipt_id: paid.reversed for paid in verdict.paid} == {kept: False, dead: True}


async def test_another_transaction_than_was_claimed_is_a_link(
    database: Database, pay: Pay, signer: ReceiptSigner, export: Export
) -> None:
    right, wrong = await pay(transaction="R" * 88), await pay(transaction="W" * 88)
    for payment, transaction in ((right, "R" * 88), (wrong, "N" * 88)):
        seen = json.dumps({"signature": transaction, "slot": 5, "fee_lamports": 5000})
        assert await database.fetchval("SELECT verify_payment($1, $2)", payment, seen) == "verified"
    *_, last = await contents(database)
    assert (last["kind"], last["seq"], last["transaction"]) == ("correction", 3, "N" * 88)
    await signer.sign()
    verdict = verify(await export())
    assert verdict.proved
    assert [paid.transaction for paid in verdict.paid] == ["R" * 88, "N" * 88]


async def test_an_erased_agent_is_proved_still(
    database: Database, pay: Pay, make: Make, ledger: Ledger, signer: ReceiptSigner, export: Export
) -> None:
    await pay(session_id="Rosebud", trace_id="Rosebud", request_body_sha256=sha256(b"x").digest())
    late = make(session_id="Rosebud")
    await ledger.reserve(late)
    alias = await database.fetchval("SELECT erase_agent('bot', 'test')")
    assert await ledger.settle(late.payment_id, settled())
    chain = await database.fetchrow("SELECT * FROM receipt_chains WHERE length > 0")
    assert chain is not None
    assert (chain["length"], chain["salt"]) == (2, None)
    await signer.sign()
    lines = await export()
    verdict = verify(lines)
    assert verdict.proved
    assert b"Rosebud" not in b"".join(lines)
    assert [one.agent for one in verdict.chains.values()] == [alias]
    one, two = await contents(database)
    assert one["session_commitment"] != two["session_commitment"]  # nobody has that salt


async def test_receipts_of_before_are_linked_in_their_order(
    dsn: str, database: Database, pay: Pay, second: Agent, signer: ReceiptSigner, export: Export
) -> None:
    await database.execute("ALTER TABLE x402_payment_logs DISABLE TRIGGER x402_payment_logs_link")
    await database.execute("ALTER TABLE payments DISABLE TRIGGER payments_link")
    paid = [await pay() for _ in range(3)]
    await database.fetchval("SELECT disprove($1, 'absent')", paid[1])
    paid.append(await pay())
    others = [await pay(agent_id=second.id) for _ in range(2)]
    assert await contents(database) == []
    migration = next(one for one in migrations() if one.name == "0025_receipts")
    connection = await asyncpg.connect(dsn)
    await connection.execute(migration.text)
    await connection.execute(migration.text)  # again, with nothing left to do
    await connection.execute("ALTER TABLE x402_payment_logs ENABLE TRIGGER x402_payment_logs_link")
    await connection.close()
    await pay()
    found = [(one["kind"], UUID(str(one["receipt_id"]))) for one in await contents(database)]
    mine = [one for one in found if one[1] not in others]
    first, dead, third, fourth = [("receipt", one) for one in paid]
    assert mine[:5] == [first, dead, third, ("reversal", paid[1]), fourth]
    assert [one for one in found if one[1] in others] == [("receipt", one) for one in others]
    await signer.sign()
    verdict = verify(await export())
    assert (verdict.links, verdict.proved) == (8, True)


@pytest.mark.parametrize("change", ["canonical = canonical || ' '", "sha256 = sha256('x')"])
async def test_a_links_hash_is_that_of_its_text(database: Database, pay: Pay, change: str) -> None:
    await pay()
    await database.execute("ALTER TABLE receipt_links DISABLE TRIGGER receipt_links_keep")
    with pytest.raises(Exception, match="receipt_links_sha256_check"):
        await database.execute(f"UPDATE receipt_links SET {change}")
