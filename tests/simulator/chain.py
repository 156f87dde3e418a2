"""A chain and its nodes. The chain is the truth by which a run is judged; the nodes may lag,
forget, answer in another order, or not at all.

Real messages and signatures, an own ledger of one token. The rules that matter are the chain's own:
a message lands once; in block n if its hash is of one of the blocks n - 151 to n - 1; blocks may be
dropped with what they hold until 32 more are built on them.
"""

import asyncio
import base64
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from random import Random
from typing import Any

from solders.hash import Hash
from solders.keypair import Keypair
from solders.message import from_bytes_versioned
from solders.pubkey import Pubkey
from solders.signature import Signature
from solders.transaction import VersionedTransaction

from proxy.chains import Unpayable
from proxy.chains.solana.message import MEMO_PROGRAM, Transfer, build, token_account
from proxy.chains.solana.rpc import Rpc, RpcRefusal
from proxy.x402.assets import SPL_TOKEN
from tests.simulator.faults import Faults

MINT = Pubkey.from_string("4zMMC9srt5Ri5X14GAgXhaHii3GnPAEERYPJgZJDncDU")
TOKEN = Pubkey.from_string(SPL_TOKEN)
FINALITY = 32
FEE = 10_000
FUNDS = 50_000_000


@dataclass
class Tx:
    """A payment with its fee payer's signature, as anybody who has it can send it."""

    raw: str
    signature: str
    client_signature: str
    message: bytes
    blockhash: str
    amount: int
    source: str
    destination: str
    memo: str
    keys: list[str]
    deposit: bool = False
    """It gave us money."""
    slot: int = 0
    height: int = 0
    failed: bool = False
    left: int = 0
    """What our account held after it."""

    @property
    def change(self) -> int:
        """Of what our account holds."""
        return 0 if self.failed else self.amount if self.deposit else -self.amount


@dataclass
class Block:
    height: int
    slot: int
    hash: str
    txs: list[Tx] = field(default_factory=list)


@dataclass
class Waiting:
    tx: Tx
    not_before: int
    """A height."""


