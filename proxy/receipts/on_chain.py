"""Exported receipts, held against the chain: is each payment there, for this amount, to this
account, and is it ours.

Whose a transaction is, its second signature says: the payer's, over the message, checked by the
validators. So a receipt that names no transaction, or another's, is looked for by that signature in
the history of the wallet's token account, and so is what was taken back. Token accounts are derived
here, from their owner and the mint.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeVar
from uuid import UUID

from solders.pubkey import Pubkey
from solders.signature import Signature

from proxy.chains import Unpayable
from proxy.chains.solana.fate import Level, Seen
from proxy.chains.solana.message import token_account
from proxy.chains.solana.node import Node
from proxy.chains.solana.rpc import Rpc
from proxy.receipts.history import MARGIN, Search, Wanted, search
from proxy.receipts.link import RECEIPT
from proxy.receipts.verify import Paid
from proxy.x402.assets import Asset, find_asset

T = TypeVar("T")

AT_ONCE = 8
_LEVELS: tuple[Level, ...] = ("finalized", "confirmed")

GOOD = {
    "landed": "the payment is on the chain, as the receipt says",
    "found": "no transaction was named, and the payment is on the chain: found by its signature",
    "reversed": "the receipt was taken back, and the chain has no such payment",
}
UNKNOWN = {
    "other_network": "paid on a network that no RPC was named of",
    "unknown_asset": "the asset is not in this program's table",
    "receipt_elsewhere": "what was learnt later of a receipt that is older than this file",
    "no_answer": "the RPC gave no answer",
    "not_shown": "not found, which shows nothing",
}
BAD = {
    "not_found": "the payment is not on the chain",
    "failed": "the transaction failed on the chain: nothing was paid",
    "not_ours": "the transaction was not signed by this payment's authorization",
    "other_transaction": "the payment is on the chain, but not in the transaction that was named",
    "other_amount": "the receiver's account got another amount",
    "landed_though_reversed": "the receipt was taken back, but the payment is on the chain",
}
"""Verdicts: proved, not shown, refuted."""


@dataclass(frozen=True, slots=True)
class OnChain:
    """`verdict`: a key of GOOD, UNKNOWN or BAD. `transaction`: as named; `found`: the one with our
    signature, where the account's history was searched for it."""

    receipt_id: UUID
    line: int
    transaction: str | None
    verdict: str
    detail: str = ""
    found: str | None = None


@dataclass(frozen=True, slots=True)
class Account:
    """A wallet's token account."""

    network: str
    address: str


@dataclass(slots=True)
class Checked:
    """A verdict for every receipt, in their order, and how far accounts were searched for them."""

    receipts: list[OnChain] = field(default_factory=list)
    searches: dict[Account, Search] = field(default_factory=dict)


def is_good(verdict: str) -> bool | None:
    """None: not known."""
    return None if verdict in UNKNOWN else verdict in GOOD


def words(verdict: str) -> str:
    return (GOOD | UNKNOWN | BAD)[verdict]


async def nodes_of(rpcs: Iterable[Rpc]) -> dict[str, Node]:
    """By the CAIP-2 name of their network: the beginning of its first block's hash.

    Raises Unpayable, and ValueError for two of one network.
    """
    nodes: dict[str, Node] = {}
    for rpc in rpcs:
        network = f"solana:{str(await rpc.call('getGenesisHash'))[:32]}"
        if network in nodes:
            raise ValueError(f"{nodes[network].name} and {rpc.name} are both of {network}")
        nodes[network] = Node(rpc)
    return nodes


async def check(
    nodes: Mapping[str, Node], paid: Iterable[Paid], tell: Callable[[str], None] = lambda _: None
) -> Checked:
    """`nodes`: by network. `tell` hears how far it is, if it takes long."""
    looks = [look async for look in _in_order(_look(nodes, one) for one in paid)]
    missing: dict[Account, list[_Missing]] = {}
    for look in looks:
        if isinstance(look, _Missing):
            missing.setdefault(look.account, []).append(look)
    searches: dict[Account, Search] = {}
    for account, lost in missing.items():
        tell(f"{account.address}: looking for {len(lost)} payments in its history")
        wanted = [each.wanted for each in lost]
        searches[account] = await search(nodes[account.network], account.address, wanted, tell)
    receipts = [one async for one in _in_order(_concluded(nodes, look, searches) for look in looks)]
    return Checked(receipts, searches)


@dataclass(frozen=True, slots=True)
class _Missing:
    """A payment that is not where its receipt says, if it says it: to be looked for in its
    account. `other`: whose the transaction is that was named, if it is another payment's."""

    paid: Paid
    asset: Asset
    account: Account
    wanted: Wanted
    other: str | None


async def _in_order(calls: Iterable[Coroutine[Any, Any, T]]) -> AsyncIterator[T]:
    """What they return; a few at a time are under way."""
    waiting: list[asyncio.Task[T]] = []
    try:
        for call in calls:
            waiting.append(asyncio.create_task(call))
            if len(waiting) >= AT_ONCE:
                yield await waiting.pop(0)
        while waiting:
            yield await waiting.pop(0)
    finally:
        for task in waiting:
            task.cancel()


async def _look(nodes: Mapping[str, Node], paid: Paid) -> OnChain | _Missing:
    content = paid.content
    network, mint = str(content.get("network")), str(content.get("asset"))
    node, asset = nodes.get(network), find_asset(network, mint)
    if content.get("kind") != RECEIPT:
        return _verdict(paid, "receipt_elsewhere")
    if node is None:
        return _verdict(paid, "other_network", network)
    if asset is None or asset.token_program is None:
        return _verdict(paid, "unknown_asset", mint)
    return await _named(node, network, asset, paid)


