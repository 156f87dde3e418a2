"""Limits over every window, of whoever a layer is about: exact, also where they are set late."""

import asyncio
import random
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from policies import Policy, PolicyError, parse_provider
from proxy.ledger import Agent, Database, Ledger, LedgerFault, Refused, Reserved, agents, audit
from proxy.vault import Vault
from tests.ledger.conftest import Make
from tests.ledger.test_reserve import RECEIPT
from tests.ledger.windows import age, check_windows, room_in_the_hour, set_rules

HOST = "api.example.com"
MOST = 10**12
CODES = {
    "hourly": "over_hourly_limit",
    "daily": "over_daily_limit",
    "monthly": "over_monthly_limit",
    "lifetime": "over_lifetime_limit",
    "24h": "over_rolling_limit",
    "7d": "over_rolling_limit",
}
LAYERS = ("defaults", "agent", "provider", "domain", "agent_provider")


@pytest.fixture(autouse=True)
async def wide(database: Database, bot: Agent) -> None:
    """The policy's own columns stop nothing here."""
    await room_in_the_hour()
    await agents.set_policy(
        database,
        Policy("bot", per_call_limit=MOST, daily_limit=MOST, session_limit=MOST, trace_limit=MOST),
    )


def layer(name: str, agent: Agent) -> tuple[UUID | None, str | None]:
    pattern = {"provider": HOST, "domain": "*.example.com", "agent_provider": HOST}.get(name)
    return (agent.id if name.startswith("agent") else None), pattern


def amount(window: str, usd: str) -> dict[str, Any]:
    return {window: usd} if window in ("hourly", "daily", "monthly", "lifetime") else {
        "rolling": {window: usd}
    }  # fmt: skip


def resets_at(window: str) -> datetime | None:
    now = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    if window in ("hourly", "hour"):
        return now + timedelta(hours=1)
    if window in ("daily", "day"):
        return now.replace(hour=0) + timedelta(days=1)
    if window in ("monthly", "month"):
        return (now.replace(day=28, hour=0) + timedelta(days=4)).replace(day=1)
    hours = {"24h": 25, "7d": 169}.get(window)
    return None if hours is None else now + timedelta(hours=hours)


async def paid(ledger: Ledger, make: Make, **changes: Any) -> Any:
    new = make(**changes)
    assert isinstance(await ledger.reserve(new), Reserved)
    assert await ledger.settle(new.payment_id, RECEIPT)
    return new


async def refused(ledger: Ledger, make: Make, **changes: Any) -> Refused:
    answer = await ledger.reserve(make(**changes))
    assert isinstance(answer, Refused)
    return answer


@pytest.mark.parametrize("of", LAYERS)
@pytest.mark.parametrize("window", CODES)
async def test_an_amount_holds_to_the_last_micro(
    ledger: Ledger, database: Database, make: Make, bot: Agent, window: str, of: str
) -> None:
    if (window, of) == ("daily", "defaults"):
        pytest.skip("the agent's own column follows it")
    where = layer(of, bot)
    if (window, of) == ("daily", "agent"):
        await agents.set_policy(
            database, Policy("bot", per_call_limit=MOST, daily_limit=25_000, session_limit=MOST)
        )
    else:
        await set_rules(database, *where, amount(window, "0.025"))
    await paid(ledger, make)
    assert isinstance(await ledger.reserve(make()), Reserved)
    over = await refused(ledger, make, price=5_001)
    assert (over.code, over.limit, over.spent, over.held) == (CODES[window], 25_000, 10_000, 10_000)
    assert over.resets_at == resets_at(window)
    last = await ledger.reserve(make(price=5_000))
    assert isinstance(last, Reserved)
    assert last.remaining == 0
    assert (await refused(ledger, make, price=1)).code == CODES[window]
    if where[1] is not None:  # of that provider alone
        assert isinstance(await ledger.reserve(make(provider="https://other.test:443")), Reserved)
    await check_windows(database)
    assert await audit.findings(database) == []


