"""Ceilings, the switch that stops everything, the audit, and forgetting an agent."""

import json

import asyncpg

from tests.cli.conftest import Autopay

SHOP = "https://shop.example"


async def test_ceilings_are_set_listed_and_cleared(autopay: Autopay) -> None:
    autopay.well("agent", "add", "bot")
    for words in (
        ("20",),
        ("5", "--provider", f"{SHOP}/v1/quote"),
        ("1", "--provider", "*"),
        ("0.50", "--agent", "bot", "--provider", SHOP),
        ("10", "--wallet", "*"),
    ):
        autopay.well("limit", "set", *words)
    listed = [json.loads(line) for line in autopay.well("limit", "list", "--json").splitlines()]
    assert {(one["kind"], one["agent"], one["subject"], one["limit_usd"]) for one in listed} == {
        ("fleet_day", None, "*", "20.00"),
        ("provider_day", None, f"{SHOP}:443", "5.00"),
        ("provider_day", None, "*", "1.00"),
        ("agent_provider_day", "bot", f"{SHOP}:443", "0.50"),
        ("wallet_day", None, "*", "10.00"),
    }
    assert f"bot with {SHOP}:443" in autopay.well("limit", "list")
    autopay.well("limit", "set", "21")
    assert "$21.00" in autopay.well("limit", "list")
    autopay.well("limit", "clear")
    assert "there is no such limit" in autopay.refused("limit", "clear")


async def test_a_ceiling_that_cannot_be_meant(autopay: Autopay) -> None:
    autopay.well("agent", "add", "bot")
    for words, why in (
        (("1", "--provider", "shop.example"), "starts with http:// or https://"),
        (("1", "--provider", "https://shop.example:99999"), "--provider"),
        (("1", "--agent", "bot"), "autopay agent set"),
        (("1", "--wallet", "x", "--provider", "*"), "not for both"),
        (("1", "--agent", "nobody", "--provider", "*"), "there is no agent 'nobody'"),
    ):
        assert why in autopay.refused("limit", "set", *words)


async def test_all_spending_is_halted_and_resumed(autopay: Autopay) -> None:
    autopay.well("agent", "add", "bot")
    assert "Nothing is paid from now on" in autopay.well("halt", "something is odd")
    assert "halted already" in autopay.well("halt", "again")
    said = autopay.well("audit")
    assert "All spending is halted: something is odd" in said
    assert ": something is odd; autopay resume" in autopay("status").stdout
    assert "may spend again" in autopay.well("resume")
    assert "was not halted" in autopay.well("resume")
    assert "halted" not in autopay("status").stdout


async def test_the_audit_names_what_is_wrong(autopay: Autopay, dsn: str) -> None:
    autopay.well("agent", "add", "bot")
    assert "WRONG" not in autopay.well("audit")
    connection = await asyncpg.connect(dsn)
    await connection.execute(
        "INSERT INTO budget_counters (scope, kind, day, spent_micros)"
        " VALUES ('70/fleet-day/2026-01-01', 'fleet_day', '2026-01-01', 7)"
    )
    await connection.close()
    done = autopay("audit")
    assert done.returncode == 1
    assert "WRONG  what a budget has spent" in done.stdout
    assert "70/fleet-day/2026-01-01: 7 in 0, not 0 in 0" in done.stdout
    (found,) = [json.loads(line) for line in autopay("audit", "--json").stdout.splitlines()]
    assert found["rule"] == "spent_is_settled"


async def test_an_erased_agent_is_nobodys(autopay: Autopay) -> None:
    autopay.well("agent", "add", "mallory")
    assert "--yes" in autopay.refused("db", "erase-agent", "mallory")
    said = autopay.well("db", "erase-agent", "mallory", "--yes")
    assert "as those of erased-" in said
    assert "mallory" not in autopay.well("agent", "list")
    assert "there is no agent 'mallory'" in autopay.refused("db", "erase-agent", "mallory", "--yes")
    assert "there is no agent 'autopay'" in autopay.refused("db", "erase-agent", "autopay", "--yes")
