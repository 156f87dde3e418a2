"""What lint finds, and that it finds nothing in what is in order."""

import pytest
from hypothesis import given

from policies import Book
from policies.coverage import covers, lies_within
from policies.files import read
from policies.lint import Finding, Known, lint
from policies.pattern import parse_pattern
from tests.policies.drawn import books

SELLER = "2wKupLR9q6wXYppw8Gr2NvWxKBUqm4PPJKkQfoxHDBg4"
KNOWN = Known(
    assets=("USDC", "solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1/4zMM"),
    networks=("solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1",),
    wallets=("main",),
    agents=("bot",),
)


def found(text: str, known: Known | None = None) -> list[str]:
    loaded = read({"a.toml": text})
    written = {key: source.written for key, source in loaded.sources.items()}
    return [said(one) for one in lint(loaded.book, known, written)]


def said(one: Finding) -> str:
    entry = f"[{one.entry + 1}]" if one.entry is not None else ""
    return f"{one.level}: {one.layer}: {one.rule}{entry}: {one.why}"


def test_a_policy_that_is_in_order() -> None:
    text = f"""
        [defaults]
        per_call = "0.05"
        allowed_networks = ["solana-devnet"]
        denied_endpoints = ["*://api.example.com/admin/*"]
        [provider."api.example.com"]
        daily = "20"
        [agent.bot]
        hourly = "1"
        daily = "5"
        monthly = "50"
        rolling = {{ "7d" = "20" }}
        payments = {{ hour = 100, day = 1000 }}
        allowed_endpoints = ["https://api.example.com/v1/*", "*://api.example.com/v2/*"]
        hours = ["Mon-Fri 22:00-06:00 Europe/Lisbon"]
        approval_above = "0.02"
        approval_wait_seconds = 30
        pay_to_pinning = "list"
        allowed_pay_to = ["{SELLER}"]
        allowed_assets = ["USDC", "solana-devnet/4zMM"]
        asset_order = ["USDC"]
        loss_cap = "0.25"
        max_price_ratio_last = "1"
        wallet = "main"
        [agent.bot.provider."api.example.com"]
        per_call = "0.04"
        daily = "1"
    """
    assert found(text, KNOWN) == []


@pytest.mark.parametrize(
    ("text", "finding"),
    [
        (
            "[agent.bot]\nallowed_assets = []",
            "warning: agent bot: allowed_assets: an empty list says nothing: by this layer ALL is",
        ),
        ("[agent.bot]\nhours = []", "warning: agent bot: hours: it is empty"),
        ('[agent.bot]\nper_call = "0"', "error: agent bot: per_call: a limit of 0"),
        ('[agent.bot]\ndaily = "0"\n', "error: agent bot: daily: a limit of 0"),
        ("[agent.bot]\npayments.day = 0", "error: agent bot: payments: none is allowed"),
        (
            '[agent.bot]\nper_call = "2"\ndaily = "1"',
            "warning: agent bot: per_call: 2.00 is above daily, 1.00",
        ),
        (
            '[agent.bot]\nper_call = "0.01"\nhourly = "1"\ndaily = "1"',
            "warning: agent bot: hourly: 1.00 is never reached: daily is 1.00",
        ),
        (
            '[agent.bot]\nrolling = { "24h" = "9", "7d" = "8" }',
            "warning: agent bot: rolling: 9.00 is never reached: rolling is 8.00",
        ),
        (
            "[agent.bot]\npayments = { hour = 10, day = 9 }",
            "warning: agent bot: payments: 10 per hour are never reached: it is 9 per day",
        ),
        (
            '[agent.bot]\ndaily = "1"\nloss_cap = "1"',
            "warning: agent bot: loss_cap: daily is reached before it",
        ),
        (
            '[agent.bot]\nallowed_endpoints = ["https://a.example/v1/x", "https://a.example/v1/*"]',
            "warning: agent bot: allowed_endpoints[1]: 'https://a.example/v1/x' is within",
        ),
        (
            '[agent.bot]\ndenied_endpoints = ["https://a.example/*", "https://a.example/*"]',
            # in the file it is there once: what is twice in a list is in it once
            "",
        ),
        (
            '[agent.bot]\ndenied_endpoints = ["*://*.example/*"]\n'
            'allowed_endpoints = ["GET https://a.example/v1/*"]',
            "error: agent bot: allowed_endpoints[1]: 'GET https://a.example/v1/*' is denied by",
        ),
        (
            '[defaults]\ndenied_endpoints = ["https://a.example/*"]\n'
            '[agent.bot]\nallowed_endpoints = ["https://a.example/v1/*"]',
            "error: agent bot: allowed_endpoints[1]: 'https://a.example/v1/*' is denied by"
            " 'https://a.example/*' of defaults",
        ),
        (
            '[provider."a.example"]\ndenied_endpoints = ["https://b.example/*"]',
            "warning: provider \"a.example\": denied_endpoints[1]: 'https://b.example/*' is not of",
        ),
        (
            '[provider."a.example"]\nallowed_endpoints = ["https://b.example/*"]',
            'error: provider "a.example": allowed_endpoints[1]: ',
        ),
        (
            '[agent.bot]\npay_to_pinning = "list"',
            "error: agent bot: pay_to_pinning: pinned to a list, and no layer has allowed_pay_to",
        ),
        (
            '[provider."a.example"]\npay_to_pinning = "list"',
            'error: provider "a.example": pay_to_pinning: pinned to a list',
        ),
        (
            "[agent.bot]\napproval_wait_seconds = 5",
            "warning: agent bot: approval_wait_seconds: without approval_above",
        ),
        (
            '[agent.bot]\nper_call = "0.05"\napproval_above = "0.05"',
            "warning: agent bot: approval_above: 0.05 is never passed: per_call is 0.05",
        ),
        (
            '[defaults]\nper_call = "0.05"\n[agent.bot]\napproval_above = "1"',
            "warning: agent bot: approval_above: 1.00 is never passed: per_call of defaults is",
        ),
        (
            '[agent.bot]\nmax_price_ratio_last = "0.9"',
            "error: agent bot: max_price_ratio_last: below 1",
        ),
        (
            '[agent.bot]\nper_call = "0.05"\n[agent.bot.provider."a.example"]\nper_call = "0.06"',
            'warning: agent bot provider "a.example": per_call: agent bot allows 0.05 at most',
        ),
        (
            '[agent.bot]\ndaily = "1"\n[agent.bot.provider."a.example"]\ndaily = "2"',
            'warning: agent bot provider "a.example": daily: agent bot allows 1.00 at most',
        ),
        (
            '[agent.bot]\nallowed_assets = ["USDC"]\n'
            '[agent.bot.provider."a.example"]\nallowed_assets = ["CASH"]',
            'error: agent bot provider "a.example": allowed_assets: nothing of it is on the list',
        ),
        (
            '[agent.bot]\nhours = ["Mon-Fri 08:00-18:00"]\n'
            '[agent.bot.provider."a.example"]\nhours = ["Mon-Fri 08:00-16:00 US/Pacific"]\n',
            "",
        ),
        (
            '[agent.bot]\nhours = ["Mon-Fri 08:00-12:00"]\n'
            '[agent.bot.provider."a.example"]\nhours = ["Mon-Fri 08:00-16:00 US/Pacific"]\n',
            'error: agent bot provider "a.example": hours: it is closed whenever agent bot is open',
        ),
        (
            '[defaults]\nfrozen = true\n[agent.bot]\nper_call = "1"',
            "error: agent bot: frozen: the defaults are frozen",
        ),
        (
            '[defaults]\nper_call = "1"\n[agent.bot]\nper_call = "0.5"',
            "warning: defaults: per_call: each agent of this policy says its own",
        ),
        (
            '[agent.bot]\nallowed_assets = ["USDC"]\nasset_order = ["CASH"]',
            "warning: agent bot: asset_order[1]: CASH is not in allowed_assets",
        ),
        (
            '[agent.bot]\nallowed_assets = ["solana/x"]\nallowed_networks = ["solana-devnet"]',
            "error: agent bot: allowed_assets: none of them is on a network",
        ),
        (
            '[agent.bot]\nallowed_flows = ["upfrnt"]',
            "error: agent bot: allowed_flows[1]: upfrnt is not known here and matches nothing",
        ),
    ],
)
def test_what_is_found(text: str, finding: str) -> None:
    findings = found(text)
    if finding:
        assert any(one.startswith(finding) for one in findings), findings
    else:
        assert findings == []