@pytest.mark.parametrize("of", LAYERS)
@pytest.mark.parametrize("window", ["hour", "day", "month", "lifetime", "24h", "7d"])
async def test_a_number_of_payments(
    ledger: Ledger, database: Database, make: Make, bot: Agent, window: str, of: str
) -> None:
    await set_rules(database, *layer(of, bot), {"payments": {window: 3}})
    await paid(ledger, make)
    given_back = make()
    for new in (given_back, make()):
        assert isinstance(await ledger.reserve(new), Reserved)
    over = await refused(ledger, make)
    assert over.code == "too_many_payments"
    assert over.resets_at == resets_at(window)
    assert over.detail is not None
    assert (over.detail["window"], over.detail["payments"], over.detail["limit_payments"]) == (
        window,
        3,
        3,
    )
    await ledger.release(given_back.payment_id, "never_sent")
    assert isinstance(await ledger.reserve(make()), Reserved)
    assert (await refused(ledger, make)).code == "too_many_payments"
    await check_windows(database)
    assert await audit.findings(database) == []


async def test_agents_share_a_providers_limit_and_not_their_own(
    ledger: Ledger, database: Database, make: Make, vault: Vault
) -> None:
    other = (await agents.add(database, vault, "other")).agent
    await set_rules(database, None, HOST, {"hourly": "0.02"})
    await set_rules(database, None, None, {"payments": {"hour": 2}})
    await paid(ledger, make)
    await paid(ledger, make, agent_id=other.id)
    assert (await refused(ledger, make)).code == "over_hourly_limit"
    elsewhere = "https://other.test:443"
    await paid(ledger, make, provider=elsewhere)
    assert (await refused(ledger, make, provider=elsewhere)).code == "too_many_payments"
    await paid(ledger, make, provider=elsewhere, agent_id=other.id)
    await check_windows(database)


async def test_an_agents_own_limit_stands_for_the_defaults_of_that_window(
    ledger: Ledger, database: Database, make: Make, bot: Agent
) -> None:
    await set_rules(database, None, None, {"hourly": "0.01", "payments": {"hour": 3}})
    await set_rules(database, bot.id, None, {"hourly": "0.05", "rolling": {"24h": "9"}})
    for _ in range(3):
        await paid(ledger, make)
    assert (await refused(ledger, make)).code == "too_many_payments"  # its layer names no number
    await set_rules(database, bot.id, None, {})
    assert (await refused(ledger, make)).code == "over_hourly_limit"
    await set_rules(database, bot.id, None, {"payments": {"hour": 9}, "hourly": "0.04"})
    await paid(ledger, make)
    assert (await refused(ledger, make)).limit == 40_000


COVERED = (
    (HOST, "https://api.example.com:443", True),
    (HOST, "http://api.example.com:8080", True),
    (HOST, "https://API.example.com.:443", True),
    (HOST, "https://example.com:443", False),
    ("*.example.com", "https://a.b.example.com:443", True),
    ("*.example.com", "https://example.com:443", False),
    ("*.example.com", "https://badexample.com:443", False),
    ("https://api.example.com", "https://api.example.com:443", True),
    ("https://api.example.com:443", "https://api.example.com:443", True),
    ("https://api.example.com", "http://api.example.com:80", False),
    ("https://api.example.com:8443", "https://api.example.com:443", False),
    ("[::1]", "http://[::1]:4021", True),
    ("127.0.0.1", "http://127.0.0.1:4021", True),
    ("*.0.0.1", "http://127.0.0.1:4021", False),
    ("*.1", "http://127.0.0.1:4021", False),
    ("*.node1", "http://api.node1:4021", True),
    ("*.node1", "http://node1:4021", False),
    ("*.1", "http://api.v2.1:4021", True),
    ("api.node1", "http://api.node1:4021", True),
)


@pytest.mark.parametrize(("pattern", "provider", "counts"), COVERED)
async def test_what_a_pattern_covers(
    ledger: Ledger, database: Database, make: Make, pattern: str, provider: str, counts: bool
) -> None:
    """Alike in the proxy's decision, in the limits of the ledger, and in what it asks besides."""
    await set_rules(database, None, pattern, {"payments": {"hour": 0}})
    answer = await ledger.reserve(make(provider=provider))
    assert isinstance(answer, Refused) == counts, answer
    try:
        parsed = parse_provider(pattern)
    except PolicyError:
        assert not counts
        return
    covers = "SELECT provider_covers($1, $2)"
    assert await database.fetchval(covers, parsed.text, provider) is counts
    scheme, _, rest = provider.partition("://")
    host, _, port = rest.rpartition(":")
    assert parsed.matches(scheme, host, int(port)) is counts


