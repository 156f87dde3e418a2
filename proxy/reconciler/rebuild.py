"""Payments that the books have lost, written down again from the chain: after a restore from a
backup, or when a standby took over that had not heard of all.

Whatever left an account of ours as a payment leaves it (the layout that this program signs, and no
other: what an owner moves by hand looks otherwise), is final, and is known to no book, becomes a
payment with a receipt of source 'chain'. Its signatures are checked, and every other RPC is asked.
"""

import hashlib
import json
import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from solders.message import MessageV0, to_bytes_versioned
from solders.pubkey import Pubkey
from solders.transaction import VersionedTransaction

from proxy.chains import Unpayable
from proxy.chains.solana.fate import Seen
from proxy.chains.solana.message import COMPUTE_BUDGET, MEMO_PROGRAM, token_account
from proxy.chains.solana.node import Node
from proxy.chains.solana.scan import scan
from proxy.chains.solana.transaction import decoded, read_transaction
from proxy.ledger import Database, LedgerFault
from proxy.reconciler.books import as_json
from proxy.x402.assets import ASSETS, Asset

log = logging.getLogger(__name__)

MARGIN_SLOTS = 5_000
"""Before the newest transaction that the books have proved: about half an hour. A payment that was
lost with them was signed later than that one."""

_TRANSFER_CHECKED = 12

_ACCOUNTS = """
SELECT DISTINCT network, payer, asset FROM payments
WHERE payer IS NOT NULL AND network LIKE 'solana:%'
"""
_KNOWN = """
SELECT DISTINCT t.solana_tx_metadata ->> 'signature' FROM transaction_logs t
WHERE t.confirmation_status = 'FINALIZED' AND t.solana_tx_metadata ->> 'signature' = ANY ($1)
"""
_NEWEST = """
SELECT max((t.solana_tx_metadata ->> 'slot')::bigint) FROM transaction_logs t
WHERE t.confirmation_status = 'FINALIZED' AND t.solana_tx_metadata ->> 'network' = $1
  AND t.solana_tx_metadata ->> 'source_account' = $2
"""
_REBUILD = "SELECT rebuild_payment($1)"


@dataclass(frozen=True, slots=True)
class Holding:
    """What a wallet of ours has of an asset."""

    wallet: str
    asset: Asset

    @property
    def account(self) -> str:
        keys = [Pubkey.from_string(each) for each in (self.wallet, self.asset.address)]
        return str(token_account(keys[0], keys[1], Pubkey.from_string(_program(self.asset))))


@dataclass(frozen=True, slots=True)
class Found:
    """What was done about one transaction that has taken money from us. `outcome`: rebuilt; freed
    (the books call it dead, and it is not); disputed (another RPC does not have it so); by_hand (no
    payment of this program's making); unreadable; or `trouble`, of the whole account, in `why`."""

    account: str
    transaction: str
    outcome: str
    amount: int = 0
    why: str = ""


async def rebuild(
    database: Database,
    nodes: Mapping[str, Sequence[Node]],
    wallets: Iterable[str],
    *,
    everything: bool = False,
) -> list[Found]:
    """Looks at every account of these wallets, and of those that the books name; all of their
    history with `everything`, else from shortly before the newest proved payment. `nodes`: by
    network, the RPC that is asked first, then those that must agree. Repeatable. Raises
    LedgerError."""
    found: list[Found] = []
    for holding in await _holdings(database, nodes, wallets):
        try:
            found += await _account(
                database, nodes[holding.asset.network], holding, everything=everything
            )
        except Unpayable as error:
            found.append(Found(holding.account, "", "trouble", why=error.detail))
    return found


async def _holdings(
    database: Database, networks: Collection[str], wallets: Iterable[str]
) -> list[Holding]:
    wanted = {(asset.network, wallet, asset.address) for wallet in wallets for asset in ASSETS}
    wanted |= {
        (row["network"], row["payer"], row["asset"]) for row in await database.fetch(_ACCOUNTS)
    }
    by_address = {(asset.network, asset.address): asset for asset in ASSETS}
    return [
        Holding(wallet, by_address[network, address])
        for network, wallet, address in sorted(wanted)
        if network in networks and (network, address) in by_address
    ]


async def _account(
    database: Database, nodes: Sequence[Node], holding: Holding, *, everything: bool
) -> list[Found]:
    first, account = nodes[0], holding.account
    newest = None if everything else await database.fetchval(
        _NEWEST, holding.asset.network, account
    )  # fmt: skip
    tip = await first.finalized()
    listed = await scan(
        first,
        account,
        "finalized",
        min_slot=tip.slot,
        after_slot=max(0, (newest or 0) - MARGIN_SLOTS),
    )
    signatures = [entry.signature for entry in listed.entries]
    known = {row[0] for row in await database.fetch(_KNOWN, signatures)}
    found: list[Found] = []
    if not listed.complete:
        found.append(Found(account, "", "trouble", why="the RPC's index is not to be believed"))
    for signature in reversed(signatures):  # the oldest first
        if signature in known:
            continue
        one = await _transaction(database, nodes, holding, signature)
        if one is not None:
            found.append(one)
    return found


