"""Which of several offers is paid, and why each other one was left."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import Ask, Book, Choice, LayerKey, Policy, Rules, choose, decide
from tests.policies.drawn import DEVNET, asks, books
from tests.policies.test_layers import ASK

USDC = ASK
CASH = replace(ASK, symbol="CASH")
MAINNET = "solana:5eykt4UsFv8P8NJdTREpY1vzqKqZKvdp"


def chosen(book: Book, *offers: Ask) -> Choice:
    return choose(book.policy("bot", "https", "api.example.com", 443), offers)


def test_the_cheapest_and_then_the_first() -> None:
    dear, cheap, same = (replace(ASK, price=price) for price in (3, 1, 1))
    choice = choose(Policy("bot"), [dear, cheap, same, replace(ASK, price=60_000)])
    assert choice.index == 1
    assert choice.left == ((0, "dearer"), (2, "same_price"), (3, "over_per_call_limit"))


def test_an_order_goes_before_the_price() -> None:
    book = Book.of({LayerKey("bot"): Rules(asset_order=("USDC",), network_order=(MAINNET, DEVNET))})
    offers = [
        replace(CASH, price=1),
        replace(USDC, price=2),
        replace(USDC, price=3, network=MAINNET),
        replace(USDC, price=1, network="eip155:8453"),
    ]
    choice = chosen(book, *offers)
    assert choice.index == 2
    assert choice.left == (
        (0, "asset_less_preferred"),
        (1, "network_less_preferred"),
        (3, "network_less_preferred"),
    )


def test_what_is_denied_is_never_preferred() -> None:
    book = Book.of({LayerKey("bot"): Rules(asset_order=("USDC",), per_call=5)})
    choice = chosen(book, replace(USDC, price=6), replace(CASH, price=5))
    assert (choice.index, choice.left) == (1, ((0, "over_per_call_limit"),))


def test_the_narrowest_order_decides() -> None:
    layers = {
        LayerKey(): Rules(asset_order=("USDC",)),
        LayerKey(None, "api.example.com"): Rules(asset_order=("CASH",)),
    }
    offers = [USDC, CASH]
    assert chosen(Book.of(layers), *offers).index == 1
    layers[LayerKey("bot")] = Rules(asset_order=("USDC",))
    assert chosen(Book.of(layers), *offers).index == 0
    layers[LayerKey("bot", "*.example.com")] = Rules(asset_order=("CASH",))
    assert chosen(Book.of(layers), *offers).index == 1


@given(books(), st.lists(asks, min_size=1, max_size=4))
def test_every_offer_is_accounted_for(book: Book, offers: list[Ask]) -> None:
    policy = book.policy("bot", "https", "api.example.com", 443)
    choice = choose(policy, offers)
    verdicts = [decide(policy, offer) for offer in offers]
    assert choice.verdict == verdicts[choice.index]
    assert choice.verdict.allowed == any(one.allowed for one in verdicts)
    assert sorted([choice.index, *(i for i, _ in choice.left)]) == list(range(len(offers)))
    for i, code in choice.left:
        if verdicts[i].allowed:
            assert code in (
                "asset_less_preferred",
                "network_less_preferred",
                "dearer",
                "same_price",
            )
        else:
            assert code == verdicts[i].code


def test_nothing_to_choose_from() -> None:
    with pytest.raises(ValueError, match="nothing to choose"):
        choose(Policy("bot"), [])