@pytest.mark.parametrize(
    ("text", "finding"),
    [
        ("[agent.ant]\nfrozen = true", "error: agent ant: : there is no agent 'ant'"),
        ('[agent.bot]\nwallet = "x"', "error: agent bot: wallet: there is no wallet 'x'"),
        ('[agent.bot]\nallowed_assets = ["EURC"]', "error: agent bot: allowed_assets[1]: EURC"),
        (
            '[agent.bot]\nallowed_assets = ["usdc", "solana-devnet/9"]',
            "warning: agent bot: allowed_assets[2]: solana-devnet/9 is not known",
        ),
        ('[agent.bot]\nallowed_networks = ["eip155:1"]', "error: agent bot: allowed_networks[1]"),
    ],
)
def test_what_there_is_not(text: str, finding: str) -> None:
    assert found(text) == []
    (one,) = found(text, KNOWN)
    assert one.startswith(finding)


@given(books())
def test_looking_is_total(book: Book) -> None:
    for one in lint(book, KNOWN):
        assert one.why
        assert one.level in ("error", "warning")


@pytest.mark.parametrize(
    ("one", "other", "all_of_it"),
    [
        ("https://a.example/*", "https://a.example/v1", True),
        ("https://a.example/*", "http://a.example/v1", False),
        ("*://a.example/*", "http://a.example/v1", True),
        ("https://a.example/*", "*://a.example/v1", False),
        ("*://a.example:80/*", "*://a.example/v1", False),
        ("*://a.example:443/*", "https://a.example/v1", True),
        ("GET https://a.example/*", "https://a.example/v1", False),
        ("https://*.example/*", "https://a.example/v1", True),
        ("https://a.example/*", "https://*.example/v1", False),
        ("https://*.example/*", "https://*.b.example/v1", True),
        ("https://a.example/v1", "https://a.example/v1*", False),
        ("https://a.example/v1*", "https://a.example/v1/*", True),
    ],
)
def test_one_pattern_covers_another(one: str, other: str, all_of_it: bool) -> None:
    assert covers(parse_pattern(one), parse_pattern(other)) is all_of_it


@pytest.mark.parametrize(
    ("window", "other", "inside"),
    [
        ("hour", "day", True),
        ("day", "24h", True),
        ("24h", "day", False),
        ("24h", "7d", True),
        ("7d", "month", False),
        ("month", "31d", True),
        ("session", "day", False),
        ("trace", "lifetime", True),
        ("day", "session", False),
    ],
)
def test_one_window_lies_within_another(window: str, other: str, inside: bool) -> None:
    assert lies_within(window, other) is inside
