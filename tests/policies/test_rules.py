"""What a layer can say, and that it says the same once written down and read again."""

import tomllib
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import Limit, PolicyError, RuleError, Rules
from policies.rules import KEYS, window_hours
from tests.policies.drawn import DEVNET, agent_rules, rules, toml

EVERYTHING = """
frozen = true
hours = ["Mon-Fri 08:00-18:00 Europe/Lisbon"]
per_call = "0.05"
hourly = "0.50"
daily = "$1"
monthly = 20
session = "1.00"
trace = "1.00"
lifetime = "100.00"
rolling = { "24h" = "5.00", "7d" = "20.00" }
payments = { hour = 10, day = 100, "36h" = 120 }
denied_endpoints = ["https://api.example.com/admin/*"]
allowed_endpoints = ["GET https://api.example.com/v1/*"]
pay_to_pinning = "first_use"
allowed_pay_to = ["2wKupLR9q6wXYppw8Gr2NvWxKBUqm4PPJKkQfoxHDBg4"]
allowed_assets = ["USDC"]
allowed_networks = ["solana-devnet"]
allowed_schemes = ["exact"]
allowed_flows = ["authorization", "upfront"]
max_timeout_seconds = 120
max_price_ratio_last = "1.5"
max_price_ratio_median = "2"
loss_cap = "0.25"
approval_above = "0.02"
approval_wait_seconds = 30
wallet = "main"
share_identical = true
asset_order = ["USDC"]
network_order = ["solana"]
allowed_targets = ["127.0.0.1:8080"]
allowed_ports = [443]
"""


def test_everything_that_can_be_said() -> None:
    said = Rules.from_json(tomllib.loads(EVERYTHING))
    assert set(said.to_json()) == set(KEYS)
    assert said.limits == (
        Limit("hour", 500_000, 10),
        Limit("day", 1_000_000, 100),
        Limit("month", 20_000_000),
        Limit("session", 1_000_000),
        Limit("trace", 1_000_000),
        Limit("lifetime", 100_000_000),
        Limit("24h", 5_000_000),
        Limit("36h", payments=120),
        Limit("7d", 20_000_000),
    )
    assert (said.per_call, said.loss_cap, said.approval_above) == (50_000, 250_000, 20_000)
    assert said.max_price_ratio_last == Decimal("1.5")
    assert said.allowed_networks == (DEVNET,)


@given(agent_rules)
def test_a_layer_survives_json(said: Rules) -> None:
    assert Rules.from_json(said.to_json()) == said


@given(agent_rules)
def test_a_layer_survives_toml(said: Rules) -> None:
    text = "".join(f"{key} = {toml(value)}\n" for key, value in said.to_json().items())
    assert Rules.from_json(tomllib.loads(text)) == said


def test_what_says_nothing() -> None:
    empty = {"frozen": False, "allowed_assets": [], "hours": [], "rolling": {}, "payments": {}}
    assert Rules.from_json(empty) == Rules()
    assert not Rules.from_json(empty)
    assert Rules().to_json() == {}


def test_nothing_and_none_are_two_things() -> None:
    said = Rules.from_json({"per_call": "0", "approval_wait_seconds": 0, "payments": {"day": 0}})
    assert said.to_json() == {
        "per_call": "0.00",
        "payments": {"day": 0},
        "approval_wait_seconds": 0,
    }


@pytest.mark.parametrize(
    ("given", "canonical"),
    [("1d", "24h"), ("24h", "24h"), ("48h", "2d"), ("25h", "25h"), ("744h", "31d")],
)
def test_a_window_has_one_spelling(given: str, canonical: str) -> None:
    said = Rules.from_json({"rolling": {given: "1"}})
    assert said.limits == (Limit(canonical, 1_000_000),)
    assert window_hours(canonical) == window_hours(given)


