"""The `exact` scheme on Solana: SPL Token and Token-2022 transfers, paid for by a facilitator."""

from .chain import SolanaChain
from .wallet import Wallet, WalletError

__all__ = ["SolanaChain", "Wallet", "WalletError"]
