"""Watching what the wallet holds, so that somebody hears of it before it is empty."""

import asyncio
import logging
from collections.abc import Iterable
from decimal import Decimal

from policies import MICROS, format_usd
from proxy.chains import Unpayable
from proxy.chains.solana import SolanaChain
from proxy.chains.solana.balances import balances
from proxy.ledger import Database, LedgerError

log = logging.getLogger(__name__)

_NOTE = "SELECT note_balance($1, $2, $3, $4, $5)"
_ADOPT = "SELECT adopt_wallet($1)"


class BalanceWatch:
    """Looks every `interval` seconds and writes `wallet_balances`; one that falls under
    `threshold` (micro-USD, USDC and CASH together) is an event for each agent that it pays for."""

    def __init__(
        self,
        database: Database,
        chains: Iterable[SolanaChain],
        *,
        threshold: int,
        interval: float,
    ) -> None:
        self._database = database
        self._chains = [chain for chain in chains if chain.wallet is not None]
        self._threshold = Decimal(threshold) / MICROS
        self._interval = interval
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        if self._chains:
            self._task = asyncio.create_task(self._watch(), name="balances")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _watch(self) -> None:
        while True:
            for chain in self._chains:
                try:
                    await self.look(chain)
                except (Unpayable, LedgerError) as error:
                    log.info("the balance on %s is not known: %s", chain.network, error)
            await asyncio.sleep(self._interval)

    async def look(self, chain: SolanaChain) -> None:
        """One look at one wallet. Raises Unpayable or LedgerError."""
        assert chain.wallet is not None
        wallet = chain.wallet.address
        await self._database.fetchval(_ADOPT, wallet)
        held = {
            asset.symbol: Decimal(units).scaleb(-asset.decimals)
            for asset, units in await balances(chain.rpc, chain.wallet.pubkey, chain.network)
        }
        usdc, cash = held.get("USDC", Decimal(0)), held.get("CASH", Decimal(0))
        newly_low = await self._database.fetchval(
            _NOTE, wallet, chain.network, usdc, cash, self._threshold
        )
        if newly_low:
            log.warning(
                "the wallet %s holds %s USDC on %s, less than %s: send it some",
                wallet,
                usdc,
                chain.network,
                format_usd(int(self._threshold * MICROS)),
            )
