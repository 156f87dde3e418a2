"""`autopay policy`: files that hold, are looked over, tried out, explained, replayed, undone."""

import json
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from proxy.supposed import supposed_key
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
    read = autopay.well("policy", "history")
    assert "agent bot provider" in read
    assert " daily, per_call" in read and "_micros" not in read
    assert "there is no agent 'x'" in autopay.refused("policy", "show", "--agent", "x")

    assert autopay.refused("policy", "history", "--agent", "bott") == (
        "there is no agent 'bott'; did you mean 'bot'? see: autopay agent list"
    )
    assert autopay.refused("policy", "history", "--agent", "nobody") == (
        "there is no agent 'nobody'; see: autopay agent list"
    )
    assert "agent bot" in autopay.well("policy", "history", "--agent", "bot")

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
    for option in (("--network", "devnet"), ("--asset", "devnet/x")):
        why = autopay.refused(*words[:6], "--price", "1", *option)
        assert "network 'devnet': write solana, solana-devnet" in why
    assert "is no URL" in autopay.refused(
        "policy", "explain", "--agent", "bot", "--url", "x", "--price", "1"
    )


async def met(
    connection: "asyncpg.Connection[Any]",
    agent: str,
    at: datetime,
    micros: int,
    request: UUID,
    *,
    seconds: int | None = 60,
) -> None:
    """The row of a 402 with one offer."""
    offer = {
        "scheme": "exact",
        "flow": "authorization",
        "network": DEVNET,
        "asset": MINT,
        "currency": "USDC",
        "pay_to": SELLER,
        "amount_usd_micros": micros,
        "max_timeout_seconds": 60,
    }
    if seconds is not None:
        offer["timeout_asked"] = seconds
    await connection.execute(
        "INSERT INTO api_requests (id, agent_id, provider, method, endpoint, api_type, http_status,"
        " status, x402_instructions, created_at) SELECT $1, a.id, 'https://api.example.com:443',"
        " 'GET', $3, 'MARKET_DATA', 402, 'PAYMENT_REQUIRED', $4::text::jsonb, $5 FROM agents a"
        " WHERE a.name = $2",
        *(request, agent, URL, json.dumps({"chosen": 0, "offers": [offer]}), at),
    )


async def paid(
    connection: "asyncpg.Connection[Any]",
    agent: str,
    micros: int,
    ago: timedelta,
    seconds: int | None = 60,
    **more: Any,
) -> None:
    """A payment that was made so long ago, with its decision. `seconds`: what the offer asked for;
    None: the row is of a version that did not write it down."""
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
    await met(connection, agent, at, micros, payment, seconds=seconds)
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
    connection: "asyncpg.Connection[Any]",
    agent: str,
    micros: int,
    ago: timedelta,
    reason: str,
    *,
    written: bool = True,
) -> None:
    """`written`: with what it met."""
    at = datetime.now(UTC) - ago
    if written:
        await met(connection, agent, at, micros, uuid4())
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


async def test_what_the_log_does_not_hold_is_said(
    autopay: Autopay, dsn: str, private: Path
) -> None:
    autopay.well("agent", "add", "bot")
    connection = await asyncpg.connect(dsn)
    hour = timedelta(hours=1)
    await paid(connection, "bot", 10_000, 3 * hour)
    await paid(connection, "bot", 20_000, 2 * hour, seconds=None)
    await denied(connection, "bot", 60_000, 1 * hour, "over_per_call_limit")
    await denied(connection, "bot", 60_000, 0.5 * hour, "over_per_call_limit", written=False)
    await denied(connection, "bot", 30_000, 0.4 * hour, "over_fleet_limit")
    await connection.execute(
        "INSERT INTO policy_decision_logs (agent_id, method, endpoint, decision, reason)"
        " SELECT id, 'GET', 'cut off', 'deny', 'frozen' FROM agents WHERE name = 'bot'"
    )
    await connection.close()
    file = private / "other.toml"

    def would_be(text: str, *words: str) -> list[tuple[str | None, str]]:
        file.write_text(text)
        said = autopay("policy", "simulate", "--json", *words, str(file))
        assert (said.returncode, words != () or "not known: 1 decisions" in said.stderr) == (
            0,
            True,
        )
        return [
            (one["would_be"], ", ".join(one["not_known"]))
            for one in map(as_json, said.stdout.splitlines())
        ]

    terms = "allowed_schemes, allowed_flows"
    wide = '[agent.bot]\nper_call = "1"\n'
    ok = ("ok", "")
    assert would_be(wide) == [ok, ok, ok, (None, terms), ok]
    assert would_be(wide + "max_timeout_seconds = 60\n", "--agent", "bot") == [
        ok,
        (None, "max_timeout_seconds"),
        ok,
        (None, f"{terms}, max_timeout_seconds"),
        ok,
    ]
    late = ("timeout_too_long", "")
    assert would_be(wide + "max_timeout_seconds = 59\n")[:3] == [late, late, late]
    assert would_be(wide + 'allowed_schemes = ["upto"]\n')[0] == ("scheme_not_allowed", "")
    assert would_be(wide + 'allowed_flows = ["escrow"]\n')[2] == ("flow_not_allowed", "")
    assert would_be(wide + f'allowed_pay_to = ["{SELLER}"]\n') == [
        ok,
        ok,
        ok,
        (None, f"allowed_pay_to, {terms}"),
        ok,
    ]
    assert "there is no agent 'x'" in autopay.refused(
        "policy", "simulate", str(file), "--agent", "x"
    )

    file.write_text(wide)
    said = autopay.well("policy", "simulate", str(file))
    assert "5 decisions, 2 of them paid: $0.03." in said
    assert "2 that were denied would have been allowed: $0.09." in said
    assert (
        "not known: 2 decisions, of which the log does not hold: allowed_schemes, allowed_flows,"
        " their endpoints" in said
    )


