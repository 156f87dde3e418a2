"""What changed, and in which direction: told rule by rule, and true of what is then decided."""

from typing import Any

import pytest
from hypothesis import given

from policies import Ask, Book, LayerKey, Rules, diff
from tests.policies.drawn import asks, books
from tests.policies.test_layers import decided, rank


def change(key: LayerKey, before: dict[str, Any], after: dict[str, Any]) -> tuple[Any, ...]:
    one, other = (Book.of({key: Rules.from_json(said)}) for said in (before, after))
    (found,) = diff(one, other)
    return found.rule, found.before, found.after, found.direction


BOT, SHOP = LayerKey("bot"), LayerKey(None, "a.example")


@pytest.mark.parametrize(
    ("key", "before", "after", "expected"),
    [
        (BOT, {"per_call": "1"}, {"per_call": "2"}, ("per_call", "1.00", "2.00", "looser")),
        (BOT, {"per_call": "1"}, {}, ("per_call", "1.00", None, "tighter")),  # 0.05 is built in
        (BOT, {"per_call": "0.01"}, {}, ("per_call", "0.01", None, "looser")),
        (SHOP, {"per_call": "1"}, {}, ("per_call", "1.00", None, "looser")),
        (SHOP, {}, {"per_call": "9"}, ("per_call", None, "9.00", "tighter")),
        (BOT, {}, {"frozen": True}, ("frozen", None, True, "tighter")),
        (
            SHOP,
            {"rolling": {"7d": "1"}},
            {"rolling": {"7d": "2"}},
            ("rolling.7d", "1.00", "2.00", "looser"),
        ),
        (
            SHOP,
            {"payments": {"day": 9}},
            {"payments": {"day": 8}},
            ("payments.day", 9, 8, "tighter"),
        ),
        (
            BOT,
            {"allowed_assets": ["USDC"]},
            {"allowed_assets": ["USDC", "CASH"]},
            ("allowed_assets", ["USDC"], ["USDC", "CASH"], "looser"),
        ),
        (
            BOT,
            {"allowed_assets": ["USDC"]},
            {"allowed_assets": ["CASH"]},
            ("allowed_assets", ["USDC"], ["CASH"], "other"),
        ),
        (BOT, {"allowed_assets": ["USDC"]}, {}, ("allowed_assets", ["USDC"], None, "looser")),
        (
            BOT,
            {},
            {"allowed_targets": ["10.0.0.0/8"]},
            ("allowed_targets", None, ["10.0.0.0/8"], "looser"),
        ),
        (
            BOT,
            {},
            {"denied_endpoints": ["https://a.example/*"]},
            ("denied_endpoints", None, ["https://a.example/*"], "tighter"),
        ),
        (BOT, {}, {"allowed_flows": ["upfront"]}, ("allowed_flows", None, ["upfront"], "other")),
        (
            BOT,
            {},
            {"allowed_flows": ["authorization", "upfront"]},
            ("allowed_flows", None, ["authorization", "upfront"], "looser"),
        ),
        (SHOP, {}, {"allowed_flows": ["upfront"]}, ("allowed_flows", None, ["upfront"], "other")),
        (
            BOT,
            {"pay_to_pinning": "first_use"},
            {"pay_to_pinning": "list"},
            ("pay_to_pinning", "first_use", "list", "tighter"),
        ),
        (BOT, {"approval_above": "1"}, {}, ("approval_above", "1.00", None, "looser")),
        (
            BOT,
            {"max_price_ratio_last": "2"},
            {"max_price_ratio_last": "1.5"},
            ("max_price_ratio_last", "2.00", "1.50", "tighter"),
        ),
        (BOT, {"wallet": "a"}, {"wallet": "b"}, ("wallet", "a", "b", "other")),
    ],
)
def test_each_kind_of_change(
    key: LayerKey, before: dict[str, Any], after: dict[str, Any], expected: tuple[Any, ...]
) -> None:
    assert change(key, before, after) == expected


def test_an_agents_word_is_compared_with_what_it_replaces() -> None:
    defaults = {LayerKey(): Rules(per_call=10)}
    before = Book.of({**defaults, BOT: Rules()})
    (looser,) = diff(before, Book.of({**defaults, BOT: Rules(per_call=11)}))
    (tighter,) = diff(before, Book.of({**defaults, BOT: Rules(per_call=9)}))
    assert (looser.direction, tighter.direction) == ("looser", "tighter")


@given(books())
def test_nothing_changed(book: Book) -> None:
    assert diff(book, Book.of(dict(book.layers()), 99)) == []


@given(books(), books(), asks)
def test_the_directions_are_true(one: Book, other: Book, ask: Ask) -> None:
    """Where all changes are tighter nothing more is allowed. (To pin to a list and to name the list
    are two changes, which the second may undo of the first; so these are left out.)"""
    changes = diff(one, other)
    if any(change.rule in ("pay_to_pinning", "allowed_pay_to") for change in changes):
        return
    before, after = (rank(decided(book, ask)) for book in (one, other))
    if all(change.direction == "tighter" for change in changes):
        assert after <= before
    if all(change.direction == "looser" for change in changes):
        assert after >= before


@given(books(), asks)
def test_what_only_one_layer_takes_away_is_tighter(book: Book, ask: Ask) -> None:
    for key, _ in book.layers():
        layers = dict(book.layers())
        del layers[key]
        less = Book.of(layers)
        changes = diff(less, book)
        assert {change.layer for change in changes} <= {key}
        named = any(change.rule.endswith("pay_to") for change in changes)
        if not named and all(change.direction == "tighter" for change in changes):
            assert rank(decided(book, ask)) <= rank(decided(less, ask))
