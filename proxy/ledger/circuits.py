"""The breakers of providers as all processes of a database share them, by the database's clock.

Every statement may be sent again: what was done before is found done. A turn is notified on
`autopay_breakers`, by the table's trigger.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID

from proxy.ledger.database import Database

CHANNEL = "autopay_breakers"
MOST = 1_000  # that are told of, apart from those that are asked about; the newest
MOST_KNOWN = 10_000
_ERROR_CHARACTERS = 500

# Who finds it open leaves it as it is: the first who opened it says for how long.
_OPEN = """
INSERT INTO x402_procurement_provider_stats AS s
    (id, circuit_open_until, circuit_error, consecutive_failures)
SELECT id, now() + make_interval(secs => seconds), error, failures
FROM unnest($1::text[], $2::float8[], $3::text[], $4::int[]) AS d (id, seconds, error, failures)
ORDER BY id
ON CONFLICT (id) DO UPDATE SET
    circuit_error = CASE WHEN s.circuit_open_until > now() THEN s.circuit_error
                         ELSE excluded.circuit_error END,
    consecutive_failures = excluded.consecutive_failures,
    circuit_open_until = CASE WHEN s.circuit_open_until > now() THEN s.circuit_open_until
                              ELSE excluded.circuit_open_until END
RETURNING id, circuit_version
"""
_CLOSE = """
UPDATE x402_procurement_provider_stats SET circuit_open_until = NULL
WHERE id = $1 AND circuit_version = $2 AND circuit_open_until IS NOT NULL
RETURNING circuit_version
"""
_TRY = """
WITH leased AS (
    UPDATE x402_procurement_provider_stats
       SET probe_owner = $2, probe_until = now() + make_interval(secs => $3)
     WHERE id = $1 AND circuit_open_until <= now()
       AND coalesce(probe_until, '-infinity') <= now()
    RETURNING id, circuit_version, circuit_successes
)
SELECT coalesce(l.circuit_version, s.circuit_version) AS version,
       extract(epoch FROM s.circuit_open_until - now())::float8 AS open_for,
       coalesce(s.circuit_error, s.last_error, '') AS last_error,
       coalesce(l.circuit_successes, s.circuit_successes) AS successes,
       extract(epoch FROM s.probe_until - now())::float8 AS probe_for,
       l.id IS NOT NULL AS leased
FROM x402_procurement_provider_stats s LEFT JOIN leased l ON l.id = s.id WHERE s.id = $1
"""
_RENEW = """
UPDATE x402_procurement_provider_stats SET probe_until = now() + make_interval(secs => $3)
WHERE id = $1 AND probe_owner = $2
"""
_END = """
UPDATE x402_procurement_provider_stats
SET probe_owner = NULL, probe_until = NULL, circuit_successes = $3
WHERE id = $1 AND probe_owner = $2
"""
_READ = """
SELECT id, circuit_version AS version,
       extract(epoch FROM circuit_open_until - now())::float8 AS open_for,
       coalesce(circuit_error, last_error, '') AS last_error,
       coalesce(probe_until > now(), false) AS probing
FROM x402_procurement_provider_stats
WHERE id IN ((SELECT id FROM x402_procurement_provider_stats WHERE circuit_open_until IS NOT NULL
              ORDER BY circuit_open_until DESC LIMIT $1)
             UNION SELECT unnest($2::text[]))
"""
_KNOWN = """
SELECT id FROM x402_procurement_provider_stats
ORDER BY circuit_open_until IS NULL, last_seen_at DESC NULLS LAST LIMIT $1
"""
_TURN = "SELECT turned, open_until FROM turn_breaker_by_hand($1, $2, $3)"


class Asked(Protocol):
    """A connection, or the `Database`."""

    async def fetch(self, sql: str, *args: object) -> Sequence[Any]: ...


@dataclass(frozen=True, slots=True)
class Circuit:
    """What is written of a provider's breaker. `open_for`: seconds, 0 or less if its time is over;
    None: closed. `probing`: somebody tries it."""

    id: str
    version: int
    open_for: float | None
    last_error: str
    probing: bool

    @property
    def state(self) -> str:
        """As in `Guards.states`: "closed", "open" or "half-open"."""
        if self.open_for is None:
            return "closed"
        return "open" if self.open_for > 0 else "half-open"


@dataclass(frozen=True, slots=True)
class Lease:
    """The answer to who wants to try a provider: whether it may (`leased`), after so many
    `successes`; if not, what is written, and for how many seconds somebody else may."""

    leased: bool
    version: int
    open_for: float | None
    last_error: str
    successes: int
    probe_for: float | None


@dataclass(frozen=True, slots=True)
class Opening:
    """To be opened for so many seconds from now (less than 0: its time is over already)."""

    id: str
    seconds: float
    error: str
    failures: int


@dataclass(frozen=True, slots=True)
class ByHand:
    """What an operator's word came to. `turned`: it was otherwise before. `open_until`: by the
    database's clock; None: it is closed."""

    turned: bool
    open_until: datetime | None


async def read(asked: Asked, about: Collection[str] = ()) -> list[Circuit]:
    """Those that are open or half-open, and those asked `about` where there is a record of them.
    What is raised is up to `asked`."""
    return [Circuit(**dict(row)) for row in await asked.fetch(_READ, MOST, list(about))]


async def open_all(database: Database, openings: Sequence[Opening]) -> dict[str, int]:
    """Opens them, at most one each; the versions by id. Raises LedgerError, as all here do."""
    rows = await database.fetch(
        _OPEN,
        [one.id for one in openings],
        [one.seconds for one in openings],
        [one.error.replace("\0", "")[:_ERROR_CHARACTERS] for one in openings],
        [one.failures for one in openings],
    )
    return {row["id"]: row["circuit_version"] for row in rows}


async def close(database: Database, id_: str, version: int) -> int | None:
    """Closes it, if it was not turned since `version`; its version then."""
    found = await database.fetchval(_CLOSE, id_, version)
    return None if found is None else int(found)


async def try_one(database: Database, id_: str, owner: UUID, seconds: float) -> Lease | None:
    """Leave to be the one call that tries a half-open provider, for so long unless renewed; None if
    there is no record of it."""
    row = await database.fetchrow(_TRY, id_, owner, seconds)
    return None if row is None else Lease(**dict(row))


async def renew(database: Database, id_: str, owner: UUID, seconds: float) -> None:
    """It is still under way."""
    await database.execute(_RENEW, id_, owner, seconds)


async def end(database: Database, id_: str, owner: UUID, successes: int) -> None:
    """It is over, and there were so many successes up to now: the next may try."""
    await database.execute(_END, id_, owner, successes)


async def known(database: Database) -> list[str]:
    """The ids of the providers that there is a record of: of more than MOST_KNOWN, those that are
    not closed, and the last seen."""
    return [row["id"] for row in await database.fetch(_KNOWN, MOST_KNOWN)]


async def turn_by_hand(
    database: Database, id_: str, seconds: float | None, *, by: str
) -> ByHand | None:
    """Opens it for so many seconds from now; None closes it. None if there is no record of it."""
    row = await database.fetchrow(_TURN, id_, seconds, by)
    return None if row is None else ByHand(**dict(row))
