"""Chains: from an offer that policy allowed to a signed authorization, at most one per request.

Each family of chains is a module behind the `Chain` protocol. Nothing here sends a payment: a
facilitator of the server's choice brings it on chain, so an `Authorization` carries everything
that is needed to find out later whether it did.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from proxy.x402 import Offer

DEFAULT_WALLET = "default"
"""The name of the wallet that pays where policy names none."""


@dataclass(frozen=True, slots=True)
class Authorization:
    """A signed payment that has not left the process yet. Amounts are atomic units of the asset."""

    payload: Mapping[str, Any] = field(hash=False, repr=False)
    """The scheme's part of the payment header: `{"transaction": "<base64>"}`. Bearer money."""
    network: str
    asset: str
    amount: int
    pay_to: str
    payer: str
    fee_payer: str
    source_account: str
    destination_account: str
    memo: str | None
    """The memo in the message: the seller's, else ours of 32 random hex digits; None without."""
    blockhash: str
    last_valid_block_height: int
    """From our own RPC. The payment can land up to one block later than this."""
    blockhash_slot: int
    """A lower bound for every scan of the chain that looks for this payment."""
    client_signature: str
    """Base58; known before sending, unlike the transaction's id, which is the fee payer's."""
    message_sha256: bytes
    """Of the signed bytes. The chain lets one message land once, whoever sends it how often."""


class Unpayable(Exception):
    """This offer cannot be paid now; nothing was signed that could leave.

    `code` is insufficient_funds, no_destination_account, no_wallet, wallet_not_configured,
    rpc_unavailable, unsafe_offer or network_not_configured; `detail` is one sentence of our own
    words and table values; `retry_after` is in seconds where waiting may help.
    """

    def __init__(self, code: str, detail: str, retry_after: int | None = None) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail
        self.retry_after = retry_after


class Chain(Protocol):
    """One network, and the wallets that pay on it. They share all but keys and balances."""

    network: str

    @property
    def wallets(self) -> Mapping[str, str]:
        """Name → address of those that can pay; `DEFAULT_WALLET` among them, if there is one."""

    async def start(self) -> None:
        """Begin to keep fresh what payments need. An unreachable RPC is no error here."""

    async def close(self) -> None:
        """Stop and release connections."""

    async def prepare(
        self,
        offer: Offer,
        *,
        wallet: str | None = None,
        with_memo: bool = True,
        fresh_after: str | None = None,
    ) -> Authorization:
        """Build, check and sign a payment of exactly `offer`. Raises Unpayable.

        `wallet` is the name of the one that pays, and no other ever does; None: the default one.
        `with_memo=False` is for old v1 facilitators that refuse a memo. `fresh_after` asks for a
        blockhash newer than that one: two equal payments without a memo of our own under one
        blockhash are one and the same transaction.
        """

    async def can_land(self, last_valid_block_height: int) -> bool:
        """Whether a payment of that blockhash can still be brought on chain, with some blocks to
        spare; by the height that our own RPC tells. Raises Unpayable."""

    async def check(self) -> None:
        """Raises Unpayable unless what the network must tell for a payment is at hand."""

    @property
    def rpc_calls(self) -> int:
        """Requests made to the RPC so far."""

    @property
    def rpc_errors(self) -> int:
        """How many of them failed."""

    def discard(self, authorization: Authorization) -> None:
        """Tell that this authorization was never sent and never will be."""
