"""The score: the first seed's weights, a newcomer in the middle, never out of 0..1."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.providers import Behaviour, score

GOOD = Behaviour(
    calls=1_000_000,
    successes=1_000_000,
    schema_passes=1_000_000,
    quality=1.0,
    latency_ms=0.001,
    max_price_micros=1,
)


def test_the_weights_are_the_seeds() -> None:
    assert score(GOOD) == pytest.approx(1.0, abs=1e-4)
    everything_half = Behaviour(
        calls=2_000_000,
        successes=1_000_000,
        schema_passes=500_000,
        quality=0.5,
        latency_ms=3_000,
        max_price_micros=250_000,
    )
    expected = 0.35 * 0.5 + 0.15 * 0.25 + 0.20 * 0.5 + 0.15 * 0.5 + 0.15 * 0.75
    assert score(everything_half) == pytest.approx(expected, abs=1e-5)


def test_a_newcomer_is_neither_first_nor_last() -> None:
    bad = Behaviour(calls=100, quality=0.1, latency_ms=6_000)
    assert score(Behaviour()) == pytest.approx(0.5)
    assert score(bad) < score(Behaviour()) < score(GOOD)


def test_a_tripped_breaker_is_the_end() -> None:
    assert score(Behaviour(tripped=True)) == 0.0


@given(
    calls=st.integers(0, 10**9),
    share=st.floats(0, 1),
    quality=st.floats(0, 1),
    latency=st.floats(0, 1e9),
    price=st.integers(0, 10**18),
    tripped=st.booleans(),
)
def test_it_stays_in_bounds(
    calls: int, share: float, quality: float, latency: float, price: int, tripped: bool
) -> None:
    good = int(calls * share)
    value = score(Behaviour(calls, good, good, quality, latency, price, tripped))
    assert 0.0 <= value <= 1.0
