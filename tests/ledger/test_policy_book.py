"""The book of policies: changed whole or not at all, numbered, told of, and undone."""

import asyncio
import json
from dataclasses import replace
from decimal import Decimal
from typing import Any

import asyncpg
import pytest

from policies import Book, LayerKey, Limit, Policy, PolicyError, Rules
from proxy.ledger import Agent, Database, agents, ceilings, policies
from proxy.ledger.agents import AgentError, UnknownAgent
from proxy.ledger.policies import PolicyConflict, UnknownVersion
from proxy.vault import Vault

WHOLE = {
    "frozen": True,
    "hours": ["Mon-Fri 08:00-18:00 Europe/Lisbon"],
    "per_call": "0.01",
    "hourly": "0.50",
    "daily": "1.00",
    "monthly": "20.00",
    "lifetime": "100.00",
    "rolling": {"24h": "5.00", "7d": "20.00"},
    "payments": {"hour": 10, "day": 100, "24h": 90},
    "denied_endpoints": ["https://api.example.com/admin/*"],
    "allowed_endpoints": ["GET https://api.example.com/*"],
    "pay_to_pinning": "first_use",
    "allowed_pay_to": ["abc"],
    "allowed_assets": ["USDC"],
    "allowed_networks": ["solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1"],
    "allowed_schemes": ["exact"],
    "allowed_flows": ["authorization", "upfront"],
    "max_timeout_seconds": 60,
    "max_price_ratio_last": "1.5",
    "max_price_ratio_median": "2",
    "loss_cap": "0.10",
    "approval_above": "0.02",
    "approval_wait_seconds": 30,
    "wallet": "research",
    "share_identical": True,
    "asset_order": ["USDC"],
    "network_order": ["solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1"],
}
OWN = WHOLE | {
    "session": "0.80",
    "trace": "0.70",
    "allowed_targets": ["10.0.0.0/8"],
    "allowed_ports": [443, 8443],
}


_CONTENT = """
SELECT jsonb_build_array(
    (SELECT jsonb_agg(policy_content('agent_policies', to_jsonb(p)) ORDER BY p.agent_id)
     FROM agent_policies p),
    (SELECT jsonb_agg(jsonb_build_array(agent_id, provider, rules) ORDER BY agent_id, provider)
     FROM policy_rules),
    (SELECT jsonb_agg(jsonb_build_array(kind, subject, limit_micros) ORDER BY kind, subject)
     FROM spend_limits))
"""


def book(**tables: Any) -> Book:
    return Book.from_json(tables)


async def version(database: Database) -> int:
    return int(await database.fetchval("SELECT policy_version()"))


async def content(database: Database) -> Any:
    """All that is policy, whoever wrote it and when."""
    return await database.fetchval(_CONTENT)


async def test_every_rule_goes_in_and_out_of_every_layer(database: Database, bot: Agent) -> None:
    wanted = book(
        defaults=WHOLE,
        provider={"*.example.com": WHOLE, "https://api.example.com:8443": {"per_call": "0.02"}},
        agent={"bot": OWN | {"provider": {"api.example.com": WHOLE}}},
    )
    applied = await policies.apply(database, wanted, by="ann", origin="cli", note="the first")
    assert await policies.load(database) == replace(wanted, version=applied.version)
    assert {change.key for change in applied.changes} == set(dict(wanted.layers()))
    # The columns, which whoever moves money reads, say the same.
    row = await database.fetchrow("SELECT * FROM agent_policies")
    assert row is not None
    assert (row["frozen"], row["daily_limit_micros"], row["inherited"]) == (True, 1_000_000, [])
    # The very same again is no change, and no version.
    again = await policies.apply(database, wanted)
    assert again == policies.Applied(applied.version)


async def test_a_layer_that_is_not_in_the_file_stays_unless_it_is_pruned(
    database: Database, bot: Agent, vault: Vault
) -> None:
    await agents.add(database, vault, "other", Policy("other", daily_limit=7))
    await policies.apply(database, book(defaults={"daily": "3"}, provider={"a.example": WHOLE}))
    wanted = book(agent={"bot": {"per_call": "0.03"}})
    await policies.apply(database, wanted)
    there = dict((await policies.load(database)).layers())
    assert {LayerKey(), LayerKey(None, "a.example"), LayerKey("bot"), LayerKey("other")} == set(
        there
    )
    await policies.apply(database, wanted, prune=True)
    assert dict((await policies.load(database)).layers()) == {
        LayerKey("bot"): Rules(per_call=30_000),
        LayerKey("other"): Rules(),
    }