class Chain:
    """`advance()` makes a block, or skips a slot."""

    def __init__(self, random: Random, wallet: Pubkey) -> None:
        self.random = random
        self.source = str(token_account(wallet, MINT, TOKEN))
        self.wallet = wallet
        self.funds = 0
        self.blocks: list[Block] = []
        self.slot = 1_000
        self.pool: list[Waiting] = []
        self.ever: dict[str, Tx] = {}
        """By our signature: whatever anybody has of us."""
        self.on_landing: Callable[[Tx], None] = lambda _: None
        self.rooted = 0
        """So many blocks are final."""
        self._heights: dict[str, int] = {}
        self._messages: set[bytes] = set()
        self._forks = 0
        self.advance()
        self.submit(self._deposit())
        for _ in range(FINALITY + 40):  # more than any node is behind
            self.advance()
        self.ever.clear()

    @property
    def height(self) -> int:
        return self.blocks[-1].height if self.blocks else 500

    def landed(self) -> list[Tx]:
        """Everything that is on the chain now, failed ones too."""
        return [tx for block in self.blocks for tx in block.txs]

    def moved(self) -> list[Tx]:
        """What has cost us money."""
        return [tx for tx in self.landed() if not (tx.failed or tx.deposit)]

    def submit(self, tx: Tx, not_before: int = 0) -> None:
        self.ever.setdefault(tx.client_signature, tx)
        self.pool.append(Waiting(tx, not_before))

    def last_height(self, tx: Tx) -> int:
        """The last block that may hold it; 0 if its hash is of a fork that died."""
        made = self._heights.get(tx.blockhash)
        return 0 if made is None else made + 151

    def advance(self, *, skip: float = 0.0, lazy: float = 0.0) -> None:
        """`skip`: the chance that nobody makes this slot's block; `lazy`: that a payment which
        could be in it is not."""
        self.slot += 1
        if self.random.random() < skip:
            return
        height = self.height + 1
        name = sha256(f"{self._forks}/{self.slot}/{height}".encode()).digest()
        block = Block(height, self.slot, str(Hash(name)))
        keep = []
        for waiting in self.pool:
            tx = waiting.tx
            last = self.last_height(tx)
            if tx.message in self._messages or height > last:
                continue  # it is there already, or can't be any more
            # Whoever holds it back until its last block gets it into that one.
            if height < waiting.not_before or (height < last and self.random.random() < lazy):
                keep.append(waiting)
                continue
            self._land(tx, block)
        self.pool = keep
        self.blocks.append(block)
        self.rooted = max(self.rooted, len(self.blocks) - FINALITY)
        self._heights[block.hash] = height

    def _land(self, tx: Tx, block: Block) -> None:
        tx.slot, tx.height = block.slot, block.height
        tx.failed = not tx.deposit and tx.amount > self.funds
        self.funds += tx.change
        tx.left = self.funds
        self._messages.add(tx.message)
        block.txs.append(tx)
        self.on_landing(tx)

    def fork(self, depth: int, *, again: bool) -> None:
        """The last blocks were on a fork that died; what they held may come again."""
        self._forks += 1
        for _ in range(min(depth, len(self.blocks) - self.rooted)):
            block = self.blocks.pop()
            del self._heights[block.hash]
            for tx in reversed(block.txs):
                self.funds -= tx.change
                self._messages.discard(tx.message)
                if again:
                    self.pool.append(Waiting(tx, 0))

    def _deposit(self) -> Tx:
        """Somebody's transfer to us: the account's very first transaction."""
        other, fee_payer = (Keypair.from_seed(bytes([n]) * 32) for n in (1, 2))
        transfer = Transfer(
            payer=other.pubkey(),
            fee_payer=fee_payer.pubkey(),
            pay_to=self.wallet,
            mint=MINT,
            token_program=TOKEN,
            source=token_account(other.pubkey(), MINT, TOKEN),
            destination=Pubkey.from_string(self.source),
            amount=FUNDS,
            decimals=6,
        )
        raw = build(transfer, b"for you", self.blocks[-1].hash)
        given = VersionedTransaction.populate(
            from_bytes_versioned(raw), [Signature.default(), other.sign_message(raw)]
        )
        tx = self.take(base64.b64encode(bytes(given)).decode(), fee_payer)
        tx.deposit = True
        return tx

    def take(self, payload: str, fee_payer: Keypair) -> Tx:
        """What a facilitator makes of what it was given: signed, ready to be sent."""
        given = VersionedTransaction.from_bytes(base64.b64decode(payload))
        message, ours = given.message, given.signatures[1]
        raw = bytes([0x80]) + bytes(message)
        known = self.ever.get(str(ours))
        if known is not None:
            return known
        signed = VersionedTransaction.populate(message, [fee_payer.sign_message(raw), ours])
        keys = [str(key) for key in message.account_keys]
        transfer = message.instructions[2]
        accounts = [keys[index] for index in transfer.accounts]
        memos = [
            bytes(each.data).decode()
            for each in message.instructions
            if message.account_keys[each.program_id_index] == MEMO_PROGRAM
        ]
        return Tx(
            raw=base64.b64encode(bytes(signed)).decode(),
            signature=str(signed.signatures[0]),
            client_signature=str(ours),
            message=raw,
            blockhash=str(message.recent_blockhash),
            amount=int.from_bytes(bytes(transfer.data)[1:9], "little"),
            source=accounts[0],
            destination=accounts[2],
            memo="; ".join(memos),
            keys=keys,
        )