async def test_a_rolling_window_reaches_over_the_full_hour(
    dsn: str, ledger: Ledger, database: Database, make: Make, bot: Agent
) -> None:
    await set_rules(database, bot.id, None, {"rolling": {"2h": "0.03"}, "payments": {"2h": 4}})
    await paid(ledger, make)
    await age(dsn, 1)
    held = make()
    assert isinstance(await ledger.reserve(held), Reserved)
    await age(dsn, 1)  # both are in the window: an hour under way and two before it
    await check_windows(database)
    over = await refused(ledger, make, price=10_001)
    assert (over.code, over.spent, over.held) == ("over_rolling_limit", 10_000, 10_000)
    hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    assert over.resets_at == hour + timedelta(hours=1)
    assert (await refused(ledger, make, price=20_001)).resets_at == hour + timedelta(hours=2)
    assert (await refused(ledger, make, price=30_001)).resets_at is None
    assert isinstance(await ledger.reserve(make()), Reserved)
    assert (await refused(ledger, make, price=1)).code == "over_rolling_limit"
    # What was held in an hour that is over goes back to that hour.
    await ledger.release(held.payment_id, "never_sent")
    for _ in range(2):
        assert isinstance(await ledger.reserve(make(price=5_000)), Reserved)
    many = await refused(ledger, make, price=0)
    assert (many.code, many.resets_at) == ("too_many_payments", hour + timedelta(hours=1))
    await age(dsn, 1)  # the first is three hours old: out
    assert isinstance(await ledger.reserve(make(price=10_000)), Reserved)
    assert (await refused(ledger, make, price=1)).code == "over_rolling_limit"
    await check_windows(database)
    assert await audit.findings(database) == []


async def test_payments_on_either_side_of_a_full_hour_wait_for_each_other(
    dsn: str, ledger: Ledger, database: Database, make: Make, bot: Agent
) -> None:
    """Another's transaction began after the hour struck, is before ours, and fills the window."""
    await set_rules(database, bot.id, None, {"rolling": {"2h": "0.01"}})
    assert isinstance(await ledger.reserve(make(price=1)), Reserved)
    other = await asyncpg.connect(dsn)
    try:
        async with other.transaction():
            await other.execute("SELECT 1 FROM budget_counters WHERE kind = 'rolling' FOR UPDATE")
            ours = asyncio.create_task(ledger.reserve(make(price=1)))
            async with asyncio.timeout(10):
                while not await other.fetchval(
                    "SELECT exists(SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
                    " AND datname = current_database())"
                ):
                    assert not ours.done()
                    await asyncio.sleep(0.01)
            await other.execute(
                "INSERT INTO budget_counters (scope, kind, agent_id, day, held_micros, held_calls)"
                " SELECT window_scope('hour', $1, NULL, now() + interval '1 hour'), 'hour', $1,"
                " current_date, 9999, 1",
                bot.id,
            )
        answer = await ours
    finally:
        await other.close()
    assert isinstance(answer, Refused)
    assert (answer.code, answer.held) == ("over_rolling_limit", 10_000)


async def test_an_hours_budget_is_whole_again(
    dsn: str, ledger: Ledger, database: Database, make: Make, bot: Agent
) -> None:
    await set_rules(database, bot.id, None, {"hourly": "0.01"})
    before = make()
    assert isinstance(await ledger.reserve(before), Reserved)
    assert (await refused(ledger, make)).code == "over_hourly_limit"
    await age(dsn, 1)
    assert isinstance(await ledger.reserve(make()), Reserved)
    await ledger.release(before.payment_id, "never_sent")  # gives back to its own hour
    assert (await refused(ledger, make)).code == "over_hourly_limit"
    await check_windows(database)
    assert await audit.findings(database) == []


async def verified(database: Database, payment_id: UUID) -> None:
    seen = '{"signature": "%s", "slot": 1}' % (payment_id.hex * 2)
    assert await database.fetchval("SELECT verify_payment($1, $2)", payment_id, seen) == "verified"


async def disproved(database: Database, payment_id: UUID) -> None:
    assert await database.fetchval("SELECT disprove($1, 'dead', NULL)", payment_id) == "reversed"


