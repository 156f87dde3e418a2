"""What came of one call, told to the statistics of its provider and to the scores."""

from proxy.providers.scores import Scores
from proxy.providers.stats import Stats


class Outcome:
    """Of a call to the provider `key`. `endpoint`: what is called (method, and URL without its
    query), "" where that is not known; `micros`: what it costs, set when a payment leaves."""

    __slots__ = ("_key", "_scores", "_stats", "_success", "endpoint", "micros")

    def __init__(self, key: str, stats: Stats, scores: Scores) -> None:
        self._key = key
        self._stats = stats
        self._scores = scores
        self._success: tuple[float, bool, int] | None = None
        self.endpoint = ""
        self.micros = 0

    @property
    def succeeded(self) -> bool:
        return self._success is not None

    def success(self, latency_ms: float, status: int, *, schema: bool) -> None:
        self._success = (latency_ms, schema, self.micros)
        self._stats.succeeded(self._key, latency_ms, status, schema=schema)
        self._scores.succeeded(
            self._key, self.endpoint, latency_ms, status, schema=schema, micros=self.micros
        )

    def failure(self, error: str, status: int | None, *, paid: bool) -> None:
        """Instead of a success, if there was one."""
        self._stats.failed(self._key, error, status, after_success=self.succeeded)
        if self._success is not None:
            latency_ms, schema, micros = self._success
            paid = paid or micros > 0
            self._scores.take_back(
                self._key, self.endpoint, latency_ms, schema=schema, micros=micros
            )
        self._scores.failed(
            self._key, self.endpoint, error, status, paid=paid, micros=self.micros if paid else 0
        )