async def _named(node: Node, network: str, asset: Asset, paid: Paid) -> OnChain | _Missing:
    """A look at the transaction that is named."""
    content = paid.content
    try:
        seen = await _seen(node, paid.transaction, _receiver(content, asset))
    except Unpayable as error:
        return _verdict(paid, "no_answer", error.detail)
    other = None
    if seen is not None and seen.client_signature != content.get("client_signature"):
        other, seen = seen.client_signature, None
    # What failed is dead for good only once that is final.
    if seen is not None and not (paid.reversed and seen.err and seen.level != "finalized"):
        return _verdict(paid, *_judged(paid, seen))
    try:
        account = Account(network, _wallets_account(content, asset))
        return _Missing(paid, asset, account, _wanted(paid), other)
    except ValueError as error:
        return _not_there(paid, other, str(error))


async def _concluded(
    nodes: Mapping[str, Node], look: OnChain | _Missing, searches: Mapping[Account, Search]
) -> OnChain:
    """What the search says of what had to be searched for."""
    if isinstance(look, OnChain):
        return look
    paid, signature, search = look.paid, look.wanted.client_signature, searches[look.account]
    if signature in search.found:
        return await _found(nodes[look.account.network], look, search.found[signature])
    return _unfound(paid, look.other, signature, search)


def _unfound(paid: Paid, other: str | None, signature: str, search: Search) -> OnChain:
    if signature in search.open:
        return _not_there(paid, other, f"{search.open[signature]}; {search.words}")
    if paid.content.get("source") == "chain":
        # Written when the reconciler came to it, which may be long after the payment.
        return _not_there(paid, other, f"it may be older than its receipt; {search.words}")
    if paid.reversed:
        return _verdict(paid, "reversed", search.words)
    return _verdict(paid, "not_ours" if other else "not_found", search.words)


async def _found(node: Node, missing: _Missing, transaction: str) -> OnChain:
    """Our signature is in this transaction."""
    paid = missing.paid
    try:
        seen = await _seen(node, transaction, _receiver(paid.content, missing.asset))
    except Unpayable as error:
        return _verdict(paid, "no_answer", error.detail, transaction)
    if seen is None:
        return _verdict(paid, "no_answer", "it has it no more", transaction)
    verdict, detail = _judged(paid, seen)
    if verdict == "landed":
        verdict = "found" if paid.transaction is None else "other_transaction"
    return _verdict(paid, verdict, detail, transaction)


def _not_there(paid: Paid, other: str | None, why: str) -> OnChain:
    """Nothing is shown, unless the transaction that was named is another payment's."""
    if other is not None and not paid.reversed:
        return _verdict(paid, "not_ours", why)
    return _verdict(paid, "not_shown", why)


def _verdict(paid: Paid, verdict: str, detail: str = "", found: str | None = None) -> OnChain:
    return OnChain(paid.receipt_id, paid.line, paid.transaction, verdict, detail, found)


def _judged(paid: Paid, seen: Seen) -> tuple[str, str]:
    """What a transaction of this payment's makes of its receipt."""
    if paid.reversed:
        return ("landed_though_reversed", "") if seen.err is None else ("reversed", seen.err)
    if seen.err is not None:
        return "failed", seen.err
    if seen.change != int(paid.content["amount_atomic"]):
        return "other_amount", str(seen.change)
    return "landed", ""


async def _seen(node: Node, transaction: str | None, account: str) -> Seen | None:
    """Finalized, or else confirmed; None also for a name that is none. Raises Unpayable."""
    try:
        Signature.from_string(transaction or "")
    except ValueError:
        return None
    assert transaction is not None
    for level in _LEVELS:
        if seen := await node.transaction(transaction, account, level):
            return seen
    return None


def _receiver(content: Mapping[str, Any], asset: Asset) -> str:
    """The account that the money goes to; "" if there is none, so that nothing comes to it."""
    pay_to = str(content.get("pay_to"))
    if pay_to == content.get("destination_account"):
        return pay_to  # booked from the chain, which does not tell whose it is
    try:
        return _account(pay_to, asset)
    except ValueError:
        return ""


def _wallets_account(content: Mapping[str, Any], asset: Asset) -> str:
    """The account that the money comes from. Raises ValueError."""
    payer, named = content.get("payer"), content.get("source_account")
    if payer is None:
        raise ValueError("it does not say which wallet paid")
    account = _account(payer, asset)
    if named not in (None, account):
        raise ValueError("it names an account that is not its wallet's")
    return account


def _account(owner: str, asset: Asset) -> str:
    """Raises ValueError."""
    keys = [Pubkey.from_string(each) for each in (owner, asset.address, asset.token_program or "")]
    return str(token_account(keys[0], keys[1], keys[2]))


def _wanted(paid: Paid) -> Wanted:
    """Raises ValueError."""
    signature = paid.content.get("client_signature")
    if signature is None:
        raise ValueError("it does not say what we signed")
    recorded = _seconds(paid.content.get("recorded_at"))
    closed = recorded + MARGIN
    if paid.reversed:  # the chain had passed its end by then
        closed = min(closed, max(recorded, _seconds(paid.reversed_at)))
    return Wanted(signature, recorded, closed)


def _seconds(text: str | None) -> int:
    """Since 1970. Raises ValueError."""
    moment = datetime.fromisoformat(text or "")
    if moment.tzinfo is None:
        raise ValueError(f"{text!r} has no time zone")
    return int(moment.timestamp())