@pytest.mark.parametrize("of", LAYERS)
@pytest.mark.parametrize("window", CODES)
async def test_a_limit_that_is_set_late_counts_what_was_before(
    ledger: Ledger, database: Database, make: Make, bot: Agent, window: str, of: str
) -> None:
    if window == "daily" and of in ("defaults", "agent"):
        pytest.skip("the agent's own day is counted from the first payment on")
    final = await paid(ledger, make)
    await verified(database, final.payment_id)
    settled, reversed_, opened, dropped = [make() for _ in range(4)]
    for new in (settled, reversed_, opened, dropped):
        assert isinstance(await ledger.reserve(new), Reserved)
    for new in (settled, reversed_):
        await ledger.settle(new.payment_id, RECEIPT)
    await ledger.doubt(opened.payment_id, "answer_lost")
    where = layer(of, bot)

    await set_rules(database, *where, amount(window, "0.05"))
    await check_windows(database)
    assert await audit.findings(database) == []
    over = await refused(ledger, make, price=1)
    assert (over.code, over.spent, over.held) == (CODES[window], 30_000, 20_000)
    # Taken away and set again: what was between counts too.
    await set_rules(database, *where, None)
    await verified(database, (await paid(ledger, make)).payment_id)
    await set_rules(database, *where, amount(window, "0.05"))
    assert (await refused(ledger, make, price=1)).spent == 40_000
    await set_rules(database, *where, amount(window, "0.06"))
    assert (await refused(ledger, make, price=1)).spent == 40_000
    await set_rules(database, *where, None)

    await set_rules(database, *where, amount(window, "0.065"))
    await ledger.settle(opened.payment_id, RECEIPT)
    await ledger.release(dropped.payment_id, "never_sent")
    await disproved(database, reversed_.payment_id)
    await verified(database, settled.payment_id)
    await check_windows(database)
    assert await audit.findings(database) == []
    # final, settled, opened and the one between: 0.04 spent
    assert isinstance(await ledger.reserve(make(price=25_000)), Reserved)
    assert (await refused(ledger, make, price=1)).code == CODES[window]


async def test_a_policy_of_another_version_is_asked_again(
    ledger: Ledger, database: Database, make: Make, bot: Agent
) -> None:
    version = await database.fetchval("SELECT policy_version()")
    new = make(policy_version=version)
    stale = await refused(ledger, make, policy_version=version - 1)
    assert stale.code == "policy_changed"
    assert await database.fetchval("SELECT count(*) FROM policy_decision_logs") == 0
    assert await database.fetchval("SELECT count(*) FROM api_requests") == 0
    assert await database.fetchval("SELECT count(*) FROM budget_counters") == 0
    granted = await ledger.reserve(new)
    assert isinstance(granted, Reserved)
    await set_rules(database, None, None, {"hourly": "1"})
    assert await ledger.reserve(new) == granted  # decided once
    rows = await database.fetch(
        "SELECT policy_version FROM payments"
        " UNION ALL SELECT policy_version FROM policy_decision_logs"
    )
    assert [row["policy_version"] for row in rows] == [version, version]
    assert (await refused(ledger, make, policy_version=version)).code == "policy_changed"


async def test_a_repeated_denial_says_the_same(
    ledger: Ledger, database: Database, make: Make, bot: Agent
) -> None:
    await set_rules(database, bot.id, None, {"payments": {"24h": 0}, "hourly": "1"})
    new = make()
    first = await ledger.reserve(new)
    assert isinstance(first, Refused)
    assert first.detail is not None
    await set_rules(database, bot.id, None, None)
    assert await ledger.reserve(new) == first


async def test_whoever_has_no_such_limit_pays_for_no_counter(
    ledger: Ledger, database: Database, make: Make, bot: Agent, vault: Vault
) -> None:
    other = (await agents.add(database, vault, "other")).agent
    await set_rules(database, other.id, None, {"hourly": "1", "rolling": {"7d": "1"}})
    await set_rules(database, None, "elsewhere.test", {"lifetime": "1"})
    await ledger.reserve(make(session_id="s", trace_id="t", payer="w"))
    assert await database.fetchval("SELECT count(*) FROM budget_counters") == 7


