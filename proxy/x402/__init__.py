"""The x402 wire format, versions 1 and 2: what is asked, how a payment is written, what came of it.

Pure: bytes and values in, values out; no socket, no clock, no key. Lenient in what it reads from
strangers, strict in what it calls payable. Signing lives in `proxy.chains`, deciding in `policies`.
"""

from .assets import ASSETS, Asset, find_asset
from .challenge import Challenge, Dropped, NotPayable, Offer, read_challenge
from .networks import SOLANA_DEVNET, SOLANA_MAINNET, SOLANA_TESTNET, normalise
from .outcome import Fate, Outcome, Settlement, read_outcome, read_settlement
from .payment import PAYMENT_HEADERS, payment_header, takes_identifier

__all__ = [
    "ASSETS",
    "PAYMENT_HEADERS",
    "SOLANA_DEVNET",
    "SOLANA_MAINNET",
    "SOLANA_TESTNET",
    "Asset",
    "Challenge",
    "Dropped",
    "Fate",
    "NotPayable",
    "Offer",
    "Outcome",
    "Settlement",
    "find_asset",
    "normalise",
    "payment_header",
    "read_challenge",
    "read_outcome",
    "read_settlement",
    "takes_identifier",
]
