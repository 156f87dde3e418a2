"""The chains of receipts, taken out of the database as one snapshot, a line at a time.

JSON lines: a header that says what follows, signed where a key is at hand, then one line a link.
"""

import json
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import asyncpg

from proxy.ledger import Database, LedgerError, LedgerUnavailable
from proxy.ledger.errors import TROUBLE
from proxy.ledger.roles import startup
from proxy.receipts.canonical import canonical, digest
from proxy.receipts.keys import EXPORT, ReceiptKey
from proxy.receipts.link import Link

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
# What came for the money stands beside a link: it is told after the receipt was written, and is not
# signed. A delivery that was good after all goes before those that were not.
_SELECT = """
SELECT l.agent_id, l.seq, l.kind, l.receipt_id, l.canonical, l.sha256, l.previous,
       s.key_id, s.signature, (
    SELECT jsonb_build_object(
        'status', d.status, 'content_type', d.content_type, 'size_bytes', d.size_bytes,
        'response_hash', d.response_hash, 'first_byte_ms', d.latency_ms, 'total_ms', d.total_ms,
        'schema_ok', d.schema_ok, 'expected', d.expected, 'unread', d.unread,
        'paid_failed', w.payment_id IS NOT NULL,
        'fault', CASE WHEN w.payment_id IS NOT NULL THEN d.error END)::text
    FROM x402_procurement_receipts d LEFT JOIN losses w ON w.payment_id = d.payment_id
    WHERE d.payment_id = l.receipt_id AND l.kind = 'receipt'
    ORDER BY d.success DESC, d.created_at DESC LIMIT 1) AS delivery
FROM receipt_links l LEFT JOIN receipt_signatures s ON s.agent_id = l.agent_id AND s.seq = l.seq
"""
_LINKS = f"""
{_SELECT}
JOIN unnest($1::uuid[], $2::bigint[], $3::bigint[]) AS r (agent_id, first, last)
  ON r.agent_id = l.agent_id AND l.seq BETWEEN r.first AND r.last
ORDER BY l.agent_id, l.seq
"""
_OF_RECEIPTS = f"{_SELECT} WHERE l.receipt_id = ANY ($1::uuid[]) ORDER BY l.agent_id, l.seq"


Beside = tuple[Link, dict[str, Any] | None]
"""A link, and of a receipt what came for the money; None where that is not known."""


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
    links: AsyncIterator[Beside]

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
    except TROUBLE as error:
        words = " ".join(str(error).split())[:300] or type(error).__name__
        raise LedgerUnavailable(f"receipts cannot be read: {words}", may_have_happened=False) from (
            error
        )


async def json_lines(
    extracted: Extract, key: ReceiptKey | None, at: datetime
) -> AsyncIterator[str]:
    """The whole file, with its ends of lines."""
    yield json.dumps(extracted.header(key, at)) + "\n"
    async for beside in extracted.links:
        yield json.dumps(_fields(beside), ensure_ascii=False) + "\n"


async def proof_of(database: Database, receipt_id: UUID) -> dict[str, Any] | None:
    """The links of one receipt and the public keys, as an export has them; None without a receipt.

    Raises LedgerError.
    """
    return (await proofs_of(database, [receipt_id])).get(receipt_id)


async def proofs_of(
    database: Database, receipt_ids: Collection[UUID]
) -> dict[UUID, dict[str, Any]]:
    """The same of several, of those that there are. Raises LedgerError."""
    found: dict[UUID, list[Beside]] = {}
    for row in await database.fetch(_OF_RECEIPTS, list(receipt_ids)):
        found.setdefault(row["receipt_id"], []).append(_beside(row))
    keys = {row["key_id"]: _key(row) for row in await database.fetch(_KEYS)} if found else {}
    return {
        receipt_id: {
            "links": [_fields(beside) for beside in links],
            "keys": [key for key_id, key in keys.items() if _signs(key_id, links)],
        }
        for receipt_id, links in found.items()
    }


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

    async def links() -> AsyncIterator[Beside]:
        async for row in cursor:
            yield _beside(row)

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


def _beside(row: asyncpg.Record) -> Beside:
    fields = dict(row)
    delivery = fields.pop("delivery")
    return Link(**fields), None if delivery is None else json.loads(delivery)


def _fields(beside: Beside) -> dict[str, Any]:
    link, delivery = beside
    return link.as_fields() | ({} if delivery is None else {"delivery": delivery})


def _signs(key_id: bytes, links: list[Beside]) -> bool:
    return any(link.key_id == key_id for link, _ in links)


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
