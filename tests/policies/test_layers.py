"""Several layers at once: which hold, that each only takes away, and that no order matters."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from policies import (
    Ask,
    Book,
    Layer,
    LayerKey,
    Limit,
    Policy,
    PolicyError,
    RuleError,
    Rules,
    Verdict,
    decide,
)
from policies.decision import RULES
from tests.policies.drawn import AGENTS, DEVNET, MINT, PATTERNS, SELLER, asks, books, keys, rules

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
    max_timeout_seconds=60,
    at=datetime(2026, 3, 2, 9, 30, tzinfo=UTC),
)
PROVIDER = LayerKey(None, "api.example.com")
BOTH = LayerKey("bot", "*.example.com")
KEYS = [LayerKey(), LayerKey("bot"), PROVIDER, BOTH]


def decided(book: Book, ask: Ask = ASK, agent: str = "bot") -> Verdict:
    return decide(book.policy(agent, ask.scheme, ask.host, ask.port), ask)


def one_layer(key: LayerKey, said: dict[str, Any]) -> Book:
    return Book.of({key: Rules.from_json(said)}, 7)


DENIALS: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    # what a layer says, what of the offer it does not like, and the code
    (
        {"hours": ["Mon-Fri 09:00-17:00"]},
        {"at": datetime(2026, 3, 2, 8, tzinfo=UTC)},
        "hours_closed",
    ),
    ({"hours": ["Mon-Fri 09:00-17:00"]}, {"at": None}, "hours_closed"),
    ({"per_call": "0.01"}, {"price": 10_001}, "over_per_call_limit"),
    ({"denied_endpoints": ["*://api.example.com/v1/x*"]}, {"path": "/v1/xy"}, "endpoint_denied"),
    (
        {"denied_endpoints": ["https://api.example.com/admin"]},
        {"path": "/admin/"},
        "endpoint_denied",
    ),
    (
        {"denied_endpoints": ["https://api.example.com/admin"]},
        {"path": "//ADMIN"},
        "endpoint_denied",
    ),
    (
        {"denied_endpoints": ["https://*.example.com/a/*"]},
        {"path": "/x/..%2fa/b"},
        "endpoint_denied",
    ),
    ({"denied_endpoints": ["https://*.example.com/a/*"]}, {"path": "/a;v=1/b"}, "endpoint_denied"),
    ({"denied_endpoints": ["POST https://*.example.com/*"]}, {"method": "post"}, "endpoint_denied"),
    (
        {"allowed_endpoints": ["https://api.example.com/v1/*"]},
        {"path": "/x"},
        "endpoint_not_allowed",
    ),
    (
        {"pay_to_pinning": "list", "allowed_pay_to": [SELLER]},
        {"pay_to": "x"},
        "pay_to_not_listed",
    ),
    ({"allowed_pay_to": [SELLER]}, {"pay_to": "x"}, "pay_to_not_allowed"),
    ({"allowed_assets": ["USDC"]}, {"symbol": "CASH"}, "asset_not_allowed"),
    ({"allowed_networks": ["solana-devnet"]}, {"network": "solana:x"}, "network_not_allowed"),
    ({}, {"scheme_x402": "upto"}, "scheme_not_allowed"),
    ({"allowed_schemes": ["exact"]}, {"scheme_x402": "upto"}, "scheme_not_allowed"),
    ({}, {"flow": "upfront"}, "flow_not_allowed"),
    ({"allowed_flows": ["authorization", "upfront"]}, {"flow": "escrow"}, "flow_not_allowed"),
    ({"max_timeout_seconds": 60}, {"max_timeout_seconds": 61}, "timeout_too_long"),
    ({"max_timeout_seconds": 60}, {"max_timeout_seconds": None}, "timeout_too_long"),
]


@pytest.mark.parametrize("key", KEYS, ids=str)
@pytest.mark.parametrize(("said", "change", "code"), DENIALS)
def test_each_rule_in_each_layer(
    key: LayerKey, said: dict[str, Any], change: dict[str, Any], code: str
) -> None:
    book = one_layer(key, said)
    assert decided(book).code == "ok"
    verdict = decided(book, replace(ASK, **change))
    assert (verdict.allowed, verdict.code) == (False, code)
    assert verdict.rule in said or verdict.layer == "built in"
    assert verdict.layer == (str(key) if said else "built in")
    # It is the rule that denies: without it, it is allowed.
    if not code.startswith(("scheme", "flow")):
        assert decided(Book(), replace(ASK, **change)).allowed


@pytest.mark.parametrize(
    ("key", "code"),
    [
        (LayerKey(), "frozen"),
        (LayerKey("bot"), "frozen"),
        (PROVIDER, "provider_frozen"),
        (BOTH, "provider_frozen"),
    ],
)
def test_frozen_layers(key: LayerKey, code: str) -> None:
    assert decided(one_layer(key, {"frozen": True})).code == code


def test_a_limit_of_nothing_is_a_limit() -> None:
    for key in KEYS:
        assert decided(one_layer(key, {"per_call": "0"})).code == "over_per_call_limit"


def test_what_cannot_be_read_allows_nothing() -> None:
    """Stored by another version, or by hand."""
    for unreadable in (
        Rules(denied_endpoints=("nonsense",)),
        Rules(allowed_endpoints=("nonsense",)),
        Rules(hours=("nonsense",)),
    ):
        for key in KEYS:
            assert not decided(Book.of({key: unreadable})).allowed


def test_what_is_allowed_beyond_the_usual() -> None:
    book = one_layer(PROVIDER, {"allowed_flows": ["upfront"], "allowed_schemes": ["upto"]})
    assert decided(book, replace(ASK, flow="upfront", scheme_x402="upto")).allowed
    assert decided(book).code == "scheme_not_allowed"
    elsewhere = replace(ASK, host="other.example", flow="upfront")
    assert decided(book, elsewhere).code == "flow_not_allowed"
    # Who has said what it may use is not given more by another layer.
    strict = Book.of({**dict(book.layers()), LayerKey("bot"): Rules(allowed_flows=("escrow",))})
    assert not decided(strict, replace(ASK, flow="upfront", scheme_x402="upto")).allowed


def test_the_tightest_limit_is_the_reason() -> None:
    book = Book.of(
        {
            LayerKey("bot"): Rules(per_call=9_000),
            PROVIDER: Rules(per_call=5_000),
            BOTH: Rules(per_call=7_000),
        }
    )
    verdict = decided(book)
    assert (verdict.limit, verdict.layer) == (5_000, 'provider "api.example.com"')


def test_defaults_speak_only_where_the_agent_does_not() -> None:
    book = Book.of(
        {
            LayerKey(): Rules(per_call=5_000, allowed_assets=("CASH",)),
            LayerKey("bot"): Rules(per_call=20_000),
        }
    )
    assert decided(book).code == "asset_not_allowed"
    assert decided(book, replace(ASK, symbol="CASH", price=15_000)).allowed
    said = {
        **dict(book.layers()),
        LayerKey("bot"): Rules(allowed_assets=("USDC",), per_call=20_000),
    }
    assert decided(Book.of(said)).allowed
    verdict = decided(book, replace(ASK, symbol="CASH"), agent="ant")
    assert (verdict.code, verdict.layer) == ("over_per_call_limit", "defaults")


def test_an_agent_nobody_knows_has_the_least() -> None:
    policy = Book().policy("nobody", "https", "api.example.com", 443)
    assert (policy.per_call_limit, policy.daily_limit) == (50_000, 1_000_000)
    assert policy.inherited == ("per_call", "daily", "session", "trace")
    assert policy.layers == ()


def test_a_layer_is_only_of_the_providers_that_it_names() -> None:
    book = one_layer(LayerKey("bot", "https://api.example.com:443"), {"frozen": True})
    assert decided(book).code == "provider_frozen"
    for change in ({"port": 8443}, {"scheme": "http"}, {"host": "www.example.com"}):
        assert decided(book, replace(ASK, **change)).allowed
    assert decided(book, agent="ant").allowed


def test_broad_layers_come_before_narrow_ones() -> None:
    keys = [
        LayerKey(None, "https://api.example.com:443"),
        LayerKey("bot", "api.example.com"),
        LayerKey(None, "api.example.com"),
        LayerKey("bot", "*.example.com"),
        LayerKey(None, "*.example.com"),
    ]
    book = Book.of({key: Rules(wallet="w") for key in keys})
    layers = book.policy("bot", "https", "api.example.com", 443).layers
    assert [layer.name for layer in layers] == [
        'provider "*.example.com"',
        'provider "api.example.com"',
        'provider "https://api.example.com:443"',
        'agent bot provider "*.example.com"',
        'agent bot provider "api.example.com"',
    ]
    assert [layer.per_agent for layer in layers] == [False] * 3 + [True] * 2


def test_an_agents_fields_are_what_is_in_force() -> None:
    own = Rules(
        per_call=1,
        limits=(Limit("hour", 2), Limit("day", 3, payments=4)),
        allowed_assets=("USDC",),
        wallet="w",
    )
    book = Book.of(
        {LayerKey("bot"): own, LayerKey(): Rules(per_call=9, limits=(Limit("trace", 5),))}
    )
    policy = book.policy("bot", "https", "api.example.com", 443)
    assert policy.inherited == ("session", "trace")
    assert (policy.per_call_limit, policy.daily_limit) == (1, 3)
    assert (policy.session_limit, policy.trace_limit) == (1_000_000, 5)
    assert policy.layers == (
        Layer(
            "agent bot",
            Rules(limits=(Limit("hour", 2), Limit("day", payments=4)), wallet="w"),
        ),
    )
    said = [(layer.name, limit) for layer in policy.stack for limit in layer.rules.limits]
    assert said == [
        ("agent bot", Limit("day", 3)),
        ("defaults", Limit("session", 1_000_000)),
        ("defaults", Limit("trace", 5)),
        ("agent bot", Limit("hour", 2)),
        ("agent bot", Limit("day", payments=4)),
    ]


# -- properties ----


def rank(verdict: Verdict) -> int:
    return 2 if verdict.allowed and not verdict.approval else int(verdict.allowed)


@given(books(), asks, st.sampled_from([*AGENTS, "nobody"]))
def test_deciding_is_total(book: Book, ask: Ask, agent: str) -> None:
    verdict = decided(book, ask, agent)
    codes = {code for rule in RULES for code in rule.codes}
    assert verdict.code in codes | {"ok"}
    assert verdict.allowed == (verdict.code == "ok")
    assert verdict.allowed or (verdict.rule and verdict.layer and verdict.detail.endswith("."))


def tightened(data: st.DataObject, said: Rules, *, by_saying_more: bool) -> Rules:
    """These rules with one of them tighter. `by_saying_more`: it may also be one that they did not
    say, where that cannot allow more."""
    kind = data.draw(
        st.sampled_from(
            ["frozen", "per_call", "shorter", "denied", "max_timeout_seconds", "approval_above"]
        )
    )
    if kind == "frozen":
        return replace(said, frozen=True)
    if kind == "denied":
        pattern = data.draw(st.sampled_from(PATTERNS))
        return replace(said, denied_endpoints=(*said.denied_endpoints, pattern))
    if kind == "shorter":
        name = data.draw(
            st.sampled_from(
                [
                    "hours",
                    "allowed_endpoints",
                    "allowed_pay_to",
                    "allowed_assets",
                    "allowed_networks",
                    "allowed_schemes",
                    "allowed_flows",
                ]
            )
        )
        entries = getattr(said, name)
        if len(entries) > 1:
            return replace(said, **{name: entries[1:]})
        # Who pins to a list and has none is given one by naming it: not of a rule that tightens.
        assume(by_saying_more and not entries and name in ("hours", "allowed_assets"))
        return replace(said, **{name: getattr(data.draw(rules), name)})
    value = getattr(said, kind)
    assume(value is not None or by_saying_more)
    less = data.draw(st.integers(1 if kind == "max_timeout_seconds" else 0, value or 100_000))
    change: dict[str, Any] = {kind: less}
    return replace(said, **change)


@given(books(), asks, st.sampled_from(AGENTS), st.data())
def test_a_tighter_rule_never_allows_more(
    book: Book, ask: Ask, agent: str, data: st.DataObject
) -> None:
    layers = dict(book.layers())
    key = data.draw(keys)
    layers[key] = tightened(data, layers.get(key, Rules()), by_saying_more=key.provider is not None)
    assert rank(decided(Book.of(layers), ask, agent)) <= rank(decided(book, ask, agent))


@given(books(), asks, keys, rules)
def test_another_layer_of_a_provider_only_takes_away(
    book: Book, ask: Ask, key: LayerKey, more: Rules
) -> None:
    """But for what needs to be named before it is allowed at all: schemes, flows, listed payees."""
    assume(key.provider is not None)
    layers = dict(book.layers())
    assume(key not in layers)
    layers[key] = replace(more, allowed_schemes=(), allowed_flows=(), allowed_pay_to=())
    assert rank(decided(Book.of(layers), ask)) <= rank(decided(book, ask))


@given(books(), asks, st.sampled_from(AGENTS), st.randoms(use_true_random=False))
def test_the_order_of_layers_and_entries_is_no_matter(
    book: Book, ask: Ask, agent: str, random: Any
) -> None:
    def mixed(said: Rules) -> Rules:
        lists: dict[str, Any] = {
            name: tuple(random.sample(entries, len(entries)))
            for name in Rules.__dataclass_fields__
            if isinstance(entries := getattr(said, name), tuple) and name != "limits"
        }
        return replace(said, **lists)

    layers = [(key, mixed(said)) for key, said in book.layers()]
    random.shuffle(layers)
    other = Book.of(dict(layers), book.version)
    verdict, again = decided(book, ask, agent), decided(other, ask, agent)
    assert verdict == again
    policy = book.policy(agent, ask.scheme, ask.host, ask.port)
    shuffled = list(policy.layers)
    random.shuffle(shuffled)
    once_more = decide(replace(policy, layers=tuple(shuffled)), ask)
    assert (once_more.code, once_more.rule, once_more.limit, once_more.approval) == (
        verdict.code,
        verdict.rule,
        verdict.limit,
        verdict.approval,
    )


@given(books())
def test_a_book_survives_json(book: Book) -> None:
    read = Book.from_json(book.to_json())
    assert read.version == book.version
    assert dict(read.layers()) == dict(book.layers())


@given(books(), asks)
def test_a_policy_alone_decides_as_its_fields_say(book: Book, ask: Ask) -> None:
    """What the rest of the house reads of a policy is what is decided by."""
    policy = book.policy("bot", ask.scheme, ask.host, ask.port)
    if decide(policy, ask).allowed:
        assert ask.price <= policy.per_call_limit
        assert not policy.frozen
        assert decide(
            replace(policy, layers=()), replace(ask, scheme_x402="exact", flow="authorization")
        ).allowed
    assert decide(replace(policy, frozen=True), ask).code == "frozen"
    if ask.price:
        lower = replace(policy, per_call_limit=ask.price - 1)
        assert not decide(lower, ask).allowed


@pytest.mark.parametrize(
    ("document", "path", "why"),
    [
        ({"default": {}}, ("default",), "the tables defaults, provider and agent"),
        ({"defaults": {"allowed_ports": [1]}}, ("defaults", "allowed_ports"), "agent's own layer"),
        (
            {"provider": {"x.example": {"session": "1"}}},
            ("provider", "x.example", "session"),
            "own",
        ),
        ({"provider": {"*": {}}}, ("provider", "*"), "write a host"),
        (
            {"provider": {"a.example": {}, "A.example": {}}},
            ("provider", "A.example"),
            "this is a.example once more",
        ),
        ({"agent": {"bot": 1}}, ("agent", "bot"), "this is a table"),
        (
            {"agent": {"bot": {"provider": {"a.example": {"trace": "1"}}}}},
            ("agent", "bot", "provider", "a.example", "trace"),
            "agent's own",
        ),
        ({"agent": {"bot": {"daily": "x"}}}, ("agent", "bot", "daily"), "not an amount"),
        ({"version": -1}, ("version",), "whole number"),
        ([], (), "a table"),
    ],
)
def test_a_book_that_cannot_be_meant(
    document: object, path: tuple[str | int, ...], why: str
) -> None:
    with pytest.raises(RuleError) as refused:
        Book.from_json(document)
    assert refused.value.path == path
    assert why in str(refused.value)
    assert isinstance(refused.value, PolicyError)


def test_the_stack_of_a_plain_policy_is_itself() -> None:
    (layer,) = Policy("bot").stack
    assert layer.name == "agent bot"
    assert layer.rules.per_call == 50_000
