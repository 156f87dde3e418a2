"""The chains of receipts, taken out of the database as one snapshot, a line at a time.

JSON lines: a header that says what follows, signed where a key is at hand, then one line a link.
"""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import asyncpg

from proxy.ledger import Database, LedgerError, LedgerUnavailable
from proxy.ledger.roles import startup
from proxy.receipts.canonical import canonical, digest
from proxy.receipts.keys import EXPORT, ReceiptKey
from proxy.receipts.link import SELECT, Link

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]

FORMAT = "autopay-receipts/1"
_AHEAD = 500  # links that are fetched at once

_KEYS = "SELECT key_id, public_key, created_at FROM receipt_keys ORDER BY created_at, key_id"
_EVERYONE = "SELECT id FROM agents WHERE $1::text IS NULL OR name = $1 OR id::text = $1"
# A moment cuts a chain at one place: all between the first and the last link of the time, though
# clocks and commits need not agree about the order.
_CHAINS = """
SELECT c.agent_id, a.name AS agent, c.length, c.head, coalesce(r.first, 0) AS first,
       coalesce(r.last, 0) AS last
FROM receipt_chains c JOIN agents a ON a.id = c.agent_id
CROSS JOIN LATERAL (
    SELECT min(l.seq) AS first, max(l.seq) AS last FROM receipt_links l
    WHERE l.agent_id = c.agent_id AND ($2::timestamptz IS NULL OR l.recorded_at >= $2)
      AND ($3::timestamptz IS NULL OR l.recorded_at < $3)
) r
WHERE c.agent_id = ANY ($1::uuid[]) AND c.length > 0
ORDER BY c.agent_id
"""
_LINKS = f"""
{SELECT}
JOIN unnest($1::uuid[], $2::bigint[], $3::bigint[]) AS r (agent_id, first, last)
  ON r.agent_id = l.agent_id AND l.seq BETWEEN r.first AND r.last
ORDER BY l.agent_id, l.seq
"""
_OF_RECEIPT = f"{SELECT} WHERE l.receipt_id = $1 ORDER BY l.seq"


class NoSuchAgent(LedgerError):
    """Nobody is called so."""


@dataclass(frozen=True, slots=True)
class Question:
    """Which receipts: of an agent (name or id; None: of all), recorded in [since, until)."""

    agent: str | None = None
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Extract:
    """What was asked for, still in its transaction. `chains`: as `header` has them."""

    chains: list[dict[str, Any]]
    keys: list[dict[str, Any]]
    question: Question
    links: AsyncIterator[Link]

    def header(self, key: ReceiptKey | None, at: datetime) -> dict[str, Any]:
        """The first line of the file."""
        asked = {name: _text(value) for name, value in asdict(self.question).items()}
        header = {
            "format": FORMAT,
            "exported_at": _text(at),
            "asked": asked,
            "keys": self.keys,
            "chains": self.chains,
            "links": sum(_links_in(chain) for chain in self.chains),
            "key_id": None if key is None else key.key_id.hex(),
        }
        signed = None if key is None else key.sign(EXPORT, digest(canonical(header))).hex()
        return header | {"signature": signed}


@asynccontextmanager
async def extract(dsn: str, role: str, question: Question) -> AsyncIterator[Extract]:
    """Raises NoSuchAgent, or LedgerUnavailable; that too while it is read."""
    try:
        connection = await asyncpg.connect(
            dsn,
            timeout=10,
            server_settings={"application_name": "autopay receipts", "jit": "off", **startup(role)},
        )
        try:
            async with connection.transaction(isolation="repeatable_read", readonly=True):
                yield await _extract(connection, question)
        finally:
            connection.terminate()
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        words = " ".join(str(error).split())[:300] or type(error).__name__
        raise LedgerUnavailable(f"receipts cannot be read: {words}", may_have_happened=False) from (
            error
        )


async def json_lines(
    extracted: Extract, key: ReceiptKey | None, at: datetime
) -> AsyncIterator[str]:
    """The whole file, with its ends of lines."""
    yield json.dumps(extracted.header(key, at)) + "\n"
    async for link in extracted.links:
        yield json.dumps(link.as_fields(), ensure_ascii=False) + "\n"


async def proof_of(database: Database, receipt_id: UUID) -> dict[str, Any] | None:
    """The links of one receipt and the public keys, as an export has them; None without a receipt.

    Raises LedgerError.
    """
    links = [_link(row) for row in await database.fetch(_OF_RECEIPT, receipt_id)]
    if not links:
        return None
    used = {link.key_id for link in links}
    keys = [_key(row) for row in await database.fetch(_KEYS) if row["key_id"] in used]
    return {"links": [link.as_fields() for link in links], "keys": keys}


async def public_keys(database: Database) -> list[dict[str, Any]]:
    """Every key that ever signed here, oldest first. Raises LedgerError."""
    return [_key(row) for row in await database.fetch(_KEYS)]


async def _extract(connection: "Connection", question: Question) -> Extract:
    agents = [row["id"] for row in await connection.fetch(_EVERYONE, question.agent)]
    if question.agent is not None and not agents:
        raise NoSuchAgent(f"there is no agent {question.agent!r}")
    rows = await connection.fetch(_CHAINS, agents, question.since, question.until)
    ranges = [(row["agent_id"], row["first"], row["last"]) for row in rows if row["first"]]
    columns = [list(column) for column in zip(*ranges, strict=True)] or [[], [], []]
    cursor = connection.cursor(_LINKS, *columns, prefetch=_AHEAD)

    async def links() -> AsyncIterator[Link]:
        async for row in cursor:
            yield _link(row)

    chains = [
        {
            "agent_id": str(row["agent_id"]),
            "agent": row["agent"],
            "length": row["length"],
            "head": row["head"].hex(),
            "first": row["first"],
            "last": row["last"],
        }
        for row in rows
    ]
    keys = [_key(row) for row in await connection.fetch(_KEYS)]
    return Extract(chains, keys, question, links())


def _links_in(chain: dict[str, Any]) -> int:
    first: int = chain["first"]
    last: int = chain["last"]
    return last - first + 1 if first else 0


def _link(row: asyncpg.Record) -> Link:
    return Link(**dict(row))


def _key(row: asyncpg.Record) -> dict[str, Any]:
    return {
        "key_id": row["key_id"].hex(),
        "public_key": row["public_key"].hex(),
        "created_at": _text(row["created_at"]),
    }


def _text(value: datetime | str | None) -> str | None:
    if isinstance(value, datetime):
        return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return value
