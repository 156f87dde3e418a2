"""`autopay policy`: files that hold, are looked over, tried out, explained, replayed, undone."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from tests.cli.conftest import Autopay

SELLER = "2wKupLR9q6wXYppw8Gr2NvWxKBUqm4PPJKkQfoxHDBg4"
DEVNET = "solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1"
MINT = "4zMMC9srt5Ri5X14GAgXhaHii3GnPAEERYPJgZJDncDU"
URL = "https://api.example.com/v1/quote"
FILE = """
[defaults]
max_timeout_seconds = 120

[provider."*.example.com"]
hourly = "2.00"

[agent.bot]
per_call = "0.10"
daily = "5.00"
session = "1.00"
trace = "1.00"

[agent.bot.provider."api.example.com"]
per_call = "0.02"

[[test]]
agent = "bot"
url = "https://api.example.com/v1/quote"
price = "0.02"
expect = "ok"

[[test]]
agent = "bot"
url = "https://api.example.com/v1/quote"
price = "0.03"
expect = "over_per_call_limit"
"""


@pytest.fixture
def file(private: Path) -> Path:
    path = private / "policy.toml"
    path.write_text(FILE)
    return path


def as_json(text: str) -> Any:
    return json.loads(text)


def version(autopay: Autopay) -> int:
    return int(as_json(autopay.well("policy", "show", "--json"))["version"])


async def test_files_are_applied_shown_and_undone(autopay: Autopay, file: Path) -> None:
    autopay.well("agent", "add", "bot")
    first = version(autopay)
    planned = autopay.well("policy", "diff", str(file))
    assert '+ agent bot: per_call: "0.05" -> "0.10" (looser)' in planned
    assert '- provider "*.example.com": hourly: (nothing) -> "2.00" (tighter)' in planned
    assert autopay("policy", "diff", str(file), "--exit-code").returncode == 1

    said = autopay.well("policy", "apply", str(file), "--note", "launch")
    assert f"The policies are at version {first + 1}." in said
    assert planned.splitlines() == said.splitlines()[:-1]
    again = autopay.well("policy", "apply", str(file))
    assert again.startswith("Nothing to change")
    assert autopay.well("policy", "diff", str(file)).startswith("No difference")

    # What is shown is a file that says the same.
    shown = autopay.well("policy", "show")
    file.write_text(shown)
    assert autopay.well("policy", "diff", str(file), "--prune").startswith("No difference")
    assert '[agent.bot.provider."api.example.com"]\nper_call = "0.02"' in shown

    one, *_ = (as_json(line) for line in autopay.well("policy", "history", "--json").splitlines())
    assert (one["version"], one["note"]) == (first + 1, "launch")
    assert one["origin"].startswith("autopay policy apply on ")
    assert one["changed_by"]
    assert "agent bot provider" in autopay.well("policy", "history")

    undone = autopay.well("policy", "rollback", str(first))
    assert '- agent bot: per_call: "0.10" -> "0.05" (tighter)' in undone
    assert version(autopay) == first + 2
    assert "provider" not in autopay.well("policy", "show")
    assert "no version 99999" in autopay.refused("policy", "rollback", "99999")


async def test_a_bad_file_changes_nothing(autopay: Autopay, file: Path) -> None:
    autopay.well("agent", "add", "bot")
    before = autopay.well("policy", "show")
    file.write_text(FILE.replace('"0.10"', "0.10").replace('"5.00"', '"5 USD"'))
    done = autopay("policy", "apply", str(file))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines() == [
        f'autopay: {file}:9: agent.bot.per_call: write the amount as text, in USD: "0.1"',
        f"autopay: {file}:10: agent.bot.daily: '5 USD' is not an amount in USD: write at most 6"
        " decimals, like 0.05",
    ]
    assert autopay.well("policy", "show") == before


async def test_what_lint_or_a_test_finds_changes_nothing(autopay: Autopay, file: Path) -> None:
    autopay.well("agent", "add", "bot")
    before = autopay.well("policy", "show")
    file.write_text(FILE.replace('daily = "5.00"', 'daily = "0"').replace('"ok"', '"frozen"'))
    done = autopay("policy", "apply", str(file))
    assert done.returncode == 1
    assert f"{file}:10: error: agent bot daily: a limit of 0 allows no payment" in done.stderr
    assert f"{file}:17: test bot GET api.example.com/v1/quote: ok, not frozen" in done.stderr
    assert "nothing was changed: 1 error(s) of lint and 1 failed test(s)" in done.stderr
    assert autopay.well("policy", "show") == before
    assert autopay("policy", "apply", str(file), "--force").returncode == 0
    assert 'daily = "0.00"' in autopay.well("policy", "show")


async def test_agents_of_files_must_be_there(autopay: Autopay, file: Path) -> None:
    autopay.well("agent", "add", "ant")
    done = autopay("policy", "apply", str(file))
    assert done.returncode == 1
    assert f"{file}:8: error: agent bot: there is no agent 'bot'" in done.stderr
    assert autopay("policy", "apply", str(file), "--create").returncode == 0
    assert "[agent.bot]" in autopay.well("policy", "show")


async def test_only_the_version_that_was_looked_at(autopay: Autopay, file: Path) -> None:
    autopay.well("agent", "add", "bot")
    why = autopay.refused("policy", "apply", str(file), "--expect", "1")
    assert "they are at version" in why
    now = version(autopay)
    autopay.well("policy", "apply", str(file), "--expect", str(now))


async def test_pruning_takes_away_what_the_files_lack(autopay: Autopay, file: Path) -> None:
    autopay.well("agent", "add", "bot")
    autopay.well("policy", "apply", str(file))
    file.write_text('[agent.bot]\nper_call = "0.10"\n')
    assert "provider" in autopay.well("policy", "show")
    autopay.well("policy", "apply", str(file))
    assert "provider" in autopay.well("policy", "show")
    said = autopay.well("policy", "apply", str(file), "--prune")
    assert '+ provider "*.example.com": hourly: "2.00" -> (nothing) (looser)' in said
    assert "provider" not in autopay.well("policy", "show")


def test_lint_and_test_need_no_database(private: Path) -> None:
    embedded = Autopay(private, inside=True)
    embedded.config.touch()
    good, bad = private / "good.toml", private / "bad.toml"
    good.write_text(FILE)
    assert "Nothing is said in vain." in embedded.well("policy", "lint", str(good))
    assert "2 of 2 tests came out" in embedded.well("policy", "test", str(good))
    bad.write_text(
        '[agent.bot]\nallowed_assets = []\nallowed_networks = ["solana-devnet", "eip155:1"]\n'
        '[[test]]\nagent = "bot"\nurl = "https://a.example/"\nprice = "9"\nexpect = "ok"\n'
    )
    linted = embedded("policy", "lint", str(bad))
    assert linted.returncode == 0
    assert linted.stdout.splitlines() == [
        f"{bad}:2: warning: agent bot allowed_assets: an empty list says nothing: by this layer ALL"
        " is allowed",
        f"{bad}:3: warning: agent bot allowed_networks: eip155:1 is not known here and matches"
        " nothing",
    ]
    assert embedded("policy", "lint", "--strict", str(bad)).returncode == 1
    tested = embedded("policy", "test", str(bad))
    assert tested.returncode == 1
    assert f"{bad}:4: test bot GET a.example/: over_per_call_limit (by defaults: per_call)" in (
        tested.stdout
    )
    bad.write_text("[agent.bot]\nhourly = 1.5\nx = 1\n")
    refused = embedded("policy", "lint", "--json", str(bad))
    assert refused.returncode == 1
    assert [as_json(line)["line"] for line in refused.stdout.splitlines()] == [2, 3]
    assert not (private / "postgres").exists()
    assert "there is no database" in embedded.refused("policy", "test", "--running", str(good))


async def test_every_rule_in_order(autopay: Autopay, file: Path) -> None:
    autopay.well("agent", "add", "bot")
    autopay.well("policy", "apply", str(file))
    words = ("policy", "explain", "--agent", "bot", "--url", URL, "--json", "--price")
    told = as_json(autopay.well(*words, "0.02"))
    assert (told["allowed"], told["code"]) == (True, "ok")
    done = autopay(*words, "0.03")
    told = as_json(done.stdout)
    assert (done.returncode, told["code"], told["rule"], told["layer"]) == (
        1,
        "over_per_call_limit",
        "per_call",
        'agent bot provider "api.example.com"',
    )
    steps = {(step["rule"], step["layer"]): step for step in told["steps"]}
    assert [step["rule"] for step in told["steps"]][:3] == ["frozen", "hours", "per_call"]
    assert steps["hourly", 'provider "*.example.com"']["numbers"]["left_usd"] == "2.00"
    assert steps["max_timeout_seconds", "defaults"]["outcome"] == "allows"

    autopay.well("halt", "something is odd")
    told = as_json(autopay(*words, "0.02").stdout)
    assert (told["code"], told["rule"]) == ("spending_halted", "halted")
    read = autopay("policy", "explain", "--agent", "bot", "--url", URL, "--price", "0.02").stdout
    assert "It would be denied: spending_halted, by the ledger: halted." in read
    assert "there is no agent 'x'" in autopay.refused(
        "policy", "explain", "--agent", "x", "--url", URL, "--price", "1"
    )
    assert "is no URL" in autopay.refused(
        "policy", "explain", "--agent", "bot", "--url", "x", "--price", "1"
    )


async def paid(
    connection: "asyncpg.Connection[Any]", agent: str, micros: int, ago: timedelta, **more: Any
) -> None:
    """A payment that was made so long ago, with its decision."""
    payment, at = uuid4(), datetime.now(UTC) - ago
    agent_id = await connection.fetchval("SELECT id FROM agents WHERE name = $1", agent)
    row = {
        "id": payment,
        "agent_id": agent_id,
        "status": "INITIATED",
        "amount_atomic": micros,
        "price_micros": micros,
        "day": at.date(),
        "scopes": ["test"],
        "policy_version": 1,
        "provider": "https://api.example.com:443",
        "method": "GET",
        "endpoint": URL,
        "x402_version": 2,
        "network": DEVNET,
        "asset": MINT,
        "symbol": "USDC",
        "pay_to": SELLER,
        "api_request_id": payment,
        "created_at": at,
        **more,
    }
    await connection.execute(
        "INSERT INTO api_requests (id, agent_id, provider, method, endpoint, api_type, http_status,"
        " status) VALUES ($1, $2, $3, 'GET', $4, 'MARKET_DATA', 402, 'PAYMENT_REQUIRED')",
        *(payment, agent_id, row["provider"], URL),
    )
    names = ", ".join(row)
    places = ", ".join(f"${i + 1}" for i in range(len(row)))
    await connection.execute(
        f"INSERT INTO payments ({names}) VALUES ({places})",  # names of our own
        *row.values(),
    )
    await connection.execute(
        "INSERT INTO policy_decision_logs (payment_id, agent_id, method, endpoint, decision,"
        " reason, quoted_price_micros, created_at, day)"
        " VALUES ($1, $2, 'GET', $3, 'allow', 'ok', $4, $5, $6)",
        *(payment, agent_id, row["endpoint"], micros, at, at.date()),
    )


async def denied(
    connection: "asyncpg.Connection[Any]", agent: str, micros: int, ago: timedelta, reason: str
) -> None:
    at = datetime.now(UTC) - ago
    await connection.execute(
        "INSERT INTO policy_decision_logs (agent_id, method, endpoint, decision, reason,"
        " quoted_price_micros, created_at, day)"
        " SELECT id, 'GET', $2, 'deny', $3, $4, $5, $6 FROM agents WHERE name = $1",
        *(agent, URL, reason, micros, at, at.date()),
    )


async def test_the_log_is_replayed_under_other_files(
    autopay: Autopay, dsn: str, private: Path
) -> None:
    autopay.well("agent", "add", "bot")
    connection = await asyncpg.connect(dsn)
    hour = timedelta(hours=1)
    for hours in (50, 3, 2, 1):
        await paid(connection, "bot", 10_000, hours * hour)
    await paid(connection, "bot", 20_000, 0.5 * hour, pay_to="x")
    await denied(connection, "bot", 60_000, 0.4 * hour, "over_per_call_limit")
    await denied(connection, "bot", 60_000, 0.3 * hour, "not_payable")
    await connection.close()

    file = private / "strict.toml"

    def replayed(text: str, *words: str) -> list[tuple[str, str, str]]:
        file.write_text(text)
        lines = autopay.well("policy", "simulate", "--json", *words, str(file)).splitlines()
        return [(one["was"], one["would_be"], one["effect"]) for one in map(as_json, lines)]

    same = ("ok", "ok", "same")
    over = ("over_per_call_limit", "over_per_call_limit", "same")
    assert replayed("[agent.bot]\n") == [same] * 5 + [over]
    assert replayed("[agent.bot]\n", "--since", "90m") == [same] * 2 + [over]
    # A rolling window, filled by what this policy lets through: 0.01 four times is once too much.
    assert replayed('[agent.bot]\nrolling = { "24h" = "0.03" }\n') == [
        *[same] * 4,
        ("ok", "over_rolling_limit", "denied"),
        over,
    ]
    assert replayed("[agent.bot]\npayments = { lifetime = 3 }\n", "--since", "130m") == [
        ("ok", "ok", "same"),
        ("ok", "too_many_payments", "denied"),
        ("ok", "too_many_payments", "denied"),
        over,
    ]
    assert replayed('[agent.bot]\npay_to_pinning = "first_use"\n')[4] == (
        "ok",
        "pay_to_changed",
        "denied",
    )
    assert replayed('[agent.bot]\nmax_price_ratio_last = "1.5"\n')[4] == (
        "ok",
        "price_drift",
        "denied",
    )
    assert replayed('[agent.bot]\nper_call = "0.06"\n')[5] == (
        "over_per_call_limit",
        "ok",
        "allowed",
    )

    file.write_text('[agent.bot]\nper_call = "0.015"\n')
    said = autopay.well("policy", "simulate", str(file))
    assert "6 decisions, 5 of them paid: $0.06." in said
    assert "1 of those would have been denied: $0.02 not spent." in said
    assert "1 over_per_call_limit, by agent bot: per_call, $0.02" in said
    assert "0 that were denied would have been allowed: $0.00." in said


async def test_what_is_used_is_explained(autopay: Autopay, dsn: str, file: Path) -> None:
    autopay.well("agent", "add", "bot")
    file.write_text(
        '[agent.bot]\nrolling = { "2h" = "0.03" }\npayments = { "2h" = 3 }\n'
        'pay_to_pinning = "first_use"\n'
    )
    autopay.well("policy", "apply", str(file))
    connection = await asyncpg.connect(dsn)
    await connection.execute(
        "INSERT INTO budget_counters (scope, kind, agent_id, day, held_micros, held_calls)"
        " SELECT window_scope('hour', id, NULL, now()), 'hour', id,"
        " (now() AT TIME ZONE 'UTC')::date, 20000, 2 FROM agents WHERE name = 'bot'"
    )
    await connection.execute(
        "INSERT INTO pay_to_pins (provider, network, pay_to, accepted)"
        " VALUES ('https://api.example.com:443', $1, $2, true)",
        *(DEVNET, SELLER),
    )
    await connection.close()
    words = ("policy", "explain", "--agent", "bot", "--url", URL, "--network", "solana-devnet")
    done = autopay(*words, "--price", "0.02", "--pay-to", SELLER, "--json")
    told = as_json(done.stdout)
    assert (told["code"], told["rule"]) == ("over_rolling_limit", "rolling.2h")
    steps = {(step["rule"], step["layer"]): step for step in told["steps"]}
    assert steps["rolling.2h", "agent bot"]["numbers"]["held_usd"] == "0.02"
    assert steps["payments.2h", "agent bot"]["numbers"] == {"payments": 2, "left": 1}
    told = as_json(autopay(*words, "--price", "0.01", "--pay-to", "x", "--json").stdout)
    assert told["code"] == "pay_to_changed"
    assert as_json(autopay.well(*words, "--price", "0.01", "--pay-to", SELLER, "--json"))["allowed"]


async def test_a_shadow(autopay: Autopay, file: Path) -> None:
    autopay.well("agent", "add", "bot")
    before = version(autopay)
    assert "No other policy decides" in autopay.well("policy", "shadow")
    assert "what they would have said" in autopay.well(
        "policy", "shadow", str(file), "--note", "let us see"
    )
    assert version(autopay) == before
    said = autopay.well("policy", "shadow")
    assert "let us see" in said
    assert '+ agent bot: per_call: "0.05" -> "0.10" (looser)' in said
    assert "not both" in autopay.refused("policy", "shadow", "--off", str(file))
    autopay.well("policy", "shadow", "--off")
    assert as_json(autopay.well("policy", "shadow", "--json"))["shadow"] is None
