"""Rows of the failure matrix (docs/reliability.md) that have no room of their own."""

import asyncio
import itertools
import resource
import shutil
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import asyncpg
import pytest

from policies import Policy
from proxy.cli.commands import serve
from proxy.ledger import (
    Agent,
    Database,
    Ledger,
    LedgerFault,
    LedgerUnavailable,
    Refused,
    Reservation,
    Reserved,
    agents,
)
from proxy.localnet import Localnet
from tests.campaign.campaign import Site, built
from tests.campaign.database import Server
from tests.campaign.market import Till
from tests.campaign.test_points import ask, statuses
from tests.e2e.house import House, house, until
from tests.e2e.seller import Seller, challenge, pays_once, reply, settled
from tests.e2e.test_in_doubt import entry
from tests.ledger.books import check_books, counter
from tests.ledger.conftest import Make
from tests.ledger.test_money_moves import RECEIPT

DAY = 24 * 3600


# --- row 8, at the worst moment: the campaign found that a proxy ended itself over it


async def test_the_database_goes_away_right_after_the_start(
    home: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It serves by then, and may have paid: that nobody can be counted does not end it."""

    async def away(_: Database) -> None:
        raise LedgerUnavailable("gone", may_have_happened=False)

    monkeypatch.setattr(agents, "list_all", away)
    await serve._announce(home.service)


# --- row 11: deadlocks


async def test_replicas_that_take_the_same_counters_in_every_order(
    dsn: str, database: Database, bot: Agent, make: Make
) -> None:
    """Two ledgers, batches whose moves touch the same sessions and traces the other way round."""
    many: list[tuple[Ledger, Database]] = []
    for _ in range(2):
        own = await Database.open(dsn)
        many.append((Ledger(own), own))
    await agents.set_policy(database, Policy("bot", daily_limit=100_000_000))
    names = [f"s{number}" for number in range(8)]

    async def buy(ledger: Ledger, order: Sequence[str]) -> None:
        for turn in range(3):
            made = [
                make(price=100, session_id=name, trace_id=other, provider=f"https://{other}")
                for name, other in zip(order, reversed(order), strict=True)
            ]
            granted = await asyncio.gather(*(ledger.reserve(one) for one in made))
            assert all(isinstance(one, Reserved) for one in granted)
            ends = (
                ledger.release(one.payment_id, "never_sent")
                if turn % 2
                else ledger.settle(one.payment_id, RECEIPT)
                for one in reversed(made)
            )
            assert all(await asyncio.gather(*ends))

    before = await database.fetchval(_DEADLOCKS)
    await asyncio.gather(buy(many[0][0], names), buy(many[1][0], names[::-1]))
    await check_books(database)
    await asyncio.sleep(0.1)
    assert await database.fetchval(_DEADLOCKS) == before
    for one, own in many:
        await one.close()
        await own.close()


_DEADLOCKS = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"


# --- row 14: a disk that takes no more, as the database tells it: by going read-only


async def test_a_read_only_database_pays_nothing(
    dsn: str, database: Database, bot: Agent, make: Make
) -> None:
    name = dsn.rpartition("/")[2].partition("?")[0]
    await database.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    far = await Database.open(dsn)
    ledger = Ledger(far)
    reservation = make()
    try:
        with pytest.raises(LedgerUnavailable):
            await ledger.reserve(reservation)
        # `database` is from before: what it had open may still write.
        await database.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")
        await _terminate_others(dsn)
        async with asyncio.timeout(10):
            while not isinstance(await _try(ledger, make()), Reserved):
                await asyncio.sleep(0.05)
        assert await ledger.flush(5) == 0
    finally:
        await ledger.close()
        await far.close()
    assert (await counter(database))[1] == reservation.price


async def test_a_full_disk_pays_nothing(machine: Server, seller: Seller, tmp_path: Path) -> None:
    """A limit on the size of the server's files stands in for it: a table can't grow. PostgreSQL
    calls the first try a full disk (53100); the next ones, as those past a quota, an internal error
    (XX000). Its log has room: without that, it is down (row 8)."""
    dsn = await machine.database()
    async with Localnet(slot_seconds=0.1) as net, house(net, dsn, tmp_path) as home:
        seller.answer = pays_once(challenge(entry(net)), lambda _: settled())
        assert (await home.ask(f"{seller.url}/before")).status == 200
        # One table is larger than a segment of the log, so that only that one is at its limit.
        await home.operator.execute(
            "INSERT INTO audit_events (agent_id, event_type, details)"
            " SELECT id, 'API_ACCESS', jsonb_build_object('x', repeat('x', 900)) FROM agents,"
            " generate_series(1, 20000) WHERE name = 'autopay'"
        )
        row = await home.row(
            "SELECT max(pg_relation_size(oid)) AS bytes FROM pg_class WHERE relkind = 'r'"
        )
        assert row["bytes"] > 17 * 2**20
        seller.hold = asyncio.Event()
        under_way = [asyncio.create_task(home.ask(f"{seller.url}/under-way"))]
        await until(lambda: len(seller.payments) == 2, 10)
        machine.limit_files(row["bytes"] + 4096)
        try:
            number, refused = 0, None
            async with asyncio.timeout(20):
                while refused is None:
                    number += 1
                    task = asyncio.create_task(home.ask(f"{seller.url}/{number}"))
                    await until(lambda n=number, t=task: t.done() or len(seller.payments) == n + 2)  # type: ignore[misc]
                    if task.done():
                        refused = task.result()
                    else:
                        under_way.append(task)
            sent = len(seller.payments)
            assert (refused.status, refused.json["code"]) == (503, "ledger_unavailable")
            seller.hold.set()
            for answer in await asyncio.gather(*under_way):
                assert answer.status == 200  # they had left: they are booked as soon as they can be
            for more in range(3):
                answer = await home.ask(f"{seller.url}/refused/{more}")
                assert (answer.status, answer.json["code"]) == (503, "ledger_unavailable")
            assert len(seller.payments) == sent
            seller.answer = lambda _: reply(200, body=b"free")
            assert (await home.ask(f"{seller.url}/free")).body == b"free"
        finally:
            machine.limit_files(-1)
        seller.answer = pays_once(challenge(entry(net)), lambda _: settled())
        async with asyncio.timeout(20):
            while (await home.ask(f"{seller.url}/after")).status != 200:
                await asyncio.sleep(0.1)
        assert await home.service.ledger.flush(20) == 0
        rows = await home.rows(
            "SELECT p.status::text, l.source"
            " FROM payments p LEFT JOIN x402_payment_logs l USING (id)"
        )
        assert {(row["status"], row["source"]) for row in rows} == {("CONFIRMED", "provider")}
        assert len(rows) == len(seller.payments) == sent + 1
        assert await home.rows("SELECT * FROM audit_books()") == []


async def _try(ledger: Ledger, reservation: Reservation) -> Reserved | Refused | None:
    try:
        return await ledger.reserve(reservation)
    except LedgerUnavailable:
        return None


async def _terminate_others(dsn: str) -> None:
    connection = await asyncpg.connect(dsn)
    await connection.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        " AND usename = current_user"
    )
    await connection.close()


# --- rows 24 and 25: clocks


@pytest.fixture(scope="session")
def wrong_clock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler, to make a clock that goes wrong")
    library = tmp_path_factory.mktemp("clock") / "clock.so"
    source = Path(__file__).with_name("clock.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    return library


@pytest.mark.timeout(60)
async def test_proxies_whose_clocks_are_a_day_off(machine: Server, wrong_clock: Path) -> None:
    """One before its time, one behind: all is charged to the database's day."""
    offsets = (DAY, -DAY)
    envs = [{"LD_PRELOAD": str(wrong_clock), "CLOCK_OFFSET": str(each)} for each in offsets]
    async with built(1, envs=envs, server=machine) as site:
        await site.next_season()
        site.market.only(Till.honest)
        for replica in site.replicas:
            replica.start()
        for replica, offset in zip(site.replicas, offsets, strict=True):
            await replica.ready()
            assert await ask(site, f"at{offset}", replica) == "paid"
            said = replica.log.read_text()
            stamp = time.strftime("%Y-%m-%dT%H", time.gmtime(time.time() + offset))
            assert stamp in said, f"its clock was right: {said[:300]}"
        async with site.operator() as operator:
            days = await operator.fetch(
                "SELECT DISTINCT day FROM budget_counters WHERE day <> $1",
                await operator.fetchval("SELECT (now() AT TIME ZONE 'UTC')::date"),
            )
            assert await operator.fetchval("SELECT count(DISTINCT day) FROM payments") == 1
            assert days == []


# --- row 29: one poisonous move among good ones


async def test_a_poisonous_move_of_a_batch_fails_alone(
    ledger: Ledger, database: Database, make: Make
) -> None:
    good = [make() for _ in range(6)]
    # Refused by a constraint, refused by the reader of its JSON, and a NUL that no text can hold.
    bad = [
        make(price=-1),
        make(client_signature="x" * 10_000, memo="\0"),
        make(endpoint="https://x", network="\ud800"),
    ]
    mixed = [*good[:3], *bad, *good[3:]]
    outcomes = await asyncio.gather(*(ledger.reserve(one) for one in mixed), return_exceptions=True)
    assert sum(isinstance(outcome, Reserved) for outcome in outcomes) == len(good)
    for one, outcome in zip(mixed, outcomes, strict=True):
        assert isinstance(outcome, Reserved) == (one in good), outcome
        assert one in good or isinstance(outcome, LedgerFault | UnicodeError), outcome
    await check_books(database)
    assert await counter(database) == (0, sum(one.price for one in good))


# --- row 30: a program that hangs up, whenever


async def test_a_program_that_hangs_up_at_any_moment_leaks_nothing(
    home: House, seller: Seller
) -> None:
    """Nothing stays held but what is in doubt; nothing that the provider took is unbooked."""
    seller.answer = pays_once(challenge(entry(home.net)), lambda _: settled())
    await home.ask(f"{seller.url}/cold")
    began = time.monotonic()
    await home.ask(f"{seller.url}/warm")
    whole = time.monotonic() - began
    took = len(seller.payments)
    for moment in range(24):
        program = asyncio.create_task(home.ask(f"{seller.url}/{moment}"))
        await asyncio.sleep(whole * moment / 18)
        program.cancel()
        await asyncio.gather(program, return_exceptions=True)
    ledger = home.service.ledger

    async def at_rest() -> bool:
        rows = await home.rows(
            "SELECT 1 FROM payments WHERE status IN ('INITIATED', 'SIGNED')"
            " AND in_doubt_since IS NULL"
        )
        return not rows and ledger.waiting == 0

    async with asyncio.timeout(10):
        while not await at_rest():
            await asyncio.sleep(0.05)
    counts = {
        row["status"]: row["n"]
        for row in await home.rows(
            "SELECT status::text, count(*) AS n FROM payments GROUP BY status"
        )
    }
    assert counts.get("CONFIRMED", 0) == len(seller.payments), counts
    assert len(seller.payments) > took
    assert await home.rows("SELECT * FROM audit_books()") == []


# --- row 35: no descriptor left, and a process that stands still


@pytest.mark.timeout(60)
async def test_without_descriptors_nothing_is_paid_and_nothing_lost(machine: Server) -> None:
    async with built(1, server=machine) as site:
        await site.next_season()
        site.market.only(Till.slow)
        replica = site.replicas[0]
        replica.start()
        await replica.ready()
        assert await ask(site, "before") == "paid"
        under_way = asyncio.create_task(ask(site, "meanwhile"))
        await until(lambda: len(site.market.presented) == 2)
        idle = await _exhaust(site, replica.pid)
        assert await under_way == "paid"
        idle += await _fill(site)  # what the call under way gave back
        assert await ask(site, "starved") != "paid"
        resource.prlimit(replica.pid, resource.RLIMIT_NOFILE, (1000, 1000))
        for connection in idle:
            connection.close()
        await asyncio.sleep(1.2)  # the loop tries again a second after it had none left
        assert await ask(site, "after") == "paid"
        await site.heal(patience=20)
        verdict = await site.judged()
        assert verdict.kept, verdict
        left = await statuses(site)
        assert left.get("starved") in (None, "FAILED"), left


async def _exhaust(site: Site, pid: int) -> list[socket.socket]:
    """Let it have no more descriptors than it has, and dial it. The limit is on a descriptor's
    number: what lies above the lowest free one stays open, and leaves no room below."""
    open_ = {int(each.name) for each in Path(f"/proc/{pid}/fd").iterdir()}
    lowest = next(number for number in itertools.count() if number not in open_)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (lowest, 1000))
    return await _fill(site)


async def _fill(site: Site) -> list[socket.socket]:
    """Connections that say nothing, until the proxy hangs up on three in a row: it has no
    descriptor left to take them with."""
    idle: list[socket.socket] = []
    refused = 0
    while refused < 3:
        connection = socket.create_connection(("127.0.0.1", site.replicas[0].port))
        connection.setblocking(False)
        try:
            async with asyncio.timeout(0.3):
                await asyncio.get_running_loop().sock_recv(connection, 1)
        except TimeoutError:
            idle.append(connection)
            refused = 0
        except ConnectionError:
            connection.close()
            refused += 1
        else:
            connection.close()
            refused += 1
    return idle
