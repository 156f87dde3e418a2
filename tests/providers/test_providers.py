"""Breaker, score and statistics together, on a real database."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from proxy.ledger import Database
from proxy.ledger.provider_stats import ProviderStats, load
from proxy.providers import BreakerOpen, Providers
from proxy.providers import providers as module
from proxy.providers.stats import Stats

KEY = "https://api.example:443"


@pytest.fixture
async def database(dsn: str) -> AsyncIterator[Database]:
    opened = await Database.open(dsn, size=2, timeout=2.0)
    yield opened
    await opened.close()


def make(database: Database) -> Providers:
    return Providers(database, failures=3, open_seconds=180)


async def saved(database: Database, key: str = KEY) -> ProviderStats | None:
    return (await load(database)).get(key)


async def test_what_came_of_calls_is_saved_and_taken_up(database: Database) -> None:
    first = make(database)
    await first.start()
    first.admit(KEY).success(latency_ms=100, status=200)
    first.admit(KEY).success(latency_ms=200, status=201, schema=False)
    first.admit(KEY).neutral()
    first.admit(KEY).failure("answered\x00 500\n\ud800" + "x" * 1000, status=500)
    ticket = first.admit(KEY)
    ticket.success(latency_ms=50, status=200)
    ticket.failure("a second word")
    first.admit(KEY).failure("refused")
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

    second = make(database)
    await second.start()
    assert second.score(KEY) == pytest.approx(score, abs=0.01)
    second.admit(KEY).failure("b")
    second.admit(KEY).failure("c")
    with pytest.raises(BreakerOpen):
        second.admit(KEY)
    await second.close()
    stats = await saved(database)
    assert stats
    assert (stats.calls, stats.consecutive_failures) == (7, 3)


async def test_an_open_breaker_stays_open_over_a_restart(database: Database) -> None:
    first = make(database)
    await first.start()
    for _ in range(3):
        first.admit(KEY).failure("answered 500", status=500)
    assert first.score(KEY) == 0.0
    await first.close()

    second = make(database)
    await second.start()
    with pytest.raises(BreakerOpen) as caught:
        second.admit(KEY)
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
    third = make(database)
    await third.start()
    probe = third.admit(KEY)
    with pytest.raises(BreakerOpen):
        third.admit(KEY)
    probe.success(latency_ms=10, status=200)
    third.admit(KEY).neutral()
    await third.close()
    stats = await saved(database)
    assert stats
    assert (stats.circuit_open_until, stats.consecutive_failures) == (None, 0)


async def test_it_is_written_in_the_background(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FLUSH_SECONDS", 0.05)
    providers = make(database)
    await providers.start()
    for calls in (1, 2, 3):
        providers.admit(KEY).success(latency_ms=10, status=200)
        await asyncio.sleep(0.3)
        stats = await saved(database)
        assert stats
        assert stats.calls == calls
    await providers.close()


async def test_a_ledger_that_is_away_disturbs_nothing_and_loses_nothing(
    database: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "FLUSH_SECONDS", 0.05)
    table = "x402_procurement_provider_stats"
    providers = make(database)
    await providers.start()
    await database.execute(f"ALTER TABLE {table} RENAME TO away")
    for _ in range(4):
        providers.admit(KEY).success(latency_ms=10, status=200)
        await asyncio.sleep(0.1)
    assert caplog.text.count("wait to be written") == 1
    await database.execute(f"ALTER TABLE away RENAME TO {table}")
    providers.admit(KEY).success(latency_ms=10, status=200)
    await asyncio.sleep(0.3)
    await providers.close()
    stats = await saved(database)
    assert stats
    assert (stats.calls, stats.successes) == (5, 5)


async def test_what_comes_in_during_a_flush_is_written_by_the_next(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FLUSH_SECONDS", 0.001)
    providers = make(database)
    await providers.start()
    for n in range(1000):
        ticket = providers.admit(f"https://p{n % 7}.example:443")
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


async def test_a_ticket_with_statistics_costs_microseconds(database: Database) -> None:
    providers = make(database)
    rounds = 20_000
    began = time.perf_counter()
    for _ in range(rounds):
        providers.admit(KEY).success(latency_ms=1.0, status=200)
    assert (time.perf_counter() - began) / rounds < 100e-6
