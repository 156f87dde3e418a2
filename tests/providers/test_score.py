"""The score: the seed's weights, a newcomer in the middle, and what no provider can do to it."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.providers import WEIGHTS, Evidence, Weights, score
from proxy.providers.fading import Fading, Sums, merged
from proxy.providers.score import Rates, appeal, judge

START = datetime(2026, 1, 1, tzinfo=UTC)
FADING = Fading()
PRICE = 10_000
PERFECT = Evidence(
    successes=1e6,
    schema_passes=1e6,
    latency_ms=0.001,
    asked_micros=1,
    delivered=1e6,
    thumbs_up=1e6,
)


def test_the_weights_are_the_seeds() -> None:
    assert score(PERFECT) == pytest.approx(1.0, abs=1e-4)
    everything_half = Evidence(
        successes=1e6,
        failures=1e6,
        schema_passes=5e5,
        latency_ms=3_000,
        asked_micros=250_000,
    )
    expected = 0.35 * 0.5 + 0.15 * 0.25 + 0.20 * 0.5 + 0.15 * 0.5 * 0.5 + 0.15 * 0.75
    assert score(everything_half) == pytest.approx(expected, abs=1e-5)


def test_a_newcomer_is_neither_first_nor_last() -> None:
    bad = Evidence(failures=20, thumbs_down=5)
    assert score(Evidence()) == pytest.approx(0.5)
    assert score(bad) < score(Evidence()) < score(PERFECT)


def test_a_newcomer_is_tried_beside_those_that_are_known() -> None:
    """And soon: an incumbent that is all but perfect has a hundred calls, not a thousand."""
    for calls in range(1, 1_000):
        known = Sums(START)
        for _ in range(calls):
            known.succeeded(START, FADING, 200, schema=True, micros=PRICE)
        weights = known.weights
        incumbent = score(_evidence(known))
        of_all = weights.successes
        if appeal(0.5, 0.0, of_all) > appeal(incumbent, of_all, of_all):
            break
    assert calls == 10
    # One that is known to be bad is not.
    assert appeal(0.2, 20, of_all + 20) < appeal(incumbent, of_all, of_all + 20)


def test_a_tripped_breaker_is_the_end() -> None:
    assert score(Evidence(tripped=True)) == 0.0
    assert score(replace(PERFECT, tripped=True)) == 0.0
    assert score(replace(PERFECT, tripped=True), Weights(tripped=0.25)) > 0.7


# --- a life, call by call


@dataclass(frozen=True)
class Event:
    kind: str
    value: float
    seconds: float


KINDS = ("good", "formless", "free", "failed", "lost", "quoted")
EVENTS = st.lists(
    st.builds(
        Event,
        st.sampled_from(KINDS),
        st.floats(0, 20_000),
        st.floats(0, 1e6) | st.just(0.0),
    ),
    max_size=60,
)


def live(events: list[Event], sums: Sums | None = None) -> Sums:
    sums = sums or Sums(START)
    now = sums.at
    for event in events:
        now += timedelta(seconds=event.seconds)
        happen(sums, now, event.kind, event.value)
    return sums


def happen(sums: Sums, now: datetime, kind: str, value: float) -> None:
    match kind:
        case "good" | "formless":
            sums.quoted(now, FADING, PRICE)
            sums.succeeded(now, FADING, value, schema=kind == "good", micros=PRICE)
        case "free":
            sums.succeeded(now, FADING, value, schema=True, micros=0)
        case "failed":
            sums.failed(now, FADING, paid=False, micros=0)
        case "lost":
            sums.failed(now, FADING, paid=True, micros=PRICE)
        case _:
            sums.quoted(now, FADING, int(value))


def _evidence(sums: Sums, others: float | None = None) -> Evidence:
    weights = sums.weights
    return Evidence(
        successes=weights.successes,
        failures=weights.failures,
        paid_failures=weights.paid_failures,
        schema_passes=weights.schema_passes,
        latency_ms=weights.latency / weights.successes if weights.successes > 1e-9 else None,
        asked_micros=weights.asked / weights.quotes if weights.quotes > 1e-9 else None,
        others_micros=others,
        delivered=weights.delivered,
        lost=weights.lost,
    )


RATE = st.floats(0, 1)
PRIORS = st.just(Rates()) | st.builds(Rates, RATE, RATE, RATE, RATE, RATE, st.floats(0.05, 1))
OTHERS = st.none() | st.floats(1, 1e6)
SLACK = 1e-9


@given(EVENTS, OTHERS, PRIORS)
def test_more_success_never_lowers_it(
    events: list[Event], others: float | None, prior: Rates
) -> None:
    """A call that is answered as it should be, no slower and no dearer than those before."""
    sums = live(events)
    before = score(_evidence(sums, others), prior=prior)
    known = _evidence(sums)
    sums.succeeded(sums.at, FADING, known.latency_ms or 0.0, schema=True, micros=PRICE)
    assert score(_evidence(sums, others), prior=prior) >= before - SLACK


@given(EVENTS, st.floats(0, 1e6), OTHERS, st.sampled_from(["lost", "failed"]), PRIORS)
def test_more_failures_never_raise_it(
    events: list[Event], _: float, others: float | None, kind: str, prior: Rates
) -> None:
    sums = live(events)
    before = score(_evidence(sums, others), prior=prior)
    happen(sums, sums.at, kind, 0)
    assert score(_evidence(sums, others), prior=prior) <= before + SLACK


@given(EVENTS, OTHERS)
def test_what_took_money_weighs_more_than_what_was_free(
    events: list[Event], others: float | None
) -> None:
    lost, failed = live(events), live(events)
    happen(lost, lost.at, "lost", 0)
    happen(failed, failed.at, "failed", 0)
    assert score(_evidence(lost, others)) < score(_evidence(failed, others))


@given(EVENTS, st.floats(0, 1e5), st.floats(0, 1e5), OTHERS)
def test_slower_is_never_better(
    events: list[Event], one: float, other: float, others: float | None
) -> None:
    known = _evidence(live(events), others)
    fast, slow = sorted((one, other))
    assert score(replace(known, latency_ms=slow)) <= score(replace(known, latency_ms=fast)) + SLACK


@given(EVENTS, st.floats(0, 1e9), st.floats(0, 1e9), OTHERS, PRIORS)
def test_dearer_is_never_better(
    events: list[Event], one: float, other: float, others: float | None, prior: Rates
) -> None:
    known = _evidence(live(events), others)
    cheap, dear = (
        score(replace(known, asked_micros=price), prior=prior) for price in sorted((one, other))
    )
    assert dear <= cheap + SLACK


@given(EVENTS, st.floats(0, 50), st.floats(0, 50))
def test_thumbs_move_it_their_way(events: list[Event], up: float, down: float) -> None:
    known = replace(_evidence(live(events)), thumbs_up=up, thumbs_down=down)
    assert score(replace(known, thumbs_up=up + 1)) > score(known)
    assert score(replace(known, thumbs_down=down + 1)) < score(known)


@given(EVENTS, OTHERS, st.booleans(), PRIORS, RATE)
def test_it_stays_in_bounds_and_its_shares_add_up_to_it(
    events: list[Event], others: float | None, tripped: bool, prior: Rates, taken: float
) -> None:
    known = replace(_evidence(live(events), others), tripped=tripped)
    weights = replace(WEIGHTS, tripped=taken)
    told = judge(known, weights, prior)
    assert 0.0 <= told.score <= 1.0
    assert sum(share.points for share in told.shares) == pytest.approx(told.score, abs=1e-9)
    assert told.score == pytest.approx(score(known, weights, prior), abs=1e-12)
    assert all(share.why for share in told.shares)


@given(EVENTS)
def test_half_of_it_is_forgotten_in_a_half_life(events: list[Event]) -> None:
    sums = live(events)
    before, calls = sums.weights.successes, sums.tally.calls
    sums.fade(sums.at + timedelta(seconds=FADING.half_life_seconds), FADING)
    assert sums.weights.successes == pytest.approx(before / 2)
    assert sums.tally.calls == calls
    for _ in range(2):
        sums.fade(sums.at + timedelta(days=3650), FADING)
    assert score(replace(_evidence(sums), asked_micros=None)) == pytest.approx(0.5, abs=1e-6)


@given(EVENTS, EVENTS, EVENTS)
def test_what_two_saw_is_put_together_by_adding(
    first: list[Event], second: list[Event], third: list[Event]
) -> None:
    """As if one had seen it all: nothing depends on when it is written."""
    whole = live(third, live(second, live(first)))
    parts = live(first)
    for events in (second, third):
        seen = live(events, Sums(parts.at))
        parts = merged(parts, seen, seen.at, FADING)
    assert parts.tally == whole.tally
    for name in ("successes", "failures", "paid_failures", "latency", "asked", "lost"):
        # A second more or less is not faded for.
        expected = pytest.approx(getattr(whole.weights, name), rel=1e-3, abs=1e-9)
        assert getattr(parts.weights, name) == expected, name


# --- liars


def sinks_within(liar: Sums, honest: Sums, most: int) -> int:
    for n in range(1, most + 1):
        happen(liar, START, "quoted", PRICE)
        happen(liar, START, "lost", 0)
        happen(honest, START, "good", 6_000)
        if score(_evidence(liar)) < score(_evidence(honest)):
            return n
    return most + 1


def test_a_liar_sinks_below_an_honest_slow_one_at_once_or_within_ten_calls() -> None:
    """As slow as there is credit for. A newcomer that lies: one call; one that was perfect and fast
    for a thousand calls before it took money for nothing: ten."""
    assert sinks_within(Sums(START), Sums(START), 1) == 1
    liar, honest = Sums(START), Sums(START)
    for _ in range(1_000):
        happen(liar, START, "good", 50)
        happen(honest, START, "good", 6_000)
    assert score(_evidence(liar)) > score(_evidence(honest)) + 0.1
    assert 1 < sinks_within(liar, honest, 10) <= 10


def test_a_liar_gains_nothing_by_a_new_path() -> None:
    liar = Sums(START)
    for _ in range(5):
        happen(liar, START, "lost", 0)
    whole = judge(_evidence(liar))
    assert score(Evidence(), prior=whole.rates) == pytest.approx(whole.score)
    assert whole.score < 0.3
