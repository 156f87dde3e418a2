"""What the wallet holds, as the networks' RPC nodes tell it."""

from decimal import Decimal

from proxy.chains.solana import Wallet
from proxy.chains.solana.balances import balances as on_chain
from proxy.chains.solana.rpc import Rpc
from proxy.settings import NETWORK_IDS, Settings


async def balances(wallet: Wallet, settings: Settings) -> list[tuple[str, str, str]]:
    """(network, symbol, amount) of every token that could be paid with. Raises Unpayable."""
    found: list[tuple[str, str, str]] = []
    for alias, network in settings.networks.items():
        rpc = Rpc(network.rpc_url)
        try:
            held = await on_chain(rpc, wallet.pubkey, NETWORK_IDS[alias])
        finally:
            await rpc.close()
        for asset, units in held:
            amount = f"{Decimal(units).scaleb(-asset.decimals):f}" if units else "0"
            found.append((alias, asset.symbol, amount))
    return found
