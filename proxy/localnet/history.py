"""What landed: one record per transaction, found by its first signature or by any account in it."""

from collections import defaultdict, deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from solders.pubkey import Pubkey
from solders.signature import Signature
from solders.transaction import VersionedTransaction

from proxy.localnet.tokens import MEMO, Holding

KEPT = 50_000  # a chain left running for days must not eat the machine


@dataclass(frozen=True, slots=True)
class TokenBalance:
    account_index: int
    holding: Holding
    decimals: int
    program: Pubkey


@dataclass(frozen=True, slots=True)
class Landed:
    """A transaction in a block. `err` is agave's JSON for a transaction error, None on success."""

    transaction: VersionedTransaction
    height: int
    slot: int
    block_time: int  # seconds since the epoch
    err: Any
    logs: tuple[str, ...]
    compute_units: int
    fee: int  # lamports
    pre_balances: tuple[int, ...]  # lamports, in the order of the message's account keys
    post_balances: tuple[int, ...]
    pre_tokens: tuple[TokenBalance, ...]
    post_tokens: tuple[TokenBalance, ...]

    @property
    def signature(self) -> Signature:
        return self.transaction.signatures[0]

    @property
    def memo(self) -> str | None:
        """As nodes index it: `[bytes] text`, several joined by `; `."""
        keys = self.transaction.message.account_keys
        memos = [
            bytes(instruction.data)
            for instruction in self.transaction.message.instructions
            if keys[instruction.program_id_index] == MEMO
        ]
        return "; ".join(f"[{len(memo)}] {_text(memo)}" for memo in memos) or None


class History:
    def __init__(self) -> None:
        self._by_signature: dict[Signature, Landed] = {}
        self._by_address: defaultdict[Pubkey, deque[Landed]] = defaultdict(deque)
        self.first_slot = 0
        """What is older has been forgotten."""

    def __len__(self) -> int:
        return len(self._by_signature)

    def add(self, record: Landed) -> None:
        self._by_signature[record.signature] = record
        for address in record.transaction.message.account_keys:
            self._by_address[address].append(record)
        if len(self._by_signature) > KEPT:
            self._forget(next(iter(self._by_signature.values())))

    def get(self, signature: Signature) -> Landed | None:
        return self._by_signature.get(signature)

    def newest_first(self, address: Pubkey) -> Iterator[Landed]:
        return reversed(self._by_address.get(address, deque()))

    def forget_after(self, height: int) -> list[Landed]:
        """Take out what is in later blocks."""
        gone = [record for record in self._by_signature.values() if record.height > height]
        for record in gone:
            del self._by_signature[record.signature]
            for address in record.transaction.message.account_keys:
                self._by_address[address].remove(record)
        return gone

    def _forget(self, oldest: Landed) -> None:
        del self._by_signature[oldest.signature]
        self.first_slot = oldest.slot + 1
        for address in oldest.transaction.message.account_keys:
            records = self._by_address[address]
            records.popleft()  # the oldest of all is the oldest of each of its accounts
            if not records:
                del self._by_address[address]


def _text(memo: bytes) -> str:
    try:
        return memo.decode()
    except UnicodeDecodeError:  # the memo program refuses it, but a failed transaction lands too
        return "(unparseable)"
