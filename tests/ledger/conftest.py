"""A fresh, migrated database per test on one real server; agents; and a wire that can be cut."""

import secrets
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from hashlib import sha256
from urllib.parse import parse_qs, urlsplit

import pytest

from policies import Policy
from proxy.ledger import Agent, Database, Ledger, Reservation, agents, new_id
from proxy.vault import Vault
from tests.ledger.wire import Wire

Make = Callable[..., Reservation]


@pytest.fixture
async def database(dsn: str) -> AsyncIterator[Database]:
    database = await Database.open(dsn)
    yield database
    await database.close()


@pytest.fixture
async def ledger(database: Database) -> AsyncIterator[Ledger]:
    ledger = Ledger(database)
    yield ledger
    await ledger.close()


@pytest.fixture
async def bot(database: Database, vault: Vault) -> Agent:
    """An agent under the default policy: $0.05 per call, $1.00 per day and per session."""
    return (await agents.add(database, vault, "bot")).agent


@pytest.fixture
def make(bot: Agent) -> Make:
    """Makes reservations of one cent that differ in nothing but their id and their message."""

    def make(**changes: object) -> Reservation:
        reservation = Reservation(
            payment_id=new_id(),
            agent_id=bot.id,
            price=10_000,
            session_id=None,
            trace_id=None,
            provider="https://api.example.com:443",
            method="GET",
            endpoint="https://api.example.com/v1/quote",
            request_body_sha256=None,
            x402_version=2,
            network="solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1",
            asset="4zMMC9srt5Ri5X14GAgXhaHii3GnPAEERYPJgZJDncDU",
            symbol="USDC",
            amount=10_000,
            pay_to="2wKupLR9q6wXYppw8Gr2NvWxKBUqm4PPJKkQfoxHDBg4",
            blockhash="EkSnNWid2cvwEVnVx9aBqawnmiCNiDgp3gUdkDPTKN1N",
            last_valid_block_height=250,
            client_signature=secrets.token_hex(32),
            message_sha256=sha256(secrets.token_bytes(16)).digest(),
            payload={"transaction": "AQ=="},
        )
        return replace(reservation, **changes)  # type: ignore[arg-type]

    return make


@pytest.fixture
def policy() -> Policy:
    return Policy("bot")


@pytest.fixture
async def wire(dsn: str) -> AsyncIterator[Wire]:
    """A way to the database that tests can cut, stall and deafen; `wire.dsn` leads through it."""
    parts = urlsplit(dsn)
    query = parse_qs(parts.query)
    wire = await Wire.open(query["host"][0], int(query.get("port", ["5432"])[0]), dsn)
    yield wire
    await wire.close()
