"""The database refuses on its own what the functions never do."""

import itertools
from uuid import UUID

import asyncpg
import pytest

from proxy.ledger import Database, Ledger, LedgerFault, Reserved, SettledReceipt
from tests.ledger.books import status
from tests.ledger.conftest import Make

STATES = ["INITIATED", "SIGNED", "CONFIRMED", "VERIFIED", "FAILED"]
LEGAL = {
    ("INITIATED", "SIGNED"),
    ("INITIATED", "FAILED"),
    ("SIGNED", "CONFIRMED"),
    ("SIGNED", "FAILED"),
    ("CONFIRMED", "VERIFIED"),
    ("CONFIRMED", "FAILED"),
}
WAY_TO = {
    "INITIATED": [],
    "SIGNED": ["SIGNED"],
    "CONFIRMED": ["SIGNED", "CONFIRMED"],
    "VERIFIED": ["SIGNED", "CONFIRMED", "VERIFIED"],
    "FAILED": ["FAILED"],
}


async def move(database: Database, payment_id: UUID, state: str) -> None:
    await database.execute(
        "UPDATE payments SET status = $2::payment_status, "
        "release_reason = CASE WHEN $2 <> 'FAILED' THEN NULL WHEN status = 'INITIATED' "
        "THEN 'never_sent' ELSE 'proved_dead' END WHERE id = $1",
        payment_id,
        state,
    )


async def initiated(database: Database, ledger: Ledger, make: Make) -> UUID:
    reservation = make(message_sha256=None)
    assert isinstance(await ledger.reserve(reservation), Reserved)
    # The message of a payment that is signed later: set while that is still allowed.
    await database.execute(
        "UPDATE payments SET message_sha256 = sha256(id::text::bytea) WHERE id = $1",
        reservation.payment_id,
    )
    return reservation.payment_id


async def test_every_transition(database: Database, ledger: Ledger, make: Make) -> None:
    for old, new in itertools.permutations(STATES, 2):
        payment_id = await initiated(database, ledger, make)
        for state in WAY_TO[old]:
            await move(database, payment_id, state)
        if (old, new) in LEGAL:
            await move(database, payment_id, new)
            assert await status(database, payment_id) == new
        else:
            with pytest.raises(LedgerFault, match=f"cannot go from {old} to {new}"):
                await move(database, payment_id, new)


async def test_no_payment_begins_at_its_end(database: Database, ledger: Ledger, make: Make) -> None:
    await initiated(database, ledger, make)
    for state in ("CONFIRMED", "VERIFIED", "FAILED"):
        with pytest.raises(LedgerFault, match=f"cannot begin as {state}"):
            await database.execute(
                "INSERT INTO payments (id, agent_id, status, amount_atomic, price_micros, day, "
                "scopes, policy_version, provider, method, endpoint, x402_version, network, asset, "
                "symbol, pay_to) SELECT gen_random_uuid(), agent_id, $1::payment_status, "
                "amount_atomic, price_micros, day, scopes, policy_version, provider, method, "
                "endpoint, x402_version, network, asset, symbol, pay_to FROM payments",
                state,
            )


async def test_what_was_signed_does_not_change(
    database: Database, ledger: Ledger, make: Make
) -> None:
    await ledger.reserve(make())
    for change in (
        "price_micros = 1",
        "amount_atomic = 1",
        "day = day + 1",
        "scopes = '{x}'",
        "pay_to = 'x'",
        "asset = 'x'",
        "network = 'x'",
        "message_sha256 = sha256('x')",
        "blockhash = 'x'",
        "last_valid_block_height = 1",
        "client_signature = 'x'",
        "payment_payload = '{}'",
        "created_at = now()",
    ):
        with pytest.raises(LedgerFault, match="does not change"):
            await database.execute(f"UPDATE payments SET {change}")


