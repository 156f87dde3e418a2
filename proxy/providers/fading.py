"""What is remembered of a provider's calls: sums that fade, with time and with every further call.

A sum is a weight, not an account: what was paid exactly is in `Tally`, which never fades. All of it
is linear, so that what several proxies saw is put together by adding (`merged`; the database does
the same, in `proxy.ledger.score_sums`).

How a call fades what was before it is chosen so that no success ever makes a rate worse, and no
failure better: a failure fades the successes, a success fades both.
"""

from dataclasses import dataclass, field, fields
from datetime import datetime

QUOTES = 3.0
"""What a provider asks now is what it costs: half of it is the last three quotes."""
_MOST = 100.0  # half-lives; what is left after them is nothing


@dataclass(slots=True)
class Tally:
    """Counts and amounts (micro-USD, exact) since the record began."""

    successes: int = 0
    failures: int = 0
    paid_failures: int = 0
    schema_passes: int = 0
    quotes: int = 0
    delivered_micros: int = 0
    lost_micros: int = 0

    @property
    def calls(self) -> int:
        return self.successes + self.failures

    @property
    def paid_micros(self) -> int:
        return self.delivered_micros + self.lost_micros


@dataclass(slots=True)
class Weights:
    """The same, faded; `latency` is a sum over the successes in ms, `asked` one over the quotes and
    `delivered` and `lost` are amounts, in micro-USD."""

    successes: float = 0.0
    failures: float = 0.0
    paid_failures: float = 0.0
    schema_passes: float = 0.0
    latency: float = 0.0
    quotes: float = 0.0
    asked: float = 0.0
    delivered: float = 0.0
    lost: float = 0.0


@dataclass(frozen=True, slots=True)
class Fading:
    """Half of what was known is forgotten after so much time, and after so many calls."""

    half_life_seconds: float = 7 * 86_400.0
    half_life_calls: float = 50.0

    def after(self, seconds: float = 0.0, calls: float = 0.0, quotes: float = 0.0) -> float:
        """What these leave, 0 to 1."""
        lives = max(0.0, seconds) / self.half_life_seconds + calls / self.half_life_calls
        return float(2.0 ** -min(_MOST, lives + quotes / QUOTES))

    @property
    def half_lives(self) -> tuple[float, float, float]:
        """In seconds, in calls and in quotes."""
        return self.half_life_seconds, self.half_life_calls, QUOTES


@dataclass(slots=True)
class Sums:
    """One provider's record, or one endpoint's; `weights` as they were `at` that moment."""

    at: datetime
    tally: Tally = field(default_factory=Tally)
    weights: Weights = field(default_factory=Weights)

    def succeeded(
        self, now: datetime, fading: Fading, latency_ms: float, *, schema: bool, micros: int
    ) -> None:
        """It answered as it should; `micros` were paid for it, 0 for what was free."""
        self.fade(now, fading)
        tally, weights, keep = self.tally, self.weights, fading.after(calls=1)
        tally.successes += 1
        tally.schema_passes += schema
        weights.successes = weights.successes * keep + 1
        weights.schema_passes = weights.schema_passes * keep + schema
        weights.latency = weights.latency * keep + latency_ms
        weights.failures *= keep
        weights.paid_failures *= keep
        weights.lost *= keep
        tally.delivered_micros += micros
        weights.delivered += micros
        if not micros:
            self._quoted(fading, 0)

    def failed(self, now: datetime, fading: Fading, *, paid: bool, micros: int) -> None:
        """It did not; `paid`: and took `micros` for that."""
        self.fade(now, fading)
        tally, weights, keep = self.tally, self.weights, fading.after(calls=1)
        tally.failures += 1
        weights.failures += 1
        weights.successes *= keep
        weights.schema_passes *= keep
        weights.latency *= keep
        if paid:
            tally.paid_failures += 1
            tally.lost_micros += micros
            weights.paid_failures += 1
            weights.lost += micros
            weights.delivered *= keep

    def take_back(self, latency_ms: float, *, schema: bool, micros: int) -> None:
        """A success that turned out to be none; what failed is said apart."""
        tally, weights = self.tally, self.weights
        tally.successes -= 1
        tally.schema_passes -= schema
        tally.delivered_micros -= micros
        weights.successes -= 1
        weights.schema_passes -= schema
        weights.latency -= latency_ms
        weights.delivered -= micros

    def quoted(self, now: datetime, fading: Fading, micros: int) -> None:
        """It asked for so much."""
        self.fade(now, fading)
        self._quoted(fading, micros)

    def _quoted(self, fading: Fading, micros: int) -> None:
        weights, keep = self.weights, fading.after(quotes=1)
        self.tally.quotes += 1
        weights.quotes = weights.quotes * keep + 1
        weights.asked = weights.asked * keep + micros

    def fade(self, now: datetime, fading: Fading) -> None:
        """To this moment; never back."""
        seconds = (now - self.at).total_seconds()
        if seconds >= 1:  # a second of a week is nothing, and every call comes by here
            left = fading.after(seconds)
            for name in _WEIGHTS:
                setattr(self.weights, name, getattr(self.weights, name) * left)
            self.at = now


def merged(before: Sums, more: Sums, now: datetime, fading: Fading) -> Sums:
    """`more`, which began with nothing, added to what was known before it; as of `now`.

    A taken back success may have been of an earlier record: nothing falls under nothing.
    """
    one, two = _copy(before), _copy(more)
    seconds = (now - one.at).total_seconds()
    two.fade(now, fading)
    came = two.tally
    good, bad, lost = max(0, came.successes), max(0, came.failures), max(0, came.paid_failures)
    all_, after_good = fading.after(seconds, good + bad), fading.after(seconds, good)
    left = {
        **dict.fromkeys(("successes", "schema_passes", "latency"), all_),
        **dict.fromkeys(("failures", "paid_failures", "lost"), after_good),
        "delivered": fading.after(seconds, lost),
        **dict.fromkeys(("quotes", "asked"), fading.after(seconds, quotes=came.quotes)),
    }
    for name in _WEIGHTS:
        faded = getattr(one.weights, name) * left[name]
        setattr(one.weights, name, max(0.0, faded + getattr(two.weights, name)))
    for name in _TALLIES:
        setattr(one.tally, name, max(0, getattr(one.tally, name) + getattr(came, name)))
    one.at = max(now, one.at)
    return one


def _copy(sums: Sums) -> Sums:
    tally = Tally(*(getattr(sums.tally, name) for name in _TALLIES))
    return Sums(sums.at, tally, Weights(*(getattr(sums.weights, name) for name in _WEIGHTS)))


_WEIGHTS = tuple(one.name for one in fields(Weights))
_TALLIES = tuple(one.name for one in fields(Tally))
