"""One Solana network and its wallets: from an allowed offer to a signed authorization."""

import base64
import hashlib
from collections.abc import Mapping
from types import MappingProxyType

from cachetools import TTLCache
from solders.pubkey import Pubkey

from proxy.chains import DEFAULT_WALLET, Authorization, Unpayable
from proxy.x402 import Offer

from . import message
from .accounts import TokenAccounts
from .blockhash import Blockhashes
from .message import ReadBackError, Transfer
from .rpc import Blockhash, Rpc
from .wallet import Wallet

# Longer than any blockhash lives.
_REMEMBER_MESSAGES = 180.0
_TRIES_FOR_A_NEW_MESSAGE = 8
# What a facilitator needs to look at a payment and to bring it to a leader.
_BLOCKS_TO_SPARE = 10
_NONE: Mapping[str, Wallet] = MappingProxyType({})


class SolanaChain:
    """Implements `proxy.chains.Chain`. Without a wallet it refuses every payment, clearly."""

    def __init__(
        self,
        network: str,
        wallet: Wallet | None,
        rpc_url: str,
        *,
        named: Mapping[str, Wallet] = _NONE,
        rpc_timeout: float = 5.0,
    ) -> None:
        """`network`: CAIP-2 id; `wallet`: the default one; `named`: the others, by name;
        `rpc_timeout`: seconds. Raises ValueError for a bad URL."""
        self.network = network
        self.wallet = wallet
        self._wallets = dict(named) if wallet is None else {DEFAULT_WALLET: wallet, **named}
        self.rpc = Rpc(rpc_url, timeout=rpc_timeout)
        self._blockhashes = Blockhashes(self.rpc.latest_blockhash)
        self._accounts = TokenAccounts(self.rpc.accounts)
        self._not_unique: TTLCache[bytes, None] = TTLCache(8192, _REMEMBER_MESSAGES)

    @property
    def wallets(self) -> Mapping[str, str]:
        """Name → address."""
        return {name: wallet.address for name, wallet in self._wallets.items()}

    @property
    def rpc_calls(self) -> int:
        """Requests made to the RPC so far; a payment to a known receiver adds none."""
        return self.rpc.calls

    @property
    def rpc_errors(self) -> int:
        """How many of them failed."""
        return self.rpc.errors

    async def can_land(self, last_valid_block_height: int) -> bool:
        """By the confirmed height, never by a clock; see `proxy.chains.Chain`."""
        return await self.rpc.block_height() + _BLOCKS_TO_SPARE <= last_valid_block_height + 1

    async def check(self) -> None:
        """Raises Unpayable unless the RPC gave a blockhash that is young enough to sign with."""
        await self._blockhashes.check()

    async def start(self) -> None:
        """Begin to keep a fresh blockhash at hand."""
        if self._wallets:
            await self._blockhashes.start()

    async def close(self) -> None:
        """Stop, and close the connections to the RPC."""
        await self._blockhashes.close()
        await self._accounts.close()
        await self.rpc.close()

    async def prepare(
        self,
        offer: Offer,
        *,
        wallet: str | None = None,
        with_memo: bool = True,
        fresh_after: str | None = None,
    ) -> Authorization:
        """Build, check and sign a payment of exactly `offer`; see `proxy.chains.Chain`."""
        if offer.network != self.network:
            raise Unpayable("network_not_configured", "the offer is for a network not set up here")
        payer = self._payer(wallet)
        transfer = message.transfer_of(offer, payer.pubkey)
        await self._accounts.take(transfer, offer.asset)
        try:
            return await self._sign(payer, offer, transfer, with_memo, fresh_after)
        except BaseException:
            self._accounts.give_back(transfer.source, transfer.amount)
            raise

    def discard(self, authorization: Authorization) -> None:
        """Take back what `prepare` counted as gone: this authorization will never be sent."""
        self._not_unique.pop(authorization.message_sha256, None)
        source = Pubkey.from_string(authorization.source_account)
        self._accounts.give_back(source, authorization.amount)

    def _payer(self, name: str | None) -> Wallet:
        """The wallet of that name, and never another in its place."""
        wallet = self._wallets.get(name or DEFAULT_WALLET)
        if wallet is not None:
            return wallet
        if name in (None, DEFAULT_WALLET):
            raise Unpayable("no_wallet", "there is no wallet to pay from")
        raise Unpayable(
            "wallet_not_configured",
            f"This is to be paid from the wallet {name}, by the policy, and there is no such wallet"
            " here; no other pays in its place.",
        )

    async def _sign(
        self,
        wallet: Wallet,
        offer: Offer,
        transfer: Transfer,
        with_memo: bool,
        fresh_after: str | None,
    ) -> Authorization:
        memo = None
        if with_memo:
            memo = message.random_memo() if offer.memo is None else offer.memo.encode()
        unique = with_memo and offer.memo is None
        blockhash, raw = await self._message(offer, transfer, memo, unique, fresh_after)
        try:
            message.read_back(raw, offer, wallet.pubkey, memo, blockhash.hash)
        except ReadBackError as error:
            raise Unpayable(
                "unsafe_offer", "the built transaction is not what the offer asks for"
            ) from error
        signature = wallet.sign(raw)
        transaction = message.seal(raw, signature)
        return Authorization(
            payload={"transaction": base64.b64encode(transaction).decode()},
            network=offer.network,
            asset=offer.asset.address,
            amount=offer.amount,
            pay_to=offer.pay_to,
            payer=wallet.address,
            fee_payer=str(transfer.fee_payer),
            source_account=str(transfer.source),
            destination_account=str(transfer.destination),
            memo=None if memo is None else memo.decode(),
            blockhash=blockhash.hash,
            last_valid_block_height=blockhash.last_valid_block_height,
            blockhash_slot=blockhash.slot,
            client_signature=str(signature),
            message_sha256=hashlib.sha256(raw).digest(),
        )

    async def _message(
        self,
        offer: Offer,
        transfer: Transfer,
        memo: bytes | None,
        unique: bool,
        fresh_after: str | None,
    ) -> tuple[Blockhash, bytes]:
        """A message that was not signed before.

        With no memo, or with one that a seller gives to everyone, two equal payments differ in
        their blockhash only, and the chain takes equal messages for one payment.
        """
        for _ in range(_TRIES_FOR_A_NEW_MESSAGE):
            blockhash = await self._blockhash(offer, fresh_after)
            raw = message.build(transfer, memo, blockhash.hash)
            if unique:
                return blockhash, raw
            digest = hashlib.sha256(raw).digest()
            if digest not in self._not_unique:
                self._not_unique[digest] = None
                return blockhash, raw
            fresh_after = blockhash.hash
        raise Unpayable("rpc_unavailable", "too many equal payments at the same time", 1)

    async def _blockhash(self, offer: Offer, fresh_after: str | None) -> Blockhash:
        if fresh_after is not None:
            return await self._blockhashes.newer_than(fresh_after)
        # A server's hint saves its facilitator work, but only where we know how long it lives.
        return self._blockhashes.known(offer.recent_blockhash) or await self._blockhashes.current()
