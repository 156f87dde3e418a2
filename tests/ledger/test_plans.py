"""The operator's questions on books that have grown: what they answer, and that no plan, with the
values in it or without, reads a partition or a table of payments through."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg
import pytest

from bench.million import questions
from bench.plans import LARGE, PARTITIONED, Question, plans_of
from bench.rows import RARE, Scale, load
from proxy.ledger import Database, history
from proxy.ledger.questions.events import events
from proxy.ledger.questions.spend import spend
from proxy.ledger.questions.story import story
from proxy.ledger.questions.tasks import sessions, steps, traces
from proxy.ledger.questions.totals import totals
from tests.peers.postgres import drop_database, fresh_database

RECEIPTS = 20_000


def superuser(dsn: str) -> str:
    return urlsplit(dsn)._replace(netloc="postgres@").geturl()


@pytest.fixture(scope="module")
def grown(server: str, template: str) -> Iterator[str]:
    """A database with four months of books, for questions only."""

    async def make() -> str:
        dsn = await fresh_database(server, template)
        await load(superuser(dsn), Scale(RECEIPTS, agents=40, providers=20))
        return dsn

    dsn = asyncio.run(make())
    yield dsn
    asyncio.run(drop_database(server, dsn))


@pytest.fixture
async def books(grown: str) -> AsyncIterator[Database]:
    database = await Database.open(grown, size=1)
    yield database
    await database.close()


@pytest.fixture
async def connection(grown: str) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    connection = await asyncpg.connect(grown)
    yield connection
    await connection.close()


async def test_no_question_reads_a_large_table_through(
    books: Database, connection: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    asked = await questions(books)
    found = {
        name: sorted({table for plan in plans for table in plan.read_through})
        for name, question in asked.items()
        for plans in [await plans_of(books, connection, question)]
    }
    assert {name: tables for name, tables in found.items() if tables} == {}


async def test_a_table_that_is_read_through_is_seen(
    books: Database, connection: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    for table in (*PARTITIONED, *LARGE):

        def question(database: Database, table: str = table) -> object:
            return database.fetch(f"SELECT max(x::text) FROM {table} x")

        plans = await plans_of(books, connection, question)  # type: ignore[arg-type]
        assert any(name.startswith(table) for plan in plans for name in plan.read_through)


async def test_time_bounds_leave_out_the_other_months(
    books: Database, connection: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    now = await books.fetchval("SELECT now()")
    (old,) = await history.decisions(books, None, 1, (now - timedelta(days=100), uuid4()))
    week = timedelta(days=7)
    # How many partitions at most, the default one included where a bound is only from below.
    bounded: dict[Question, int] = {
        lambda db: events(db, since=now - 9 * week, until=now - 8 * week): 2,
        lambda db: events(db, words=RARE, since=week): 6,  # 2 past, 3 ahead, default
        lambda db: history.decisions(db, None, 50, (old.created_at, old.id)): 3,
    }
    for question, most in bounded.items():
        for plan in await plans_of(books, connection, question):
            assert 1 <= len(plan.partitions) <= most, plan.sql


async def test_many_runs_of_a_prepared_statement_answer_the_same(books: Database) -> None:
    first = await events(books, agent="agent-003", words="settled")
    assert len(first) == 50
    for _ in range(8):
        assert await events(books, agent="agent-003", words="settled") == first


async def test_search(books: Database) -> None:
    assert [event.details["code"] for event in await events(books, words=RARE.upper())] == [RARE]
    beginning = await events(books, words="claimed_not")
    assert len(beginning) == 1 and beginning[0].severity == "ERROR"
    hosts = await events(books, words="api7.example.com", types=["PAYMENT_SUCCESS"], limit=5)
    assert len(hosts) == 5
    assert all(one.details["provider"] == "https://api7.example.com:443" for one in hosts)
    assert {one.type for one in hosts} == {"PAYMENT_SUCCESS"}
    assert await events(books, words=f"{RARE} nowhere") == []
    for hostile in ("'", "a' | 'b", "!x & (", "\\", ":*", "\0", "  "):
        await events(books, words=hostile, limit=1)
    quiet = await events(
        books, severities=["WARNING"], words="answer_lost", since=timedelta(days=9)
    )
    assert quiet and all(one.severity == "WARNING" for one in quiet)


async def test_pages_meet_without_a_gap(books: Database) -> None:
    everything = await events(books, agent="agent-001", limit=300)
    assert [one.created_at for one in everything] == sorted(
        (one.created_at for one in everything), reverse=True
    )
    read, before = [], None
    while page := await events(books, agent="agent-001", before=before, limit=70):
        read += page
        before = page[-1].created_at, page[-1].id
    assert read[:300] == everything
    assert len({one.id for one in read}) == len(read)


async def test_counters_say_what_receipts_say(books: Database) -> None:
    whole = timedelta(days=400)
    for by in ("provider", "agent", "day"):
        counted = await spend(books, by, since=whole, limit=10_000)
        assert sum(one.spent for one in counted) == await books.fetchval(
            "SELECT sum(amount_micros)::bigint FROM x402_payment_logs"
        )
        assert sum(one.paid_calls for one in counted) == RECEIPTS
    daily = await spend(books, "provider", since=whole, daily=True, limit=10_000)
    paid = await books.fetch(
        "SELECT p.provider, p.day, sum(p.price_micros)::bigint AS spent FROM payments p"
        " WHERE p.status IN ('CONFIRMED', 'VERIFIED') GROUP BY 1, 2"
    )
    assert {(one.name, one.day): one.spent for one in daily if one.spent} == {
        (row["provider"], row["day"]): row["spent"] for row in paid
    }
    one = await spend(books, "provider", agent="agent-003", since=whole)
    assert sum(each.spent for each in one) == await books.fetchval(
        "SELECT sum(amount_micros)::bigint FROM x402_payment_logs l JOIN agents a"
        " ON a.id = l.agent_id WHERE a.name = 'agent-003'"
    )


async def test_totals(books: Database) -> None:
    found = await totals(books)
    row = await books.fetchrow(
        "SELECT sum(price_micros) FILTER (WHERE status = 'SIGNED')::bigint AS held,"
        " count(*) FILTER (WHERE in_doubt_since IS NOT NULL) AS in_doubt,"
        " sum(price_micros) FILTER (WHERE settled_at > now() - interval '1 day')::bigint AS last,"
        " sum(price_micros) FILTER (WHERE settled_at IS NOT NULL"
        " AND day > (now() AT TIME ZONE 'UTC')::date - 30)::bigint AS days FROM payments"
    )
    assert row is not None
    assert (found.held, found.in_doubt) == (row["held"], row["in_doubt"])
    assert (found.last_day.spent, found.days.spent) == (row["last"], row["days"])
    assert len(found.providers) == 10
    assert found.providers[0].spent >= found.providers[9].spent > 0
    assert sum(found.days.denied.values()) == await books.fetchval(
        "SELECT count(*) FROM policy_decision_logs WHERE decision = 'deny'"
        " AND day > (now() AT TIME ZONE 'UTC')::date - 30"
    )
    assert list(found.days.denied.values()) == sorted(found.days.denied.values(), reverse=True)


async def test_stories(books: Database) -> None:
    (receipt,) = await history.receipts(books, "agent-003", 1)
    told = await story(books, receipt.id)
    assert told is not None and told.receipt == receipt
    assert told.payment.status in ("VERIFIED", "CONFIRMED") and told.request.status == "ACCESSED"
    assert [one.payment_id for one in told.decisions] == [receipt.id]
    assert [one.level for one in told.transactions] == ["FINALIZED"]
    assert [one.outcome for one in told.steps] == ["paid"]
    assert [one.related_id for one in told.events] == [receipt.id]
    assert len(told.deliveries) == 1 and told.retries == []
    assert await story(books, uuid4()) is None

    assert receipt.trace_id is not None and receipt.session_id is not None
    (trace,) = await traces(books, trace_id=receipt.trace_id)
    walked = await steps(books, receipt.trace_id)
    assert [step.step_index for step in walked] == list(range(trace.steps))
    assert trace.spent == sum(step.price for step in walked if step.outcome == "paid")
    (session,) = await sessions(books, receipt.session_id)
    assert session.spent == sum(
        one.spent for one in await traces(books, session_id=receipt.session_id, limit=10_000)
    )


async def test_an_open_payment_is_found_without_walking_through_its_agents(
    connection: "asyncpg.Connection[asyncpg.Record]", dsn: str
) -> None:
    """Asked at every reservation, so an agent with a long history would get ever slower. The plan
    is made once a connection, perhaps while there is nothing yet."""

    async def by_key(database: Database) -> object:
        return await database.fetch(
            "SELECT p.id FROM payments p WHERE p.agent_id = $1::uuid AND p.request_key = $2::bytea"
            " AND p.status IN ('INITIATED', 'SIGNED') AND p.in_doubt_since IS NOT NULL"
            " ORDER BY p.created_at DESC LIMIT 1",
            str(uuid4()),
            b"\\x00",
        )

    empty = await asyncpg.connect(dsn)
    for asked in (connection, empty):
        database = await Database.open(dsn, size=1)
        for plan in await plans_of(database, asked, by_key):
            used = {node.get("Index Name") for node in plan.nodes} - {None}
            if not plan.free:  # as in the function
                assert used == {"idx_payments_open_key"}
        await database.close()
    await empty.close()
