"""The local Solana chain, without a socket: real programs, our own time, faults on request.

LiteSVM executes; everything a cluster adds around execution is here, because LiteSVM's own version
of it is too simple to test money against: the blockhash window, de-duplication by message, the
commitment levels (reads at an older level see the older balances), the transaction history, and
transactions that are lost or late on their way to the leader.

Of forks there is one kind: `roll_back` takes back all that is not finalized.
"""

import hashlib
import json
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from solders.account import Account
from solders.compute_budget import set_compute_unit_price
from solders.hash import Hash
from solders.instruction import Instruction
from solders.keypair import Keypair
from solders.litesvm import LiteSVM
from solders.message import MessageV0, to_bytes_versioned
from solders.pubkey import Pubkey
from solders.signature import Signature
from solders.system_program import ID as SYSTEM_PROGRAM
from solders.system_program import TransferParams
from solders.system_program import transfer as system_transfer
from solders.transaction import VersionedTransaction
from solders.transaction_metadata import FailedTransactionMetadata

from proxy.localnet.blocks import FIRST_HEIGHT, MAX_AGE, Blocks, Commitment
from proxy.localnet.history import History, Landed, TokenBalance
from proxy.localnet.tokens import (
    MEMO,
    MINTS,
    TOKEN_PROGRAMS,
    Holding,
    ata,
    mint_account,
    read_holding,
    read_mint,
    token_account,
    transfer_checked,
)

# The first 32 characters are the CAIP-2 reference of devnet.
DEVNET_GENESIS = "EtWTRABZaYq6iMfeYKouRu166VU2xqa1wcaWoxPkrZBG"
LAMPORTS_PER_SIGNATURE = 5_000
SUPPLY = 10**15


class TransferError(Exception):
    """A helper's own transaction did not land, or landed with an error."""


@dataclass(frozen=True, slots=True)
class Execution:
    """What running a transaction gave. `err` is agave's JSON for it, None on success."""

    err: Any
    logs: tuple[str, ...] = ()
    compute_units: int = 0