async def test_what_an_agent_does_not_name_follows_the_defaults(
    database: Database, bot: Agent
) -> None:
    limits = (
        "SELECT per_call_limit_micros, daily_limit_micros, session_limit_micros FROM agent_policies"
    )
    await policies.apply(
        database, book(defaults={"per_call": "0.07", "daily": "9"}, agent={"bot": {"daily": "2"}})
    )
    assert await database.fetchrow(limits) == (70_000, 2_000_000, 1_000_000)
    await policies.set_rules(database, None, None, Rules.from_json({"per_call": "0.08"}))
    assert await database.fetchrow(limits) == (80_000, 2_000_000, 1_000_000)
    await policies.set_rules(database, None, None, None)
    assert await database.fetchrow(limits) == (50_000, 2_000_000, 1_000_000)
    await policies.set_rules(database, "bot", None, None)
    assert (await policies.load(database)).agents["bot"] == Rules()
    # Whoever sets it, names it.
    await database.execute("UPDATE agent_policies SET per_call_limit_micros = 1")
    assert (await policies.load(database)).agents["bot"] == Rules(per_call=1)


async def test_unknown_agents_are_named_or_made(database: Database, bot: Agent) -> None:
    wanted = book(agent={"bot": {"daily": "2"}, "nobody": {}, "none": {"provider": {"a.b": WHOLE}}})
    before = await version(database), await content(database)
    with pytest.raises(UnknownAgent, match="no agent 'nobody', 'none'"):
        await policies.apply(database, wanted)
    assert (await version(database), await content(database)) == before
    with pytest.raises(AgentError, match="cannot be an agent's name"):
        await policies.apply(database, book(agent={"a b": {"daily": "2"}}), create=True)
    await policies.apply(database, wanted, create=True)
    there = await policies.load(database)
    assert there.agents == {**wanted.agents, "none": Rules()}
    assert there.agent_providers == wanted.agent_providers
    await agents.remove(database, "none")
    with pytest.raises(UnknownAgent, match="removed"):
        await policies.apply(database, wanted, create=True)


async def test_the_expected_version(database: Database, bot: Agent) -> None:
    now = await version(database)
    first = await policies.apply(database, book(defaults={"daily": "3"}), expected=now)
    assert first.version == now + 1
    with pytest.raises(PolicyConflict, match=f"version {now + 1}") as conflict:
        await policies.apply(database, book(defaults={"daily": "4"}), expected=now)
    assert conflict.value.version == now + 1
    with pytest.raises(PolicyConflict):
        await policies.roll_back(database, now, expected=now)


async def test_changes_at_the_same_time_are_all_made(database: Database, bot: Agent) -> None:
    now = await version(database)
    await asyncio.gather(
        *(policies.set_rules(database, None, f"p{n}.example", Rules(per_call=n)) for n in range(8)),
        *(policies.freeze(database, None, f"f{n}.example", True) for n in range(8)),
    )
    there = await policies.load(database)
    assert len(there.providers) == 16
    assert there.version == now + 16


async def test_a_change_that_fails_changes_nothing(database: Database, bot: Agent) -> None:
    """The last of its layers cannot be stored: then none is."""
    before = await version(database), await content(database)
    layers = [
        {"agent": None, "provider": None, "rules": {"daily": "3"}},
        {"agent": "bot", "provider": "a.example", "rules": []},
    ]
    with pytest.raises(Exception, match="policy_rules_rules_check"):
        await database.fetchrow("SELECT change_book($1, NULL, 'me', '', '')", json.dumps(layers))
    assert (await version(database), await content(database)) == before


async def test_what_cannot_be_said_is_refused(database: Database, bot: Agent) -> None:
    for agent, provider, rules in (
        (None, None, Rules(allowed_ports=(1,))),
        (None, "a.example", Rules(limits=(Limit("session", 5),))),
        (None, "no provider", Rules(per_call=1)),
    ):
        with pytest.raises(PolicyError):
            await policies.set_rules(database, agent, provider, rules)
    with pytest.raises(UnknownAgent):
        await policies.set_rules(database, "nobody", None, Rules(per_call=1))


async def test_freezing_says_nothing_else(database: Database, bot: Agent) -> None:
    rules = Rules(per_call=3, max_price_ratio_last=Decimal("1.5"))
    for agent, provider in ((None, None), (None, "A.example"), ("bot", "*.example"), ("bot", None)):
        await policies.set_rules(database, agent, provider, rules)
        key = LayerKey(agent, provider and provider.lower())
        now = await policies.freeze(database, agent, provider, True, by="ann")
        assert now == await version(database)
        found = dict((await policies.load(database)).layers())
        assert found[key] == replace(rules, frozen=True)
        assert await policies.freeze(database, agent, provider, True) == now
        assert await policies.freeze(database, agent, provider, False) == now + 1
        assert dict((await policies.load(database)).layers())[key] == rules
    # A layer that only was frozen is gone when it is thawed.
    await policies.freeze(database, None, "x.example", True)
    await policies.freeze(database, None, "x.example", False)
    assert "x.example" not in (await policies.load(database)).providers
    with pytest.raises(UnknownAgent):
        await policies.freeze(database, "nobody", None, True)


