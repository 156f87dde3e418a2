import asyncio
from dataclasses import replace

import pytest

from proxy.ledger import Database, circuits, provider_stats
from proxy.ledger.provider_stats import ProviderDelta, add, load

DELTA = ProviderDelta(
    id="https://a.example:443",
    calls=1,
    successes=1,
    failures=0,
    latency_ms=100.0,
    schema_passes=1,
    consecutive_failures=0,
    last_status=200,
    last_error=None,
    max_price_micros=10_000,
)


async def test_counts_are_added_and_the_average_decays(database: Database) -> None:
    await add(database, [DELTA])
    await add(database, [replace(DELTA, latency_ms=200.0), replace(DELTA, id="http://b:80")])
    await add(database, [replace(DELTA, latency_ms=None, max_price_micros=None)])
    stats = await load(database)
    a = stats["https://a.example:443"]
    assert (a.calls, a.successes, a.schema_passes) == (3, 3, 3)
    assert a.avg_latency_ms == pytest.approx(120.0)
    assert a.max_price_micros == 10_000
    assert a.quality == 0.5
    assert a.last_seen_at is not None
    assert stats["http://b:80"].calls == 1


async def test_ten_calls_weigh_more_than_one(database: Database) -> None:
    await add(database, [DELTA])
    await add(database, [replace(DELTA, calls=10, latency_ms=200.0)])
    assert (await load(database))[DELTA.id].avg_latency_ms == pytest.approx(189.26, abs=0.01)


async def test_what_is_of_now_is_set_and_the_breaker_left_alone(database: Database) -> None:
    failed = replace(
        DELTA,
        successes=0,
        failures=1,
        consecutive_failures=3,
        last_status=None,
        last_error="reset\0",
    )
    await add(database, [DELTA])
    await circuits.open_all(database, [circuits.Opening(DELTA.id, 180.0, "reset", 3)])
    until = (await load(database))[DELTA.id].circuit_open_until
    await add(database, [failed])
    stats = (await load(database))[DELTA.id]
    assert (stats.consecutive_failures, stats.circuit_open_until) == (3, until)
    assert (stats.last_status, stats.last_error) == (200, "reset")
    await add(database, [DELTA])
    stats = (await load(database))[DELTA.id]
    assert (stats.consecutive_failures, stats.circuit_open_until) == (0, until)


async def test_only_those_that_were_seen_last_are_loaded(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provider_stats, "MOST", 2)
    for n in range(4):
        await add(database, [replace(DELTA, id=f"https://{n}:443")])
    assert list(await load(database)) == ["https://3:443", "https://2:443"]


async def test_replicas_add_up_without_deadlock(database: Database) -> None:
    batch = [replace(DELTA, id=f"https://{i}:443") for i in range(10)]
    await asyncio.gather(
        *(add(database, batch if i % 2 else batch[::-1]) for i in range(20)), add(database, [])
    )
    assert {stats.calls for stats in (await load(database)).values()} == {20}
