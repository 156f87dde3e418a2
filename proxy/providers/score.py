"""How good a provider is, as one number."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Behaviour:
    """What is known of a provider. 0 for latency or price: nothing known of it."""

    calls: int = 0
    successes: int = 0
    schema_passes: int = 0
    quality: float = 0.5
    latency_ms: float = 0.0
    max_price_micros: int = 0
    tripped: bool = False


@dataclass(frozen=True, slots=True)
class Weights:
    """The first seed's: the five shares add up to 1."""

    success: float = 0.35
    schema: float = 0.15
    quality: float = 0.20
    latency: float = 0.15
    price: float = 0.15
    tripped: float = 1.0
    worst_latency_ms: float = 6_000.0
    worst_price_micros: int = 1_000_000


WEIGHTS = Weights()
UNKNOWN = 0.5


def score(provider: Behaviour, weights: Weights = WEIGHTS) -> float:
    """0 (worst) to 1 (best):

        0.35 · success rate            of calls that were answered, or should have been
      + 0.15 · schema rate             of calls whose answer had the expected form
      + 0.20 · quality                 0 to 1, as rated
      + 0.15 · (1 - latency / 6 s)
      + 0.15 · (1 - price / $1)        the most it asked for
      - 1 if its breaker is open or half-open

    clamped. Rates begin with one good and one bad call that never were (a Beta(1, 1) prior), and
    what is unknown counts half: a newcomer is neither first nor last.
    """
    success = (provider.successes + 1) / (provider.calls + 2)
    schema = (provider.schema_passes + 1) / (provider.calls + 2)
    total = (
        weights.success * success
        + weights.schema * schema
        + weights.quality * provider.quality
        + weights.latency * _saved(provider.latency_ms, weights.worst_latency_ms)
        + weights.price * _saved(provider.max_price_micros, weights.worst_price_micros)
        - weights.tripped * provider.tripped
    )
    return min(1.0, max(0.0, total))


def _saved(value: float, worst: float) -> float:
    return UNKNOWN if value == 0 else min(1.0, max(0.0, 1 - value / worst))
