"""The assets this program pays with. Symbols and decimals come from here, never from a server.

A server that names another mint "USDC", or claims two decimals for it, changes nothing: an asset is
its address on its network. All of these are stablecoins at one US dollar with six decimals, the
official default assets of x402 on Solana.
"""

from dataclasses import dataclass

from .networks import SOLANA_DEVNET, SOLANA_MAINNET, SOLANA_TESTNET

SPL_TOKEN = "TokenkegQfeZyiNwAJbNbGKPFXCWuBvf9Ss623VQ5DA"  # noqa: S105 - an address
TOKEN_2022 = "TokenzQdBNbLqP5VEhdkAS6EPFLC1PHnBqCXEpPxuEb"  # noqa: S105 - an address


@dataclass(frozen=True, slots=True)
class Asset:
    """A token: CAIP-2 network, mint address, our symbol, decimals, and the program that owns it."""

    network: str
    address: str
    symbol: str
    decimals: int
    token_program: str | None

    def format(self, amount: int) -> str:
        """Atomic units as people write them: 1000 of six decimals is "0.001"."""
        whole, rest = divmod(amount, 10**self.decimals)
        decimals = f"{rest:0{self.decimals}d}".rstrip("0")
        return f"{whole}.{decimals}" if decimals else str(whole)


def _solana(network: str, symbol: str, address: str, token_program: str) -> Asset:
    return Asset(network, address, symbol, 6, token_program)


ASSETS: tuple[Asset, ...] = (
    _solana(SOLANA_MAINNET, "USDC", "EPjFWdd5AufqSSqeM2qN1xzybapC8G4wEGGkZwyTDt1v", SPL_TOKEN),
    _solana(SOLANA_MAINNET, "USDT", "Es9vMFrzaCERmJfrF4H2FYD4KCoNkY11McCe8BenwNYB", SPL_TOKEN),
    _solana(SOLANA_MAINNET, "USDG", "2u1tszSeqZ3qBWF3uNGPFc8TzMk2tdiwknnRMWGWjGWH", TOKEN_2022),
    _solana(SOLANA_MAINNET, "PYUSD", "2b1kV6DkPAnxd5ixfnxCpjxmKwqjjaYmCZfHsFu24GXo", TOKEN_2022),
    _solana(SOLANA_MAINNET, "CASH", "CASHx9KJUStyftLFWGvEVf59SGeG9sh5FfcnZMVPCASH", TOKEN_2022),
    *(
        asset
        for network in (SOLANA_DEVNET, SOLANA_TESTNET)
        for asset in (
            _solana(network, "USDC", "4zMMC9srt5Ri5X14GAgXhaHii3GnPAEERYPJgZJDncDU", SPL_TOKEN),
            _solana(network, "USDG", "4F6PM96JJxngmHnZLBh9n58RH4aTVNWvDs2nuwrT5BP7", TOKEN_2022),
            _solana(network, "PYUSD", "CXk2AMBfi3TwaEL2468s6zP8xq9NxTXjp9gjMgzeUynM", TOKEN_2022),
        )
    ),
)

_BY_ADDRESS = {(asset.network, asset.address): asset for asset in ASSETS}


def find_asset(network: str, address: str) -> Asset | None:
    """Our entry for a mint on a network (CAIP-2), or None: then it is not payable."""
    return _BY_ADDRESS.get((network, address))
