"""As it runs in the service, and as the operator sees it."""

import asyncio
import json
import os
import sys
from pathlib import Path

from tests.admin.desk import Desk as Operator
from tests.e2e.house import until
from tests.reconciler.conftest import PRICE, Desk, opened


async def test_the_service_does_it_by_itself(dsn: str, tmp_path: Path) -> None:
    """One payment lands and one does not; nobody asks for anything."""
    enabled = {"enabled": True, "interval": 0.05}
    async with opened(dsn, tmp_path, second_opinion=True, reconciler=enabled) as desk:
        found, lost = await desk.buy(path="found"), await desk.buy(path="lost")
        desk.land(0)
        reconciler = desk.home.service.reconciler
        await until(lambda: reconciler.landed == 1)
        desk.finalize(await desk.past(lost) + 1)
        await until(lambda: reconciler.verified == reconciler.proved_dead == 1, 10)
        assert (await desk.payment(found))["status"] == "VERIFIED"
        assert (await desk.payment(lost))["status"] == "FAILED"
        assert await desk.home.counters() == (PRICE, 0)
        assert desk.home.paid_on_chain() == PRICE
        assert (reconciler.failures, reconciler.disagreements) == (0, 0)
        await until(lambda: reconciler.lag == 0)


async def test_what_it_books_and_frees_is_counted(dsn: str, tmp_path: Path) -> None:
    """Each once, however often it is looked at, at the admin listener's /metrics."""
    async with opened(dsn, tmp_path, second_opinion=True) as desk:
        for number, path in enumerate(("soon", "late", "never")):
            await desk.buy(path=path)
            if number < 1:
                desk.land()
        await desk.buy(path="liar", claims="5" * 88)
        await desk.look()
        desk.land(1)  # and is final when it is seen first
        newest = await desk.home.row("SELECT max(last_valid_block_height) AS height FROM payments")
        desk.finalize(newest["height"] + 9)
        for _ in range(3):
            await desk.home.service.reconciler.reconcile_once()
            desk.chain.advance(32)
        operator = Operator(desk.home)
        numbers = {
            key[1:]: number
            for key, number in (await operator.metrics()).items()
            if key[0] in ("autopay_payments_total", "autopay_spent_micro_usd_total")
        }
        provider = desk.seller.url
        assert numbers == {
            ("answer_lost", "in_doubt"): 3,
            ("chain_confirmed", "paid"): 2,
            ("", "paid"): 1,
            ("proved_dead", "released"): 1,
            ("proved_dead", "reversed"): 1,
            ("shopper", provider, "USDC"): 3 * PRICE,
        }
        assert await desk.home.counters() == (2 * PRICE, 0)


async def test_the_command_tells_what_it_finds(desk: Desk, tmp_path: Path) -> None:
    payment = await desk.buy()
    settings = tmp_path / "autopay.toml"
    settings.write_text(
        f"""
        database_url = {json.dumps(desk.home.service.store.owner_dsn)}
        data_dir = {json.dumps(str(tmp_path))}
        [networks.devnet]
        rpc_url = {json.dumps(desk.net.rpc_url)}
        """
    )

    async def autopay(*words: str) -> tuple[int | None, str]:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "proxy", *words, "--config", str(settings)),
            env={"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path)},
            stdout=asyncio.subprocess.PIPE,
        )
        said, _ = await process.communicate()
        return process.returncode, said.decode()

    status, said = await autopay("reconcile", "--json")
    assert (status, json.loads(said)["outcome"], json.loads(said)["why"]) == (0, "held", "alive")
    desk.land()
    desk.chain.advance(33)
    status, said = await autopay("reconcile")
    assert status == 0 and payment in said and "verified" in said
    assert await autopay("reconcile") == (0, "Every payment is proved.\n")
    assert (await desk.payment(payment))["status"] == "VERIFIED"

    await desk.buy(path="again")
    await desk.net.stop()
    status, said = await autopay("reconcile")
    assert status == 1 and "the Solana RPC at 127.0.0.1 failed" in said
    _, said = await autopay("status")
    assert "1 payments are not proved yet, 1 of them held; last look 2" in said
    assert "the Solana RPC at 127.0.0.1 failed" in said