class SimRpc(Rpc):
    """One node of the chain, asked without a socket. `lag`: how many blocks it is behind."""

    def __init__(self, chain: Chain, faults: Faults, url: str) -> None:
        super().__init__(url)
        self._chain = chain
        self._faults = faults

    async def close(self) -> None: ...

    async def call(self, method: str, *params: Any) -> Any:
        self.calls += 1
        await asyncio.sleep(self._faults.rpc_latency())
        if self._faults.rpc_fails(self.name):
            self.errors += 1
            raise Unpayable("rpc_unavailable", f"{self.name} does not answer", retry_after=1)
        return getattr(self, f"_{method}")(*params)

    # --- what it can see

    def _blocks(self, level: str, options: dict[str, Any] | None = None) -> list[Block]:
        blocks = self._chain.blocks
        lag = self._faults.rpc_lag(self.name)
        end = self._chain.rooted if level == "finalized" else len(blocks)
        shown = blocks[: end - lag]
        if options and shown[-1].slot < options.get("minContextSlot", 0):
            raise RpcRefusal("it has not come so far", -32016)
        return shown

    def _txs(self, level: str, options: dict[str, Any] | None = None) -> list[Tx]:
        return [tx for block in self._blocks(level, options) for tx in block.txs]

    def _getLatestBlockhash(self, options: dict[str, Any]) -> Any:  # noqa: N802
        last = self._blocks(options["commitment"])[-1]
        value = {"blockhash": last.hash, "lastValidBlockHeight": last.height + 150}
        return {"context": {"slot": last.slot}, "value": value}

    def _getBlockHeight(self, options: dict[str, Any]) -> Any:  # noqa: N802
        return self._blocks(options["commitment"])[-1].height

    def _getEpochInfo(self, options: dict[str, Any]) -> Any:  # noqa: N802
        last = self._blocks(options["commitment"])[-1]
        return {"blockHeight": last.height, "absoluteSlot": last.slot}

    def _getMultipleAccounts(self, keys: list[str], _options: Any) -> Any:  # noqa: N802
        def account(key: str) -> Any:
            ours = key == self._chain.source
            amount = self._chain.funds if ours else 0
            owner = self._chain.wallet if ours else OWNERS[key]
            data = bytes(MINT) + bytes(owner) + amount.to_bytes(8, "little")
            data = data.ljust(108, b"\0") + b"\1" + bytes(56)
            return {"owner": str(TOKEN), "data": [base64.b64encode(data).decode(), "base64"]}

        return {"context": {"slot": self._chain.slot}, "value": [account(key) for key in keys]}

    def _getSignaturesForAddress(self, account: str, options: dict[str, Any]) -> Any:  # noqa: N802
        assert account == self._chain.source
        txs = self._faults.index(self.name, self._txs(options["commitment"], options)[::-1])
        names = [tx.signature for tx in txs]
        if options.get("before") in names:
            txs = txs[names.index(options["before"]) + 1 :]
        names = [tx.signature for tx in txs]
        if options.get("until") in names:
            txs = txs[: names.index(options["until"])]
        return [
            {
                "signature": tx.signature,
                "slot": tx.slot,
                "memo": f"[{len(tx.memo)}] {tx.memo}" if tx.memo else None,
            }
            for tx in txs[: options["limit"]]
        ]

    def _getTransaction(self, signature: str, options: dict[str, Any]) -> Any:  # noqa: N802
        for tx in self._txs(options["commitment"]):
            if tx.signature == signature:
                return {
                    "slot": tx.slot,
                    "transaction": [tx.raw, "base64"],
                    "meta": {
                        "err": {"InstructionError": [2, {"Custom": 1}]} if tx.failed else None,
                        "fee": FEE,
                        "preTokenBalances": [self._held(tx, tx.left - tx.change)],
                        "postTokenBalances": [self._held(tx, tx.left)],
                    },
                }
        return None

    def _getSignatureStatuses(self, names: list[str], _options: Any) -> Any:  # noqa: N802
        final = {tx.signature for tx in self._txs("finalized")}
        there = {tx.signature: tx for tx in self._txs("confirmed")}

        def status(name: str) -> Any:
            tx = there.get(name)
            if tx is None:
                return None
            level = "finalized" if name in final else "confirmed"
            err = {"InstructionError": [2, {"Custom": 1}]} if tx.failed else None
            return {"slot": tx.slot, "err": err, "confirmations": 1, "confirmationStatus": level}

        return {"context": {"slot": self._chain.slot}, "value": [status(name) for name in names]}

    def _getTokenAccountBalance(self, account: str, options: dict[str, Any]) -> Any:  # noqa: N802
        assert account == self._chain.source
        blocks = self._blocks("finalized", options)
        amount = sum(tx.change for block in blocks for tx in block.txs)
        return {"context": {"slot": blocks[-1].slot}, "value": {"amount": str(amount)}}

    def _held(self, tx: Tx, amount: int) -> Any:
        index = tx.keys.index(self._chain.source)
        return {"accountIndex": index, "uiTokenAmount": {"amount": str(amount)}}


OWNERS: dict[str, Pubkey] = {}
"""Whose the receivers' token accounts are."""
