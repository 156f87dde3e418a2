"""What scores are made of, kept across restarts and shared by replicas: the sums of
`proxy.providers.fading`, in the table `provider_scores`, and the thumbs of the users."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from proxy.ledger.database import Database

TALLY = (
    "successes",
    "failures",
    "paid_failures",
    "schema_passes",
    "quotes",
    "delivered_micros",
    "lost_micros",
)
RECENT = (
    "successes",
    "failures",
    "paid_failures",
    "schema_passes",
    "latency",
    "quotes",
    "asked",
    "delivered",
    "lost",
)
MOST = 20_000
OVERLAP_SECONDS = 5.0
"""A row may be committed later than its time says: who asks for what is new asks that far back."""

_COLUMNS = (*TALLY, *(f"recent_{name}" for name in RECENT))
_TYPES = (*("bigint" for _ in TALLY), *("float8" for _ in RECENT))
# What each sum fades by, besides time: the calls of a report, over their half-life.
_GOOD = "greatest(0, excluded.successes)"
_CALLS = f"{_GOOD} + greatest(0, excluded.failures)"
_FADES = {
    **dict.fromkeys(("successes", "schema_passes", "latency"), f"({_CALLS}) / $2::float8"),
    **dict.fromkeys(("failures", "paid_failures", "lost"), f"{_GOOD} / $2::float8"),
    "delivered": "greatest(0, excluded.paid_failures) / $2::float8",
    **dict.fromkeys(("quotes", "asked"), "excluded.quotes / $3::float8"),
}


def _faded(name: str) -> str:
    # What is next to nothing is nothing: an underflow would end the statement.
    seconds = "greatest(0, extract(epoch FROM now() - s.weighed_at))"
    return f"""recent_{name} = greatest(0, excluded.recent_{name} + CASE
        WHEN s.recent_{name} < 1e-9 THEN 0 ELSE s.recent_{name}
            * power(2::float8, -least(100, {seconds} / $1::float8 + {_FADES[name]})) END)"""


_ADD = f"""
INSERT INTO provider_scores AS s (
    provider, endpoint, {", ".join(_COLUMNS)}, last_status, last_error, last_seen_at, updated_at,
    rated_at)
SELECT d.provider, d.endpoint, {", ".join(f"d.{name}" for name in _COLUMNS)},
       d.last_status, d.last_error, now(), clock_timestamp(),
       -- An endpoint may have been rated before it has a row: its provider has one since then.
       (SELECT w.rated_at FROM provider_scores w WHERE w.provider = d.provider AND w.endpoint = '')
FROM unnest($4::text[], $5::text[], $6::int[], $7::text[],
            {", ".join(f"${8 + n}::{kind}[]" for n, kind in enumerate(_TYPES))})
     AS d (provider, endpoint, last_status, last_error, {", ".join(_COLUMNS)})
ORDER BY d.provider, d.endpoint
ON CONFLICT (provider, endpoint) DO UPDATE SET
    {", ".join(f"{name} = greatest(0, s.{name} + excluded.{name})" for name in TALLY)},
    {", ".join(_faded(name) for name in RECENT)},
    weighed_at = greatest(s.weighed_at, now()),
    last_status = coalesce(excluded.last_status, s.last_status),
    last_error = excluded.last_error,
    last_seen_at = now(),
    updated_at = clock_timestamp()
"""  # noqa: S608 - of the names above


def _read(which: str) -> str:
    # Thumbs are summed up for the rows that are given only, and there for those that have any:
    # `thumbs` is strict, so that it is not even begun for the others.
    return f"""
SELECT s.provider, s.endpoint, {", ".join(f"s.{name}" for name in _COLUMNS)}, s.weighed_at,
       s.last_status, s.last_error, s.last_seen_at, now() AS asked_at,
       coalesce(t.up, 0) AS up, coalesce(t.down, 0) AS down
FROM (SELECT * FROM provider_scores {which} LIMIT $2) s
LEFT JOIN LATERAL thumbs(CASE WHEN s.rated_at IS NOT NULL THEN s.provider END,
                         s.endpoint, $1::float8) t ON true
