"""As it runs in the service, and as the operator sees it."""

import asyncio
import json
import os
import sys
from pathlib import Path

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
