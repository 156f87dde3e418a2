"""Watching what the wallets hold, so that somebody hears of one before it is empty."""

import asyncio
import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal

from policies import MICROS, format_usd
from proxy.chains import Unpayable
from proxy.chains.solana import SolanaChain, Wallet
from proxy.chains.solana.balances import balances
from proxy.ledger import Database, LedgerError
from proxy.tasks import end

log = logging.getLogger(__name__)

_NOTE = "SELECT note_balance($1, $2, $3, $4, $5)"
_ASSIGN = "SELECT assign_wallets($1)"


@dataclass(frozen=True, slots=True)
class Watched:
    """A wallet, by the name that policies know it by. `threshold`: micro-USD, USDC and CASH
    together; less than that is low."""

    name: str
    wallet: Wallet
    threshold: int


class BalanceWatch:
    """Looks every `interval` seconds and writes `wallet_balances`; one that falls under its
    threshold is an event for each agent that it pays for. Which of them that is, it keeps true."""

    def __init__(
        self,
        database: Database,
        chains: Iterable[SolanaChain],
        wallets: Iterable[Watched],
        *,
        interval: float,
    ) -> None:
        self._database = database
        self._chains = list(chains)
        self._wallets = list(wallets)
        self._interval = interval
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        if self._wallets:
            self._task = asyncio.create_task(self._watch(), name="balances")

    async def close(self) -> None:
        await end(self._task)

    async def _watch(self) -> None:
        while True:
            try:
                await self.assign()
            except LedgerError as error:
                log.info("which wallet pays for whom is not written: %s", error)
            for chain in self._chains:
                for watched in self._wallets:
                    try:
                        await self.look(chain, watched)
                    except (Unpayable, LedgerError) as error:
                        log.info(
                            "what the %s wallet holds on %s is not known: %s",
                            watched.name,
                            chain.network,
                            error,
                        )
            await asyncio.sleep(self._interval)

    async def assign(self) -> None:
        """Write down which wallet pays for which agent, by the policies. Raises LedgerError."""
        addresses = {watched.name: watched.wallet.address for watched in self._wallets}
        await self._database.fetchval(_ASSIGN, json.dumps(addresses))

    async def look(self, chain: SolanaChain, watched: Watched) -> None:
        """One look at one wallet. Raises Unpayable or LedgerError."""
        wallet = watched.wallet
        held = {
            asset.symbol: Decimal(units).scaleb(-asset.decimals)
            for asset, units in await balances(chain.rpc, wallet.pubkey, chain.network)
        }
        usdc, cash = held.get("USDC", Decimal(0)), held.get("CASH", Decimal(0))
        newly_low = await self._database.fetchval(
            _NOTE, wallet.address, chain.network, usdc, cash, Decimal(watched.threshold) / MICROS
        )
        if newly_low:
            log.warning(
                "the %s wallet %s holds %s USDC on %s, less than %s: send it some",
                watched.name,
                wallet.address,
                usdc,
                chain.network,
                format_usd(watched.threshold),
            )
