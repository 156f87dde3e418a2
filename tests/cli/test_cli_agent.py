"""`autopay agent`: made, changed, frozen, removed."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from policies import Policy
from proxy.cli import main
from proxy.ledger import Database, Directory, agents, tokens
from tests.cli.conftest import Autopay


def listed(autopay: Autopay) -> dict[str, Any]:
    records = [json.loads(line) for line in autopay.well("agent", "list", "--json").splitlines()]
    return {record["agent"]: record for record in records}


async def agent_of(autopay: Autopay, dsn: str, token: str) -> str | None:
    """Whose token the proxy takes this for."""
    directory = Directory(dsn, autopay.vault)
    await directory.start()
    agent = directory.by_token(token)
    await asyncio.sleep(0)  # its watcher must have begun before it can be told to end
    await directory.close()
    return agent.name if agent else None


async def test_a_life(autopay: Autopay, dsn: str) -> None:
    assert autopay.well("agent", "list").startswith("No agents yet")
    said = autopay.well("agent", "add", "bot")
    assert said.startswith(
        "Agent bot may spend at most $0.05 per call, $1.00 per day, $1.00 per session and"
        " $1.00 per trace.\n"
    )
    token = said.partition("http://bot:")[2].partition("@")[0]
    assert await agent_of(autopay, dsn, token) == "bot"
    assert token not in autopay.well("agent", "list")

    autopay.well("agent", "freeze", "bot")
    assert listed(autopay)["bot"]["frozen"] is True
    autopay.well("agent", "unfreeze", "bot")
    assert listed(autopay)["bot"]["frozen"] is False

    handed = json.loads(autopay.well("agent", "rotate", "bot", "--json"))
    assert await agent_of(autopay, dsn, token) is None
    assert await agent_of(autopay, dsn, handed["token"]) == "bot"
    assert handed["proxy_url"] == f"http://bot:{handed['token']}@127.0.0.1:8402"

    autopay.well("agent", "remove", "bot")
    assert await agent_of(autopay, dsn, handed["token"]) is None
    assert listed(autopay) == {}


async def test_a_rotation_with_a_grace_and_an_end(autopay: Autopay, dsn: str) -> None:
    token = autopay.well("agent", "add", "bot").partition("http://bot:")[2].partition("@")[0]
    handed = json.loads(
        autopay.well("agent", "rotate", "bot", "--grace", "3600", "--expires", "12h", "--json")
    )
    left = datetime.fromisoformat(handed["expires_at"]) - datetime.now(UTC)
    assert timedelta(hours=11, minutes=55) < left <= timedelta(hours=12)
    for holds in (token, handed["token"]):
        assert await agent_of(autopay, dsn, holds) == "bot"
    said = autopay.well("agent", "rotate", "bot", "--grace", "7200", "--expires", "30d")
    assert said.startswith(
        "Its other tokens end 7200 seconds from now.\nThe new one ends by itself"
    )

    database = await Database.open(dsn)
    ends = [one.expires_at for one in await tokens.of_agent(database, "bot")]
    await database.close()
    hours = [round((end - datetime.now(UTC)) / timedelta(hours=1)) for end in ends if end]
    # The grace of the first, which is shorter than that of the second; that of the second.
    assert hours == [30 * 24, 2, 1]


@pytest.mark.parametrize(
    ("option", "said"),
    [
        *((f"--grace={wrong}", "no number of seconds") for wrong in ("-1", "1.5", "2592001", "x")),
        ("--expires=0d", "write it like 30d"),
    ],
)
def test_a_span_that_is_none(option: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["agent", "rotate", "bot", option])
    assert said in capsys.readouterr().err


async def test_a_policy_is_given_and_changed(autopay: Autopay, dsn: str) -> None:
    autopay.well(
        *("agent", "add", "bot", "--per-call", "0.10", "--daily", "5", "--session", "$2"),
        *("--allow-endpoint", "GET https://api.example.com/v1/*"),
        *("--allow-endpoint", "https://*.example.org/*", "--allow-asset", "USDC"),
        *("--allow-network", "solana-devnet", "--allow-pay-to", "2wKupLR9q6wXYppw8Gr2NvWxKBUqm4"),
        *("--allow-target", "10.0.0.0/8", "--allow-target", "[::1]:8080"),
        *("--allow-port", "443", "--allow-port", "22"),
    )
    database = await Database.open(dsn)
    (info,) = await agents.list_all(database)
    assert info.policy == Policy(
        "bot",
        per_call_limit=100_000,
        daily_limit=5_000_000,
        session_limit=2_000_000,
        allowed_endpoints=("GET https://api.example.com/v1/*", "https://*.example.org/*"),
        allowed_pay_to=("2wKupLR9q6wXYppw8Gr2NvWxKBUqm4",),
        allowed_assets=("USDC",),
        allowed_networks=("solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1",),
        allowed_targets=("10.0.0.0/8", "[::1]:8080"),
        allowed_ports=(443, 22),
        version=2,
    )
    assert "public:443,22, 10.0.0.0/8, [::1]:8080" in autopay.well("agent", "list")
    autopay.well("agent", "set", "bot", "--allow-target", "none", "--allow-port", "usual")
    bot = listed(autopay)["bot"]
    assert (bot["allowed_targets"], bot["allowed_ports"]) == ([], [])
    assert "10.0.0.0/8" in autopay.refused("agent", "set", "bot", "--allow-target", "10.1.0.0/8")
    assert "not a port" in autopay.refused("agent", "set", "bot", "--allow-port", "http")
    said = autopay.well("agent", "set", "bot", "--daily", "6", "--allow-endpoint", "any")
    assert "policy version 4" in said
    (changed,) = await agents.list_all(database)
    await database.close()
    assert (changed.policy.daily_limit, changed.policy.allowed_endpoints) == (6_000_000, ())
    assert (changed.policy.per_call_limit, changed.policy.allowed_assets) == (100_000, ("USDC",))


def test_the_settings_are_the_default_policy(autopay: Autopay) -> None:
    autopay.well("agent", "add", "bot", "--daily", "3", AUTOPAY_POLICY__PER_CALL="0.25")
    assert listed(autopay)["bot"]["per_call_usd"] == "0.25"
    assert listed(autopay)["bot"]["daily_usd"] == "3.00"


def test_what_cannot_be(autopay: Autopay) -> None:
    autopay.well("agent", "add", "bot")
    assert autopay.refused("agent", "add", "bot") == "there is an agent 'bot' already"
    assert "cannot be an agent's name" in autopay.refused("agent", "add", "a:b")
    assert autopay.refused("agent", "remove", "nobody") == "there is no agent 'nobody'"
    assert "there is no agent 'nobody'" in autopay.refused("agent", "set", "nobody", "--daily", "1")
    assert "nothing to change" in autopay.refused("agent", "set", "bot")
    bad = autopay.refused("agent", "add", "b", "--allow-endpoint", "ftp://x/*")
    assert "the scheme is http, https or *" in bad
    assert list(listed(autopay)) == ["bot"]


def test_chats_are_kept_only_on_request(autopay: Autopay) -> None:
    autopay.well("agent", "add", "quiet")
    said = autopay.well("agent", "add", "bot", "--capture-chat", "on")
    assert "What agent bot says to chat endpoints, and the answers, are kept." in said
    assert {name: one["capture_chat"] for name, one in listed(autopay).items()} == {
        "quiet": False,
        "bot": True,
    }
    assert "active, chats kept" in autopay.well("agent", "list")
    # With a limit or without, and what is not named stays.
    autopay.well("agent", "set", "bot", "--daily", "5")
    assert listed(autopay)["bot"]["capture_chat"] is True
    assert "is not kept" in autopay.well("agent", "set", "bot", "--capture-chat", "off")
    assert listed(autopay)["bot"]["capture_chat"] is False
    autopay.well("agent", "set", "bot", "--capture-chat", "on", "--daily", "6")
    bot = listed(autopay)["bot"]
    assert (bot["capture_chat"], bot["daily_usd"]) == (True, "6.00")
    # Whoever comes back after a removal is asked again.
    autopay.well("agent", "remove", "bot")
    autopay.well("agent", "add", "bot")
    assert listed(autopay)["bot"]["capture_chat"] is False
