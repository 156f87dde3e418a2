"""Thumbs are counted as they come, and are what adding all of them up anew would give."""

import asyncio
from collections.abc import Awaitable
from random import Random
from uuid import UUID, uuid4

import asyncpg
import pytest

from proxy.ledger import Agent, Database, Ledger, SettledReceipt, ratings
from tests.ledger.conftest import Make

WEEK, HOUR = 604_800.0, 3_600.0
GOOD = SettledReceipt(claimed=True, http_status=200, success=True, latency_ms=1)
SHOP, OTHER = "https://a.example.com:443", "https://b.example.com:443"

# Every user's last word on every payment, said of the receipt or of the message.
ADDED_UP = """
WITH words AS (
    SELECT receipt_id, user_address, is_positive, created_at, provider, endpoint
      FROM receipt_ratings WHERE provider IS NOT NULL
    UNION ALL
    SELECT receipt_id, user_address, is_positive, created_at, provider, endpoint
      FROM message_ratings WHERE provider IS NOT NULL
), last_words AS (
    SELECT DISTINCT ON (receipt_id, user_address) *, power(2::float8, -least(1000, greatest(0,
           extract(epoch FROM now() - created_at) / $1::float8))) AS weight
      FROM words ORDER BY receipt_id, user_address, created_at DESC
)
SELECT s.*, t.up, t.down
  FROM (SELECT w.provider, e.endpoint,
               coalesce(sum(w.weight) FILTER (WHERE w.is_positive), 0) AS all_up,
               coalesce(sum(w.weight) FILTER (WHERE NOT w.is_positive), 0) AS all_down
          FROM last_words w, LATERAL (VALUES (''), (w.endpoint)) e (endpoint) GROUP BY 1, 2) s,
       LATERAL thumbs(s.provider, s.endpoint, $1::float8) t
"""


async def compare(database: Database) -> int:
    """Of how many providers and endpoints there are thumbs; all of them as they should be."""
    for half_life in (WEEK, HOUR):
        rows = await database.fetch(ADDED_UP, half_life)
        for row in rows:
            said = (row["up"], row["down"])
            assert said == pytest.approx((row["all_up"], row["all_down"]), rel=1e-9, abs=1e-9)
    kept = await database.fetchval("SELECT count(*) FROM provider_thumbs")
    assert kept == len(rows)
    return len(rows)


@pytest.fixture
async def receipts(ledger: Ledger, database: Database, make: Make, bot: Agent) -> list[UUID]:
    """Twelve, of two providers with three endpoints each; each was paid for a message of a chat."""
    made = []
    for n in range(12):
        reservation = make(
            price=1,
            provider=(SHOP, OTHER)[n % 2],
            endpoint=f"https://example.com/{n % 3}",
        )
        await ledger.reserve(reservation)
        assert await ledger.settle(reservation.payment_id, GOOD)
        made.append(reservation.payment_id)
    chat = uuid4()
    await database.execute(
        "INSERT INTO chat_sessions (id, wallet_address, agent_id) VALUES ($1, 'w', $2)",
        chat,
        bot.id,
    )
    for copies in range(2):
        await database.execute(
            "INSERT INTO chat_messages (session_id, message_id, content, is_user, payment_id)"
            " SELECT $1, $3 || x::text, '', false, x FROM unnest($2::uuid[]) x",
            chat,
            made,
            f"{copies}-",
        )
    return made


_SAY = """
INSERT INTO message_ratings (message_id, user_address, is_positive)
SELECT m, u, $3 FROM unnest($1::text[]) m, unnest($2::text[]) u
ON CONFLICT (message_id, user_address) DO UPDATE SET is_positive = excluded.is_positive
"""


