"""How good a provider is, as one number between 0 and 1, and why: a sum of shares, each of which
can be told in a sentence. Pure.

        0.35 · success     calls that were answered, of those that should have been
      + 0.15 · schema      calls whose answer had the form that was expected
      + 0.20 · quality     what users say of it
      + 0.15 · latency     1 at once, 0 at 6 s
      + 0.15 · price       of what is delivered, beside what others ask
      - 1 if its breaker is open or half-open, down to 0

The weights are settings, and add up to 1. Every rate begins with calls that never were (a Beta
prior): half of them good for a provider, as good as its provider's for an endpoint. So a newcomer
is neither first nor last, what little is known weighs little, and who serves badly gains nothing by
a new path.
"""

import math
from dataclasses import dataclass, field

from policies import format_usd

PRIOR_CALLS = 2.0
PRIOR_THUMBS = 4.0  # one thumb says less than one call
CURIOSITY = 0.25
"""Beside one that serves all but perfectly, a newcomer is tried after ten calls of it; 0.2 would be
too little for that ever to happen (`python -m bench.scores`)."""


@dataclass(frozen=True, slots=True)
class Weights:
    """The first seed's. `paid_failure`: how many free failures one is worth that took money."""

    success: float = 0.35
    schema: float = 0.15
    quality: float = 0.20
    latency: float = 0.15
    price: float = 0.15
    tripped: float = 1.0
    paid_failure: float = 4.0
    worst_latency_ms: float = 6_000.0
    worst_price_micros: int = 1_000_000


WEIGHTS = Weights()


@dataclass(frozen=True, slots=True)
class Rates:
    """What each share is, 0 to 1; `delivered`: of the money that it took."""

    success: float = 0.5
    schema: float = 0.5
    quality: float = 0.5
    latency: float = 0.5
    price: float = 0.5
    delivered: float = 1.0


UNKNOWN = Rates()


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known, every count faded (`fading`). `paid_failures` are some of the `failures`, the
    ones that took money. `latency_ms`: on average, of the successes. `asked_micros`: what a call
    costs on average, None if that is not known; `others_micros`: what one costs elsewhere.
    `delivered` and `lost`: of the money paid, in micro-USD."""

    successes: float = 0.0
    failures: float = 0.0
    paid_failures: float = 0.0
    schema_passes: float = 0.0
    latency_ms: float | None = None
    asked_micros: float | None = None
    others_micros: float | None = None
    delivered: float = 0.0
    lost: float = 0.0
    thumbs_up: float = 0.0
    thumbs_down: float = 0.0
    tripped: bool = False

    @property
    def known(self) -> float:
        """How much is known: calls, one that took money for nothing being worth more of them."""
        return self.successes + self.failures


@dataclass(frozen=True, slots=True)
class Share:
    """One part of a score: `points` of it, which are `weight` times `value`, and why so many."""

    name: str
    weight: float
    value: float
    points: float
    why: str


@dataclass(frozen=True, slots=True)
class Judgement:
    """A score, the shares that add up to it, and what an endpoint takes over from its provider."""

    score: float
    shares: tuple[Share, ...]
    rates: Rates = field(default=UNKNOWN, repr=False)


def judge(evidence: Evidence, weights: Weights = WEIGHTS, prior: Rates = UNKNOWN) -> Judgement:
    """How good it is, and why. `prior`: what it is believed to be while nothing is known of it."""
    rates = rates_of(evidence, weights, prior)
    told = _told(evidence, weights, rates)
    shares = []
    total = 0.0
    for name, why in told.items():
        weight, value = getattr(weights, name), getattr(rates, name)
        shares.append(Share(name, weight, value, weight * value, why))
        total += weight * value
    total = min(1.0, max(0.0, total))
    if evidence.tripped:
        taken = min(weights.tripped, total)
        shares.append(Share("tripped", -weights.tripped, 1.0, -taken, "its breaker is not closed"))
        total -= taken
    return Judgement(total, tuple(shares), rates)


def score(evidence: Evidence, weights: Weights = WEIGHTS, prior: Rates = UNKNOWN) -> float:
    """`judge`'s number alone: 0 (worst) to 1 (best)."""
    rates = rates_of(evidence, weights, prior)
    total = (
        weights.success * rates.success
        + weights.schema * rates.schema
        + weights.quality * rates.quality
        + weights.latency * rates.latency
        + weights.price * rates.price
    )
    total = min(1.0, max(0.0, total))
    return total - min(weights.tripped, total) if evidence.tripped else total