class LocalChain:
    """One chain that answers for devnet and for mainnet alike: the mints of both are on it.

    Use it from one thread. Amounts are atomic units, fees and balances of accounts are lamports.

    Faults, all under the caller's control:
      `drop_next(n)`  the next n sent transactions are lost on the way, silently;
      `hold()`, `release()`  sent transactions wait outside the chain; released ones may land;
      `index_lag`     getSignaturesForAddress does not see the youngest n slots;
      `unindexed`     signatures that it never sees at all.
    """

    def __init__(
        self,
        *,
        confirmed_after: int = 0,
        finalized_after: int = 32,
        index_lag: int = 0,
        genesis: str = DEVNET_GENESIS,
    ) -> None:
        self.blocks = Blocks(confirmed_after=confirmed_after, finalized_after=finalized_after)
        self.history = History()
        self.genesis = genesis
        self.index_lag = index_lag
        self.unindexed: set[Signature] = set()
        self.held: list[VersionedTransaction] = []
        self.holding = False
        self._drops = 0
        self._faucet = Keypair()
        self._begun = int(time.time())
        self._made: dict[int, int] = {}  # when the young blocks were made, by height
        self._unique = 0
        # Message hashes that landed, under the blockhash that fences them.
        self._landed: dict[Hash, set[bytes]] = {}
        # What an account held before it was written at a height: reads of older commitments.
        self._before: defaultdict[Pubkey, list[tuple[int, Account | None]]] = defaultdict(list)
        self._holdings_of: defaultdict[Pubkey, set[Pubkey]] = defaultdict(set)
        self._svm = LiteSVM()
        # Signatures, blockhashes and duplicates are ours to judge, so LiteSVM must not.
        self._svm.with_sigverify(False)
        self._svm.with_blockhash_check(False)
        self._svm.with_transaction_history(0)
        for mint, program in MINTS.items():
            self._svm.set_account(mint, mint_account(program, SUPPLY))
        self._svm.set_account(self._faucet.pubkey(), Account(10**17, b"", SYSTEM_PROGRAM))

    # Time

    def advance(self, blocks: int = 1) -> None:
        """Close the block at hand, and `blocks` - 1 empty ones after it."""
        now, height = int(time.time()), self.blocks.height
        self._made |= dict.fromkeys(range(height, height + blocks), now)
        self.blocks.advance(blocks)
        oldest = self.blocks.at("finalized") - MAX_AGE
        self._made = {height: at for height, at in self._made.items() if height >= oldest}
        alive = self.blocks.is_valid
        self._landed = {h: seen for h, seen in self._landed.items() if alive(h, "processed")}

    def block_time(self, height: int) -> int | None:
        """Unix seconds; None for a block of long ago, or that is not made yet."""
        return self._begun if height < FIRST_HEIGHT else self._made.get(height)

    # Money

    def fund(self, owner: Pubkey | str, mint: Pubkey | str, amount: int) -> Pubkey:
        """Add `amount` to the owner's token account, opening it if need be; returns its address.

        No transaction: it is there at once at every commitment level, as if it had always been.
        For a deposit that the chain remembers use `transfer`.
        """
        owner, mint = _key(owner), _key(mint)
        program = MINTS[mint]
        address = ata(owner, mint, program)

        def topped_up(account: Account | None) -> Account:
            held = read_holding(account)
            total = amount + (held.amount if held else 0)
            return token_account(Holding(mint, owner, total), program)

        self._svm.set_account(address, topped_up(self._svm.get_account(address)))
        past = self._before.get(address, [])
        self._before[address] = [(height, topped_up(before)) for height, before in past]
        self._holdings_of[owner].add(address)
        return address

    def airdrop(self, owner: Pubkey | str, lamports: int) -> Signature:
        """A real transaction from the chain's own faucet."""
        params = TransferParams(
            from_pubkey=self._faucet.pubkey(), to_pubkey=_key(owner), lamports=lamports
        )
        return self._run([system_transfer(params)], [])

    def transfer(
        self,
        payer: Keypair,
        pay_to: Pubkey | str,
        mint: Pubkey | str,
        amount: int,
        *,
        memo: str | None = None,
    ) -> Signature:
        """Move tokens in a real transaction, past every drop and hold; the faucet pays its fee.

        The receiver's token account must exist. Raises TransferError.
        """
        mint = _key(mint)
        program = MINTS[mint]
        steps = [transfer_checked(payer.pubkey(), _key(pay_to), mint, program, amount)]
        if memo is not None:
            steps.append(Instruction(MEMO, memo.encode(), []))
        return self._run(steps, [payer])

    def balance(
        self,
        owner: Pubkey | str,
        mint: Pubkey | str,
        commitment: Commitment = "processed",
    ) -> int:
        """Of the owner's associated token account; 0 if there is none."""
        mint = _key(mint)
        address = ata(_key(owner), mint, MINTS[mint])
        held = read_holding(self.account(address, commitment))
        return held.amount if held else 0

    # Transactions

    def submit(self, tx: VersionedTransaction) -> None:
        """Hand a transaction to the network. As on the real one, nobody says what became of it."""
        if self._drops:
            self._drops -= 1
        elif self.holding:
            self.held.append(tx)
        else:
            self._land(tx)

    def drop_next(self, count: int) -> None:
        self._drops = count

    def hold(self) -> None:
        self.holding = True

    def release(self) -> list[Signature]:
        """Stop holding; land what is held, in order. Returns the signatures that did land."""
        self.holding = False
        waiting, self.held = self.held, []
        return [landed.signature for tx in waiting if (landed := self._land(tx)) is not None]

    def simulate(
        self,
        tx: VersionedTransaction,
        *,
        commitment: Commitment = "processed",
        check_blockhash: bool = True,
    ) -> Execution:
        """Run without effect. The blockhash is judged at `commitment`, balances at the very tip."""
        if check_blockhash:
            refusal = self._refusal(tx, commitment)
            if refusal is not None:
                return Execution(refusal)
        return _execution(self._svm.simulate_transaction(tx))

    def roll_back(self) -> list[Signature]:
        """A fork dies: what is not finalized was never there, and may land again while its
        blockhash lives. Heights stay: other blocks take those places. Returns what is gone."""
        finalized = self.blocks.at("finalized")
        for address, past in self._before.items():
            undone = [before for height, before in past if height > finalized]
            if undone:
                nothing = Account(0, b"", SYSTEM_PROGRAM)
                self._svm.set_account(address, nothing if undone[0] is None else undone[0])
            self._before[address] = past[: len(past) - len(undone)]
        gone = self.history.forget_after(finalized)
        for record in gone:
            message = record.transaction.message
            self._landed[message.recent_blockhash].discard(message_hash(record.transaction))
        return [record.signature for record in gone]

    # Reading

    def account(self, address: Pubkey, commitment: Commitment = "processed") -> Account | None:
        """As it was at the end of the commitment's block; None if it does not exist."""
        height = self.blocks.at(commitment)
        account = self._svm.get_account(address)
        for written_at, before in self._before.get(address, ()):
            if written_at > height:
                account = before
                break
        return account if account is not None and account.lamports else None

    def holdings(self, owner: Pubkey, commitment: Commitment) -> list[tuple[Pubkey, Account]]:
        """The owner's token accounts of every mint, by address."""
        found = [(address, self.account(address, commitment)) for address in
                 sorted(self._holdings_of.get(owner, ()), key=bytes)]  # fmt: skip
        return [(address, account) for address, account in found if account is not None]

    def decimals(self, mint: Pubkey) -> int | None:
        known = read_mint(self._svm.get_account(mint))
        return known.decimals if known else None

    def rent_exempt(self, size: int) -> int:
        return self._svm.minimum_balance_for_rent_exemption(size)

    # How a transaction gets into a block

    def _refusal(self, tx: VersionedTransaction, commitment: Commitment) -> str | None:
        blockhash = tx.message.recent_blockhash
        if not self.blocks.is_valid(blockhash, commitment):
            return "BlockhashNotFound"
        # By message, not by signature: the fee payer may sign the same payment again and again.
        if message_hash(tx) in self._landed.get(blockhash, ()):
            return "AlreadyProcessed"
        return None

    def _land(self, tx: VersionedTransaction) -> Landed | None:
        """None when no leader would put it into a block; then nothing has changed."""
        if not signatures_hold(tx) or self._refusal(tx, "processed") is not None:
            return None
        message = tx.message
        keys = message.account_keys
        fee = LAMPORTS_PER_SIGNATURE * message.header.num_required_signatures
        before = [self._svm.get_account(key) for key in keys]
        execution = _execution(self._svm.send_transaction(tx))
        after = [self._svm.get_account(key) for key in keys]
        if execution.err is not None and _lamports(before[0]) - _lamports(after[0]) < fee:
            return None  # not even the fee was taken: it failed to load, and is not in the block
        for key, old, new in zip(keys, before, after, strict=True):
            if old != new:
                self._remember(key, old, new)
        self._landed.setdefault(message.recent_blockhash, set()).add(message_hash(tx))
        landed = Landed(
            transaction=tx,
            height=self.blocks.height,
            slot=self.blocks.slot(self.blocks.height),
            block_time=int(time.time()),
            err=execution.err,
            logs=execution.logs,
            compute_units=execution.compute_units,
            fee=fee,
            pre_balances=tuple(map(_lamports, before)),
            post_balances=tuple(map(_lamports, after)),
            pre_tokens=self._token_balances(before),
            post_tokens=self._token_balances(after),
        )
        self.history.add(landed)
        return landed

    def _remember(self, address: Pubkey, old: Account | None, new: Account | None) -> None:
        finalized = self.blocks.at("finalized")
        undo = [entry for entry in self._before[address] if entry[0] > finalized]
        self._before[address] = [*undo, (self.blocks.height, old)]
        held = read_holding(new)
        if held is not None:
            self._holdings_of[held.owner].add(address)

    def _token_balances(self, accounts: Sequence[Account | None]) -> tuple[TokenBalance, ...]:
        found = []
        for index, account in enumerate(accounts):
            if account is None or account.owner not in TOKEN_PROGRAMS:
                continue
            held = read_holding(account)
            if held is not None:
                decimals = self.decimals(held.mint) or 0
                found.append(TokenBalance(index, held, decimals, account.owner))
        return tuple(found)

    def _run(self, instructions: list[Instruction], signers: list[Keypair]) -> Signature:
        """Land a transaction of our own. The price makes each message unique, and costs nothing."""
        self._unique += 1
        message = MessageV0.try_compile(
            self._faucet.pubkey(),
            [set_compute_unit_price(self._unique), *instructions],
            [],
            self.blocks.latest("processed")[0],
        )
        landed = self._land(VersionedTransaction(message, [self._faucet, *signers]))
        if landed is None or landed.err is not None:
            raise TransferError("did not land" if landed is None else json.dumps(landed.err))
        return landed.signature


def message_hash(tx: VersionedTransaction) -> bytes:
    """What stays the same whoever signs: SHA-256 over the message as it is signed."""
    return hashlib.sha256(to_bytes_versioned(tx.message)).digest()


def signatures_hold(tx: VersionedTransaction) -> bool:
    return all(tx.verify_with_results())


def _execution(result: Any) -> Execution:
    failed = isinstance(result, FailedTransactionMetadata)
    meta = result if hasattr(result, "logs") else result.meta()
    # solders has the error as a tree of classes, and agave's JSON for it ready-made.
    err = json.loads(result.to_json())["err"] if failed else None
    return Execution(err, tuple(meta.logs()), meta.compute_units_consumed())


def _lamports(account: Account | None) -> int:
    return account.lamports if account is not None else 0


def _key(address: Pubkey | str) -> Pubkey:
    return Pubkey.from_string(address) if isinstance(address, str) else address
