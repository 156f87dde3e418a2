"""What the running proxy counts, where it happens: plain numbers, read when somebody asks.

To count is one look-up and one addition. Nothing here knows how the numbers are shown.
"""

from bisect import bisect_left
from collections import defaultdict

OTHER = "other"
MOST_OF_ONE = 100
MOST_OF_ALL = 1_000


class Tally:
    """Sums by labels.

    `folded` names a label whose values programs choose, like the hosts they ask. It is bounded:
    past 100 for one agent (the label before all others), or 1,000 in all, new values are summed up
    as "other". Whoever asks ever new hosts fills neither our memory nor the operator's.
    """

    def __init__(self, *labels: str, folded: str | None = None) -> None:
        self.labels = labels
        self._folded = labels.index(folded) if folded is not None else None
        self._sums: dict[tuple[str, ...], int] = {}
        self._of_one: defaultdict[str, int] = defaultdict(int)

    def add(self, *values: str, by: int = 1) -> None:
        """`values` in the order of the labels."""
        if values not in self._sums:
            values = self._admitted(values)
        self._sums[values] = self._sums.get(values, 0) + by

    def sums(self) -> list[tuple[tuple[str, ...], int]]:
        """Everything that was counted: (values of the labels, sum)."""
        return list(self._sums.items())

    def _admitted(self, values: tuple[str, ...]) -> tuple[str, ...]:
        at = self._folded
        if at is None:
            return values
        if self._of_one[values[0]] >= MOST_OF_ONE or len(self._sums) >= MOST_OF_ALL:
            return (*values[:at], OTHER, *values[at + 1 :])
        self._of_one[values[0]] += 1
        return values


class Durations:
    """How long something took, in buckets. The bounds are seconds; the last bucket has none."""

    BOUNDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)

    def __init__(self) -> None:
        self.counts = [0] * (len(self.BOUNDS) + 1)  # of each bucket alone
        self.total = 0.0  # seconds

    def add(self, seconds: float) -> None:
        self.counts[bisect_left(self.BOUNDS, seconds)] += 1
        self.total += seconds


class Counts:
    """What happens to money and to trust. One for a running proxy; since its start.

    `decisions` are the rows of the decision log. `payments` are those that were asked for: by
    state (paid, paid_failed, in_doubt, released, reversed, denied, replayed) and the reason, which
    is "" where there is none to give. One may be counted twice: as in doubt, and later as what it
    turned out to be; as paid, and as reversed once the chain has proved that it never was; as paid,
    and as paid_failed where what came is not what was paid for.
    `retries`: succeeded, failed, or withheld, as the provider's budget was used up.
    `wishes` are requests to intents: served, unserved, refused (nobody was asked) or abandoned (by
    the program). `attempts` at their candidates: served, lost (paid, for something else than what
    was asked for), in_doubt, or failed, which cost nothing. The intents are those of the settings;
    those that agents make themselves are "" together.
    """

    def __init__(self) -> None:
        self.decisions = Tally("decision", "reason")
        self.payments = Tally("state", "reason")
        self.spent_micros = Tally("agent", "provider", "symbol", folded="provider")
        self.lost_micros = Tally("agent", "provider", folded="provider")
        self.rejections = Tally("agent", "host", folded="host")
        self.saved_answers = Tally("agent", "provider", folded="provider")
        self.saved_micros = Tally("agent", "provider", folded="provider")
        self.retries = Tally("outcome", "provider", folded="provider")
        self.wishes = Tally("intent", "outcome")
        self.attempts = Tally("intent", "outcome")
        self.intent_lost_micros = Tally("intent")

    def denied(self, reason: str) -> None:
        """A payment is refused, by a policy, a budget, or because it can't be made."""
        self.decisions.add("deny", reason)
        self.payments.add("denied", reason)

    def paid(
        self, agent: str, provider: str, symbol: str, micros: int, *, reason: str = ""
    ) -> None:
        """A payment is booked as spent. `micros`: what the budgets are charged, micro-USD."""
        self.payments.add("paid", reason)
        self.spent_micros.add(agent, provider, symbol, by=micros)

    def lost(self, agent: str, provider: str, micros: int, *, reason: str) -> None:
        """A payment was made for nothing."""
        self.payments.add("paid_failed", reason)
        self.lost_micros.add(agent, provider, by=micros)
