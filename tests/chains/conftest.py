"""A tiny Solana node on a real socket, and the actors of the known test vector."""

import asyncio
import base64
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import web
from solders.hash import Hash
from solders.keypair import Keypair
from solders.pubkey import Pubkey

from proxy.chains.solana import SolanaChain, Wallet
from proxy.chains.solana.message import token_account
from proxy.x402 import SOLANA_DEVNET, Asset, Offer, find_asset

PAYER, FEE_PAYER, PAY_TO = (Keypair.from_seed(bytes([n]) * 32) for n in (1, 2, 3))
USDC = "4zMMC9srt5Ri5X14GAgXhaHii3GnPAEERYPJgZJDncDU"


def _asset(address: str) -> Asset:
    asset = find_asset(SOLANA_DEVNET, address)
    assert asset is not None
    return asset


class Node:
    """Answers getLatestBlockhash and getMultipleAccounts; `trouble` replaces every answer."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.height = 1000
        self.accounts: dict[str, dict[str, Any]] = {}
        self.trouble: Callable[[], web.StreamResponse] | None = None
        self.delay = 0.0
        self.url = ""

    @property
    def blockhash(self) -> str:
        return str(Hash(self.height.to_bytes(32, "big")))

    def next_block(self) -> str:
        self.height += 1
        return self.blockhash

    def fund(self, owner: Pubkey, amount: int, asset: Asset | None = None, **changes: Any) -> str:
        """Put a token account at the owner's associated address; `changes` falsify it."""
        asset = asset or _asset(USDC)
        mint = Pubkey.from_string(asset.address)
        program = Pubkey.from_string(asset.token_program or "")
        address = str(token_account(owner, mint, program))
        data = (
            bytes(changes.get("mint", mint))
            + bytes(changes.get("authority", owner))
            + amount.to_bytes(8, "little")
            + bytes(36)
            + bytes([changes.get("state", 1)])
            + bytes(56)
        )
        self.accounts[address] = {
            "data": [base64.b64encode(data[: changes.get("size", 165)]).decode(), "base64"],
            "executable": False,
            "lamports": 2039280,
            "owner": str(changes.get("program", program)),
            "rentEpoch": 18446744073709551615,
            "space": 165,
        }
        return address

    async def handle(self, request: web.Request) -> web.StreamResponse:
        call = await request.json()
        self.calls[call["method"]] += 1
        if self.delay:
            await asyncio.sleep(self.delay)
        if self.trouble is not None:
            return self.trouble()
        if call["method"] == "getLatestBlockhash":
            assert call["params"][-1]["commitment"] == "confirmed"
            value: Any = {"blockhash": self.blockhash, "lastValidBlockHeight": self.height + 150}
        else:
            assert call["method"] == "getMultipleAccounts"
            value = [self.accounts.get(address) for address in call["params"][0]]
        result = {"context": {"slot": self.height + 50}, "value": value}
        return web.json_response({"jsonrpc": "2.0", "id": call["id"], "result": result})


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    node = Node()
    app = web.Application()
    app.router.add_post("/{tail:.*}", node.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    node.url = f"http://{host}:{port}/v2/SECRET?api-key=SECRET"
    node.fund(PAYER.pubkey(), 1_000_000)
    node.fund(PAY_TO.pubkey(), 0)
    yield node
    await runner.cleanup()


@pytest.fixture
def wallet() -> Wallet:
    return Wallet(PAYER)


@pytest.fixture
async def chain(node: Node, wallet: Wallet) -> AsyncIterator[SolanaChain]:
    """Not started: nothing is fetched but on demand."""
    chain = SolanaChain(SOLANA_DEVNET, wallet, node.url, rpc_timeout=1.0)
    yield chain
    await chain.close()


@pytest.fixture
def make_offer() -> Callable[..., Offer]:
    """The offer of the known test vector, with changes."""
    offer = Offer(
        version=2,
        scheme="exact",
        network=SOLANA_DEVNET,
        asset=_asset(USDC),
        amount=1000,
        pay_to=str(PAY_TO.pubkey()),
        max_timeout_seconds=60,
        fee_payer=str(FEE_PAYER.pubkey()),
        memo=None,
        payment_flow="authorization",
        recent_blockhash=None,
        raw={},
    )
    return lambda **changes: replace(offer, **changes)
