"""Heights, hashes and commitment, without a chain."""

import pytest
from solders.hash import Hash

from proxy.localnet.blocks import Blocks


def blocks(confirmed_after: int = 2, finalized_after: int = 32) -> Blocks:
    return Blocks(confirmed_after=confirmed_after, finalized_after=finalized_after)


def test_a_hash_lands_until_one_block_after_its_last_valid_height() -> None:
    b = blocks()
    blockhash, last_valid = b.latest("processed")
    while b.height < last_valid + 1:
        assert b.is_valid(blockhash, "processed")
        b.advance(1)
    assert b.is_valid(blockhash, "processed")
    b.advance(1)
    assert not b.is_valid(blockhash, "processed")


@pytest.mark.parametrize("commitment", ["processed", "confirmed", "finalized"])
def test_the_latest_hash_is_valid_where_it_was_asked_for(commitment: str) -> None:
    b = blocks()
    for _ in range(400):
        assert b.is_valid(b.latest(commitment)[0], commitment)
        b.advance(1)


def test_a_fresh_hash_is_unknown_to_older_commitments() -> None:
    b = blocks()
    blockhash, _ = b.latest("processed")
    assert not b.is_valid(blockhash, "confirmed")
    b.advance(1)
    assert b.is_valid(blockhash, "confirmed")
    assert not b.is_valid(blockhash, "finalized")
    b.advance(30)
    assert b.is_valid(blockhash, "finalized")


def test_last_valid_height_counts_from_the_hash_s_own_block() -> None:
    b = blocks(confirmed_after=2)
    assert b.latest("processed")[1] == b.height - 1 + 150
    assert b.latest("confirmed")[1] == b.height - 2 + 150
    assert b.latest("finalized")[1] == b.height - 32 + 150


def test_every_block_has_its_own_hash() -> None:
    b = blocks()
    seen = {b.latest("processed")[0]}
    for _ in range(20):
        b.advance(1)
        seen.add(b.latest("processed")[0])
    assert len(seen) == 21
    assert blocks().latest("processed")[0] not in seen


def test_levels_follow_the_lag() -> None:
    b = blocks(confirmed_after=2, finalized_after=5)
    height = b.height
    levels = []
    for _ in range(7):
        levels.append(b.level(height))
        b.advance(1)
    assert levels == [*["processed"] * 2, *["confirmed"] * 3, *["finalized"] * 2]


def test_what_is_final_stays_final_when_the_lag_grows() -> None:
    b = blocks(confirmed_after=0, finalized_after=0)
    height = b.height
    b.set_lag(10, 10**9)
    assert b.level(height) == "finalized"
    b.advance(500)
    assert b.at("finalized") == height
    assert b.level(height + 1) == "confirmed"
    b.latest("finalized")


def test_lags_out_of_order_are_refused() -> None:
    with pytest.raises(ValueError, match="confirmed_after <= finalized_after"):
        blocks(confirmed_after=3, finalized_after=2)


def test_height_and_slot_are_not_the_same_number() -> None:
    b = blocks()
    assert b.slot(b.height) > b.height


def test_an_invented_hash_is_never_valid() -> None:
    assert not blocks().is_valid(Hash.default(), "processed")