async def test_history_and_back_again(database: Database, bot: Agent, vault: Vault) -> None:
    await policies.apply(database, book(defaults={"daily": "3"}, agent={"bot": OWN}))
    await ceilings.set_ceiling(database, "fleet_day", "*", 5)
    good = await version(database)
    saved = await content(database)
    await policies.apply(
        database,
        book(
            defaults={"daily": "4", "per_call": "1"},
            provider={"a.example": WHOLE},
            agent={"bot": {}},
        ),
        by="eve",
        origin="10.0.0.1",
        note="cheaper",
    )
    await ceilings.set_ceiling(database, "fleet_day", "*", 6, by="eve")
    await ceilings.set_ceiling(database, "provider_day", "*", 7)
    await agents.set_frozen(database, "bot", True, by="joe")

    lines = await policies.history(database, limit=3)
    assert (lines[0].layer, lines[0].agent, lines[0].changed_by) == ("agent", "bot", "joe")
    assert (lines[0].before or {})["frozen"] is False
    rest = await policies.history(database, before=lines[2].id)
    mine = [line for line in rest if line.version == good + 1]
    assert {(line.changed_by, line.origin, line.note) for line in mine} == {
        ("eve", "10.0.0.1", "cheaper")
    }
    assert {line.layer for line in mine} == {"defaults", "provider a.example", "agent"}

    back = await policies.roll_back(database, good, by="ann", note="back")
    assert back.version == good + 5
    assert await content(database) == saved
    assert {change.key for change in back.changes} == {
        LayerKey(), LayerKey(None, "a.example"), LayerKey("bot"),
    }  # fmt: skip
    # Back is a version, too: from there, forward again.
    frozen = await policies.roll_back(database, good + 4)
    assert (await policies.load(database)).agents["bot"].frozen
    for unknown in (0, frozen.version + 1):
        with pytest.raises(UnknownVersion):
            await policies.roll_back(database, unknown)


async def test_an_agent_that_came_since_stays(database: Database, bot: Agent, vault: Vault) -> None:
    good = await version(database)
    await agents.add(database, vault, "later", Policy("later", daily_limit=7))
    await policies.set_rules(database, "later", "a.example", Rules(per_call=1))
    await policies.roll_back(database, good)
    there = await policies.load(database)
    assert there.agents["later"].limit("day").micros == 7
    assert there.agent_providers == {}


async def test_a_layer_that_cannot_be_read_allows_nothing(database: Database, bot: Agent) -> None:
    await database.execute(
        "INSERT INTO policy_rules (provider, rules) VALUES ('a.example', '{\"later\": 1}')"
    )
    there = await policies.load(database)
    assert there.policy("bot", "https", "a.example", 443).layers[0].rules.frozen


async def test_a_shadow_is_no_version(database: Database, bot: Agent) -> None:
    now = await version(database)
    assert (await policies.shadowed(database)).book is None
    shadow = book(defaults={"per_call": "0.01"})
    await policies.shadow(database, shadow, by="ann", note="to see")
    seen = await policies.shadowed(database)
    assert (seen.book, seen.note, seen.updated_by) == (shadow, "to see", "ann")
    await policies.shadow(database, None)
    assert (await policies.shadowed(database)).book is None
    assert await version(database) == now


async def test_who_decides_holds_the_book_still(dsn: str, database: Database, bot: Agent) -> None:
    """A change waits for those who decide, and they for it."""
    decider = await asyncpg.connect(dsn)
    try:
        begun = decider.transaction()
        await begun.start()
        await decider.execute("SELECT hold_policies()")
        change = asyncio.create_task(policies.freeze(database, None, "a.example", True))
        waits = "SELECT exists(SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted)"
        async with asyncio.timeout(10):
            while not await database.fetchval(waits):
                await asyncio.sleep(0.01)
        assert not change.done()
        await begun.rollback()
        assert await change == await version(database)
    finally:
        await decider.close()


async def test_who_stops_in_the_middle_lets_the_book_go(
    dsn: str, database: Database, bot: Agent
) -> None:
    stopped = await Database.open(dsn, timeout=0.5)

    async def hold(connection: Any) -> None:
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute("SELECT hold_policies()")
        await asyncio.sleep(3600)  # as under SIGSTOP: the connection stays, and nothing comes

    holder = asyncio.create_task(_on(stopped, hold))
    while not await database.fetchval(
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND (classid, objid) = (402, 4)"
    ):
        await asyncio.sleep(0.01)
    await policies.freeze(database, "bot", None, True, by="ann")
    holder.cancel()
    await asyncio.gather(holder, return_exceptions=True)
    await stopped.close()


async def _on(database: Database, work: Any) -> None:
    async with database._pool.acquire() as connection:
        await work(connection)
