"""What was not paid again, counted in money."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from proxy.admin import Role
from proxy.cli import main
from proxy.ledger.questions.spend import spend
from proxy.upkeep import tasks
from tests.admin.desk import Desk
from tests.cache.stall import PRICE, Stall, another, state
from tests.e2e.house import House

SAVED = "SELECT provider, answers, saved_micros, day FROM cache_savings"


async def written(home: House, answers: int) -> None:
    """Returns when so many are in the database."""
    async with asyncio.timeout(20):
        while True:
            rows = await home.rows("SELECT coalesce(sum(answers), 0) AS n FROM cache_savings")
            if rows[0]["n"] == answers:
                return
            await asyncio.sleep(0.1)


@pytest.mark.parametrize("cache", [{"shared": True}])
async def test_savings_are_told_and_kept(home: House, stall: Stall) -> None:
    other = await another(home, "other")
    desk = Desk(home)
    for _ in range(3):
        await home.ask(f"{stall.url}/a")
    for _ in range(3):
        await home.ask(f"{stall.url}/a", proxy=other)
    await written(home, 5)
    rows = await home.rows(f"{SAVED} ORDER BY answers")
    today = datetime.now(UTC).date()
    assert [(row["answers"], row["saved_micros"]) for row in rows] == [
        (2, 2 * PRICE),
        (3, 3 * PRICE),
    ]
    assert {row["provider"] for row in rows} == {stall.url}
    assert {today - row["day"] for row in rows} <= {timedelta(), timedelta(days=1)}
    await home.ask(f"{stall.url}/a")
    await written(home, 6)

    (by_provider,) = await spend(home.operator, "provider")
    assert (by_provider.spent, by_provider.saved) == (PRICE, 6 * PRICE)
    by_agent = {one.name: (one.spent, one.saved) for one in await spend(home.operator, "agent")}
    assert by_agent == {"shopper": (PRICE, 3 * PRICE), "other": (0, 3 * PRICE)}
    (other_days,) = await spend(home.operator, "day", agent="other", since=timedelta(days=2))
    assert (other_days.spent, other_days.saved) == (0, 3 * PRICE)

    said = await desk.ask("/v1/status", Role.READER)
    assert {one["agent"]: one["saved_usd"] for one in said.json["today"]} == {
        "shopper": "0.003",
        "other": "0.003",
    }
    metrics = (await desk.ask("/metrics", Role.READER)).body.decode()
    assert (
        f'autopay_saved_micro_usd_total{{agent="other",provider="{stall.url}"}} 3000.0' in metrics
    )
    assert f'autopay_cache_answers_total{{agent="shopper",provider="{stall.url}"}} 3.0' in metrics
    assert 'autopay_requests_total{outcome="cached",status="2xx"} 6.0' in metrics
    assert "autopay_cache_entries 1.0" in metrics


async def test_nothing_is_counted_for_what_was_paid(home: House, stall: Stall) -> None:
    for path in "ab":
        assert state(await home.ask(f"{stall.url}/{path}")) == (200, "paid")
    assert home.service.counts.saved_micros.sums() == []


async def test_forgetting_knows_of_them(home: House, stall: Stall, dsn: str) -> None:
    for _ in range(2):
        await home.ask(f"{stall.url}/a")
    await written(home, 1)
    agent = await home.row("SELECT id FROM agents WHERE name = 'shopper'")
    await home.operator.execute(
        "INSERT INTO cache_savings (agent_id, day, provider, answers, saved_micros)"
        " SELECT $1, (now() AT TIME ZONE 'UTC')::date - x, 'p', 1, 1"
        " FROM unnest('{90,91}'::int[]) x",
        agent["id"],
    )
    connection = await asyncpg.connect(dsn)
    await tasks.prune(connection, 90)
    await connection.close()
    days = await home.rows("SELECT day FROM cache_savings WHERE provider = 'p'")
    assert len(days) == 1
    await home.rows("SELECT erase_agent('shopper', 'ann')")
    assert await home.rows("SELECT * FROM cache_savings") == []


async def test_the_command_tells_what_was_saved(
    home: House, stall: Stall, dsn: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    for _ in range(2):
        await home.ask(f"{stall.url}/a")
    await written(home, 1)
    monkeypatch.setenv("DATABASE_URL", dsn)
    assert await asyncio.to_thread(main, ["spend"]) == 0
    heading, row = capsys.readouterr().out.splitlines()
    assert heading.split() == ["PROVIDER", "PAID", "HELD", "PAYMENTS", "SAVED"]
    assert row.split()[-1] == "$0.001"
    assert await asyncio.to_thread(main, ["spend", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["saved_usd"] == "0.001"