async def test_ceilings_are_replayed(autopay: Autopay, dsn: str, private: Path) -> None:
    """As they stand now; what others spent counts, whomever is asked about."""
    for name in ("bot", "ant"):
        autopay.well("agent", "add", name)
    connection = await asyncpg.connect(dsn)
    now = datetime.now(UTC)
    hour = timedelta(hours=1)
    start = now - now.replace(hour=0, minute=0, second=0) + 25 * hour  # two days ago, at 23:00
    for nth, agent in enumerate(("ant", "bot", "ant", "bot")):
        await paid(connection, agent, 10_000, start - nth * timedelta(minutes=1), payer="w")
    await denied(connection, "bot", 10_000, start - 5 * timedelta(minutes=1), "over_fleet_limit")
    await connection.close()
    file = private / "same.toml"
    file.write_text("[agent.bot]\n")

    def would_be(*words: str) -> list[str | None]:
        said = autopay.well("policy", "simulate", "--since", "3d", "--json", *words, str(file))
        return [as_json(line)["would_be"] for line in said.splitlines()]

    assert would_be() == ["ok"] * 5
    over = "over_{}_limit"
    for words, code, verdicts in (
        ((), "fleet", [0, 0, 0, 1, 1]),
        (("--provider", "https://api.example.com"), "provider", [0, 0, 0, 1, 1]),
        (("--wallet", "*"), "wallet", [0, 0, 0, 1, None]),
    ):
        autopay.well("limit", "set", *words, "0.03")
        assert would_be() == [
            None if one is None else over.format(code) if one else "ok" for one in verdicts
        ]
        if not words:
            assert would_be("--agent", "bot") == ["ok", "over_fleet_limit", "over_fleet_limit"]
        autopay.well("limit", "clear", *words)


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
    done = autopay(*words, "--price", "0.01", "--json")
    told = as_json(done.stdout)  # whom it would pay was not said
    assert (done.returncode, told["allowed"], told["code"], told["rule"]) == (
        1,
        None,
        "unknown",
        "pay_to_pinning",
    )
    assert (
        "is not known, by agent bot: pay_to_pinning." in autopay(*words, "--price", "0.01").stdout
    )
    assert as_json(autopay.well(*words, "--price", "0.01", "--pay-to", SELLER, "--json"))["allowed"]


async def test_an_approval_is_explained(autopay: Autopay, dsn: str, private: Path) -> None:
    autopay.well("agent", "add", "bot")
    file = private / "policy.toml"
    file.write_text('[agent.bot]\napproval_above = "0.001"\n')
    autopay.well("policy", "apply", str(file))
    body = private / "body"
    body.write_bytes(b"\xffone\n")
    key = supposed_key("POST", f"{URL}?q=1", sha256(body.read_bytes()).digest())
    connection = await asyncpg.connect(dsn)
    await connection.execute(
        "INSERT INTO approvals (agent_id, state, bound, provider, method, endpoint, network, asset,"
        " symbol, pay_to, price_micros, expires_at, decided_at)"
        " SELECT q.agent_id, 'approved', approval_bound(q), q.provider, q.method, q.endpoint,"
        " q.network, q.asset, 'USDC', q.pay_to, 10000, now() + interval '1 hour', now()"
        " FROM agents a, jsonb_populate_record(NULL::reservation_request, jsonb_build_object("
        "'agent_id', a.id, 'method', 'POST', 'endpoint', $1::text, 'request_key', $2::bytea,"
        " 'provider', 'https://api.example.com:443', 'network', $3::text, 'asset', $4::text,"
        " 'pay_to', $5::text)) q WHERE a.name = 'bot'",
        *(URL, key, DEVNET, MINT, SELLER),
    )
    await connection.close()
    words = ("policy", "explain", "--agent", "bot", "--url", f"{URL}?q=1", "--price", "0.01")
    words += ("--method", "POST", "--network", "solana-devnet", "--pay-to", SELLER)
    assert "An operator has approved it: approval" in autopay.well(*words, "--body", f"@{body}")
    denied = autopay(*words, "--body", "one")
    assert (denied.returncode, "approval_required" in denied.stdout) == (1, True)
    unknown = autopay(*words)
    assert unknown.returncode == 1
    assert "Not said: its body." in unknown.stdout.splitlines()[-1]
    assert "cannot be read" in autopay.refused(*words, "--body", "@/nowhere")


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
