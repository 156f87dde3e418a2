"""A synchronous standby takes over while payments are made: what was acknowledged is there."""

import asyncio
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from policies import Policy
from proxy.ledger import (
    Database,
    Ledger,
    LedgerUnavailable,
    Refused,
    Reservation,
    Reserved,
    agents,
    audit,
)
from proxy.postgres.account import choose_account
from proxy.postgres.binaries import find_binaries
from proxy.postgres.cluster import Cluster
from proxy.postgres.sharing import sign_of_life
from proxy.vault import Vault
from tests.campaign.database import Relay, Server
from tests.ledger.books import check_books
from tests.ledger.conftest import make as made
from tests.ledger.test_money_moves import RECEIPT
from tests.peers.postgres import kill_servers, server_directory


class Standby:
    """A copy of a server's cluster that follows it, and takes over."""

    def __init__(self, home: Path, primary: Path) -> None:
        self._home = home
        self._primary = primary
        account = choose_account("", primary / "data")
        self._cluster = Cluster(home, account, find_binaries(account))

    def follow(self) -> None:
        """Blocking. From then on the first waits for this one before it acknowledges anything."""
        with (self._primary / "pg_hba.conf").open("a") as rules:
            rules.write("local replication all peer map=autopay\n")
        self._sql("SELECT pg_reload_conf()")
        self._cluster._make_way()
        self._cluster._own_directory(self._cluster._log)
        self._cluster._own_directory(self._home / "data")
        socket = self._primary / "socket"
        self._tool(
            *("pg_basebackup", "-h", str(socket), "-U", "postgres", "-D", str(self._home / "data")),
            *("--write-recovery-conf", "--checkpoint=fast", "--wal-method=stream"),
        )
        with sign_of_life(self._home / "server.lock") as inherited:
            self._cluster.start(inherited)
        self._sql("ALTER SYSTEM SET synchronous_standby_names = '*'")
        self._sql("SELECT pg_reload_conf()")
        asked = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'"
        while self._sql(asked).strip() != "1":
            pass

    def take_over(self) -> None:
        """Blocking. It has the first one's setting too, and must not wait for a standby itself."""
        self._tool("pg_ctl", "promote", "--wait", "-D", str(self._home / "data"))
        here = self._home / "socket"
        self._sql("ALTER SYSTEM RESET synchronous_standby_names", here)
        self._sql("SELECT pg_reload_conf()", here)

    @property
    def socket(self) -> str:
        return str(self._home / "socket" / ".s.PGSQL.5432")

    def end(self) -> None:
        kill_servers(self._home / "data")

    def _sql(self, text: str, socket: Path | None = None) -> str:
        where = str(socket or self._primary / "socket")
        to = ("-h", where, "-U", "postgres", "-d", "postgres")
        return self._tool("psql", "-X", "-t", "-A", *to, "-c", text)

    def _tool(self, tool: str, *words: str) -> str:
        done = self._cluster._run(tool, *words)
        assert done.returncode == 0, done.stderr
        return done.stdout


@contextmanager
def standing_by(server: Server) -> Iterator[Standby]:
    place = server_directory()
    place.chmod(0o711)
    home = place / "postgres"
    home.mkdir(mode=0o700)
    standby = Standby(home, server.home / "postgres")
    try:
        yield standby
    finally:
        standby.end()
        shutil.rmtree(place, ignore_errors=True)


@pytest.mark.timeout(120)
async def test_a_synchronous_standby_takes_over(vault: Vault) -> None:
    async with Server() as server:
        with standing_by(server) as standby:
            dsn = await server.database()
            await _execute(dsn, "UPDATE spending SET failover_safe = true")
            await asyncio.to_thread(standby.follow)
            async with Relay(dsn) as relay:
                await _failover(server, standby, relay, vault)


@pytest.mark.timeout(120)
async def test_nothing_is_granted_after_a_takeover_that_may_have_lost_something(
    vault: Vault,
) -> None:
    async with Server() as server:
        with standing_by(server) as standby:
            dsn = await server.database()
            await asyncio.to_thread(standby.follow)
            async with Relay(dsn) as relay:
                database = await Database.open(relay.dsn, timeout=5.0)
                ledger = Ledger(database)
                bot = (await agents.add(database, vault, "bot")).agent
                make = made.__wrapped__(bot)  # type: ignore[attr-defined]
                assert isinstance(await ledger.reserve(make()), Reserved)
                await server.die()
                relay.lead_to(standby.socket)
                await asyncio.to_thread(standby.take_over)
                refused = None
                async with asyncio.timeout(20):
                    while refused is None:
                        try:
                            refused = await ledger.reserve(make())
                        except LedgerUnavailable:
                            await asyncio.sleep(0.1)
                assert isinstance(refused, Refused)
                assert refused.code == "spending_halted"
                assert await database.fetchval("SELECT note_takeover()")
                assert (await audit.spending(database)).halted
                assert await audit.resume(database, by="test")
                assert isinstance(await ledger.reserve(make()), Reserved)
                await ledger.close()
                await database.close()


async def _execute(dsn: str, statement: str) -> None:
    database = await Database.open(dsn)
    await database.execute(statement)
    await database.close()


async def _failover(server: Server, standby: Standby, relay: Relay, vault: Vault) -> None:
    database = await Database.open(relay.dsn, timeout=1.0)
    ledger = Ledger(database)
    policy = Policy("bot", daily_limit=100_000_000)
    bot = (await agents.add(database, vault, "bot", policy)).agent
    make = made.__wrapped__(bot)  # type: ignore[attr-defined]
    granted: list[Reservation] = []
    refused = 0

    async def buy() -> None:
        nonlocal refused
        while True:
            wanted = replace(make(), price=100)
            try:
                if isinstance(await ledger.reserve(wanted), Reserved):
                    granted.append(wanted)
                    if len(granted) % 3:
                        await ledger.settle(wanted.payment_id, RECEIPT)
            except LedgerUnavailable:
                refused += 1
                await asyncio.sleep(0.05)

    buying = asyncio.gather(*(buy() for _ in range(8)))
    await _more_than(granted, 50)
    await server.die()
    relay.lead_to(standby.socket)
    await asyncio.to_thread(standby.take_over)
    await _more_than(granted, len(granted) + 50)
    buying.cancel()
    await asyncio.gather(buying, return_exceptions=True)
    assert await ledger.flush(10) == 0
    rows = await database.fetch("SELECT id FROM payments WHERE status <> 'FAILED'")
    there = {row["id"] for row in rows}
    assert refused
    assert {one.payment_id for one in granted} <= there
    # A reservation of which nobody heard is given back as soon as somebody can hear.
    held = await database.fetch("SELECT id FROM payments WHERE status = 'SIGNED'")
    assert {row["id"] for row in held} <= {one.payment_id for one in granted}
    await check_books(database)
    assert await database.fetch("SELECT * FROM audit_books()") == []
    await ledger.close()
    await database.close()


async def _more_than(granted: list[Reservation], count: int) -> None:
    async with asyncio.timeout(20):
        while len(granted) <= count:
            await asyncio.sleep(0.02)
