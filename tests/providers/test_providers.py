"""Breaker, score and statistics together, on a real database."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from proxy.ledger import Database, LedgerUnavailable
from proxy.ledger.provider_stats import ProviderStats, load
from proxy.providers import BreakerOpen, BreakerRules, Providers, Ticket
from proxy.providers import providers as module
from proxy.providers.stats import Stats

KEY = "https://api.example:443"


@pytest.fixture
async def database(dsn: str) -> AsyncIterator[Database]:
    opened = await Database.open(dsn, size=2, timeout=2.0)
    yield opened
    await opened.close()


@pytest.fixture
def make(database: Database, dsn: str) -> Callable[[], Providers]:
    rules = BreakerRules(failures=3, failure_rate=1.0, min_calls=1_000_000, successes=1)
    return lambda: Providers(database, dsn, rules=rules)


def admitted(providers: Providers, key: str = KEY) -> Ticket:
    """To a provider that need not be tried first."""
    ticket = providers.admit(key)
    assert isinstance(ticket, Ticket)
    return ticket


async def saved(database: Database, key: str = KEY) -> ProviderStats | None:
    return (await load(database)).get(key)


async def test_what_came_of_calls_is_saved_and_taken_up(
    database: Database, make: Callable[[], Providers]
) -> None:
    first = make()
    await first.start()
    admitted(first).success(latency_ms=100, status=200)
    admitted(first).success(latency_ms=200, status=201, schema=False)
    admitted(first).neutral()
    admitted(first).failure("answered\x00 500\n\ud800" + "x" * 1000, status=500)
    ticket = admitted(first)
    ticket.success(latency_ms=50, status=200)
    ticket.success(latency_ms=1e9, status=204)
    ticket.neutral()
    admitted(first).failure("refused")
    first.quoted(KEY, 50_000)
    first.quoted(KEY, 20_000)
    score = first.score(KEY)
    assert 0 < score < 1
    await first.close()

    stats = await saved(database)
    assert stats
    assert (stats.calls, stats.successes, stats.failures, stats.schema_passes) == (5, 3, 2, 2)
    assert (stats.consecutive_failures, stats.last_status, stats.last_error) == (1, 200, "refused")
    assert stats.max_price_micros == 50_000
    assert 50 < stats.avg_latency_ms < 200

    second = make()
    await second.start()
    assert second.score(KEY) == pytest.approx(score, abs=0.01)
    admitted(second).failure("b")
    admitted(second).failure("c")
    with pytest.raises(BreakerOpen):
        admitted(second)
    await second.close()
    stats = await saved(database)
    assert stats
    assert (stats.calls, stats.consecutive_failures) == (7, 3)


async def test_what_went_well_and_then_broke_off_is_one_call_that_failed(
    database: Database, make: Callable[[], Providers]
) -> None:
    providers = make()
    await providers.start()
    ticket = admitted(providers)
    ticket.success(latency_ms=10, status=200)
    await providers._flush()  # the success is written already when the answer breaks off
    ticket.failure("reset in mid-body", status=200)
    ticket.failure("a third word")
    for _ in range(2):
        ticket = admitted(providers)
        ticket.success(latency_ms=10, status=200)
        ticket.failure("reset in mid-body", paid=True)
    await providers.close()
    stats = await saved(database)
    assert stats
    assert (stats.calls, stats.successes, stats.failures) == (3, 0, 3)
    assert stats.last_error == "reset in mid-body"


async def test_an_open_breaker_stays_open_over_a_restart(
    database: Database, make: Callable[[], Providers]
) -> None:
    first = make()
    await first.start()
    for _ in range(3):
        admitted(first).failure("answered 500", status=500)
    assert first.score(KEY) == 0.0
    await first.close()

    second = make()
    await second.start()
    with pytest.raises(BreakerOpen) as caught:
        admitted(second)
    assert 170 < caught.value.retry_after <= 180
    assert caught.value.last_error == "answered 500"
    assert second.score(KEY) == 0.0
    await second.close()
    stats = await saved(database)
    assert stats
    assert stats.circuit_open_until

    await database.execute(
        "UPDATE x402_procurement_provider_stats SET circuit_open_until = now() - interval '1 s'"
    )
    third = make()
    await third.start()
    trying = third.admit(KEY)
    with pytest.raises(BreakerOpen):
        third.admit(KEY)
    assert isinstance(trying, Awaitable)
    probe = await trying
    with pytest.raises(BreakerOpen):
        third.admit(KEY)
    probe.success(latency_ms=10, status=200)
    admitted(third).neutral()
    await third.close()
    stats = await saved(database)
    assert stats
    assert (stats.circuit_open_until, stats.consecutive_failures) == (None, 0)


async def test_it_is_written_in_the_background(
    database: Database, make: Callable[[], Providers], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FLUSH_SECONDS", 0.05)
    providers = make()
    await providers.start()
    for calls in (1, 2, 3):
        admitted(providers).success(latency_ms=10, status=200)
        await asyncio.sleep(0.3)
        stats = await saved(database)
        assert stats
        assert stats.calls == calls
    await providers.close()


async def test_a_ledger_that_is_away_disturbs_nothing_and_loses_nothing(
    database: Database,
    make: Callable[[], Providers],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(module, "FLUSH_SECONDS", 0.05)
    table = "x402_procurement_provider_stats"
    providers = make()
    await providers.start()
    await database.execute(f"ALTER TABLE {table} RENAME TO away")
    for _ in range(4):
        admitted(providers).success(latency_ms=10, status=200)
        await asyncio.sleep(0.1)
    assert caplog.text.count("wait to be written") == 1
    await database.execute(f"ALTER TABLE away RENAME TO {table}")
    admitted(providers).success(latency_ms=10, status=200)
    await asyncio.sleep(0.3)
    await providers.close()
    stats = await saved(database)
    assert stats
    assert (stats.calls, stats.successes) == (5, 5)


async def test_what_may_have_been_written_is_not_written_again(
    database: Database, make: Callable[[], Providers], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FLUSH_SECONDS", 0.05)
    add, arrives = module.saved_stats.add, iter((True, False))

    async def unanswered(*args: Any) -> None:
        arrived = next(arrives, None) if args[1] else None
        if arrived is not False:
            await add(*args)
        if arrived is not None:
            raise LedgerUnavailable("no answer in time", may_have_happened=arrived)

    monkeypatch.setattr(module.saved_stats, "add", unanswered)
    providers = make()
    await providers.start()
    for _ in range(3):
        admitted(providers).success(latency_ms=10, status=200)
        await asyncio.sleep(0.2)
    await providers.close()
    stats = await saved(database)
    assert stats
    assert (stats.calls, stats.successes) == (3, 3)


async def test_what_comes_in_during_a_flush_is_written_by_the_next(
    database: Database, make: Callable[[], Providers], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FLUSH_SECONDS", 0.001)
    providers = make()
    await providers.start()
    for n in range(1000):
        ticket = admitted(providers, f"https://p{n % 7}.example:443")
        ticket.success(latency_ms=1, status=200) if n % 3 else ticket.failure("x")
        if n % 5 == 0:
            await asyncio.sleep(0.001)
    await providers.close()
    stats = (await load(database)).values()
    assert sum(one.calls for one in stats) == 1000
    assert sum(one.successes for one in stats) == sum(1 for n in range(1000) if n % 3)
    assert all(one.calls == one.successes + one.failures for one in stats)


def test_records_that_are_saved_are_forgotten_over_the_limit() -> None:
    stats = Stats(limit=2)
    for n in range(5):
        stats.succeeded(f"p{n}", 10.0, 200, schema=True)
    flushed = stats.unsaved()
    stats.succeeded("p0", 10.0, 200, schema=True)
    stats.saved(flushed)
    assert stats.get("p0").calls == 2, "not yet saved, so not forgotten"
    assert [stats.get(f"p{n}").calls for n in range(1, 5)].count(1) == 1
    ((delta, _),) = stats.unsaved()
    assert (delta.id, delta.calls, delta.successes) == ("p0", 1, 1)


async def test_a_ticket_with_statistics_costs_microseconds(
    database: Database, make: Callable[[], Providers]
) -> None:
    providers = make()
    rounds = 20_000
    began = time.perf_counter()
    for _ in range(rounds):
        admitted(providers).success(latency_ms=1.0, status=200)
    assert (time.perf_counter() - began) / rounds < 100e-6
