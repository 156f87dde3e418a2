"""Exported receipts, held against the chain: is each payment there, for this amount, to this
account, and is it ours.

Whose a transaction is, its second signature says: the payer's, over the message, checked by the
validators. The receiver's token account is derived here from the receiver and the mint.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from uuid import UUID

from solders.pubkey import Pubkey
from solders.signature import Signature

from proxy.chains import Unpayable
from proxy.chains.solana.fate import Level, Seen
from proxy.chains.solana.message import token_account
from proxy.chains.solana.node import Node
from proxy.chains.solana.rpc import Rpc
from proxy.receipts.verify import Paid
from proxy.x402.assets import find_asset

AT_ONCE = 8
_TRIES = 3
_PAUSE = 1.0
_LEVELS: tuple[Level, ...] = ("finalized", "confirmed")

GOOD = {
    "landed": "the payment is on the chain, as the receipt says",
    "reversed": "the receipt was taken back, and the chain has no such payment",
}
UNKNOWN = {
    "other_network": "paid on another network than this RPC's",
    "unknown_asset": "the asset is not in this program's table",
    "no_transaction": "no transaction was ever named: what was served was not claimed as paid",
    "no_answer": "the RPC gave no answer",
}
BAD = {
    "not_found": "the chain has no such transaction",
    "failed": "the transaction failed on the chain: nothing was paid",
    "not_ours": "the transaction was not signed by this payment's authorization",
    "other_amount": "the receiver's account got another amount",
    "landed_though_reversed": "the receipt was taken back, but the payment is on the chain",
}
"""Verdicts: proved, not looked at, refuted."""


@dataclass(frozen=True, slots=True)
class OnChain:
    """`verdict`: a key of GOOD, UNKNOWN or BAD."""

    receipt_id: UUID
    line: int
    transaction: str | None
    verdict: str
    detail: str = ""


def is_good(verdict: str) -> bool | None:
    """None: not known."""
    return None if verdict in UNKNOWN else verdict in GOOD


def words(verdict: str) -> str:
    return (GOOD | UNKNOWN | BAD)[verdict]


async def network_of(rpc: Rpc) -> str:
    """The CAIP-2 name of the RPC's network: the beginning of its first block's hash.

    Raises Unpayable.
    """
    genesis = await rpc.call("getGenesisHash")
    return f"solana:{str(genesis)[:32]}"


async def check(rpc: Rpc, paid: Iterable[Paid]) -> AsyncIterator[OnChain]:
    """A verdict for every receipt, in their order. Raises Unpayable if the RPC does not even say
    which network it is of."""
    network = await network_of(rpc)
    node = Node(rpc)
    waiting: list[asyncio.Task[OnChain]] = []
    try:
        for one in paid:
            waiting.append(asyncio.create_task(_check(node, network, one)))
            if len(waiting) >= AT_ONCE:
                yield await waiting.pop(0)
        while waiting:
            yield await waiting.pop(0)
    finally:
        for task in waiting:
            task.cancel()


async def _check(node: Node, network: str, paid: Paid) -> OnChain:
    verdict, detail = await _judged(node, network, paid)
    return OnChain(paid.receipt_id, paid.line, paid.transaction, verdict, detail)


async def _judged(node: Node, network: str, paid: Paid) -> tuple[str, str]:
    content = paid.content
    if content.get("network") != network:
        return "other_network", str(content.get("network"))
    asset = find_asset(network, str(content.get("asset")))
    if asset is None or asset.token_program is None:
        return "unknown_asset", str(content.get("asset"))
    if paid.transaction is None:
        return ("reversed" if paid.reversed else "no_transaction"), ""
    try:
        account = _account(str(content.get("pay_to")), asset.address, asset.token_program)
        Signature.from_string(paid.transaction)
        seen = await _seen(node, paid.transaction, account)
    except ValueError:
        seen = None  # no address, or no transaction: nobody can have paid so
    except Unpayable as error:
        return "no_answer", error.detail
    fault = _fault(seen, content.get("client_signature"), int(content["amount_atomic"]))
    if paid.reversed:
        return ("landed_though_reversed", "") if fault is None else ("reversed", fault[0])
    return fault or ("landed", "")


def _account(owner: str, mint: str, program: str) -> str:
    """Raises ValueError."""
    keys = [Pubkey.from_string(text) for text in (owner, mint, program)]
    return str(token_account(keys[0], keys[1], keys[2]))


async def _seen(node: Node, transaction: str, account: str) -> Seen | None:
    """Finalized, or else confirmed. Raises Unpayable after a few tries."""
    for attempt in range(_TRIES):
        try:
            for level in _LEVELS:
                if seen := await node.transaction(transaction, account, level):
                    return seen
            return None
        except Unpayable:
            if attempt == _TRIES - 1:
                raise
            await asyncio.sleep(_PAUSE * (attempt + 1))
    raise AssertionError("the last try returns or raises")


def _fault(seen: Seen | None, client_signature: str | None, amount: int) -> tuple[str, str] | None:
    """Why this transaction is not the payment; None if it is."""
    if seen is None:
        return "not_found", ""
    if seen.client_signature != client_signature:
        return "not_ours", seen.client_signature
    if seen.err is not None:
        return "failed", seen.err
    if seen.change != amount:
        return "other_amount", str(seen.change)
    return None
