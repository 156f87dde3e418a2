"""The whole service, a seller and a chain whose blocks are made by the test alone."""

import base64
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from aiohttp import web
from solders.signature import Signature
from solders.transaction import VersionedTransaction

from proxy.localnet import LocalChain, Localnet
from proxy.localnet.rpc import RpcNode
from proxy.reconciler import Ruling
from tests.e2e.house import House, house
from tests.e2e.seller import (
    DEVNET,
    HangUp,
    Seller,
    challenge,
    offer,
    pays_once,
    raises,
    selling,
    settled,
)

PRICE = 1000


@dataclass
class Desk:
    """Rounds of the reconciler happen when the test says so."""

    home: House
    net: Localnet
    seller: Seller
    second: list[RpcNode] = field(default_factory=list)

    @property
    def chain(self) -> LocalChain:
        return self.net.chain

    async def buy(self, *, claims: str | None = None, path: str = "", **more: Any) -> str:
        """Pays, and gets no answer, or one that claims a transaction. The payment's id."""
        entry = offer(str(self.net.seller.pubkey()), str(self.net.fee_payer.pubkey()), **more)
        self.seller.answer = pays_once(
            challenge(entry), raises(HangUp) if claims is None else lambda _: settled(claims)
        )
        # The test's blocks fly by; a blockhash that was fetched a second ago may be long dead.
        self.home.service.chains[DEVNET]._blockhashes._newest = None  # type: ignore[attr-defined]
        before = {row["id"] for row in await self.home.rows("SELECT id FROM payments")}
        await self.home.ask(f"{self.seller.url}/{path}")
        rows = await self.home.rows("SELECT id FROM payments")
        (new,) = [row["id"] for row in rows if row["id"] not in before]
        return str(new)

    def signed(self, number: int = -1) -> VersionedTransaction:
        """What the seller was given, with its fee payer's signature."""
        payload = json.loads(base64.b64decode(self.seller.payments[number]))["payload"]
        message = VersionedTransaction.from_bytes(base64.b64decode(payload["transaction"])).message
        ours = VersionedTransaction.from_bytes(base64.b64decode(payload["transaction"]))
        theirs = self.net.fee_payer.sign_message(bytes([0x80]) + bytes(message))
        return VersionedTransaction.populate(message, [theirs, ours.signatures[1]])

    def land(self, number: int = -1) -> str:
        """Brings a payment to the leader; its id. Whether it lands is the chain's to say."""
        tx = self.signed(number)
        self.chain.submit(tx)
        return str(tx.signatures[0])

    async def look(self) -> list[Ruling]:
        """One round, which must have happened."""
        (rulings,) = (await self.home.service.reconciler.reconcile_once()).values()
        assert isinstance(rulings, list), rulings
        return rulings

    async def outcome(self) -> str:
        """Of the only payment, after one round: "held: why" or the like."""
        (ruling,) = await self.look()
        return f"{ruling.outcome}: {ruling.why}" if ruling.outcome == "held" else ruling.outcome

    async def payment(self, payment_id: str) -> dict[str, Any]:
        return await self.home.row("SELECT * FROM payments WHERE id = $1::text::uuid", payment_id)

    async def past(self, payment_id: str) -> int:
        """The last block that can hold the payment."""
        return int((await self.payment(payment_id))["last_valid_block_height"]) + 1

    def finalize(self, height: int) -> None:
        """Make blocks until that one is final."""
        self.chain.advance(height - self.chain.blocks.at("finalized"))
        assert self.chain.blocks.at("finalized") == height

    def make(self, height: int) -> None:
        """Make blocks until that one is the next."""
        self.chain.advance(height - self.chain.blocks.height)

    async def events(self, kind: str) -> list[dict[str, Any]]:
        rows = await self.home.rows(
            "SELECT details, severity::text AS severity FROM audit_events"
            " WHERE event_type::text = $1 ORDER BY created_at",
            kind,
        )
        return [json.loads(row["details"]) | {"severity": row["severity"]} for row in rows]

    async def by_hand(self, sql: str, *args: object) -> None:
        """As the database's owner, past every function that the proxy has to go through."""
        connection = await asyncpg.connect(self.home.service.store.owner_dsn)
        await connection.execute(sql, *args)
        await connection.close()

    async def levels(self) -> list[str]:
        rows = await self.home.rows(
            "SELECT confirmation_status::text AS level FROM transaction_logs ORDER BY created_at"
        )
        return [row["level"] for row in rows]


@asynccontextmanager
async def another_node(chain: LocalChain) -> AsyncIterator[tuple[RpcNode, str]]:
    """A second RPC of the same chain, with troubles and lies of its own."""
    node = RpcNode(chain, slot_seconds=None)
    runner = web.AppRunner(node.app(), access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    yield node, f"http://{host}:{port}"
    await runner.cleanup()


@asynccontextmanager
async def opened(
    dsn: str, tmp_path: Path, *, second_opinion: bool = False, **settings: Any
) -> AsyncIterator[Desk]:
    async with Localnet(slot_seconds=None) as net, selling() as seller:
        net.chain.advance(40)  # so that what was funded is final
        async with another_node(net.chain) as (node, url):
            networks = {"devnet": {"rpc_url": net.rpc_url}}
            if second_opinion:
                networks["devnet"]["verify_rpc_urls"] = [url]  # type: ignore[assignment]
            settings.setdefault("breaker", {"enabled": False})
            async with house(net, dsn, tmp_path, networks=networks, **settings) as home:
                # What the service does at its start, before anything is paid.
                await home.service.reconciler._open_books()
                yield Desk(home, net, seller, [node])


@pytest.fixture
async def desk(dsn: str, tmp_path: Path) -> AsyncIterator[Desk]:
    """One RPC, the reconciler in the test's hand."""
    async with opened(dsn, tmp_path) as desk:
        yield desk


@pytest.fixture
async def pair(dsn: str, tmp_path: Path) -> AsyncIterator[Desk]:
    """The same with a second RPC, which is `desk.second[0]`."""
    async with opened(dsn, tmp_path, second_opinion=True) as desk:
        yield desk


def signatures(texts: Sequence[str]) -> set[Signature]:
    return {Signature.from_string(text) for text in texts}