async def test_the_last_wall(
    dsn: str, ledger: Ledger, database: Database, make: Make, bot: Agent
) -> None:
    """Whoever came around the functions could not go past a limit either."""
    await set_rules(
        database, bot.id, None, {"hourly": "5", "rolling": {"2h": "0.02"}, "payments": {"day": 2}}
    )
    await set_rules(database, None, HOST, {"lifetime": "0.02", "payments": {"month": 2}})
    await paid(ledger, make)
    await age(dsn, 1)
    await paid(ledger, make, price=9_999)
    for kind, change in (
        ("hour", "held_micros = held_micros + 2, held_calls = held_calls + 1"),
        ("lifetime", "spent_micros = spent_micros + 2"),
        ("month", "held_calls = held_calls + 1"),
        ("agent_day", "paid_calls = paid_calls + 1"),
        ("fleet_day", "held_micros = held_micros + 1"),
    ):
        with pytest.raises(LedgerFault) as found:
            await database.execute(
                f"UPDATE budget_counters SET {change} WHERE kind::text = $1"
                " AND (kind::text <> 'hour' OR scope LIKE '%' || to_char(now() AT TIME ZONE 'UTC',"
                " 'YYYY-MM-DD\"T\"HH24'))",
                kind,
            )
        assert "would rise" in str(found.value), kind
    await database.execute(
        "UPDATE budget_counters SET held_micros = held_micros + 1, held_calls = held_calls + 1"
        " WHERE kind = 'hour' AND scope LIKE '%' || to_char(now() AT TIME ZONE 'UTC',"
        " 'YYYY-MM-DD\"T\"HH24')"
    )


async def test_hours_that_no_window_needs_go(
    dsn: str, ledger: Ledger, database: Database, make: Make, bot: Agent
) -> None:
    await set_rules(database, bot.id, None, {"rolling": {"24h": "9"}})
    first, claimed = await paid(ledger, make), make()
    await verified(database, first.payment_id)
    await age(dsn, 24)
    await ledger.reserve(claimed)
    await ledger.settle(claimed.payment_id, RECEIPT)
    await age(dsn, 24 * 4)
    await paid(ledger, make)
    prune = "SELECT prune_hours()"
    assert await database.fetchval(prune) == 1  # what is not final may still move its hour
    await verified(database, claimed.payment_id)
    assert await database.fetchval(prune) == 1
    assert await database.fetchval(prune) == 0
    assert await audit.findings(database) == []
    # A window that reaches back further again finds them.
    await set_rules(database, bot.id, None, {"rolling": {"10d": "0.03"}})
    assert (await refused(ledger, make, price=1)).spent == 30_000
    await check_windows(database)
    assert await audit.findings(database) == []


RULES: list[dict[str, Any] | None] = [
    None,
    {},
    {"hourly": "0.09", "payments": {"hour": 7}},
    {"rolling": {"2h": "0.11", "3h": "0.13"}, "monthly": "0.4"},
    {"lifetime": "0.35", "payments": {"2h": 9, "month": 30}},
    {"daily": "0.3", "hourly": "0.05", "payments": {"day": 20, "lifetime": 40}},
]
PROVIDERS = (
    "https://api.example.com:443",
    "http://api.example.com:80",
    "https://b.example.com:443",
)


@pytest.mark.parametrize("seed", range(4))
async def test_any_sequence_leaves_the_books_right(
    dsn: str, ledger: Ledger, database: Database, make: Make, bot: Agent, vault: Vault, seed: int
) -> None:
    """Payments of two agents, their ends, limits set and taken away, and hours that pass."""
    chance = random.Random(seed)
    other = (await agents.add(database, vault, "other", Policy("other", daily_limit=MOST))).agent
    layers: list[tuple[UUID | None, str | None]] = [
        *((None, None), (bot.id, None), (other.id, None), (None, HOST), (None, "*.example.com")),
        *((None, "https://api.example.com"), (bot.id, HOST), (bot.id, "*.example.com")),
    ]
    made: list[UUID] = []

    async def reserve() -> None:
        new = make(
            agent_id=chance.choice([bot.id, other.id]),
            provider=chance.choice(PROVIDERS),
            price=chance.randint(1, 30_000),
        )
        if isinstance(await ledger.reserve(new), Reserved):
            made.append(new.payment_id)

    async def end() -> None:
        for payment in chance.sample(made, min(len(made), 3)):
            await chance.choice(ends)(payment)

    async def change() -> None:
        where, rules = chance.choice(layers), chance.choice(RULES)
        if where[0] is not None and where[1] is None and rules is not None:
            rules = {key: value for key, value in rules.items() if key != "daily"}
        await set_rules(database, *where, rules)

    seen = '{"signature": "%s", "slot": 1}'
    ends: list[Callable[[UUID], Any]] = [
        lambda payment: ledger.settle(payment, RECEIPT),
        lambda payment: ledger.release(payment, "never_sent"),
        lambda payment: database.fetchval("SELECT disprove($1, 'dead', NULL)", payment),
        lambda payment: database.fetchval(
            "SELECT verify_payment($1, $2)", payment, seen % (payment.hex * 2)
        ),
        lambda payment: ledger.doubt(payment, "answer_lost"),
    ]
    for step in range(90):
        await chance.choice([reserve, reserve, reserve, end, end, change])()
        if step % 20 == 19:
            await age(dsn, 1)
        if step % 6 == 5:
            await check_windows(database)
            assert await audit.findings(database) == [], step
    assert await database.fetchval("SELECT sum(brought_micros) FROM budget_counters") > 0


