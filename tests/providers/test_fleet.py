"""What one process learns of a provider, all know: two and three of them on one real database."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from proxy.ledger import Database, LedgerUnavailable, circuits
from proxy.providers import BreakerOpen, BreakerRules, Providers, Ticket, fleet
from tests.e2e.house import until

KEY = "https://api.example:443"
TABLE = "x402_procurement_provider_stats"
RULES = BreakerRules(
    failures=3, failure_rate=1.0, min_calls=1_000_000, open_seconds=180, successes=1
)


@pytest.fixture
async def database(dsn: str) -> AsyncIterator[Database]:
    opened = await Database.open(dsn, size=4, timeout=5.0)
    yield opened
    await opened.close()


@asynccontextmanager
async def replica(
    dsn: str, rules: BreakerRules = RULES, patience: float = 5.0
) -> AsyncIterator[Providers]:
    """As another process would be: with connections of its own."""
    own = await Database.open(dsn, size=3, timeout=patience)
    providers = Providers(own, dsn, rules=rules)
    await providers.start()
    try:
        yield providers
    finally:
        await providers.close()
        await own.close()


async def admit(providers: Providers, key: str = KEY) -> Ticket:
    admitted = providers.admit(key)
    return await admitted if isinstance(admitted, Awaitable) else admitted


async def fail(providers: Providers, times: int = 3, key: str = KEY) -> None:
    for _ in range(times):
        (await admit(providers, key)).failure("answered 500", status=500)


async def row(database: Database, key: str = KEY) -> dict[str, Any]:
    found = await database.fetchrow(f"SELECT * FROM {TABLE} WHERE id = $1", key)
    return dict(found) if found else {}


async def when(true: Callable[[], Awaitable[bool]], seconds: float = 20.0) -> None:
    async with asyncio.timeout(seconds):
        while not await true():
            await asyncio.sleep(0.02)


async def half_open(database: Database, *replicas: Providers, key: str = KEY) -> None:
    """Its time is over, as everybody knows."""
    await when(lambda: _opened(database, key))
    await database.execute(
        f"UPDATE {TABLE} SET circuit_open_until = now() - interval '1 s' WHERE id = $1", key
    )
    for one in replicas:
        await until(lambda one=one: one.is_tripped(key) and one.left_alone(key) is None)


async def test_two_replicas_agree_within_a_second(
    database: Database,
    dsn: str,
    monkeypatch: pytest.MonkeyPatch,
    record_property: Callable[[str, object], None],
) -> None:
    monkeypatch.setattr(fleet, "LOOK_SECONDS", 1000.0)  # notices alone
    async with replica(dsn) as one, replica(dsn) as other:
        opened, closed = [], []
        for number in range(5):
            key = f"https://p{number}.example:443"
            began = time.perf_counter()
            await fail(one, key=key)
            await until(lambda key=key: other.is_tripped(key))
            opened.append(time.perf_counter() - began)
            with pytest.raises(BreakerOpen) as refusal:
                other.admit(key)
            assert refusal.value.last_error == "answered 500"
            assert 170 < refusal.value.retry_after <= 180
            await half_open(database, one, other, key=key)
            probe = await admit(other, key)
            began = time.perf_counter()
            probe.success(latency_ms=1, status=200)
            await until(lambda key=key: not one.is_tripped(key))
            closed.append(time.perf_counter() - began)
        record_property("opened_ms", [round(1000 * t, 1) for t in opened])
        record_property("closed_ms", [round(1000 * t, 1) for t in closed])
        print(f"\nheard of: opening {opened}, closing {closed} s")
    events = await database.fetch(
        "SELECT details->>'state' AS state, count(*) FROM audit_events"
        " WHERE event_type = 'CIRCUIT_BREAKER' GROUP BY 1"
    )
    assert {r["state"]: r["count"] for r in events} == {"open": 5, "closed": 5}


async def test_a_storm_of_notices_is_looked_at_with_pauses(
    database: Database, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet, "REST_SECONDS", 0.2)
    looks = 0
    read = circuits.read

    async def counted(*asked: Any) -> list[circuits.Circuit]:
        nonlocal looks
        looks += 1
        return await read(*asked)

    async with replica(dsn) as one:
        monkeypatch.setattr(circuits, "read", counted)
        began = time.perf_counter()
        for _ in range(100):
            await database.execute("SELECT pg_notify($1, '')", circuits.CHANNEL)
            await asyncio.sleep(0.01)
        await circuits.open_all(database, [circuits.Opening(KEY, 60, "down", 3)])
        await until(lambda: one.is_tripped(KEY))  # the last is not lost among them
        assert 2 < looks <= (time.perf_counter() - began) / 0.2 + 2


async def test_a_lost_notice_is_made_up_for_by_a_look(
    database: Database, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with replica(dsn) as one:
        monkeypatch.setattr(circuits, "CHANNEL", "of_nobody")
        async with replica(dsn) as deaf:
            await fail(one)
            await until(lambda: deaf.is_tripped(KEY))
            await half_open(database, deaf)
            (await admit(one)).success(latency_ms=1, status=200)
            await until(lambda: not deaf.is_tripped(KEY))


async def test_a_hundred_calls_at_three_replicas_give_one_probe(
    database: Database, dsn: str
) -> None:
    async with replica(dsn) as a, replica(dsn) as b, replica(dsn) as c:
        await fail(a)
        await half_open(database, a, b, c)
        tickets: list[Ticket] = []

        async def call(at: Providers) -> None:
            with suppress(BreakerOpen):
                tickets.append(await admit(at))

        await asyncio.gather(*(call((a, b, c)[n % 3]) for n in range(100)))
        assert len(tickets) == 1
        found = await row(database)
        assert found["probe_owner"] is not None
        await asyncio.gather(*(call((a, b, c)[n % 3]) for n in range(100)))
        assert len(tickets) == 1, "as long as it is under way"
        tickets[0].success(latency_ms=1, status=200)
        await until(lambda: not any(one.is_tripped(KEY) for one in (a, b, c)))
        await asyncio.gather(*(call((a, b, c)[n % 3]) for n in range(100)))
        assert len(tickets) == 101


async def test_a_failed_probe_opens_it_for_all(database: Database, dsn: str) -> None:
    async with replica(dsn) as one, replica(dsn) as other:
        await fail(one)
        await half_open(database, one, other)
        (await admit(other)).failure("still down")
        await until(lambda: (one.left_alone(KEY) or 0) > 170)
        assert one.tripped()[0].last_error == "still down"


async def test_a_neutral_probe_lets_the_next_try_wherever_it_is(
    database: Database, dsn: str
) -> None:
    async with replica(dsn) as one, replica(dsn) as other:
        await fail(one)
        await half_open(database, one, other)
        for _ in range(3):
            (await admit(one)).neutral()
            await when(lambda: _free(database))
            (await admit(other)).neutral()
            await when(lambda: _free(database))
        assert one.is_tripped(KEY) and other.is_tripped(KEY)


async def _free(database: Database) -> bool:
    return (await row(database))["probe_owner"] is None


async def test_successes_are_counted_for_all(database: Database, dsn: str) -> None:
    rules = BreakerRules(failures=3, successes=3)
    async with replica(dsn, rules) as one, replica(dsn, rules) as other:
        await fail(one)
        await half_open(database, one, other)
        for at, count in ((one, 1), (other, 2)):
            (await admit(at)).success(latency_ms=1, status=200)
            await when(lambda count=count: _well(database, count))
        (await admit(one)).success(latency_ms=1, status=200)
        await until(lambda: not one.is_tripped(KEY) and not other.is_tripped(KEY))


async def _well(database: Database, count: int) -> bool:
    found = await row(database)
    return (found["circuit_successes"], found["probe_owner"]) == (count, None)


async def test_a_probe_whose_process_died_is_over_by_time(database: Database, dsn: str) -> None:
    async with replica(dsn) as one:
        await fail(one)
        await half_open(database, one)
        await database.execute(
            f"UPDATE {TABLE} SET probe_owner = $1, probe_until = now() + interval '0.7 s'", uuid4()
        )
        with pytest.raises(BreakerOpen) as refusal:
            await admit(one)
        assert refusal.value.retry_after == 1

        async def tried() -> bool:
            with suppress(BreakerOpen):
                (await admit(one)).success(latency_ms=1, status=200)
                return True
            return False

        await when(tried)


async def _opened(database: Database, key: str = KEY) -> bool:
    found = await row(database, key)
    return bool(found) and found["circuit_open_until"] is not None


async def test_a_slow_probe_stays_the_only_one(
    database: Database, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet, "LEASE_SECONDS", 3.0)
    monkeypatch.setattr(fleet, "LOOK_SECONDS", 0.1)
    async with replica(dsn) as one, replica(dsn) as other:
        await fail(one)
        await half_open(database, one, other)
        probe = await admit(one)
        lease = (await row(database))["probe_until"]
        await when(lambda: _later(database, lease))  # it was renewed
        with pytest.raises(BreakerOpen):
            await admit(other)
        probe.success(latency_ms=1, status=200)
        await until(lambda: not other.is_tripped(KEY))


async def _later(database: Database, than: Any) -> bool:
    return (await row(database))["probe_until"] > than


async def test_it_survives_restarts(database: Database, dsn: str) -> None:
    async with replica(dsn) as one:
        await fail(one)
        await when(lambda: _opened(database))  # at once: not only by the last flush
    async with replica(dsn) as again:
        with pytest.raises(BreakerOpen) as refusal:
            again.admit(KEY)
        assert refusal.value.last_error == "answered 500"
        await half_open(database, again)
    async with replica(dsn) as again:
        (await admit(again)).success(latency_ms=1, status=200)
        await until(lambda: not again.is_tripped(KEY))


async def test_the_first_to_open_it_says_for_how_long(database: Database, dsn: str) -> None:
    async with replica(dsn) as one, replica(dsn) as other:
        early = [await admit(other) for _ in range(3)]
        await fail(one)
        await when(lambda: _opened(database))
        first = await row(database)
        # Their tickets are of before: heard or not, nothing is opened twice.
        for ticket in early:
            ticket.failure("as well")
        await fail(other, 0)
        await asyncio.sleep(0.2)
        second = await row(database)
        assert second["circuit_open_until"] == first["circuit_open_until"]
        assert second["circuit_version"] == first["circuit_version"]


async def test_an_operator_may_close_one_by_hand(database: Database, dsn: str) -> None:
    async with replica(dsn) as one, replica(dsn) as other:
        await fail(one)
        await until(lambda: other.is_tripped(KEY))
        await database.execute(f"UPDATE {TABLE} SET circuit_open_until = NULL")
        await until(lambda: not one.is_tripped(KEY) and not other.is_tripped(KEY))
        await fail(one)
        await until(lambda: other.is_tripped(KEY))
        await database.execute(f"DELETE FROM {TABLE}")
        await until(lambda: not one.is_tripped(KEY) and not other.is_tripped(KEY))


async def test_who_is_late_does_not_close_what_others_opened_again(
    database: Database, dsn: str
) -> None:
    await circuits.open_all(database, [circuits.Opening(KEY, 60, "down", 3)])
    old = (await row(database))["circuit_version"]
    await database.execute(f"UPDATE {TABLE} SET circuit_open_until = now() - interval '1 s'")
    await circuits.open_all(database, [circuits.Opening(KEY, 60, "down again", 1)])
    assert await circuits.close(database, KEY, old) is None
    found = await row(database)
    assert found["circuit_open_until"] is not None and found["circuit_error"] == "down again"
    assert await circuits.close(database, KEY, found["circuit_version"]) is not None


async def test_leases_are_given_to_one_and_ended_by_none_else(database: Database) -> None:
    assert await circuits.try_one(database, KEY, uuid4(), 10) is None
    await circuits.open_all(database, [circuits.Opening(KEY, 60, "down", 3)])
    mine, other = uuid4(), uuid4()
    lease = await circuits.try_one(database, KEY, mine, 10)
    assert lease and not lease.leased and lease.open_for and lease.open_for > 50
    await database.execute(f"UPDATE {TABLE} SET circuit_open_until = now()")
    asked = [circuits.try_one(database, KEY, uuid4(), 10) for _ in range(20)]
    assert [one.leased for one in await asyncio.gather(*asked) if one].count(True) == 1
    await circuits.end(database, KEY, (await row(database))["probe_owner"], 4)
    lease = await circuits.try_one(database, KEY, mine, 10)
    assert lease and lease.leased and lease.successes == 4
    await circuits.end(database, KEY, other, 0)
    await circuits.renew(database, KEY, other, 99)
    refused = await circuits.try_one(database, KEY, other, 10)
    assert refused and not refused.leased and refused.probe_for and 5 < refused.probe_for <= 10


# --- the database is away


async def test_without_the_database_each_decides_alone_and_writes_it_later(
    database: Database, dsn: str, caplog: pytest.LogCaptureFixture
) -> None:
    rules = BreakerRules(failures=3, open_seconds=0.3, successes=1)
    async with replica(dsn, rules) as one, replica(dsn, rules) as other:
        await database.execute(f"ALTER TABLE {TABLE} RENAME TO away")
        await until(lambda: "this process' own" in caplog.text)
        began = time.perf_counter()
        await fail(one, key="https://down.example:443")  # tried to be written, and in vain
        await fail(one)
        with pytest.raises(BreakerOpen):
            one.admit(KEY)
        await until(lambda: one.left_alone(KEY) is None)
        probe = await admit(one)
        assert time.perf_counter() - began < 5, "nobody waits for it"
        with pytest.raises(BreakerOpen):
            one.admit(KEY)
        probe.success(latency_ms=1, status=200)
        await admit(one)
        assert not other.is_tripped("https://down.example:443")
        await database.execute(f"ALTER TABLE away RENAME TO {TABLE}")
        await until(lambda: other.is_tripped("https://down.example:443"))
        await when(lambda: _nothing_open(database))
        assert not one.is_tripped(KEY)
    assert caplog.text.count("this process' own") == 2  # once for each of the two


@pytest.mark.parametrize("in_the_middle", [False, True])
async def test_a_neutral_probe_does_not_unsay_an_opening_that_is_not_written(
    database: Database, dsn: str, monkeypatch: pytest.MonkeyPatch, in_the_middle: bool
) -> None:
    rules = BreakerRules(failures=3, open_seconds=0.3, successes=1)
    back = asyncio.Event()
    open_all = circuits.open_all

    async def away(*_: Any) -> dict[str, int]:
        if in_the_middle:  # the probe ends while it is being written, and in vain
            await back.wait()
        raise LedgerUnavailable("away", may_have_happened=False)

    async with replica(dsn, rules) as one:
        (await admit(one)).success(latency_ms=1, status=200)
        await when(lambda: _known(database))  # its row says closed
        monkeypatch.setattr(circuits, "open_all", away)
        await fail(one)
        await until(lambda: one.left_alone(KEY) is None)
        (await admit(one)).neutral()
        monkeypatch.setattr(circuits, "open_all", open_all)
        back.set()
        await when(lambda: _opened(database))
        assert one.state(KEY) == "half-open"


async def _known(database: Database) -> bool:
    return bool(await row(database))


async def _nothing_open(database: Database) -> bool:
    found = await row(database)
    return not found or found["circuit_open_until"] is None


async def test_a_database_that_hangs_costs_one_probe_a_second_at_most(
    database: Database, dsn: str
) -> None:
    async with replica(dsn, patience=20.0) as one:
        await fail(one)
        await half_open(database, one)
        blocker = await asyncpg.connect(dsn)
        try:
            await blocker.execute(f"BEGIN; LOCK TABLE {TABLE} IN ACCESS EXCLUSIVE MODE")
            began = time.perf_counter()
            probe = await admit(one)
            waited = time.perf_counter() - began
            assert waited < 10, "one second, on a machine that is not busy"
            probe.neutral()
            began = time.perf_counter()
            (await admit(one)).success(latency_ms=1, status=200)
            assert time.perf_counter() - began < 0.9 * fleet.LEASE_WAIT, "it was known by then"
            (await admit(one)).success(latency_ms=1, status=200)
        finally:
            await blocker.close()
        await when(lambda: _nothing_open(database))
