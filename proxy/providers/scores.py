"""The scores of providers and endpoints: what this process saw, on top of what the ledger knows."""

from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from itertools import islice
from statistics import median

from proxy.ledger.score_sums import RECENT, TALLY, ScoreDelta, ScoreRow
from proxy.providers.fading import Fading, Sums, Tally, merged
from proxy.providers.fading import Weights as Faded
from proxy.providers.score import (
    UNKNOWN,
    Evidence,
    Judgement,
    Rates,
    Share,
    Weights,
    judge,
    rates_of,
)

MOST_CHARACTERS = 2_000
MOST_RECORDS = 20_000
FLEET = 3
"""So many other providers at least make a price of the fleet's own history."""


@dataclass(frozen=True, slots=True)
class Terms:
    """How scores are made; `endpoints`: so many of one provider have a record of their own."""

    weights: Weights = field(default_factory=Weights)
    fading: Fading = field(default_factory=Fading)
    endpoints: int = 100


@dataclass(frozen=True, slots=True)
class Why:
    """A score with all that it is made of. `shares` add up to it. `known`: how many recent calls it
    rests on. Counts and money since the record began; `asked` for one call on average, and by
    `others` that offer the same; money in micro-USD."""

    provider: str
    endpoint: str
    score: float
    shares: tuple[Share, ...]
    state: str
    known: float
    calls: int
    successes: int
    failures: int
    paid_failures: int
    paid: int
    delivered: int
    lost: int
    asked: int | None
    others: int | None
    thumbs_up: float
    thumbs_down: float
    last_status: int | None
    last_error: str | None
    last_seen_at: datetime | None

    MONEY = ("paid", "delivered", "lost", "asked", "others")


