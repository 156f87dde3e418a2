"""The feed of events: in order, none lost, none twice, whoever is late or slow."""

import asyncio
from collections.abc import AsyncIterator
from uuid import UUID, uuid4

import asyncpg
import pytest

from proxy.ledger.roles import WRITER
from proxy.notices import feed as feed_module
from proxy.notices.feed import Event, Feed, Place, Subscription

NOTE = "SELECT note_event(NULL, 'API_ACCESS', $1, '{}', 'INFO')"  # routine: nobody is notified
ALARM = "SELECT note_event(NULL, 'ALARM', $1, '{\"code\": \"x\"}', 'ERROR')"
PATIENCE = 90.0  # another test of this server may hold a transaction open, which events wait for


@pytest.fixture
async def feed(dsn: str) -> AsyncIterator[Feed]:
    feed = Feed(dsn, role=WRITER, poll=0.05, idle=0.05)
    await feed.start()
    yield feed
    await feed.close()


@pytest.fixture
async def books(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(dsn)
    yield connection
    await connection.close()


async def take(events: Subscription, count: int) -> list[Event]:
    async with asyncio.timeout(PATIENCE):
        return [await anext(events) for _ in range(count)]


async def note(books: asyncpg.Connection, count: int = 1) -> list[UUID]:
    ids = [uuid4() for _ in range(count)]
    for one in ids:
        await books.execute(NOTE, one)
    return ids


async def deny(books: asyncpg.Connection) -> UUID:
    row = uuid4()
    await books.execute(
        "INSERT INTO policy_decision_logs (id, agent_id, endpoint, decision, reason)"
        " VALUES ($1, '00000000-0000-0000-0000-000000000000', 'http://a/b', 'deny', 'frozen')",
        row,
    )
    return row


async def test_events_and_denials_come_in_order_and_once(
    feed: Feed, books: asyncpg.Connection
) -> None:
    await note(books)  # before: not told
    async with feed.subscribe() as events:
        first = await note(books, 2)
        denial = await deny(books)
        await books.execute(
            "INSERT INTO policy_decision_logs (agent_id, endpoint, decision, reason)"
            " VALUES ('00000000-0000-0000-0000-000000000000', 'http://a/b', 'allow', 'ok')"
        )
        last = await note(books)
        got = await take(events, 4)
    assert [event.related_id for event in got] == [*first, None, *last]
    assert [event.type for event in got] == [
        *["API_ACCESS"] * 2, "PAYMENT_DENIED", "API_ACCESS",
    ]  # fmt: skip
    assert got[2].details["code"] == "frozen"
    assert Place.of(got[2].id).id == denial
    assert {event.agent for event in got} == {"autopay"}


async def test_what_is_committed_late_is_not_lost(
    feed: Feed, books: asyncpg.Connection, dsn: str
) -> None:
    slow = await asyncpg.connect(dsn)
    async with feed.subscribe() as events:
        transaction = slow.transaction()
        await transaction.start()
        early = uuid4()
        await slow.execute(NOTE, early)  # older in time, and later in the books
        late = await note(books, 3)
        waiting = asyncio.create_task(anext(events))
        # Others look while it is open; what is told then must not jump over it.
        async with feed.subscribe() as others:
            looked = asyncio.create_task(anext(others))
            await asyncio.sleep(0.3)
            assert not waiting.done()
            looked.cancel()
        await transaction.commit()
        async with asyncio.timeout(PATIENCE):
            got = [await waiting, *await take(events, 3)]
    assert [event.related_id for event in got] == [early, *late]
    assert sorted(event.at for event in got) == [event.at for event in got]
    await slow.close()


async def test_a_subscriber_comes_back_with_its_last_id(
    feed: Feed, books: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed_module, "PAGE", 3)
    async with feed.subscribe() as events:
        before = await note(books)
        (last,) = await take(events, 1)
    missed = [*before, *await note(books, 7)]
    async with feed.subscribe(last.id) as events:
        got = await take(events, 7)
        more = await note(books, 2)
        got += await take(events, 2)
    assert [event.related_id for event in got] == [*missed[1:], *more]


async def test_what_happens_while_a_subscriber_catches_up_comes_once(
    feed: Feed, books: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed_module, "PAGE", 2)
    async with feed.subscribe() as live, feed.subscribe("3-" + str(UUID(int=0))) as events:
        wanted: list[UUID] = []
        got: list[Event] = []
        for _ in range(12):
            wanted += await note(books, 3)
            got += await take(events, 2)
        got += await take(events, len(wanted) - len(got))
        seen = await take(live, len(wanted))
    assert [event.related_id for event in got] == wanted
    assert [event.related_id for event in seen] == wanted


async def test_what_is_told_to_others_while_a_page_comes_is_not_missed(
    feed: Feed, books: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with feed.subscribe() as live, feed.subscribe() as late:
        first = asyncio.create_task(anext(live))
        async with asyncio.timeout(PATIENCE):
            while not feed.is_live(live):
                await asyncio.sleep(0.01)
        real, held = feed.read, asyncio.Event()

        async def slow_read(after: Place | None) -> feed_module.Page:
            page = await real(after)
            if asyncio.current_task() is catching_up:
                await held.wait()  # its page was read, and is under way
            return page

        monkeypatch.setattr(feed, "read", slow_read)
        catching_up = asyncio.create_task(anext(late))
        await asyncio.sleep(0.2)
        wanted = await note(books)
        async with asyncio.timeout(PATIENCE):
            assert (await first).related_id == wanted[0]
            held.set()
            assert (await catching_up).related_id == wanted[0]


async def test_a_slow_subscriber_fills_no_memory_and_misses_nothing(
    feed: Feed, books: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed_module, "QUEUE", 5)
    async with feed.subscribe() as quick, feed.subscribe() as slow:
        wanted = await note(books, 1)
        await take(quick, 1)
        await take(slow, 1)  # both are live
        wanted += await note(books, 30)
        got = []
        for _ in range(30):
            got += await take(quick, 1)
        assert len(slow._queue) <= 5
        late = await take(slow, 30)
    assert [event.related_id for event in got] == wanted[1:]
    assert [event.related_id for event in late] == wanted[1:]


async def test_the_wait_for_an_event_may_be_cancelled(
    feed: Feed, books: asyncpg.Connection
) -> None:
    async with feed.subscribe() as events:
        for _ in range(5):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(events), 0.06)
        wanted = await note(books, 2)
        got = await take(events, 2)
    assert [event.related_id for event in got] == wanted


async def test_what_is_urgent_is_heard_without_looking(dsn: str, books: asyncpg.Connection) -> None:
    feed = Feed(dsn, role=WRITER, poll=3600, idle=3600)
    await feed.start()
    async with feed.subscribe() as events:
        waiting = asyncio.create_task(anext(events))
        async with asyncio.timeout(PATIENCE):
            while not feed.is_live(events):
                await asyncio.sleep(0.01)
        await books.execute(ALARM, uuid4())
        async with asyncio.timeout(PATIENCE):
            assert (await waiting).type == "ALARM"
    await feed.close()


async def test_it_goes_on_when_its_connection_was_cut(
    feed: Feed, books: asyncpg.Connection
) -> None:
    async with feed.subscribe() as events:
        wanted = await note(books)
        await take(events, 1)
        for _ in range(3):
            await books.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name = 'autopay notices' AND datname = current_database()"
            )
            wanted += await note(books, 2)
        got = await take(events, 6)
    assert [event.related_id for event in got] == wanted[1:]