@pytest.mark.parametrize(
    ("document", "path", "why"),
    [
        ({"per_cal": "1"}, ("per_cal",), "is per_call meant?"),
        ({"frozen": 1}, ("frozen",), "neither true nor false"),
        ({"per_call": 0.05}, ("per_call",), 'write the amount as text, in USD: "0.05"'),
        ({"per_call": True}, ("per_call",), "not an amount"),
        ({"per_call": "5 USD"}, ("per_call",), "at most 6 decimals"),
        ({"daily": "-1"}, ("daily",), "is not an amount"),
        ({"rolling": {"32d": "1"}}, ("rolling", "32d"), "1h to 744h or 1d to 31d"),
        ({"rolling": {"day": "1"}}, ("rolling", "day"), "a window is"),
        ({"rolling": {"1d": "1", "24h": "2"}}, ("rolling", "24h"), "this is 1d once more"),
        ({"rolling": "1"}, ("rolling",), "not a table"),
        ({"payments": {"session": 1}}, ("payments", "session"), "hour, day, month, lifetime"),
        ({"payments": {"day": -1}}, ("payments", "day"), "whole number from 0"),
        ({"payments": {"day": "5"}}, ("payments", "day"), "whole number"),
        ({"hours": ["always"]}, ("hours", 0), "like Mon-Fri 08:00-18:00"),
        ({"allowed_endpoints": ["*"]}, ("allowed_endpoints", 0), "write METHOD scheme"),
        ({"denied_endpoints": "x"}, ("denied_endpoints",), "not a list"),
        ({"allowed_pay_to": ["two words"]}, ("allowed_pay_to", 0), "without spaces"),
        ({"allowed_assets": ["USDC", ""]}, ("allowed_assets", 1), "USDC or network/address"),
        ({"allowed_networks": ["devnet"]}, ("allowed_networks", 0), "CAIP-2"),
        ({"allowed_flows": [1]}, ("allowed_flows", 0), "x402"),
        ({"pay_to_pinning": "on"}, ("pay_to_pinning",), "off or first_use or list"),
        ({"pay_to_pinning": ["off"]}, ("pay_to_pinning",), "off or first_use or list"),
        ({"max_price_ratio_last": 1.5}, ("max_price_ratio_last",), 'like "1.5"'),
        ({"max_price_ratio_last": "0"}, ("max_price_ratio_last",), "allows no price"),
        ({"max_timeout_seconds": 0}, ("max_timeout_seconds",), "from 1 to"),
        ({"approval_wait_seconds": 3601}, ("approval_wait_seconds",), "from 0 to 3600"),
        ({"wallet": "my wallet"}, ("wallet",), "wallet's name"),
        ({"allowed_targets": ["example.com"]}, ("allowed_targets", 0), "target"),
        ({"allowed_ports": [70000]}, ("allowed_ports", 0), "from 1 to 65535"),
        ([], (), "a table of rules"),
    ],
)
def test_what_cannot_be_meant(document: object, path: tuple[str | int, ...], why: str) -> None:
    with pytest.raises(RuleError) as refused:
        Rules.from_json(document)
    assert refused.value.path == path
    assert why in str(refused.value)
    assert "\n" not in str(refused.value)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.floats(),
        lambda inner: (
            st.lists(inner, max_size=2)
            | st.dictionaries(st.sampled_from([*KEYS, "24h", "day", "x"]), inner, max_size=4)
        ),
        max_leaves=8,
    )
)
def test_reading_is_total(document: object) -> None:
    try:
        said = Rules.from_json(document)
    except PolicyError as error:
        assert "\n" not in str(error)
    else:
        assert Rules.from_json(said.to_json()) == said


@given(rules, rules)
def test_defaults_give_way_rule_by_rule(defaults: Rules, own: Rules) -> None:
    left = defaults.where_silent(own).to_json()
    said, below = own.to_json(), defaults.to_json()
    for key, value in below.items():
        if isinstance(value, dict):
            rest = {inner: x for inner, x in value.items() if inner not in said.get(key, {})}
            assert left.get(key, {}) == rest
        else:
            assert left.get(key) == (None if key in said else value)
    assert left.keys() <= below.keys()