class Scores:
    """Sums of at most MOST_RECORDS providers and endpoints; those that are all saved, of providers
    that were not used for the longest time, are forgotten first."""

    def __init__(
        self,
        terms: Terms | None = None,
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        limit: int = MOST_RECORDS,
    ) -> None:
        self.terms = terms or Terms()
        self._clock = clock
        self._limit = limit
        self._providers: OrderedDict[str, _Provider] = OrderedDict()
        self._unsaved: dict[tuple[str, str], _Record] = {}
        self._flying: dict[tuple[str, str], _Record] = {}
        self._crowded: set[str] = set()
        self._prices: dict[str, float] | None = None  # of the fleet, since it was written last
        self._in_order: list[float] = []

    # --- what calls tell

    def succeeded(
        self,
        key: str,
        endpoint: str,
        latency_ms: float,
        status: int,
        *,
        schema: bool = True,
        micros: int = 0,
    ) -> None:
        """`micros` were paid for the answer; `endpoint` "" if it is not known."""
        now = self._clock()
        for record in self._changing(key, endpoint):
            sums = record.new_sums(now)
            sums.succeeded(now, self.terms.fading, latency_ms, schema=schema, micros=micros)
            record.last_status, record.last_error, record.last_seen_at = status, None, now

    def failed(
        self,
        key: str,
        endpoint: str,
        error: str,
        status: int | None,
        *,
        paid: bool = False,
        micros: int = 0,
    ) -> None:
        """`paid`: and took `micros` for it."""
        now = self._clock()
        for record in self._changing(key, endpoint):
            record.new_sums(now).failed(now, self.terms.fading, paid=paid, micros=micros)
            record.last_status = record.last_status if status is None else status
            record.last_error, record.last_seen_at = error, now

    def take_back(
        self, key: str, endpoint: str, latency_ms: float, *, schema: bool = True, micros: int = 0
    ) -> None:
        """A success, told before in these words, was none."""
        for record in self._changing(key, endpoint):
            record.new_sums(self._clock()).take_back(latency_ms, schema=schema, micros=micros)

    def quoted(self, key: str, endpoint: str, micros: int) -> None:
        """It asked for this much."""
        now = self._clock()
        for record in self._changing(key, endpoint):
            record.new_sums(now).quoted(now, self.terms.fading, micros)

    # --- what follows from it

    def judge(
        self,
        key: str,
        endpoint: str = "",
        *,
        tripped: bool = False,
        among: Collection[tuple[str, str]] = (),
    ) -> Judgement:
        """The score of a provider, or of its endpoint. `among`: (provider, endpoint) of what offers
        the same; the prices of the others are what its own is held against."""
        evidence, prior = self._evidence(key, endpoint, tripped, among)
        return judge(evidence, self.terms.weights, prior)

    def why(
        self,
        key: str,
        endpoint: str = "",
        *,
        state: str = "closed",
        among: Collection[tuple[str, str]] = (),
    ) -> Why:
        """The same with all that is known. `state` of the provider's breaker."""
        evidence, prior = self._evidence(key, endpoint, state != "closed", among)
        found = judge(evidence, self.terms.weights, prior)
        record = self._record(key, endpoint) or _Record()
        tally = Tally() if (sums := self._sums(record)) is None else sums.tally
        return Why(
            provider=key,
            endpoint=endpoint,
            score=found.score,
            shares=found.shares,
            state=state,
            known=evidence.known,
            calls=tally.calls,
            successes=tally.successes,
            failures=tally.failures,
            paid_failures=tally.paid_failures,
            paid=tally.paid_micros,
            delivered=tally.delivered_micros,
            lost=tally.lost_micros,
            asked=None if evidence.asked_micros is None else round(evidence.asked_micros),
            others=None if evidence.others_micros is None else round(evidence.others_micros),
            thumbs_up=evidence.thumbs_up,
            thumbs_down=evidence.thumbs_down,
            last_status=record.last_status,
            last_error=record.last_error,
            last_seen_at=record.last_seen_at,
        )

    def known(self, key: str, endpoint: str = "") -> float:
        """How many recent calls its score rests on (`score.appeal`)."""
        record = self._record(key, endpoint)
        sums = None if record is None else self._sums(record)
        return 0.0 if sums is None else sums.weights.successes + sums.weights.failures

    def providers(self) -> list[str]:
        """Those that are known, the last used first."""
        return list(reversed(self._providers))

    def endpoints(self, key: str) -> list[str]:
        """Those of a provider that are known, the last used first."""
        provider = self._providers.get(key)
        return [] if provider is None else list(reversed(provider.endpoints))

    # --- what the ledger has of it

    def restore(self, rows: Sequence[ScoreRow]) -> None:
        """What the ledger knows now, in place of what it knew; the last used first."""
        for row in reversed(rows):
            record = self._room(row.provider, row.endpoint)
            record.known = Sums(
                row.weighed_at,
                Tally(**{name: max(0, row.tally[name]) for name in TALLY}),
                Faded(**{name: max(0.0, row.recent[name]) for name in RECENT}),
            )
            record.up, record.down, record.rated_at = row.up, row.down, row.asked_at
            if record.new is None and record.flying is None:
                record.last_status, record.last_error = row.last_status, row.last_error
                record.last_seen_at = row.last_seen_at
        self._prices = None
        self._shrink()

    def unsaved(self) -> list[ScoreDelta]:
        """What the ledger does not know yet. Until `saved` or `not_saved` nothing more is given."""
        now, fading = self._clock(), self.terms.fading
        deltas = []
        for (provider, endpoint), record in self._unsaved.items():
            assert record.new is not None, "it has changed"
            record.new.fade(now, fading)
            record.flying, record.new = record.new, None
            deltas.append(
                ScoreDelta(
                    provider,
                    endpoint,
                    asdict(record.flying.tally),
                    asdict(record.flying.weights),
                    record.last_status,
                    record.last_error,
                )
            )
        self._flying, self._unsaved = self._unsaved, {}
        return deltas

    def saved(self) -> list[str]:
        """The ledger has it now, or may have it. Gives providers of which it may have too many
        endpoints."""
        now = self._clock()
        for record in self._flying.values():
            if record.flying is not None:
                known = record.known or Sums(record.flying.at)
                record.known = merged(known, record.flying, now, self.terms.fading)
            record.flying = None
        self._flying = {}
        self._prices = None
        self._shrink()
        crowded, self._crowded = list(self._crowded), set()
        return crowded

    def not_saved(self) -> None:
        """The ledger has nothing of it: it goes with the next."""
        now = self._clock()
        for place, record in self._flying.items():
            if record.flying is not None:
                newer = record.new or Sums(now)
                record.new = merged(record.flying, newer, now, self.terms.fading)
                self._unsaved[place] = record
            record.flying = None
        self._flying = {}

    # ---

    def _changing(self, key: str, endpoint: str) -> Sequence["_Record"]:
        whole = self._room(key, "")
        self._providers.move_to_end(key)
        self._unsaved[key, ""] = whole
        if not endpoint or len(endpoint) > MOST_CHARACTERS:
            return (whole,)
        part = self._room(key, endpoint)
        self._providers[key].endpoints.move_to_end(endpoint)
        self._unsaved[key, endpoint] = part
        return (whole, part)

    def _room(self, key: str, endpoint: str) -> "_Record":
        """The record, made if there is none; another endpoint of the provider may go for it."""
        provider = self._providers.get(key)
        if provider is None:
            provider = self._providers[key] = _Provider()
        if not endpoint:
            return provider.whole
        record = provider.endpoints.get(endpoint)
        if record is None:
            record = provider.endpoints[endpoint] = _Record()
            if len(provider.endpoints) > self.terms.endpoints:
                self._crowded.add(key)
                gone = provider.least(besides=endpoint)
                del provider.endpoints[gone]
                self._unsaved.pop((key, gone), None)
        return record

    def _shrink(self) -> None:
        many = sum(1 + len(one.endpoints) for one in self._providers.values()) - self._limit
        if many <= 0:
            return
        busy = {key for key, _ in (*self._unsaved, *self._flying)}
        for key in [key for key in self._providers if key not in busy]:
            if many <= 0:
                break
            many -= 1 + len(self._providers.pop(key).endpoints)

    def _record(self, key: str, endpoint: str) -> "_Record | None":
        provider = self._providers.get(key)
        if provider is None:
            return None
        return provider.endpoints.get(endpoint) if endpoint else provider.whole

    def _sums(self, record: "_Record") -> Sums | None:
        now = self._clock()
        parts = [one for one in (record.known, record.flying, record.new) if one is not None]
        if not parts:
            return None
        sums = merged(Sums(parts[0].at), parts[0], now, self.terms.fading)
        for more in islice(parts, 1, None):
            sums = merged(sums, more, now, self.terms.fading)
        return sums

    def _evidence(
        self, key: str, endpoint: str, tripped: bool, among: Collection[tuple[str, str]]
    ) -> tuple[Evidence, Rates]:
        prior = UNKNOWN
        if endpoint:
            whole, _ = self._evidence(key, "", False, ())
            prior = rates_of(whole, self.terms.weights, UNKNOWN)
        record = self._record(key, endpoint) or _Record()
        sums = self._sums(record)
        weights = Faded() if sums is None else sums.weights
        rated = 1.0
        if record.rated_at is not None:
            age = (self._clock() - record.rated_at).total_seconds()
            rated = self.terms.fading.after(age)
        return (
            Evidence(
                successes=weights.successes,
                failures=weights.failures,
                paid_failures=weights.paid_failures,
                schema_passes=min(weights.schema_passes, weights.successes),
                latency_ms=_mean(weights.latency, weights.successes),
                asked_micros=_mean(weights.asked, weights.quotes),
                others_micros=self._others(key, endpoint, among),
                delivered=weights.delivered,
                lost=weights.lost,
                thumbs_up=record.up * rated,
                thumbs_down=record.down * rated,
                tripped=tripped,
            ),
            prior,
        )

    def _others(self, key: str, endpoint: str, among: Collection[tuple[str, str]]) -> float | None:
        """What the same costs elsewhere; None: nobody knows."""
        rivals = [
            price
            for other in among
            if other != (key, endpoint) and (price := self._price(*other)) is not None
        ]
        if rivals:
            return median(rivals)
        if self._prices is None:
            found = ((one, self._price(one, "")) for one in self._providers)
            self._prices = {one: price for one, price in found if price}
            self._in_order = sorted(self._prices.values())
        return _median_besides(self._in_order, self._prices.get(key))

    def _price(self, key: str, endpoint: str) -> float | None:
        record = self._record(key, endpoint) or (self._record(key, "") if endpoint else None)
        if record is None:
            return None
        weights = (record.known or record.flying or record.new or Sums(datetime.now(UTC))).weights
        return _mean(weights.asked, weights.quotes)


