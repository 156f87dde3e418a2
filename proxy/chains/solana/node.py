"""What one RPC node is asked about payments. Every failure is Unpayable("rpc_unavailable")."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from solders.signature import Signature

from proxy.chains import Unpayable

from .fate import Balance, Level, Seen, Status
from .rpc import Rpc, RpcRefusal
from .transaction import read_transaction, whole

PAGE = 1_000
MOST_STATUSES = 256
_INVALID_PARAMS = -32602


@dataclass(frozen=True, slots=True)
class Tip:
    """The end of a node's finalized chain."""

    height: int
    slot: int


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of getSignaturesForAddress."""

    signature: str
    slot: int
    memo: str
    time: int | None
    """Of its block, Unix seconds, as the cluster's clock says; nodes do not always know it."""


class Node:
    """One RPC, read strictly. Compare by `name`: host and port, never the URL, which has keys."""

    def __init__(self, rpc: Rpc) -> None:
        self.rpc = rpc
        self.name = rpc.name

    async def finalized(self) -> Tip:
        """Height and slot of the newest finalized block. Raises Unpayable."""
        answer = await self.rpc.call("getEpochInfo", {"commitment": "finalized"})
        try:
            return Tip(whole(answer["blockHeight"]), whole(answer["absoluteSlot"]))
        except (LookupError, TypeError):
            raise self._unintelligible("getEpochInfo") from None

    async def page(
        self, account: str, level: Level, min_slot: int, before: str | None, until: str | None
    ) -> list[Entry]:
        """Up to a thousand signatures, newest first, as the node sorts them. Raises Unpayable,
        also if the node has not reached `min_slot`."""
        options: dict[str, Any] = {"commitment": level, "minContextSlot": min_slot, "limit": PAGE}
        options |= {k: v for k, v in (("before", before), ("until", until)) if v is not None}
        answer = await self.rpc.call("getSignaturesForAddress", account, options)
        try:
            if not isinstance(answer, list):
                raise TypeError
            return [
                Entry(
                    str(Signature.from_string(line["signature"])),
                    whole(line["slot"]),
                    str(line.get("memo") or ""),
                    _time(line.get("blockTime")),
                )
                for line in answer
            ]
        except (LookupError, TypeError, ValueError, AttributeError):
            raise self._unintelligible("getSignaturesForAddress") from None

    async def transaction(self, signature: str, account: str, level: Level) -> Seen | None:
        """None if the node does not have it at this level. Raises Unpayable."""
        options = {"encoding": "base64", "commitment": level, "maxSupportedTransactionVersion": 0}
        answer = await self.rpc.call("getTransaction", signature, options)
        if answer is None:
            return None
        try:
            return read_transaction(answer, signature, account, level)
        except ValueError:
            raise self._unintelligible("getTransaction") from None

    async def statuses(self, signatures: Sequence[str], finalized_slot: int) -> dict[str, Status]:
        """Of those that the node has at least confirmed.

        Nodes of before 1.4 gave no level but `confirmations`, null where the block is final.
        Raises Unpayable.
        """
        found: dict[str, Status] = {}
        for start in range(0, len(signatures), MOST_STATUSES):
            asked = list(signatures[start : start + MOST_STATUSES])
            answer = await self.rpc.call(
                "getSignatureStatuses", asked, {"searchTransactionHistory": True}
            )
            try:
                for signature, status in zip(asked, answer["value"], strict=True):
                    if status is None:
                        continue
                    level, slot = status.get("confirmationStatus"), whole(status["slot"])
                    if level is None and status["confirmations"] is None:
                        level = "finalized" if slot <= finalized_slot else None
                    if level in ("confirmed", "finalized"):
                        found[signature] = Status(level, status["err"] is not None, slot)
            except (LookupError, TypeError, ValueError, AttributeError):
                raise self._unintelligible("getSignatureStatuses") from None
        return found

    async def block_time(self, slot: int) -> int | None:
        """When that block was made, Unix seconds; None if the node cannot say. Raises Unpayable."""
        try:
            return _time(await self.rpc.call("getBlockTime", slot))
        except RpcRefusal:
            return None
        except TypeError:
            raise self._unintelligible("getBlockTime") from None

    async def first_slot(self) -> int | None:
        """The oldest block that has not been purged here; None if the node cannot say. Raises
        Unpayable."""
        try:
            return whole(await self.rpc.call("getFirstAvailableBlock"))
        except RpcRefusal:
            return None
        except TypeError:
            raise self._unintelligible("getFirstAvailableBlock") from None

    async def balance(self, account: str, min_slot: int) -> Balance | None:
        """What the token account held at a finalized slot not before `min_slot`; None if it does
        not exist. Raises Unpayable."""
        options = {"commitment": "finalized", "minContextSlot": min_slot}
        try:
            answer = await self.rpc.call("getTokenAccountBalance", account, options)
        except RpcRefusal as refusal:
            if refusal.rpc_code == _INVALID_PARAMS:
                return None
            raise
        try:
            slot, amount = whole(answer["context"]["slot"]), answer["value"]["amount"]
            if slot < min_slot or not (isinstance(amount, str) and amount.isdigit()):
                raise ValueError
            return Balance(slot, int(amount))
        except (LookupError, TypeError, ValueError):
            raise self._unintelligible("getTokenAccountBalance") from None

    def _unintelligible(self, method: str) -> Unpayable:
        return Unpayable(
            "rpc_unavailable",
            f"the Solana RPC at {self.name} answered {method} with what Solana nodes do not say",
            retry_after=2,
        )


def _time(value: Any) -> int | None:
    """Raises TypeError."""
    return None if value is None else whole(value)
