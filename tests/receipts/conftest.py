"""Ledgers with receipts in them, their signer, and what comes out of them as a file."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from proxy.ledger import Agent, Database, Ledger, SettledReceipt, agents
from proxy.receipts.export import Question, extract, json_lines
from proxy.receipts.keys import ReceiptKey
from proxy.receipts.signer import ReceiptSigner
from proxy.vault import Vault
from tests.ledger.conftest import Make, bot, database, ledger, make

__all__ = ["bot", "database", "ledger", "make"]

Pay = Callable[..., Awaitable[UUID]]
Export = Callable[..., Awaitable[list[bytes]]]


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
