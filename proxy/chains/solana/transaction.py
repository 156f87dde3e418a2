"""A transaction as getTransaction shows it, read strictly: it decides over money.

What a node leaves out or has in another shape makes the answer unreadable, never empty.
"""

import base64
import json
from typing import Any

from solders.transaction import VersionedTransaction

from .fate import Level, Seen
from .message import MEMO_PROGRAM


def read_transaction(answer: Any, signature: str, account: str, level: Level) -> Seen:
    """The `result` of getTransaction (base64, version 0) for `signature`, as it concerns `account`.

    Raises ValueError for an answer that is not whole, or that is not this transaction, signed.
    """
    try:
        tx = decoded(answer["transaction"])
        meta = answer["meta"]
        keys = [str(key) for key in tx.message.account_keys] + _loaded(meta)
        if [str(tx.signatures[0])] != [signature] or not all(tx.verify_with_results()):
            raise ValueError("not the transaction that was asked for, or not signed so")
        err = meta["err"]
        before = _held(meta["preTokenBalances"], keys, account)
        left = _held(meta["postTokenBalances"], keys, account)
        return Seen(
            signature=signature,
            slot=whole(answer["slot"]),
            level=level,
            err=None if err is None else json.dumps(err)[:500],
            client_signature=str(tx.signatures[1]) if len(tx.signatures) > 1 else "",
            memo=_memo(tx),
            change=left - before,
            left=left,
            fee=whole(meta["fee"]),
        )
    except (LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"a transaction in a shape of its own: {error!r}") from None


def whole(value: Any) -> int:
    """A count as nodes write it. Raises TypeError for anything else, true and 1.0 included."""
    if type(value) is not int or value < 0:
        raise TypeError("not a whole number")
    return value


def decoded(value: Any) -> VersionedTransaction:
    """The `transaction` of getTransaction. Raises ValueError or TypeError."""
    data, encoding = value
    if encoding != "base64":
        raise ValueError("asked for base64")
    raw = base64.b64decode(data, validate=True)
    tx = VersionedTransaction.from_bytes(raw)  # its error is a ValueError
    if bytes(tx) != raw:
        raise ValueError("trailing bytes")
    return tx


def _loaded(meta: Any) -> list[str]:
    """Accounts from lookup tables: after those of the message, the writable ones first. Nodes
    leave the member out where there are none."""
    loaded = meta.get("loadedAddresses") or {"writable": [], "readonly": []}
    return [str(key) for key in (*loaded["writable"], *loaded["readonly"])]


def _held(balances: Any, keys: list[str], account: str) -> int:
    """What the account held, by pre- or postTokenBalances; 0 where it was no token account."""
    if not isinstance(balances, list):
        raise TypeError("no token balances")
    for balance in balances:
        if keys[whole(balance["accountIndex"])] == account:
            amount = balance["uiTokenAmount"]["amount"]
            if not (isinstance(amount, str) and amount.isascii() and amount.isdigit()):
                raise TypeError("not an amount")
            return int(amount)
    return 0


def _memo(tx: VersionedTransaction) -> str | None:
    keys = tx.message.account_keys
    memos = [
        bytes(each.data).decode("utf-8", "replace")
        for each in tx.message.instructions
        if each.program_id_index < len(keys) and keys[each.program_id_index] == MEMO_PROGRAM
    ]
    return "; ".join(memos) or None
