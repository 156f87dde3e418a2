from dataclasses import replace
from hashlib import sha256

import pytest

from policies import Policy, PolicyError
from proxy.ledger import Agent, Database, Ledger, Refused, agents
from proxy.ledger.agents import AgentError
from proxy.vault import Vault
from tests.ledger.books import counter
from tests.ledger.conftest import Make


async def test_a_token_is_shown_once_and_only_its_hash_is_kept(
    database: Database, vault: Vault
) -> None:
    new = await agents.add(database, vault, "bot")
    assert new.token.startswith("ap_")
    assert len(new.token) == 3 + 43
    row = await database.fetchrow("SELECT * FROM agent_tokens")
    assert row is not None
    assert row["token_sha256"] == sha256(new.token.encode()).digest()
    dump = await database.fetchval(
        "SELECT string_agg(t::text, '') || (SELECT string_agg(a::text, '') FROM agents a) "
        "FROM agent_tokens t"
    )
    assert new.token not in dump


async def test_a_name_is_taken_once(database: Database, bot: Agent, vault: Vault) -> None:
    with pytest.raises(AgentError, match="already"):
        await agents.add(database, vault, "bot")


async def test_names_fit_into_a_credential(database: Database, vault: Vault) -> None:
    for name in ("", "a:b", "a b", "-x", "x" * 101, "ä", "a\n"):
        with pytest.raises(AgentError):
            await agents.add(database, vault, name)


async def test_a_removed_agent_comes_back_with_its_books(
    database: Database, ledger: Ledger, make: Make, bot: Agent, vault: Vault
) -> None:
    await ledger.reserve(make())
    await agents.remove(database, "bot")
    with pytest.raises(AgentError, match="no agent 'bot'"):
        await agents.remove(database, "bot")
    [info] = await agents.list_all(database)
    assert not info.is_active
    again = await agents.add(database, vault, "bot", Policy("bot", daily_limit=15_000))
    assert again.agent == bot
    refused = await ledger.reserve(make())
    assert isinstance(refused, Refused)
    assert refused.code == "over_daily_limit"
    assert await counter(database) == (0, 10_000)
    live = "SELECT count(*) FROM agent_tokens WHERE revoked_at IS NULL"
    assert await database.fetchval(live) == 1


async def test_a_policy_goes_in_and_out_whole(database: Database, bot: Agent) -> None:
    policy = Policy(
        "bot",
        frozen=True,
        per_call_limit=1,
        daily_limit=2,
        session_limit=3,
        allowed_endpoints=("GET https://a.example/*",),
        allowed_pay_to=("abc",),
        allowed_assets=("USDC",),
        allowed_networks=("solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1",),
        allowed_targets=("10.0.0.0/8", "[::1]:8080"),
        allowed_ports=(22, 443),
    )
    before = await database.fetchval("SELECT policy_version()")
    assert await agents.set_policy(database, policy, by="me") == before + 1
    [info] = await agents.list_all(database)
    assert info.policy == replace(policy, version=before + 1)
    # An empty list clears a list.
    assert await agents.set_policy(database, Policy("bot")) == before + 2
    [info] = await agents.list_all(database)
    assert info.policy == Policy("bot", version=before + 2)
    # What changes nothing is no new version.
    assert await agents.set_policy(database, Policy("bot")) == before + 2


async def test_a_policy_that_cannot_be_meant_is_not_stored(database: Database, bot: Agent) -> None:
    with pytest.raises(PolicyError):
        await agents.set_policy(database, Policy("bot", allowed_endpoints=("x",)))
    with pytest.raises(AgentError):
        await agents.set_policy(database, Policy("nobody"))
    [info] = await agents.list_all(database)
    assert info.policy == Policy("bot", version=info.policy.version)


async def test_freezing_leaves_the_rest_of_the_policy(database: Database, vault: Vault) -> None:
    await agents.add(database, vault, "bot", Policy("bot", daily_limit=7))
    await agents.set_frozen(database, "bot", True)
    [info] = await agents.list_all(database)
    version = await database.fetchval("SELECT policy_version()")
    assert info.policy == Policy("bot", frozen=True, daily_limit=7, version=version)
    with pytest.raises(AgentError):
        await agents.set_frozen(database, "nobody", True)
