"""How providers have behaved, kept across restarts and shared by replicas."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from proxy.ledger.database import Database

# A new measurement weighs a fifth, so an average forgets: after ten calls the past counts a tenth.
_KEEP = 0.8

_ADD = """
INSERT INTO x402_procurement_provider_stats AS s (
    id, calls, successes, failures, avg_latency_ms, schema_passes, consecutive_failures,
    max_price_micros, last_status, last_error, last_seen_at)
SELECT id, calls, successes, failures, coalesce(latency_ms, 0), schema_passes, consecutive_failures,
       coalesce(max_price_micros, 0), last_status, last_error, now()
FROM unnest($1::text[], $2::int[], $3::int[], $4::int[], $5::float8[], $6::int[], $7::int[],
            $8::bigint[], $9::int[], $10::text[])
     AS d (id, calls, successes, failures, latency_ms, schema_passes, consecutive_failures,
           max_price_micros, last_status, last_error)
ORDER BY id
ON CONFLICT (id) DO UPDATE SET
    calls = s.calls + excluded.calls,
    successes = s.successes + excluded.successes,
    failures = s.failures + excluded.failures,
    avg_latency_ms = CASE
        WHEN excluded.avg_latency_ms = 0 THEN s.avg_latency_ms
        WHEN s.avg_latency_ms = 0 THEN excluded.avg_latency_ms
        ELSE excluded.avg_latency_ms
             + (s.avg_latency_ms - excluded.avg_latency_ms) * power($11::numeric, excluded.calls)
    END,
    schema_passes = s.schema_passes + excluded.schema_passes,
    consecutive_failures = excluded.consecutive_failures,
    max_price_micros = CASE excluded.max_price_micros
        WHEN 0 THEN s.max_price_micros ELSE excluded.max_price_micros END,
    last_status = coalesce(excluded.last_status, s.last_status),
    last_error = excluded.last_error,
    last_seen_at = now(),
    updated_at = now()
"""
_LOAD = """
SELECT id, calls, successes, failures, avg_latency_ms::float8 AS avg_latency_ms, schema_passes,
       consecutive_failures, quality::float8 AS quality, max_price_micros, circuit_open_until,
       last_status, last_error, last_seen_at
FROM x402_procurement_provider_stats
ORDER BY last_seen_at DESC NULLS LAST LIMIT $1
"""
MOST = 10_000


@dataclass(frozen=True, slots=True)
class ProviderStats:
    """One provider's record; `id` is scheme://host:port."""

    id: str
    calls: int
    successes: int
    failures: int
    avg_latency_ms: float  # decayed; 0: none measured
    schema_passes: int
    consecutive_failures: int
    quality: float
    max_price_micros: int
    circuit_open_until: datetime | None
    last_status: int | None
    last_error: str | None
    last_seen_at: datetime | None


@dataclass(frozen=True, slots=True)
class ProviderDelta:
    """What a process saw since its last report: counts are added, the rest is set.

    `latency_ms` is the mean of these calls, None if none was measured. `max_price_micros` None
    leaves the price as it is.
    """

    id: str
    calls: int
    successes: int
    failures: int
    latency_ms: float | None
    schema_passes: int
    consecutive_failures: int
    last_status: int | None
    last_error: str | None
    max_price_micros: int | None


async def load(database: Database) -> dict[str, ProviderStats]:
    """Every provider's stats, by id; of more than MOST, those of the last seen."""
    return {row["id"]: ProviderStats(**dict(row)) for row in await database.fetch(_LOAD, MOST)}


async def add(database: Database, deltas: Sequence[ProviderDelta]) -> None:
    """Adds what was seen, in one statement. At most one delta for a provider.

    Not repeatable: who does not know whether it happened leaves it at that. Counts may be lost so,
    but not added twice; they are statistics, not books.
    """
    if deltas:
        await database.execute(
            _ADD,
            [d.id for d in deltas],
            [d.calls for d in deltas],
            [d.successes for d in deltas],
            [d.failures for d in deltas],
            [d.latency_ms for d in deltas],
            [d.schema_passes for d in deltas],
            [d.consecutive_failures for d in deltas],
            [d.max_price_micros for d in deltas],
            [d.last_status for d in deltas],
            [
                None if d.last_error is None else d.last_error.replace("\0", "")[:500]
                for d in deltas
            ],
            _KEEP,
        )
