"""What every provider did, counted in memory; what the ledger does not know yet is kept apart."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import islice

from policies import MAX_MICROS
from proxy.ledger.provider_stats import ProviderDelta, ProviderStats

# As in the ledger: a new measurement weighs a fifth.
KEEP = 0.8


@dataclass(slots=True)
class Record:
    """One provider: totals as the score needs them, and `unsaved_*`, the part not yet flushed."""

    calls: int = 0
    successes: int = 0
    failures: int = 0
    schema_passes: int = 0
    consecutive_failures: int = 0
    latency_ms: float = 0.0  # decayed
    quality: float = 0.5
    max_price_micros: int = 0
    last_status: int | None = None
    last_error: str | None = None
    unsaved_calls: int = 0
    unsaved_successes: int = 0
    unsaved_schema_passes: int = 0
    unsaved_latency_ms: float = 0.0  # a sum over the unsaved successes
    changes: int = 0  # of any kind; tells a flush whether something came in meanwhile


class Stats:
    """The records of at most `limit` providers; those that are all saved are forgotten first."""

    def __init__(self, limit: int = 10_000) -> None:
        self._limit = limit
        self._records: dict[str, Record] = {}
        self._unsaved: set[str] = set()

    def get(self, key: str) -> Record:
        """The provider's record, or an empty one that is not kept."""
        return self._records.get(key) or Record()

    def succeeded(self, key: str, latency_ms: float, status: int, *, schema: bool) -> None:
        record = self._changing(key)
        record.calls += 1
        record.unsaved_calls += 1
        record.successes += 1
        record.unsaved_successes += 1
        if schema:
            record.schema_passes += 1
            record.unsaved_schema_passes += 1
        record.consecutive_failures = 0
        record.unsaved_latency_ms += latency_ms
        before = record.latency_ms or latency_ms
        record.latency_ms = before * KEEP + latency_ms * (1 - KEEP)
        record.last_status = status
        record.last_error = None

    def failed(
        self, key: str, error: str, status: int | None, *, after_success: bool = False
    ) -> None:
        """`after_success`: of a call that was counted as one."""
        record = self._changing(key)
        if after_success:
            record.successes -= 1
            record.unsaved_successes -= 1
        else:
            record.calls += 1
            record.unsaved_calls += 1
        record.failures += 1
        record.consecutive_failures += 1
        if status is not None:
            record.last_status = status
        record.last_error = error

    def quoted(self, key: str, price_micros: int) -> None:
        record = self._changing(key)
        # A seller may ask for more than any column holds.
        record.max_price_micros = max(record.max_price_micros, min(price_micros, MAX_MICROS))

    def restore(self, saved: Iterable[ProviderStats]) -> None:
        for stats in saved:
            self._records[stats.id] = Record(
                calls=stats.calls,
                successes=stats.successes,
                failures=stats.failures,
                schema_passes=stats.schema_passes,
                consecutive_failures=stats.consecutive_failures,
                latency_ms=stats.avg_latency_ms,
                quality=stats.quality,
                max_price_micros=stats.max_price_micros,
                last_status=stats.last_status,
                last_error=stats.last_error,
            )

    def unsaved(self) -> list[tuple[ProviderDelta, Record]]:
        """What the ledger does not know yet, with a copy of each record as of now."""
        return [
            (_delta(key, self._records[key]), replace(self._records[key])) for key in self._unsaved
        ]

    def saved(self, flushed: Iterable[tuple[ProviderDelta, Record]]) -> None:
        """The ledger has it now; what came in meanwhile stays unsaved."""
        for delta, then in flushed:
            record = self._records[delta.id]
            record.unsaved_calls -= then.unsaved_calls
            record.unsaved_successes -= then.unsaved_successes
            record.unsaved_schema_passes -= then.unsaved_schema_passes
            record.unsaved_latency_ms -= then.unsaved_latency_ms
            if record.changes == then.changes:
                self._unsaved.discard(delta.id)
        surplus = len(self._records) - self._limit
        if surplus > 0:
            saved = (key for key in self._records if key not in self._unsaved)
            for key in list(islice(saved, surplus)):
                del self._records[key]

    def _changing(self, key: str) -> Record:
        record = self._records.get(key)
        if record is None:
            record = self._records[key] = Record()
        record.changes += 1
        self._unsaved.add(key)
        return record


def _delta(key: str, record: Record) -> ProviderDelta:
    successes = record.unsaved_successes
    return ProviderDelta(
        id=key,
        calls=record.unsaved_calls,
        successes=successes,
        failures=record.unsaved_calls - successes,
        latency_ms=record.unsaved_latency_ms / successes if successes > 0 else None,
        schema_passes=record.unsaved_schema_passes,
        consecutive_failures=record.consecutive_failures,
        last_status=record.last_status,
        last_error=record.last_error,
        max_price_micros=record.max_price_micros or None,
    )