async def test_the_books_cannot_be_torn(database: Database, ledger: Ledger, make: Make) -> None:
    reservation = make()
    await ledger.reserve(reservation)
    receipt = SettledReceipt(claimed=False, http_status=200, success=True, latency_ms=1)
    await ledger.settle(reservation.payment_id, receipt)
    for statement in (
        "DELETE FROM payments",
        "TRUNCATE payments CASCADE",
        "DELETE FROM x402_payment_logs",
        "UPDATE x402_payment_logs SET amount = '0'",
        "TRUNCATE x402_payment_logs",
        "DELETE FROM agents",
    ):
        with pytest.raises(LedgerFault):
            await database.execute(statement)


async def test_a_counter_never_rises_past_the_limit(
    database: Database, ledger: Ledger, make: Make
) -> None:
    await ledger.reserve(make(session_id="s"))
    for kind in ("agent_day", "session"):
        where = f"WHERE kind = '{kind}'"
        await database.execute(
            f"UPDATE budget_counters SET held_micros = 1000000, held_calls = 2 {where}"
        )
        for change in ("held_micros = 1000001", "spent_micros = 1"):
            with pytest.raises(LedgerFault, match="would rise to 1000001 of 1000000"):
                await database.execute(f"UPDATE budget_counters SET {change} {where}")
    await database.execute("UPDATE agent_policies SET daily_limit_micros = 10")
    await database.execute("UPDATE budget_counters SET held_micros = 500 WHERE kind = 'agent_day'")
    with pytest.raises(LedgerFault, match="would rise to 501 of 10"):
        await database.execute(
            "UPDATE budget_counters SET held_micros = 501 WHERE kind = 'agent_day'"
        )


async def test_a_counter_cannot_be_born_over_the_limit(
    database: Database, ledger: Ledger, make: Make
) -> None:
    with pytest.raises(LedgerFault, match="would rise to 1000001"):
        await database.execute(
            "INSERT INTO budget_counters (scope, kind, agent_id, day, held_micros) "
            "SELECT 'x', 'agent_day', id, current_date, 1000001 FROM agents"
        )


async def test_counters_are_never_negative(database: Database, ledger: Ledger, make: Make) -> None:
    await ledger.reserve(make())
    for column in ("held_micros", "spent_micros", "paid_calls"):
        with pytest.raises(LedgerFault, match="check constraint"):
            await database.execute(f"UPDATE budget_counters SET {column} = -1")


async def test_the_lock_order_is_the_order_of_the_scopes(dsn: str, database: Database) -> None:
    """Every day's scope comes before every session's, whatever the ids: no deadlock."""
    assert await database.fetchval(
        "SELECT agent_day_scope('ffffffff-ffff-ffff-ffff-ffffffffffff', '9999-12-31') COLLATE \"C\""
        " < session_scope('00000000-0000-0000-0000-000000000000', '') COLLATE \"C\""
    )


async def test_usd_columns_are_exact(database: Database, make: Make) -> None:
    row = await database.fetchrow(
        "UPDATE agent_policies SET daily_limit_micros = 999999999999999999 RETURNING *"
    )
    assert row is not None
    assert str(row["daily_limit_usd"]) == "999999999999.999999"
    assert str(row["per_call_limit_usd"]) == "0.050000"


async def test_hot_queries_use_their_indexes_even_on_empty_tables(dsn: str) -> None:
    """A plan is cached per connection; one made for an empty table must not be a scan."""
    connection = await asyncpg.connect(dsn)
    try:
        functions = await connection.fetch(
            "SELECT proname, proconfig FROM pg_proc WHERE pronamespace = 'public'::regnamespace "
            "AND proname IN ('reserve', 'settle', 'release', 'doubt', 'note_denial', "
            "'deliver', 'tick', 'lock_counters', 'move_held')"
        )
    finally:
        await connection.close()
    assert len(functions) == 9
    assert all("enable_seqscan=off" in row["proconfig"] for row in functions)