ORDER BY s.last_seen_at DESC NULLS LAST
"""  # noqa: S608 - of the names above


_ALL = _read("ORDER BY last_seen_at DESC NULLS LAST")
# By the time that is asked for, so that the index on it is read, and nothing before that time.
_CHANGED = _read("""
WHERE updated_at > $3::timestamptz - $4::float8 * interval '1 second' ORDER BY updated_at DESC""")
# Asked as a statement of its own: an empty answer has its moment too.
_NOW = "SELECT now()"
# What somebody else has locked is being written: nobody waits for it, and it may go the next time.
_FORGET = """
DELETE FROM provider_scores s USING (
    SELECT l.provider, l.endpoint
      FROM provider_scores l
      JOIN (SELECT provider, endpoint, row_number() OVER (
                   PARTITION BY provider
                   ORDER BY recent_asked > 0 DESC, last_seen_at DESC NULLS LAST, endpoint) AS place
              FROM provider_scores WHERE provider = ANY ($1::text[]) AND endpoint <> '') o
        ON o.provider = l.provider AND o.endpoint = l.endpoint
     WHERE o.place > $2 FOR UPDATE OF l SKIP LOCKED) gone
WHERE s.provider = gone.provider AND s.endpoint = gone.endpoint
"""


@dataclass(frozen=True, slots=True)
class ScoreRow:
    """A provider's record (`endpoint` ""), or one endpoint's. `tally` and `recent` by the names of
    TALLY and RECENT, the latter as of `weighed_at`, as the thumbs are of `asked_at`."""

    provider: str
    endpoint: str
    tally: dict[str, int]
    recent: dict[str, float]
    weighed_at: datetime
    last_status: int | None
    last_error: str | None
    last_seen_at: datetime | None
    up: float
    down: float
    asked_at: datetime


@dataclass(frozen=True, slots=True)
class ScoreDelta:
    """What a process saw since its last report: `tally` and `recent` are added."""

    provider: str
    endpoint: str
    tally: dict[str, int] = field(default_factory=dict)
    recent: dict[str, float] = field(default_factory=dict)
    last_status: int | None = None
    last_error: str | None = None


async def changed(
    database: Database, half_life_seconds: float, since: datetime | None = None
) -> tuple[list[ScoreRow], datetime]:
    """The records that changed, with some that were known before; without `since` all of them, but
    of more than MOST the last used. And the moment to ask from the next time."""
    moment: datetime = await database.fetchval(_NOW)
    if since is None:
        found = await database.fetch(_ALL, half_life_seconds, MOST)
    else:
        found = await database.fetch(_CHANGED, half_life_seconds, MOST, since, OVERLAP_SECONDS)
    return [_row(dict(row)) for row in found], moment


async def add(
    database: Database, deltas: Sequence[ScoreDelta], half_lives: tuple[float, float, float]
) -> None:
    """Adds what was seen, in one statement; `half_lives` in seconds, in calls, and in quotes. At
    most one delta for an endpoint. Not repeatable, as `provider_stats`."""
    if not deltas:
        return
    columns: list[list[Any]] = [[d.tally.get(name, 0) for d in deltas] for name in TALLY]
    columns += [[d.recent.get(name, 0.0) for d in deltas] for name in RECENT]
    await database.execute(
        _ADD,
        *half_lives,
        [d.provider for d in deltas],
        [d.endpoint for d in deltas],
        [d.last_status for d in deltas],
        [d.last_error and d.last_error.replace("\0", "")[:500] for d in deltas],
        *columns,
    )


async def forget(database: Database, providers: Sequence[str], most: int) -> None:
    """Leaves `most` endpoints of each: those that asked for money first, then the last used."""
    if providers:
        await database.execute(_FORGET, list(providers), most)


def _row(row: dict[str, Any]) -> ScoreRow:
    return ScoreRow(
        tally={name: row.pop(name) for name in TALLY},
        recent={name: row.pop(f"recent_{name}") for name in RECENT},
        **row,
    )
