"""Any number of processes on one database: one at a time asks the chain, and none is needed."""

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from proxy.reconciler import Reconciler
from tests.e2e.house import until
from tests.e2e.seller import DEVNET, Hang, challenge, offer, pays_once, raises
from tests.reconciler.conftest import PRICE, Desk


@asynccontextmanager
async def replica(desk: Desk) -> AsyncIterator[Reconciler]:
    store = desk.home.service.store
    reconciler = Reconciler(store.dsn, store.database, {DEVNET: [desk.net.rpc_url]}, interval=0.05)
    await reconciler.start()
    yield reconciler
    await reconciler.close()


async def test_one_leads_and_another_follows(desk: Desk) -> None:
    payment = await desk.buy()
    async with replica(desk) as second, replica(desk) as first:
        await until(lambda: bool(first.rounds or second.rounds))
        leader, other = (first, second) if first.rounds else (second, first)
        done = leader.rounds
        await until(lambda: leader.rounds >= done + 5)
        assert other.rounds == 0 and other.leads == []
        # A third, from the command line, is told so.
        report = await desk.home.service.reconciler.reconcile_once()
        assert list(report.values()) == ["another autopay is at it"]
        await leader.close()
        await until(lambda: other.rounds > 0)
        desk.land()
        desk.chain.advance(33)
        await until(lambda: other.verified == 1)
    assert (await desk.payment(payment))["status"] == "VERIFIED"
    assert len(await desk.home.rows("SELECT * FROM x402_payment_logs")) == 1
    assert await desk.home.counters() == (PRICE, 0)


async def test_two_that_both_think_they_lead(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """A leader that lost its connection and has not noticed: the same work twice is done once."""

    async def always(*_: object) -> bool:
        return True

    monkeypatch.setattr("proxy.reconciler.leadership.Leadership.lead", always)
    payments = [await desk.buy(path=str(n)) for n in range(6)]
    for number in (0, 2, 4):
        desk.land(number)
    async with replica(desk) as first, replica(desk) as second:
        height = await desk.past(payments[-1]) + 1
        for _ in range(8):
            desk.finalize(height := height + 40)
            done = first.rounds, second.rounds
            await until(lambda: first.rounds > done[0] and second.rounds > done[1], 30)  # noqa: B023
            if not await desk.home.rows("SELECT 1 FROM payments WHERE status = 'SIGNED'"):
                break
    rows = await desk.home.rows("SELECT status FROM payments ORDER BY created_at")
    assert [row["status"] for row in rows] == ["VERIFIED", "FAILED"] * 3
    assert await desk.home.counters() == (3 * PRICE, 0)
    assert desk.home.paid_on_chain() == 3 * PRICE
    assert len(await desk.home.rows("SELECT * FROM x402_payment_logs")) == 3
    assert sorted(await desk.levels()) == ["CONFIRMED"] * 3 + ["FINALIZED"] * 3
    assert first.failures == second.failures == 0


async def test_a_leader_outlives_its_database_connections_and_its_rpc(desk: Desk) -> None:
    await desk.buy()
    async with replica(desk) as reconciler:
        await until(lambda: reconciler.rounds > 0)
        await desk.by_hand(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND usename = current_user"
            " AND pid <> pg_backend_pid()"
        )
        done = reconciler.rounds
        await until(lambda: reconciler.rounds > done + 1)
        await desk.home.net.stop()
        async with asyncio.timeout(10):
            while not (await desk.home.row("SELECT * FROM chain_rounds"))["trouble"]:
                await asyncio.sleep(0.05)
        assert reconciler.failures > 0
        assert await desk.home.counters() == (0, PRICE)


async def test_it_rests_when_everything_is_proved(desk: Desk) -> None:
    await desk.buy()
    desk.land()
    desk.chain.advance(33)
    desk.net.node.calls.clear()
    async with replica(desk) as reconciler:
        await until(lambda: reconciler.verified == 1)
        await until(lambda: reconciler.leads == [])
        calls = dict(desk.net.node.calls)
        done = reconciler.rounds
        await asyncio.sleep(0.5)
        after = dict(desk.net.node.calls)
        assert reconciler.rounds == done
        for method in ("getEpochInfo", "getSignaturesForAddress", "getTransaction"):
            assert after.get(method, 0) == calls.get(method, 0)


async def test_a_killed_proxy_leaves_nothing_behind(desk: Desk, tmp_path: Path) -> None:
    """kill -9 between the send and the answer. The payment lands; another process books it."""
    entry = offer(str(desk.net.seller.pubkey()), str(desk.net.fee_payer.pubkey()))
    desk.seller.answer = pays_once(challenge(entry), raises(Hang))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    settings = tmp_path / "autopay.toml"
    settings.write_text(
        f"""
        database_url = {json.dumps(desk.home.service.store.owner_dsn)}
        data_dir = {json.dumps(str(tmp_path))}
        [database]
        role = ""
        [listen]
        proxy = "127.0.0.1:{port}"
        mounts = "127.0.0.1:0"
        admin = "off"
        [networks.devnet]
        rpc_url = {json.dumps(desk.net.rpc_url)}
        [reconciler]
        enabled = false
        """
    )
    proxy = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "proxy", "serve", "--config", str(settings)),
        env={"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=asyncio.subprocess.PIPE,
    )
    assert proxy.stdout is not None
    async with asyncio.timeout(30):
        assert b"is ready" in await proxy.stdout.readline()
    url = f"http://{desk.home.agent}:{desk.home.token}@127.0.0.1:{port}"
    asking = asyncio.create_task(desk.home.ask(desk.seller.url, proxy=url))
    await until(lambda: bool(desk.seller.payments), 20)
    proxy.send_signal(signal.SIGKILL)
    await proxy.communicate()
    with pytest.raises(aiohttp.ClientError):
        await asking
    row = await desk.home.row("SELECT * FROM payments")
    assert (row["status"], row["in_doubt_since"]) == ("SIGNED", None)

    transaction = desk.land()
    desk.finalize(row["last_valid_block_height"] + 2)
    assert await desk.outcome() == "verified"
    row = await desk.home.row("SELECT * FROM payments")
    assert (row["status"], row["payment_hash"]) == ("VERIFIED", transaction)
    receipt = await desk.home.row("SELECT source, tx_hash FROM x402_payment_logs")
    assert (receipt["source"], receipt["tx_hash"]) == ("chain", transaction)
    assert await desk.home.counters() == (PRICE, 0)
    assert desk.home.paid_on_chain() == PRICE
