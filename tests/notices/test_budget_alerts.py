"""50, 80 and 100 % of a limit: told once for each counter, by the transaction that got there."""

import json
from typing import Any

from tests.e2e.house import House, until
from tests.e2e.seller import Seller
from tests.notices.conftest import PRICE


async def alerts(home: House, window: str) -> list[tuple[int, str, int, int]]:
    rows = await home.rows(
        "SELECT e.severity::text, e.details, a.name FROM audit_events e"
        " JOIN agents a ON a.id = e.agent_id"
        " WHERE event_type = 'BUDGET_ALERT' AND details ->> 'window' = $1"
        " ORDER BY (details ->> 'percent')::int",
        window,
    )
    found: list[dict[str, Any]] = [json.loads(row["details"]) for row in rows]
    return [
        (one["percent"], row["name"], one["used_micros"], one["limit_micros"])
        for one, row in zip(found, rows, strict=True)
    ]


async def buy(home: House, seller: Seller, times: int, **headers: str) -> list[int]:
    return [
        (await home.ask(f"{seller.url}/{len(seller.seen)}", headers=headers)).status
        for _ in range(times)
    ]


async def test_each_share_of_a_day_is_told_once(home: House, seller: Seller) -> None:
    await home.set_policy(daily_limit=10 * PRICE)
    assert await buy(home, seller, 4) == [200] * 4
    assert await alerts(home, "agent_day") == []
    assert await buy(home, seller, 2) == [200] * 2
    half = (50, "shopper", 5 * PRICE, 10 * PRICE)
    assert await alerts(home, "agent_day") == [half]
    assert await buy(home, seller, 3) == [200] * 3
    most = (80, "shopper", 8 * PRICE, 10 * PRICE)
    assert await alerts(home, "agent_day") == [half, most]
    assert await buy(home, seller, 3) == [200, 403, 403]
    full = (100, "shopper", 10 * PRICE, 10 * PRICE)
    assert await alerts(home, "agent_day") == [half, most, full]
    # No limit, no alert: nobody set one for the provider.
    assert await alerts(home, "provider_day") == []


async def test_a_limit_too_small_for_the_next_price_is_used_up(home: House, seller: Seller) -> None:
    await home.set_policy(daily_limit=100 * PRICE, session_limit=PRICE * 5 // 2)
    session = {"Autopay-Session": "s1"}
    assert await buy(home, seller, 2, **session) == [200, 200]
    # The second payment passes 50 and 80 % at once: the higher one is told.
    expected = [(80, 2 * PRICE)]
    assert [(p, used) for p, _, used, _ in await alerts(home, "session")] == expected
    assert await buy(home, seller, 2, **session) == [403, 403]
    assert [(p, used) for p, _, used, _ in await alerts(home, "session")] == [
        *expected,
        (100, 2 * PRICE),
    ]
    # Another session is another counter; one that is refused for what a call may cost is not full.
    await home.set_policy(daily_limit=100 * PRICE, session_limit=100 * PRICE, per_call_limit=1)
    assert await buy(home, seller, 1, **{"Autopay-Session": "s2"}) == [403]
    assert len(await alerts(home, "session")) == 2
    assert await alerts(home, "agent_day") == []


async def test_a_payment_that_is_not_made_tells_nobody(home: House, seller: Seller) -> None:
    await home.set_policy(daily_limit=2 * PRICE, frozen=True)
    assert await buy(home, seller, 1) == [403]
    assert await alerts(home, "agent_day") == []


async def test_ceilings_of_all_agents_have_them_too(home: House, seller: Seller) -> None:
    await home.operator.execute(
        "INSERT INTO spend_limits (kind, subject, limit_micros) VALUES ('fleet_day', '*', $1)",
        2 * PRICE,
    )
    assert await buy(home, seller, 3) == [200, 200, 403]
    assert await alerts(home, "fleet_day") == [
        (50, "autopay", PRICE, 2 * PRICE),
        (100, "autopay", 2 * PRICE, 2 * PRICE),
    ]


async def rule(home: House, rules: dict[str, Any]) -> None:
    """What the agent's own layer says beyond its columns."""
    before = home.service.directory.by_token(home.token)
    assert before is not None
    version = home.service.directory.policy(before).version
    await home.operator.execute(
        "INSERT INTO policy_rules (agent_id, rules) SELECT id, $1::text::jsonb FROM agents"
        " WHERE name = 'shopper'",
        json.dumps(rules),
    )
    await until(lambda: home.service.directory.policy(before).version > version, 15)


async def test_a_number_of_payments_is_a_limit_too(home: House, seller: Seller) -> None:
    await rule(home, {"payments": {"hour": 2}})
    assert await buy(home, seller, 4) == [200, 200, 403, 403]
    rows = await home.rows(
        "SELECT details FROM audit_events WHERE event_type = 'BUDGET_ALERT' ORDER BY created_at"
    )
    found = [json.loads(row["details"]) for row in rows]
    assert [(one["window"], one["percent"], one["used"], one["limit"]) for one in found] == [
        ("hour", 50, 1, 2),
        ("hour", 100, 2, 2),
    ]


async def test_a_rolling_window_tells_its_first_denial(home: House, seller: Seller) -> None:
    await rule(home, {"rolling": {"24h": "0.002"}})
    assert await buy(home, seller, 4) == [200, 200, 403, 403]
    assert await alerts(home, "rolling") == [(100, "shopper", 2 * PRICE, 2 * PRICE)]