async def test_a_look_that_fails_is_not_the_last(
    feed: Feed, books: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = asyncio.Event()

    async def fail(_: Feed) -> None:
        failed.set()
        raise RuntimeError("a fault of ours")

    async with feed.subscribe() as events:
        waiting = asyncio.create_task(take(events, 1))
        async with asyncio.timeout(PATIENCE):
            while not feed.is_live(events):
                await asyncio.sleep(0.01)
        with monkeypatch.context() as patch:
            patch.setattr(Feed, "_tell", fail)
            ids = await note(books)
            async with asyncio.timeout(PATIENCE):
                await failed.wait()
        (told,) = await waiting
        assert told.related_id == ids[0]


async def test_closing_the_feed_ends_every_subscription(
    feed: Feed, books: asyncpg.Connection
) -> None:
    async with feed.subscribe() as events:
        waiting = asyncio.create_task(anext(events))
        await asyncio.sleep(0)
        await feed.close()
        with pytest.raises(StopAsyncIteration):
            async with asyncio.timeout(PATIENCE):
                await waiting


async def test_rows_of_another_server_are_not_told(dsn: str, books: asyncpg.Connection) -> None:
    """As after a backup of a server that had counted further."""
    far = "(pg_current_xact_id()::text::bigint + $1)::text::xid8"
    insert = (
        "INSERT INTO audit_events (agent_id, event_type, created_at, xid) VALUES"
        f" ('00000000-0000-0000-0000-000000000000', 'ALARM', now() - interval '1 minute', {far})"
    )
    for ahead in range(5, 10):
        await books.execute(insert, ahead)
    feed = Feed(dsn, role=WRITER, poll=0.05)
    await feed.start()
    beyond = f"{1 << 60}-{UUID(int=0)}"
    async with feed.subscribe(beyond) as events:
        waiting = asyncio.create_task(anext(events))
        async with asyncio.timeout(PATIENCE):
            while not feed.is_live(events):
                await asyncio.sleep(0.01)
        await books.execute("CREATE TEMPORARY TABLE counted (n int)")
        for n in range(20):  # this server's count passes theirs
            await books.execute("INSERT INTO counted VALUES ($1)", n)
        wanted = await note(books)
        async with asyncio.timeout(PATIENCE):
            assert (await waiting).related_id == wanted[0]
    await feed.close()


@pytest.mark.parametrize("text", ["", "7", "x-y", "-1-" + str(UUID(int=0)), "9" * 30 + "-a"])
async def test_what_is_no_id_is_refused(feed: Feed, text: str) -> None:
    with pytest.raises(ValueError):
        feed.subscribe(text)
