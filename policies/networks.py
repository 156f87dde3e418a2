"""The names people write for networks, as CAIP-2 ids.

The wire format knows more spellings (`proxy/x402/networks.py`); these are the ones a policy may
use. A name that is not here stands for itself, and so allows nothing but a network of that name.
"""

import re

from policies.errors import PolicyError

_CAIP_2 = re.compile(r"[-a-z0-9]{3,8}:[-_a-zA-Z0-9]{1,32}")
_NAMES = {
    "solana": "solana:5eykt4UsFv8P8NJdTREpY1vzqKqZKvdp",
    "solana-mainnet": "solana:5eykt4UsFv8P8NJdTREpY1vzqKqZKvdp",
    "solana-mainnet-beta": "solana:5eykt4UsFv8P8NJdTREpY1vzqKqZKvdp",
    "solana-devnet": "solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1",
    "solana-testnet": "solana:4uhcVJyU9pJkvQyS88uRDiswHXSCkY3z",
}


def canonical_network(name: str) -> str:
    """`"solana-devnet"` → its CAIP-2 id; anything else → itself."""
    return _NAMES.get(name.lower(), name)


def checked_network(name: str) -> str:
    """As `canonical_network`. Raises PolicyError for what is no network: `devnet` is none, though
    settings call one so."""
    network = canonical_network(name)
    if _CAIP_2.fullmatch(network) is None:
        raise PolicyError(
            f"network {name[:60]!r}: write solana, solana-devnet, solana-testnet or a CAIP-2 id"
        )
    return network
