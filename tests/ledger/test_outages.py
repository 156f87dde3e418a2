"""The database is gone, hangs, or loses its answers: nothing is paid, nothing is forgotten."""

import asyncio
import time
from collections.abc import AsyncIterator

import asyncpg
import pytest

from proxy.ledger import (
    Agent,
    Database,
    DecisionRow,
    Ledger,
    LedgerUnavailable,
    Refused,
    Reserved,
    SettledReceipt,
)
from tests.ledger.books import check_books, counter, status
from tests.ledger.conftest import Make
from tests.ledger.wire import Wire

RECEIPT = SettledReceipt(claimed=False, http_status=200, success=True, latency_ms=1)
TIMEOUT = 0.4


@pytest.fixture
async def far_database(wire: Wire) -> AsyncIterator[Database]:
    database = await Database.open(wire.dsn, size=4, timeout=TIMEOUT)
    yield database
    await database.close()


@pytest.fixture
async def far(far_database: Database) -> AsyncIterator[Ledger]:
    """A ledger whose way to the database is the wire; `database` and `ledger` go straight."""
    ledger = Ledger(far_database)
    yield ledger
    await ledger.close()


async def test_no_server_is_one_clear_line() -> None:
    with pytest.raises(LedgerUnavailable) as error:
        await Database.open("postgresql://autopay@/autopay?host=/nowhere")
    assert not error.value.may_have_happened
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "dsn", ["not a dsn", "postgresql://h:port/x", "postgresql:///x?sslmode=maybe"]
)
async def test_a_dsn_that_cannot_be_meant(dsn: str) -> None:
    with pytest.raises(LedgerUnavailable):
        await Database.open(dsn, timeout=1)


async def test_an_unknown_database_is_unavailable(dsn: str) -> None:
    with pytest.raises(LedgerUnavailable, match="does not exist"):
        await Database.open(dsn.replace("/test_", "/gone_"))


async def test_cut_off_it_fails_closed_and_heals_by_itself(
    wire: Wire, far: Ledger, make: Make
) -> None:
    assert isinstance(await far.reserve(make()), Reserved)
    wire.cut()
    started = time.monotonic()
    with pytest.raises(LedgerUnavailable):
        await far.reserve(make())
    assert time.monotonic() - started < 2 * TIMEOUT
    await wire.mend()
    assert isinstance(await far.reserve(make()), Reserved)


async def test_a_server_that_hangs_is_given_up_in_time(
    wire: Wire, far: Ledger, far_database: Database, make: Make, database: Database
) -> None:
    await far.reserve(make())
    wire.stall()
    started = time.monotonic()
    outcomes = await asyncio.gather(
        *(far.reserve(make()) for _ in range(8)), return_exceptions=True
    )
    assert time.monotonic() - started < 3 * TIMEOUT
    assert all(isinstance(outcome, LedgerUnavailable) for outcome in outcomes)
    await wire.mend()
    assert await far.flush(5) == 0
    assert isinstance(await far.reserve(make()), Reserved)
    assert await counter(database) == (0, 20_000)
    await check_books(database)


async def test_a_reservation_whose_answer_was_lost_is_given_back(
    wire: Wire, far: Ledger, database: Database, make: Make
) -> None:
    await far.reserve(make())
    wire.deafen()
    reservation = make()
    with pytest.raises(LedgerUnavailable) as error:
        await far.reserve(reservation)
    assert error.value.may_have_happened
    assert await status(database, reservation.payment_id) == "SIGNED"
    await wire.mend()
    assert await far.flush(5) == 0
    assert await status(database, reservation.payment_id) == "FAILED"
    assert await counter(database) == (0, 10_000)


async def test_a_cancelled_reservation_is_given_back(
    dsn: str, ledger: Ledger, database: Database, make: Make
) -> None:
    """The program hangs up while its reservation waits behind another one."""
    await ledger.reserve(make())
    blocker = await asyncpg.connect(dsn)
    reservation = make()
    try:
        async with blocker.transaction():
            await blocker.execute("SELECT 1 FROM budget_counters FOR UPDATE")
            waiting = asyncio.create_task(ledger.reserve(reservation))
            await asyncio.sleep(0.05)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
    finally:
        await blocker.close()
    assert await ledger.flush(5) == 0
    assert await counter(database) == (0, 10_000)
    late = await ledger.reserve(reservation)
    assert isinstance(late, Refused)
    await check_books(database)


async def test_cancelling_at_any_moment_leaks_nothing(
    ledger: Ledger, database: Database, make: Make
) -> None:
    answered = 0
    for milliseconds in range(40):
        task = asyncio.create_task(ledger.reserve(make()))
        await asyncio.sleep(milliseconds / 1000)
        task.cancel()
        [outcome] = await asyncio.gather(task, return_exceptions=True)
        answered += isinstance(outcome, Reserved)
    assert await ledger.flush(5) == 0
    await check_books(database)
    assert await counter(database) == (0, answered * 10_000)
    assert 0 < answered < 40
    assert isinstance(await ledger.reserve(make()), Reserved)


async def test_what_happened_during_an_outage_is_written_after_it(
    wire: Wire, far: Ledger, database: Database, make: Make, bot: Agent
) -> None:
    paid, unsent, lost = make(), make(), make()
    for reservation in (paid, unsent, lost):
        await far.reserve(reservation)
    wire.cut()
    written = await asyncio.gather(
        far.settle(paid.payment_id, RECEIPT),
        far.release(unsent.payment_id, "never_sent"),
        far.doubt(lost.payment_id, "answer_lost"),
        far.record_decision(DecisionRow(bot.id, "GET", "https://x.example/", "frozen", "")),
    )
    assert list(written) == [False] * 4
    assert far.waiting == 4
    assert await far.flush(0.05) == 4
    await wire.mend()
    assert await far.flush(5) == 0
    assert far.waiting == 0
    assert await counter(database) == (10_000, 10_000)
    assert await status(database, paid.payment_id) == "CONFIRMED"
    assert await status(database, unsent.payment_id) == "FAILED"
    assert await database.fetchval("SELECT doubt_reason FROM payments WHERE status = 'SIGNED'")
    await check_books(database)


async def test_a_receipt_whose_acknowledgement_was_lost_is_written_once(
    wire: Wire, far: Ledger, database: Database, make: Make
) -> None:
    reservation = make()
    await far.reserve(reservation)
    wire.deafen()
    assert not await far.settle(reservation.payment_id, RECEIPT)
    await wire.mend()
    assert await far.flush(5) == 0
    assert await counter(database) == (10_000, 0)
    await check_books(database)


async def test_a_caller_that_hangs_up_does_not_take_the_receipt_along(
    ledger: Ledger, database: Database, make: Make
) -> None:
    reservation = make()
    await ledger.reserve(reservation)
    task = asyncio.create_task(ledger.settle(reservation.payment_id, RECEIPT))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert await ledger.flush(5) == 0
    assert await status(database, reservation.payment_id) == "CONFIRMED"


async def test_killed_backends_are_replaced(
    dsn: str, ledger: Ledger, database: Database, make: Make
) -> None:
    await asyncio.gather(*(ledger.reserve(make()) for _ in range(8)))
    killer = await asyncpg.connect(dsn)
    try:
        await killer.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    finally:
        await killer.close()
    await asyncio.sleep(0.05)
    outcomes = await asyncio.gather(*(ledger.reserve(make()) for _ in range(8)))
    assert all(isinstance(outcome, Reserved) for outcome in outcomes)
