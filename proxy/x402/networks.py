"""One name per network: the CAIP-2 id, whatever a server calls it.

Servers write CAIP-2 ids in v2, short names in v1, and either in both. The short names come from the
official tables; `solana-mainnet` and `solana-mainnet-beta` were seen in the wild.
"""

SOLANA_MAINNET = "solana:5eykt4UsFv8P8NJdTREpY1vzqKqZKvdp"
SOLANA_DEVNET = "solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1"
SOLANA_TESTNET = "solana:4uhcVJyU9pJkvQyS88uRDiswHXSCkY3z"

SUPPORTED = frozenset({SOLANA_MAINNET, SOLANA_DEVNET, SOLANA_TESTNET})

_ALIASES = {
    "solana": SOLANA_MAINNET,
    "solana-mainnet": SOLANA_MAINNET,
    "solana-mainnet-beta": SOLANA_MAINNET,
    "solana-devnet": SOLANA_DEVNET,
    "solana-testnet": SOLANA_TESTNET,
}

# The v1 names of EVM chains, only to tell "not supported yet" from "never heard of". Their chain
# ids are left out on purpose: the official tables disagree on some of them.
_EVM_NAMES = frozenset(
    {
        "abstract",
        "abstract-testnet",
        "avalanche",
        "avalanche-fuji",
        "base",
        "base-mainnet",
        "base-sepolia",
        "celo",
        "educhain",
        "ethereum",
        "flare",
        "iotex",
        "megaeth",
        "monad",
        "monad-testnet",
        "peaq",
        "polygon",
        "polygon-amoy",
        "sei",
        "sei-testnet",
        "skale-base-sepolia",
        "stable",
        "stable-testnet",
        "story",
    }
)


def normalise(name: str) -> str | None:
    """The CAIP-2 id of a supported network, by its id or any known alias; None for every other."""
    if name in SUPPORTED:
        return name
    return _ALIASES.get(name.lower())


def is_evm(name: str) -> bool:
    """Whether a name means an EVM chain, which is known but not payable here."""
    return name.startswith("eip155:") or name.lower() in _EVM_NAMES
