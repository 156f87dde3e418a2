from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import Ask, Policy, PolicyError, choose, decide, validated

DEVNET = "solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1"
MINT = "4zMMC9srt5Ri5X14GAgXhaHii3GnPAEERYPJgZJDncDU"
SELLER = "2wKupLR9q6wXYppw8Gr2NvWxKBUqm4PPJKkQfoxHDBg4"

ASK = Ask(
    method="GET",
    scheme="https",
    host="api.example.com",
    port=443,
    path="/v1/quote",
    pay_to=SELLER,
    asset=MINT,
    symbol="USDC",
    network=DEVNET,
    price=10_000,
)
CODES = {
    "ok",
    "frozen",
    "over_per_call_limit",
    "endpoint_not_allowed",
    "pay_to_not_allowed",
    "asset_not_allowed",
    "network_not_allowed",
}


def test_the_default_policy_allows_a_small_price() -> None:
    verdict = decide(Policy("bot"), ASK)
    assert (verdict.allowed, verdict.code) == (True, "ok")


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"frozen": True}, "frozen"),
        ({"per_call_limit": 9_999}, "over_per_call_limit"),
        ({"allowed_endpoints": ("https://other.example/*",)}, "endpoint_not_allowed"),
        ({"allowed_endpoints": ("not a pattern",)}, "endpoint_not_allowed"),
        ({"allowed_pay_to": ("someone",)}, "pay_to_not_allowed"),
        ({"allowed_pay_to": (SELLER.lower(),)}, "pay_to_not_allowed"),
        ({"allowed_assets": ("CASH",)}, "asset_not_allowed"),
        ({"allowed_assets": (f"solana/{MINT}",)}, "asset_not_allowed"),
        ({"allowed_networks": ("solana",)}, "network_not_allowed"),
    ],
)
def test_each_denial(change: dict[str, object], code: str) -> None:
    verdict = decide(replace(Policy("bot"), **change), ASK)  # type: ignore[arg-type]
    assert (verdict.allowed, verdict.code) == (False, code)
    assert verdict.detail.endswith(".")


@pytest.mark.parametrize(
    "change",
    [
        {"per_call_limit": 10_000},
        {
            "allowed_endpoints": (
                "POST https://api.example.com/*",
                "GET https://api.example.com/v1/*",
            )
        },
        {"allowed_pay_to": ("x", SELLER)},
        {"allowed_assets": ("usdc",)},
        {"allowed_assets": (f"solana-devnet/{MINT}",)},
        {"allowed_assets": (f"{DEVNET}/{MINT}",)},
        {"allowed_networks": ("solana-devnet",)},
        {"allowed_networks": (DEVNET,)},
    ],
)
def test_each_list_allows_what_it_names(change: dict[str, object]) -> None:
    assert decide(replace(Policy("bot"), **change), ASK).allowed  # type: ignore[arg-type]


def test_the_order_of_the_questions() -> None:
    wrong = Policy(
        "bot",
        frozen=True,
        per_call_limit=1,
        allowed_endpoints=("https://other.example/*",),
        allowed_pay_to=("x",),
        allowed_assets=("CASH",),
        allowed_networks=("solana",),
    )
    mended = [
        ("frozen", {"frozen": False}),
        ("over_per_call_limit", {"per_call_limit": 10_000}),
        ("endpoint_not_allowed", {"allowed_endpoints": ()}),
        ("pay_to_not_allowed", {"allowed_pay_to": ()}),
        ("asset_not_allowed", {"allowed_assets": ()}),
        ("network_not_allowed", {"allowed_networks": ()}),
    ]
    for code, mend in mended:
        assert decide(wrong, ASK).code == code
        wrong = replace(wrong, **mend)  # type: ignore[arg-type]
    assert decide(wrong, ASK).allowed


def test_the_per_call_denial_carries_its_limit() -> None:
    verdict = decide(Policy("bot"), replace(ASK, price=50_001))
    assert verdict.limit == 50_000
    assert "0.050001 USD" in verdict.detail
    assert "0.05 USD" in verdict.detail


def test_the_detail_repeats_nothing_a_seller_wrote() -> None:
    marked = replace(ASK, pay_to="<script>", path="/<script>", price=1)
    for policy in (
        Policy("b", allowed_pay_to=("x",)),
        Policy("b", allowed_endpoints=("https://x.example/*",)),
    ):
        assert "<script>" not in decide(policy, marked).detail


def test_a_negative_price_does_not_exist() -> None:
    with pytest.raises(ValueError, match="not negative"):
        replace(ASK, price=-1)


# -- properties ----