@dataclass(slots=True)
class _Record:
    """`known` to the ledger; `flying`: on the way; `new`: since then. Thumbs as of `rated_at`."""

    known: Sums | None = None
    flying: Sums | None = None
    new: Sums | None = None
    up: float = 0.0
    down: float = 0.0
    rated_at: datetime | None = None
    last_status: int | None = None
    last_error: str | None = None
    last_seen_at: datetime | None = None

    def new_sums(self, now: datetime) -> Sums:
        if self.new is None:
            self.new = Sums(now)
        return self.new

    @property
    def asks_money(self) -> bool:
        parts = (self.known, self.flying, self.new)
        return any(one is not None and one.weights.asked > 0 for one in parts)


@dataclass(slots=True)
class _Provider:
    whole: _Record = field(default_factory=_Record)
    endpoints: OrderedDict[str, _Record] = field(default_factory=OrderedDict)

    def least(self, besides: str) -> str:
        """The endpoint to forget: the least used of those that never asked for money, if any."""
        others = [one for one in self.endpoints if one != besides]
        return next((one for one in others if not self.endpoints[one].asks_money), others[0])


def _median_besides(prices: Sequence[float], own: float | None) -> float | None:
    """Of these prices, in order, without one that is its own; None if there are too few."""
    left = len(prices) - (own is not None)
    if left < FLEET:
        return None
    gap = len(prices) if own is None else bisect_left(prices, own)
    low, high = (prices[at + (at >= gap)] for at in ((left - 1) // 2, left // 2))
    return (low + high) / 2


def _mean(total: float, weight: float) -> float | None:
    return total / weight if weight > 1e-9 else None
