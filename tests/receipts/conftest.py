"""Ledgers with receipts in them, their signer, and what comes out of them as a file."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from proxy.cli import main
from proxy.ledger import Agent, Database, Ledger, SettledReceipt, agents
from proxy.localnet import USDC_DEVNET
from proxy.receipts.export import Question, extract, json_lines
from proxy.receipts.keys import ReceiptKey
from proxy.receipts.signer import ReceiptSigner
from proxy.vault import Vault
from tests.e2e.house import House
from tests.ledger.conftest import Make, bot, database, ledger, make

__all__ = ["bot", "database", "ledger", "make"]

Pay = Callable[..., Awaitable[UUID]]
Export = Callable[..., Awaitable[list[bytes]]]

DAY = 24 * 3600


def settled(transaction: str | None = None, *, claimed: bool = True) -> SettledReceipt:
    return SettledReceipt(
        claimed=claimed,
        http_status=200,
        success=True,
        latency_ms=9,
        transaction=transaction,
        network="solana",
        response_header="eyJzdWNjZXNzIjp0cnVlfQ==" if claimed else None,
    )


@pytest.fixture
async def second(database: Database, vault: Vault) -> Agent:
    return (await agents.add(database, vault, "second")).agent


@pytest.fixture
def pay(ledger: Ledger, make: Make) -> Pay:
    """A payment of one cent, settled; its id."""
    count = iter(range(10_000))

    async def pay(**changes: Any) -> UUID:
        with_ = changes.pop("ledger", ledger)
        transaction = changes.pop("transaction", f"{next(count):z>88}".replace("0", "Z"))
        reservation = make(**changes)
        await with_.reserve(reservation)
        assert await with_.settle(reservation.payment_id, settled(transaction))
        return reservation.payment_id

    return pay


@pytest.fixture
def key(tmp_path: Path) -> ReceiptKey:
    return ReceiptKey.load_or_make(tmp_path / "receipts.key")


@pytest.fixture
async def signer(database: Database, key: ReceiptKey) -> AsyncIterator[ReceiptSigner]:
    """Signs when the test says so."""
    signer = ReceiptSigner(database, key)
    yield signer
    await signer.close()


@pytest.fixture
def export(dsn: str, key: ReceiptKey) -> Export:
    """The lines of an export, the header first."""

    async def export(signed_by: ReceiptKey | None = key, **asked: Any) -> list[bytes]:
        async with extract(dsn, "autopay_auditor", Question(**asked)) as found:
            text = [line async for line in json_lines(found, signed_by, datetime.now(UTC))]
        return [line.encode() for line in text]

    return export


def changed(line: bytes, **members: Any) -> bytes:
    """An export's line with other members."""
    return json.dumps(json.loads(line) | members).encode()


class Cli:
    """The operator's commands, with their settings in a file."""

    def __init__(self, dsn: str, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.file = home / "receipts.jsonl"
        self._config = home / "autopay.toml"
        self._config.write_text(f'database_url = "{dsn}"\ndata_dir = "{home}"\n')
        self._capsys = capsys

    async def __call__(self, *words: str) -> tuple[int, str]:
        """Exit status, and what it said."""
        call = ["--config", str(self._config), "receipts", *words]
        status = await asyncio.to_thread(main, call)
        said = self._capsys.readouterr()
        return status, said.out + said.err

    async def chain(self, rpc_url: str) -> tuple[int, dict[str, Any]]:
        """Exit status of a proof against the chain, and all that it says."""
        status, said = await self("verify", str(self.file), "--rpc", rpc_url, "--json")
        return status, json.loads(said.partition("\n")[0])

    async def verdicts(self, rpc_url: str) -> tuple[int, list[str]]:
        status, said = await self.chain(rpc_url)
        return status, [one["verdict"] for one in said["chain"]]


@pytest.fixture
def cli(dsn: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Cli:
    return Cli(dsn, tmp_path, capsys)


class Clock:
    """The local chain's, `shift` seconds off."""

    def __init__(self) -> None:
        self.shift = 0.0

    def time(self) -> float:
        return time.time() + self.shift


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("proxy.localnet.chain.time", clock)
    return clock


def with_a_past(home: House, clock: Clock) -> None:
    """A payment by hand, three days ago, so that its history tells what the wallet held."""
    now, clock.shift = clock.shift, -3 * DAY
    home.net.chain.transfer(home.wallet, home.net.seller.pubkey(), USDC_DEVNET, 5)
    home.net.chain.advance(40)
    clock.shift = now


async def all_signed(home: House) -> None:
    links = (
        "SELECT (SELECT count(*) FROM receipt_links) AS links,"
        " (SELECT count(*) FROM receipt_signatures) AS signed"
    )
    async with asyncio.timeout(10):
        while True:
            row = await home.row(links)
            if row["links"] and row["links"] == row["signed"]:
                return
            await asyncio.sleep(0.05)