async def _transaction(  # noqa: PLR0911 - each thing that it may be is told where it is seen
    database: Database, nodes: Sequence[Node], holding: Holding, signature: str
) -> Found | None:
    """None if it has not taken money, or is known."""
    account = holding.account
    options = {"encoding": "base64", "commitment": "finalized", "maxSupportedTransactionVersion": 0}
    answer = await nodes[0].rpc.call("getTransaction", signature, options)
    try:
        seen = read_transaction(answer, signature, account, "finalized")
        tx = decoded(answer["transaction"])
        transfer = _payment(tx, holding)
        day = datetime.fromtimestamp(int(answer["blockTime"]), UTC).date()
    except (ValueError, LookupError, TypeError) as error:
        return Found(account, signature, "unreadable", why=str(error))
    if seen.err is not None or seen.change >= 0:
        return None
    if transfer is None:
        return Found(account, signature, "by_hand", -seen.change)
    for node in nodes[1:]:
        said = (await node.statuses([signature], seen.slot)).get(signature)
        if said is None or (said.level, said.failed) != ("finalized", False):
            return Found(account, signature, "disputed", -seen.change, node.name)
    record = _record(transfer, holding, seen, day.isoformat())
    record["pay_to"] = _receiver(answer["meta"], tx, holding, transfer["destination_account"])
    try:
        outcome = str(await database.fetchval(_REBUILD, json.dumps(record)))
    except LedgerFault as fault:
        return Found(account, signature, "trouble", -seen.change, str(fault))
    if outcome == "known":
        return None
    log.warning("the transaction %s, in no book: %s", signature, outcome)
    return Found(account, signature, outcome, -seen.change)


def _payment(tx: VersionedTransaction, holding: Holding) -> dict[str, Any] | None:
    """What it says of itself, if it is one as this program signs them: limit, price, a checked
    transfer out of our account by our wallet, perhaps a memo; and somebody else pays the fee."""
    message = tx.message
    keys = [str(key) for key in message.account_keys]
    if not isinstance(message, MessageV0) or message.address_table_lookups:
        return None
    programs = [keys[each.program_id_index] for each in message.instructions]
    budget, memo = str(COMPUTE_BUDGET), str(MEMO_PROGRAM)
    plain = [budget, budget, _program(holding.asset)]
    if programs not in (plain, [*plain, memo]) or keys[1:2] != [holding.wallet]:
        return None
    transfer = message.instructions[2]
    accounts, data = [keys[index] for index in transfer.accounts], bytes(transfer.data)
    ours = [holding.account, holding.asset.address, holding.wallet]
    if len(accounts) != 4 or [accounts[0], accounts[1], accounts[3]] != ours:
        return None
    if len(data) != 10 or data[0] != _TRANSFER_CHECKED:
        return None
    return {
        "fee_payer": keys[0],
        "destination_account": accounts[2],
        "amount_atomic": int.from_bytes(data[1:9], "little"),
        "blockhash": str(message.recent_blockhash),
        "message_sha256": "\\x" + hashlib.sha256(to_bytes_versioned(message)).hexdigest(),
    }


def _record(transfer: Mapping[str, Any], holding: Holding, seen: Seen, day: str) -> dict[str, Any]:
    asset = holding.asset
    amount = transfer["amount_atomic"]
    shown = as_json(seen)
    return {
        **transfer,
        "transaction": seen.signature,
        "client_signature": seen.client_signature,
        "payer": holding.wallet,
        "source_account": holding.account,
        "memo": shown["memo"],
        # Every asset of ours is a dollar; what budgets are charged is rounded up.
        "price_micros": -(-amount * 10**6 // 10**asset.decimals),
        "network": asset.network,
        "asset": asset.address,
        "symbol": asset.symbol,
        "decimals": asset.decimals,
        "day": day,
        "seen": shown,
    }


def _receiver(meta: Any, tx: VersionedTransaction, holding: Holding, destination: str) -> str:
    """Whose the receiving account is: a transaction does not say so. Its node does, and that is
    checked: the account's address is derived from its owner's. Else the account itself."""
    keys = [str(key) for key in tx.message.account_keys]
    for balance in meta["postTokenBalances"]:
        owner = balance.get("owner")
        if keys[balance["accountIndex"]] == destination and isinstance(owner, str):
            try:
                derived = Holding(owner, holding.asset).account
            except ValueError:
                break
            return owner if derived == destination else destination
    return destination


def _program(asset: Asset) -> str:
    assert asset.token_program is not None, "all of ours are tokens"
    return asset.token_program