@pytest.mark.parametrize("seed", range(3))
async def test_whatever_is_said_and_taken_back(
    database: Database, receipts: list[UUID], seed: int
) -> None:
    chance = Random(seed)
    users = ["ann", "bob", "eve"]

    def messages() -> list[str]:
        return [f"{chance.randrange(2)}-{chance.choice(receipts)}" for _ in range(2)]

    for n in range(120):
        receipt, user = chance.choice(receipts), chance.choice(users)
        kind = chance.randrange(8)
        if kind <= 2:
            await ratings.rate(database, receipt, user, is_positive=chance.random() < 0.6)
        elif kind == 3:
            await ratings.unrate(database, receipt, user)
        elif kind == 4:  # several at once: some are new, and some of one user on one payment
            several = {*messages(), f"0-{receipt}", f"1-{receipt}"}
            await database.execute(_SAY, sorted(several), users[:2], chance.random() < 0.6)
        elif kind == 5:
            await database.execute(
                "DELETE FROM message_ratings WHERE message_id = ANY ($1)", messages()
            )
        elif kind == 6:  # as if it had been said before
            await database.execute(
                f"UPDATE {chance.choice(['receipt_ratings', 'message_ratings'])}"
                " SET created_at = created_at - $2 * interval '1 hour' WHERE user_address = $1",
                user,
                chance.randrange(400),
            )
        else:
            await database.execute(
                "UPDATE receipt_ratings SET receipt_id = $2, user_address = $3 WHERE id = ("
                " SELECT id FROM receipt_ratings r WHERE r.receipt_id = $1 AND NOT EXISTS ("
                "  SELECT FROM receipt_ratings o WHERE o.receipt_id = $2 AND o.user_address = $3)"
                " LIMIT 1)",
                receipt,
                chance.choice(receipts),
                user,
            )
        if n % 10 == 0:
            await compare(database)
    assert await compare(database) > 4
    await database.execute("DELETE FROM message_ratings")
    await compare(database)
    await database.execute("DELETE FROM receipt_ratings")
    assert await compare(database) == 0
    assert await database.fetchval("SELECT count(*) FROM rating_words") == 0


async def test_time_passes(dsn: str, database: Database, receipts: list[UUID]) -> None:
    for n, receipt in enumerate(receipts):
        await ratings.rate(database, receipt, "ann", is_positive=n % 3 > 0)
    owner = await asyncpg.connect(dsn)
    try:
        for days in (3, 40, 4000):
            async with owner.transaction():
                await owner.execute("ALTER TABLE receipt_ratings DISABLE TRIGGER USER")
                for table, column in (
                    ("receipt_ratings", "created_at"),
                    ("rating_words", "said_at"),
                    ("provider_thumbs", "weighed_at"),
                ):
                    await owner.execute(
                        f"UPDATE {table} SET {column} = {column} - $1 * interval '1 day'", days
                    )
                await owner.execute("ALTER TABLE receipt_ratings ENABLE TRIGGER USER")
            await compare(database)
            await ratings.rate(database, receipts[0], f"after {days}", is_positive=True)
            await compare(database)
            await ratings.unrate(database, receipts[1], "ann")
            await compare(database)
    finally:
        await owner.close()


async def test_all_rate_at_once(database: Database, receipts: list[UUID]) -> None:
    """Also the same user on the same payment, of its receipt and of its messages."""
    said: list[Awaitable[object]] = []
    for n in range(40):
        receipt, user = receipts[n % 3], f"user-{n % 4}"
        said.append(ratings.rate(database, receipt, user, is_positive=n % 2 == 0))
        said.append(database.execute(_SAY, [f"{n % 2}-{receipt}"], [user], n % 3 == 0))
        said.append(ratings.unrate(database, receipts[n % 5], user))
    async with asyncio.timeout(60):
        await asyncio.gather(*said)
    await compare(database)


async def test_one_more_is_one_more(dsn: str, database: Database, receipts: list[UUID]) -> None:
    """Neither a rating nor a reader of the sums looks at those that were there before."""
    await database.execute(
        "INSERT INTO receipt_ratings (receipt_id, user_address, is_positive)"
        " SELECT $1, 'user ' || n, n % 3 > 0 FROM generate_series(1, 3000) n",
        receipts[0],
    )
    connection = await asyncpg.connect(dsn)
    read = (
        "SELECT coalesce(sum(seq_tup_read + idx_tup_fetch), 0)::bigint"
        " FROM pg_stat_xact_user_tables WHERE relname IN ('receipt_ratings', 'rating_words')"
    )
    try:
        async with connection.transaction():
            await connection.execute(
                "INSERT INTO receipt_ratings (receipt_id, user_address, is_positive)"
                " VALUES ($1, 'one more', true)",
                receipts[0],
            )
            await connection.execute("SELECT * FROM thumbs($1, '', $2)", SHOP, WEEK)
            assert await connection.fetchval(read) < 20
    finally:
        await connection.close()
    assert await compare(database) == 2
