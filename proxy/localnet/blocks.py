"""Block heights, blockhashes and commitment: the chain's idea of time, with no clock in it.

`height` is the block being produced; a transaction that arrives now lands in it. The youngest hash
anyone can know is the one of its parent. A hash of block h is usable while its age in the parent's
queue is at most 150, so it lands in blocks h+1 … h+151, one more than the `lastValidBlockHeight`
= h+150 that getLatestBlockhash reports (agave: blockhash_queue.rs, check_transactions.rs).
"""

import hashlib
import os
from typing import Literal, get_args

from solders.hash import Hash

Commitment = Literal["processed", "confirmed", "finalized"]
COMMITMENTS: tuple[Commitment, ...] = get_args(Commitment)

MAX_AGE = 150
FIRST_HEIGHT = 1_000
# Slots without a block, all before the first height: who confuses slot and height is wrong here.
SKIPPED_SLOTS = 64


class Blocks:
    """`confirmed_after` and `finalized_after` count blocks behind `height`."""

    def __init__(self, *, confirmed_after: int, finalized_after: int) -> None:
        self.height = FIRST_HEIGHT
        self._after = _lags(confirmed_after, finalized_after)
        self._reached: dict[Commitment, int] = dict.fromkeys(COMMITMENTS, 0)
        self._salt = os.urandom(16)  # two local chains never share a blockhash
        self._height_of: dict[Hash, int] = {}
        self._hash_of: dict[int, Hash] = {}
        oldest = FIRST_HEIGHT - finalized_after - MAX_AGE
        for height in range(max(0, oldest), FIRST_HEIGHT):
            self._close(height)
        self._settle()

    def set_lag(self, confirmed_after: int, finalized_after: int) -> None:
        """From the next block on, which begins now.

        Levels already reached stay reached: a cluster does not take back a finalized block.
        """
        self._after = _lags(confirmed_after, finalized_after)
        self.advance(1)

    def advance(self, blocks: int) -> None:
        for _ in range(blocks):
            self._close(self.height)
            self.height += 1
        self._settle()
        oldest = self.at("finalized") - MAX_AGE
        for height in list(self._hash_of):
            if height >= oldest:
                break
            del self._height_of[self._hash_of.pop(height)]

    def at(self, commitment: Commitment) -> int:
        """The height that a node answering at this commitment speaks for."""
        return self._reached[commitment]

    def level(self, height: int) -> Commitment:
        if height <= self.at("finalized"):
            return "finalized"
        return "confirmed" if height <= self.at("confirmed") else "processed"

    def slot(self, height: int) -> int:
        return height + SKIPPED_SLOTS

    def latest(self, commitment: Commitment) -> tuple[Hash, int]:
        """The youngest blockhash at this commitment and its last valid block height."""
        height = self._newest_hash(commitment)
        return self._hash_of[height], height + MAX_AGE

    def height_of(self, blockhash: Hash) -> int | None:
        """Of the block that it is the hash of; None for one that is none, or long dead."""
        return self._height_of.get(blockhash)

    def is_valid(self, blockhash: Hash, commitment: Commitment) -> bool:
        """For "processed": would a transaction that carries this hash land in the block at hand?"""
        height = self.height_of(blockhash)
        return height is not None and 0 <= self._newest_hash(commitment) - height <= MAX_AGE

    def _newest_hash(self, commitment: Commitment) -> int:
        return min(self.at(commitment), self.height - 1)

    def _settle(self) -> None:
        for commitment, behind in self._after.items():
            self._reached[commitment] = max(self._reached[commitment], self.height - behind)

    def _close(self, height: int) -> None:
        blockhash = Hash(hashlib.sha256(self._salt + height.to_bytes(8, "little")).digest())
        self._height_of[blockhash] = height
        self._hash_of[height] = blockhash


def _lags(confirmed_after: int, finalized_after: int) -> dict[Commitment, int]:
    if not 0 <= confirmed_after <= finalized_after:
        raise ValueError(
            f"0 <= confirmed_after <= finalized_after, not {confirmed_after}, {finalized_after}"
        )
    return {"processed": 0, "confirmed": confirmed_after, "finalized": finalized_after}
