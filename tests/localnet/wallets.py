"""Wallets with tokens, the payments they sign, and plain JSON-RPC."""

import base64
import json
from dataclasses import dataclass
from typing import Any

from aiohttp import ClientSession
from solders.compute_budget import set_compute_unit_limit, set_compute_unit_price
from solders.hash import Hash
from solders.instruction import Instruction
from solders.keypair import Keypair
from solders.message import MessageV0, to_bytes_versioned
from solders.pubkey import Pubkey
from solders.signature import Signature
from solders.transaction import VersionedTransaction

from proxy.localnet.chain import LocalChain
from proxy.localnet.tokens import MEMO, MINTS, USDC_DEVNET, transfer_checked


@dataclass(frozen=True)
class Parties:
    payer: Keypair
    seller: Keypair
    fee_payer: Keypair


def parties(chain: LocalChain, mint: Pubkey = USDC_DEVNET, amount: int = 1_000_000) -> Parties:
    """A payer with `amount`, a seller with an empty account, a fee payer with 1 SOL."""
    made = Parties(Keypair(), Keypair(), Keypair())
    chain.fund(made.payer.pubkey(), mint, amount)
    chain.fund(made.seller.pubkey(), mint, 0)
    chain.airdrop(made.fee_payer.pubkey(), 10**9)
    return made


def instructions(
    who: Parties, amount: int = 1_000, mint: Pubkey = USDC_DEVNET, memo: str | None = "m-1"
) -> list[Instruction]:
    """As the official client builds them."""
    program = MINTS[mint]
    pay_to = who.seller.pubkey()
    steps = [
        set_compute_unit_limit(20_000),
        set_compute_unit_price(1),
        transfer_checked(who.payer.pubkey(), pay_to, mint, program, amount),
    ]
    if memo is not None:
        steps.append(Instruction(MEMO, memo.encode(), []))
    return steps


def half_signed(who: Parties, blockhash: Hash, steps: list[Instruction]) -> VersionedTransaction:
    """What a client hands out: the fee payer's signature is still missing."""
    message = MessageV0.try_compile(who.fee_payer.pubkey(), steps, [], blockhash)
    mine = who.payer.sign_message(to_bytes_versioned(message))
    return VersionedTransaction.populate(message, [Signature.default(), mine])


def payment(who: Parties, blockhash: Hash, **options: Any) -> VersionedTransaction:
    """The same, signed by both."""
    tx = half_signed(who, blockhash, instructions(who, **options))
    fee_payer = who.fee_payer.sign_message(to_bytes_versioned(tx.message))
    return VersionedTransaction.populate(tx.message, [fee_payer, *tx.signatures[1:]])


def as_base64(tx: VersionedTransaction) -> str:
    return base64.b64encode(bytes(tx)).decode()


class Wire:
    def __init__(self, session: ClientSession, url: str) -> None:
        self._session = session
        self.url = url

    async def post(self, body: Any) -> Any:
        """`body` as JSON, or as it is if it is bytes."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        async with self._session.post(self.url, data=data) as response:
            return await response.json()

    async def result(self, method: str, *params: Any) -> Any:
        return (await self.post(call(method, *params)))["result"]

    async def error(self, method: str, *params: Any) -> Any:
        return (await self.post(call(method, *params)))["error"]


def call(method: str, *params: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": 7, "method": method, "params": list(params)}
