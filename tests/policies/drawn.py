"""Rules, books and offers to draw from: small worlds, in which things meet."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from hypothesis import strategies as st

from policies import Ask, Book, LayerKey, Limit, Rules
from policies.rules import ordered_limits

DEVNET = "solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1"
MINT = "4zMMC9srt5Ri5X14GAgXhaHii3GnPAEERYPJgZJDncDU"
SELLER = "2wKupLR9q6wXYppw8Gr2NvWxKBUqm4PPJKkQfoxHDBg4"

AGENTS = ("bot", "ant")
PROVIDERS = ("api.example.com", "*.example.com", "https://api.example.com:443", "other.example")
PATTERNS = (
    "https://api.example.com/*",
    "GET https://api.example.com/v1/*",
    "https://*.example.com/v1/quote",
    "*://other.example/*",
)
HOURS = (
    "Mon-Fri 08:00-18:00",
    "Sat,Sun 22:00-06:00 Europe/Lisbon",
    "Mon-Sun 00:00-24:00 Asia/Tokyo",
)
MOMENTS = (datetime(2026, 3, 2, 9, 30, tzinfo=UTC), datetime(2026, 3, 7, 23, 15, tzinfo=UTC))
NETWORKS = (DEVNET, "eip155:8453")

micros = st.integers(0, 120_000)


def some(*values: str, most: int = 2) -> st.SearchStrategy[tuple[str, ...]]:
    return st.lists(st.sampled_from(values), max_size=most, unique=True).map(tuple)


limits = st.lists(
    st.builds(
        Limit,
        st.sampled_from(["hour", "day", "month", "lifetime", "24h", "7d", "5h", "25h"]),
        st.none() | micros,
        st.none() | st.integers(0, 9),
    ),
    max_size=4,
).map(ordered_limits)
ratios = st.none() | st.sampled_from([Decimal("0.50"), Decimal("1.50"), Decimal("2.00")])
rules = st.builds(
    Rules,
    frozen=st.sampled_from([False, False, False, True]),
    hours=some(*HOURS),
    per_call=st.none() | micros,
    denied_endpoints=some(*PATTERNS, most=1),
    allowed_endpoints=some(*PATTERNS),
    pay_to_pinning=st.none() | st.sampled_from(["off", "first_use", "list"]),
    allowed_pay_to=some(SELLER, "x"),
    allowed_assets=some("USDC", "CASH", f"{DEVNET}/{MINT}"),
    allowed_networks=some(*NETWORKS),
    allowed_schemes=some("exact", "upto"),
    allowed_flows=some("authorization", "upfront", "escrow"),
    max_timeout_seconds=st.none() | st.integers(1, 120),
    limits=limits,
    max_price_ratio_last=ratios,
    max_price_ratio_median=ratios,
    loss_cap=st.none() | micros,
    approval_above=st.none() | micros,
    approval_wait_seconds=st.none() | st.integers(0, 60),
    wallet=st.none() | st.just("main"),
    share_identical=st.booleans(),
    asset_order=some("USDC", "CASH"),
    network_order=some(*NETWORKS),
)
agent_rules = st.builds(
    lambda rules, session, targets, ports: Rules(
        **{
            **{name: getattr(rules, name) for name in rules.__dataclass_fields__},
            "limits": ordered_limits((*rules.limits, Limit("session", session))),
            "allowed_targets": targets,
            "allowed_ports": ports,
        }
    ),
    rules,
    st.none() | micros,
    some("10.0.0.0/8", "[::1]:8080"),
    st.sampled_from([(), (443,), (22, 443)]),
)


def books() -> st.SearchStrategy[Book]:
    provided = st.dictionaries(st.sampled_from(PROVIDERS), rules, max_size=2)
    return st.builds(
        Book,
        version=st.integers(0, 9),
        defaults=st.just(Rules()) | rules,
        providers=provided,
        agents=st.dictionaries(st.sampled_from(AGENTS), agent_rules, max_size=2),
        agent_providers=st.dictionaries(
            st.tuples(st.sampled_from(AGENTS), st.sampled_from(PROVIDERS)), rules, max_size=2
        ),
    )


asks = st.builds(
    Ask,
    method=st.sampled_from(["GET", "POST"]),
    scheme=st.just("https"),
    host=st.sampled_from(["api.example.com", "www.example.com", "other.example"]),
    port=st.sampled_from([443, 8443]),
    path=st.sampled_from(["/v1/quote", "/v1/x", "/", "/v1/../x"]),
    pay_to=st.sampled_from([SELLER, "x", "y"]),
    asset=st.just(MINT),
    symbol=st.sampled_from(["USDC", "CASH"]),
    network=st.sampled_from(NETWORKS),
    price=micros,
    scheme_x402=st.sampled_from(["exact", "exact", "upto"]),
    flow=st.sampled_from(["authorization", "authorization", "upfront"]),
    max_timeout_seconds=st.none() | st.integers(0, 150),
    at=st.none() | st.sampled_from(MOMENTS),
)

keys = st.sampled_from(
    [
        LayerKey(),
        *(LayerKey(None, provider) for provider in PROVIDERS),
        *(LayerKey(agent) for agent in AGENTS),
        *(LayerKey(agent, provider) for agent in AGENTS for provider in PROVIDERS),
    ]
)


def toml(value: Any) -> str:
    """A value of JSON as TOML."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "{" + ", ".join(f'"{key}" = {toml(inner)}' for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return f'"{value}"' if isinstance(value, str) else str(value)