texts = st.text(max_size=20)
patterns = st.sampled_from(
    [
        "https://api.example.com/*",
        "GET https://api.example.com/v1/*",
        "https://*.example.com/*",
        "%%",
        "",
    ]
)
asks = st.builds(
    Ask,
    method=st.sampled_from(["GET", "POST", "get", ""]),
    scheme=st.sampled_from(["http", "https", "HTTPS", ""]),
    host=st.sampled_from(["api.example.com", "API.example.com", "example.com", "[::1]", "\0"])
    | texts,
    port=st.sampled_from([80, 443, 8080, -1]),
    path=st.sampled_from(["/v1/quote", "/v1/../x", "", "*"]) | texts,
    pay_to=st.sampled_from([SELLER, "x"]) | texts,
    asset=st.sampled_from([MINT, "y"]),
    symbol=st.sampled_from(["USDC", "CASH"]) | texts,
    network=st.sampled_from([DEVNET, "solana:x"]) | texts,
    price=st.integers(0, 120_000) | st.integers(0, 2**70),
)
policies = st.builds(
    Policy,
    agent=texts,
    frozen=st.booleans(),
    per_call_limit=st.integers(0, 120_000),
    allowed_endpoints=st.lists(patterns | texts, max_size=3).map(tuple),
    allowed_pay_to=st.lists(st.sampled_from([SELLER, "x"]) | texts, max_size=2).map(tuple),
    allowed_assets=st.lists(
        st.sampled_from(["USDC", "CASH", f"{DEVNET}/{MINT}"]) | texts, max_size=2
    ).map(tuple),
    allowed_networks=st.lists(
        st.sampled_from([DEVNET, "solana-devnet", "solana"]) | texts, max_size=2
    ).map(tuple),
)


@given(policies, asks)
def test_deciding_is_total(policy: Policy, ask: Ask) -> None:
    verdict = decide(policy, ask)
    assert verdict.code in CODES
    assert verdict.allowed == (verdict.code == "ok")


@given(policies, asks, st.integers(0, 120_000))
def test_a_lower_limit_never_allows_more(policy: Policy, ask: Ask, limit: int) -> None:
    tighter = replace(policy, per_call_limit=min(limit, policy.per_call_limit))
    assert decide(policy, ask).allowed or not decide(tighter, ask).allowed


@given(
    policies,
    asks,
    st.sampled_from(["allowed_endpoints", "allowed_pay_to", "allowed_assets", "allowed_networks"]),
)
def test_a_shorter_list_that_is_not_empty_never_allows_more(
    policy: Policy, ask: Ask, field: str
) -> None:
    entries = getattr(policy, field)
    if len(entries) > 1:
        tighter = replace(policy, **{field: entries[1:]})
        assert decide(policy, ask).allowed or not decide(tighter, ask).allowed


@given(policies, asks)
def test_freezing_denies_everything(policy: Policy, ask: Ask) -> None:
    assert decide(replace(policy, frozen=True), ask).code == "frozen"


@given(policies, st.lists(asks, min_size=1, max_size=5))
def test_choosing_takes_the_cheapest_allowed(policy: Policy, offers: list[Ask]) -> None:
    choice = choose(policy, offers)
    index, verdict = choice.index, choice.verdict
    assert verdict == decide(policy, offers[index])
    allowed = [offer.price for offer in offers if decide(policy, offer).allowed]
    assert verdict.allowed == bool(allowed)
    assert offers[index].price == min(allowed or [offer.price for offer in offers])


def test_among_equals_the_servers_order_decides() -> None:
    assert choose(Policy("bot"), [ASK, replace(ASK, pay_to="x")]).index == 0


def test_nothing_to_choose_from() -> None:
    with pytest.raises(ValueError, match="nothing to choose"):
        choose(Policy("bot"), [])


# -- policies worth storing ----


def test_validated_makes_network_names_canonical() -> None:
    assert validated(Policy("b", allowed_networks=("Solana-Devnet",))).allowed_networks == (DEVNET,)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"daily_limit": -1}, "daily_limit"),
        ({"session_limit": 10**18}, "session_limit"),
        ({"allowed_endpoints": ("x",)}, "endpoint pattern"),
        ({"allowed_pay_to": ("two words",)}, "allowed_pay_to"),
        ({"allowed_assets": ("",)}, "allowed_assets"),
        ({"allowed_networks": ("solana-devnett",)}, "allowed_networks"),
    ],
)
def test_validated_names_what_is_wrong(change: dict[str, object], field: str) -> None:
    with pytest.raises(PolicyError) as refused:
        validated(replace(Policy("bot"), **change))  # type: ignore[arg-type]
    assert field in str(refused.value)
    assert "\n" not in str(refused.value)