@pytest.mark.parametrize(
    "rules",
    [
        {"hourly": "0.479"},
        {"monthly": "0.479"},
        {"lifetime": "0.479"},
        {"rolling": {"24h": "0.479"}},
        {"payments": {"hour": 47}},
        {"payments": {"7d": 47}},
    ],
    ids=str,
)
@pytest.mark.parametrize("of", ["agent", "domain", "agent_provider"])
async def test_ten_replicas_race_at_a_limit(
    dsn: str, database: Database, make: Make, bot: Agent, rules: dict[str, Any], of: str
) -> None:
    """47 of one cent fit, whoever asks; while the book is changed, and payments are given back."""
    await set_rules(database, *layer(of, bot), rules)
    pools = [await Database.open(dsn, size=2) for _ in range(10)]
    ledgers = [Ledger(pool) for pool in pools]
    made = [make(provider=f"https://api.example.com:{443 if i % 3 else 8443}") for i in range(160)]
    if of == "agent_provider":
        made = [replace(new, session_id=f"s{i % 5}") for i, new in enumerate(made)]

    async def meddle() -> None:
        for number in range(12):
            await set_rules(database, bot.id, "other.test", {"hourly": str(number)})

    *answers, _ = await asyncio.gather(
        *(ledgers[i % 10].reserve(new) for i, new in enumerate(made)), meddle()
    )
    granted = [new for new, got in zip(made, answers, strict=True) if isinstance(got, Reserved)]
    assert len(granted) == 47
    assert all(isinstance(got, Reserved | Refused) for got in answers)
    ends = [
        ledgers[i % 10].settle(new.payment_id, RECEIPT)
        if i % 2
        else ledgers[i % 10].release(new.payment_id, "never_sent")
        for i, new in enumerate(granted)
    ]
    again = [make() for _ in range(40)]
    (*_,) = await asyncio.gather(*ends)
    more = await asyncio.gather(*(ledgers[i % 10].reserve(new) for i, new in enumerate(again)))
    assert sum(isinstance(got, Reserved) for got in more) == 24
    await check_windows(database)
    assert await audit.findings(database) == []
    for pool in pools:
        await pool.close()


async def test_payments_go_on_while_limits_come_and_go(
    dsn: str, database: Database, make: Make, bot: Agent
) -> None:
    """Every change counts anew what is open and settled: no deadlock, and no cent is lost."""
    pools = [await Database.open(dsn, size=2) for _ in range(4)]
    ledgers = [Ledger(pool) for pool in pools]
    done = asyncio.Event()

    async def pay(ledger: Ledger) -> None:
        while not done.is_set():
            new = make(price=1_000)
            assert isinstance(await ledger.reserve(new), Reserved)
            await ledger.settle(new.payment_id, RECEIPT)

    async def change() -> None:
        wide = {"hourly": "900", "lifetime": "900", "rolling": {"24h": "900"}, "monthly": "900"}
        for number in range(10):
            for where in (layer(of, bot) for of in LAYERS):
                await set_rules(database, *where, wide if number % 2 == 0 else None)
                await asyncio.sleep(0)
        for where in (layer(of, bot) for of in LAYERS):
            await set_rules(database, *where, wide)
        done.set()

    await asyncio.gather(change(), *(pay(ledger) for ledger in ledgers for _ in range(3)))
    await check_windows(database)
    assert await audit.findings(database) == []
    for pool in pools:
        await pool.close()