def rates_of(known: Evidence, weights: Weights, prior: Rates) -> Rates:
    """Each rate by itself. More of what is good never lowers one, more of what is bad never raises
    one; and what a success cannot have shown to be slower than before does not lower the sum of
    schema and latency, where schema weighs as much at least."""
    calls = known.successes + known.failures
    took_money = (weights.paid_failure - 1) * known.paid_failures
    fast = 0.0
    if known.latency_ms is not None:
        fast = known.successes * _cheap(known.latency_ms, weights.worst_latency_ms)
    delivered = prior.delivered
    price = prior.price
    if known.asked_micros is not None:
        one = max(1.0, known.asked_micros)  # the prior: one call at its price
        paid = known.delivered + known.lost
        delivered = (known.delivered + one * delivered) / (paid + one)
        real = known.asked_micros / delivered if delivered else math.inf
        if known.others_micros:
            price = known.others_micros / (known.others_micros + real)
        else:
            price = _cheap(real, weights.worst_price_micros)
    return Rates(
        success=_rate(known.successes, calls + took_money, prior.success),
        schema=_rate(known.schema_passes, calls, prior.schema),
        quality=_rate(
            known.thumbs_up, known.thumbs_up + known.thumbs_down, prior.quality, PRIOR_THUMBS
        ),
        latency=_rate(fast, calls, prior.latency),
        price=price,
        delivered=delivered,
    )


def appeal(score: float, known: float, of_all: float, curiosity: float = CURIOSITY) -> float:
    """What candidates are best ranked by, so that a newcomer is tried: its score, and more the less
    is known of it beside all of them (UCB1). `known`: its `Evidence.known`, `of_all`: their sum."""
    return score + curiosity * math.sqrt(math.log1p(of_all) / (1.0 + known))


def _rate(good: float, of: float, before: float, calls: float = PRIOR_CALLS) -> float:
    return (good + calls * before) / (of + calls)


def _cheap(value: float, worst: float) -> float:
    return min(1.0, max(0.0, 1.0 - value / worst))


def _told(known: Evidence, weights: Weights, rates: Rates) -> dict[str, str]:
    calls = known.successes + known.failures
    answered = f"{_n(known.successes)} of {_n(calls)} recent calls were answered"
    if known.paid_failures >= 0.05:
        answered += (
            f"; {_n(known.paid_failures)} took money for nothing, each of which counts as"
            f" {_n(weights.paid_failure)} failures"
        )
    formed = f"{_n(known.schema_passes)} of {_n(calls)} answers had the form that was expected"
    thumbs = known.thumbs_up + known.thumbs_down
    said = (
        f"{_n(known.thumbs_up)} of {_n(thumbs)} thumbs are up" if thumbs else "nobody has rated it"
    )
    if known.latency_ms is None:
        fast = "no time was measured"
    else:
        fast = (
            f"{known.latency_ms:.0f} ms on average, where {weights.worst_latency_ms:.0f} ms are"
            " worth nothing; a call that failed counts as that slow"
        )
    if known.asked_micros is None:
        price = "it has asked for nothing yet"
    else:
        price = f"{_usd(known.asked_micros)} a call"
        if known.lost:
            price += (
                f", of which {100 * rates.delivered:.0f}% are delivered for: in effect"
                f" {_usd(known.asked_micros / max(rates.delivered, 1e-9))}"
            )
        if known.others_micros:
            price += f", where others ask {_usd(known.others_micros)}"
        else:
            price += f", where {_usd(weights.worst_price_micros)} are worth nothing"
    return {
        "success": answered if calls else "it was not called yet",
        "schema": formed if calls else "it was not called yet",
        "quality": said,
        "latency": fast,
        "price": price,
    }


def _n(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _usd(micros: float) -> str:
    return f"${format_usd(round(micros))}"
