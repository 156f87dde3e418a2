"""What wallets hold, as the running proxy saw it last."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from proxy.ledger.database import Database

# Agents that a wallet paid for before keep the row of back then.
_HELD = """
SELECT DISTINCT ON (wallet_address, network)
       wallet_address AS address, network, balance_usdc AS usdc, balance_cash AS cash,
       low_balance_event AS low, last_checked AS seen_at
FROM wallet_balances WHERE wallet_address = ANY ($1::text[])
ORDER BY wallet_address, network, last_checked DESC
"""


@dataclass(frozen=True, slots=True)
class Held:
    """In whole tokens, on a network by its CAIP-2 id. `low`: less than its threshold."""

    address: str
    network: str
    usdc: Decimal
    cash: Decimal
    low: bool
    seen_at: datetime


async def held(database: Database, addresses: Iterable[str]) -> list[Held]:
    """Of these wallets, for each network that one was looked at on. Raises LedgerError."""
    rows = await database.fetch(_HELD, list(addresses))
    return [
        Held(**{**row, "usdc": row["usdc"].normalize(), "cash": row["cash"].normalize()})
        for row in rows
    ]
