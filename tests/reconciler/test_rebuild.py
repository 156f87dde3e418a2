"""What a backup is too old to know is written down again from the chain."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from proxy.ledger import Database
from proxy.upkeep import backup
from proxy.upkeep.restore import restore
from tests.e2e.seller import DEVNET
from tests.peers.postgres import drop_database, fresh_database
from tests.reconciler.conftest import PRICE, Desk


class Autopay:
    """The command, on a database that was restored."""

    def __init__(self, desk: Desk, directory: Path, dsn: str, *second: str) -> None:
        self._settings = directory / "restored.toml"
        self._settings.write_text(
            f"""
            database_url = {json.dumps(dsn)}
            data_dir = {json.dumps(str(directory))}
            [networks.devnet]
            rpc_url = {json.dumps(desk.net.rpc_url)}
            verify_rpc_urls = {json.dumps(second)}
            """
        )

    async def __call__(self, *words: str) -> tuple[int | None, str]:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "proxy", *words, "--config", str(self._settings)),
            env={"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path)},
            stdout=asyncio.subprocess.PIPE,
        )
        said, _ = await process.communicate()
        return process.returncode, said.decode()


@asynccontextmanager
async def restored(server: str, file: Path) -> AsyncIterator[tuple[str, Database]]:
    dsn = await fresh_database(server)
    try:
        await restore(dsn, file)
        database = await Database.open(dsn)
        try:
            yield dsn, database
        finally:
            await database.close()
    finally:
        await drop_database(server, dsn)


async def sold(desk: Desk, path: str) -> str:
    """Paid for, landed and proved; the transaction."""
    await desk.buy(path=path)
    transaction = desk.land()
    desk.chain.advance(33)
    assert (await desk.look())[-1].outcome == "verified"
    return transaction


async def one(database: Database, sql: str) -> dict[str, Any]:
    (row,) = await database.fetch(sql)
    return dict(row)


async def test_a_restore_from_an_older_backup(desk: Desk, server: str, tmp_path: Path) -> None:
    await sold(desk, "before")
    await desk.buy(path="open")  # lands after the backup was taken
    file = tmp_path / "books.dump"
    await backup.backup(desk.home.service.store.owner_dsn, file)
    desk.land()
    lost = [await sold(desk, "lost"), await sold(desk, "lost too")]
    assert desk.home.paid_on_chain() == 4 * PRICE

    async with restored(server, file) as (dsn, database):
        autopay = Autopay(desk, tmp_path, dsn)
        status, said = await autopay("reconcile", "--rebuild", "--json")
        records = [json.loads(line) for line in said.splitlines()]
        assert status == 0, said
        assert [record["outcome"] for record in records] == ["verified", "rebuilt", "rebuilt"]
        assert [record["transaction"] for record in records[1:]] == lost
        status, said = await autopay("audit")
        assert status == 0, said
        # What is known is as it was; what is not is said to be so.
        rows = await database.fetch(
            "SELECT p.*, p.status::text AS state, l.source, l.tx_hash, a.name FROM payments p"
            " JOIN x402_payment_logs l ON l.id = p.id JOIN agents a ON a.id = p.agent_id"
            " WHERE p.payment_hash = ANY ($1)",
            lost,
        )
        real = {
            row["payment_hash"]: row
            for row in await desk.home.rows(
                "SELECT * FROM payments WHERE payment_hash = ANY ($1)", lost
            )
        }
        assert len(rows) == 2
        for row in rows:
            same = (
                *("client_signature", "message_sha256", "amount_atomic", "price_micros", "payer"),
                *("fee_payer", "source_account", "destination_account", "memo", "blockhash"),
                *(
                    "network",
                    "asset",
                    "symbol",
                    "decimals",
                    "agent_id",
                    "provider",
                    "pay_to",
                    "day",
                ),
            )
            was = real[row["payment_hash"]]
            assert {name: row[name] for name in same} == {name: was[name] for name in same}
            assert (row["state"], row["source"], row["tx_hash"]) == (
                *("VERIFIED", "chain"),
                row["payment_hash"],
            )
            assert (row["method"], row["endpoint"], row["request_key"]) == (
                *("UNKNOWN", "unknown"),
                None,
            )
        day = await one(
            database,
            "SELECT spent_micros, held_micros FROM budget_counters WHERE kind = 'agent_day'"
            " AND spent_micros > 0",
        )
        assert (day["spent_micros"], day["held_micros"]) == (4 * PRICE, 0)
        # Once, however often it is done.
        status, said = await autopay("reconcile", "--rebuild", "--all")
        assert (status, said) == (
            0,
            "Every payment is proved.\nThe books have every payment that the chain has.\n",
        )
        assert (await autopay("audit"))[0] == 0


async def test_whose_it_is_when_several_pay_from_one_wallet(
    desk: Desk, server: str, tmp_path: Path
) -> None:
    """Nobody can tell: it is autopay's, past every limit, and the wallet's ceiling has it."""
    file = tmp_path / "books.dump"
    await backup.backup(desk.home.service.store.owner_dsn, file)
    await sold(desk, "lost")
    async with restored(server, file) as (dsn, database):
        await database.execute(
            "INSERT INTO agents (id, name, autonomy_level, wallet_address)"
            " SELECT gen_random_uuid(), 'other', autonomy_level, $1 FROM agents LIMIT 1",
            str(desk.home.wallet.pubkey()),
        )
        await database.execute(
            "UPDATE agents SET wallet_address = $1 WHERE name = 'shopper'",
            str(desk.home.wallet.pubkey()),
        )
        await database.execute(
            "INSERT INTO spend_limits (kind, subject, limit_micros) VALUES ('wallet_day', '*', 1)"
        )
        autopay = Autopay(desk, tmp_path, dsn)
        assert (await autopay("reconcile", "--rebuild"))[0] == 0
        row = await one(
            database,
            "SELECT a.name, p.provider FROM payments p JOIN agents a ON a.id = p.agent_id",
        )
        assert row == {"name": "autopay", "provider": "unknown"}
        wallet = await one(
            database, "SELECT spent_micros FROM budget_counters WHERE kind = 'wallet_day'"
        )
        assert wallet["spent_micros"] == PRICE
        # More than was ever allowed by what the books still know: that is told.
        status, said = await autopay("audit")
        assert status == 1 and "within" not in said and "highest limit" in said


@pytest.mark.parametrize("answer", ["has it not", "agrees"])
async def test_another_rpc_has_to_agree(
    pair: Desk, server: str, tmp_path: Path, answer: str
) -> None:
    file = tmp_path / "books.dump"
    await backup.backup(pair.home.service.store.owner_dsn, file)
    lost = await sold(pair, "lost")
    if answer == "has it not":
        pair.second[0].faults.lies["getSignatureStatuses"] = lambda result: {
            **result,
            "value": [None] * len(result["value"]),
        }
    (_, second) = (node.rpc._url for node in pair.home.service.reconciler._nodes[DEVNET])
    async with restored(server, file) as (dsn, database):
        status, said = await Autopay(pair, tmp_path, dsn, second)(
            "reconcile", "--rebuild", "--json"
        )
        record = json.loads(said)
        outcome = "rebuilt" if answer == "agrees" else "disputed"
        assert (status, record["transaction"], record["outcome"]) == (
            *(0 if answer == "agrees" else 1, lost),
            outcome,
        )
        rows = await database.fetch("SELECT 1 FROM payments")
        assert len(rows) == (1 if answer == "agrees" else 0)
