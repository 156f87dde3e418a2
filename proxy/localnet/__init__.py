"""A whole x402 world on this machine: a Solana network, a facilitator and a paid API.

The programs that move tokens are the real ones (SPL Token, Token-2022 and Memo in LiteSVM); time,
confirmation and failure are under the caller's control. Nothing here is reachable from, or worth
anything on, a public network.
"""

from proxy.localnet.chain import LocalChain, TransferError
from proxy.localnet.network import Localnet
from proxy.localnet.tokens import CASH, USDC_DEVNET, USDC_MAINNET

__all__ = ["CASH", "USDC_DEVNET", "USDC_MAINNET", "LocalChain", "Localnet", "TransferError"]
