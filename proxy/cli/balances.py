"""What the wallet holds, as the networks' RPC nodes tell it."""

from decimal import Decimal

from solders.pubkey import Pubkey

from proxy.chains.solana import Wallet
from proxy.chains.solana.message import token_account
from proxy.chains.solana.rpc import Account, Rpc
from proxy.settings import NETWORK_IDS, Settings
from proxy.x402.assets import ASSETS, Asset


async def balances(wallet: Wallet, settings: Settings) -> list[tuple[str, str, str]]:
    """(network, symbol, amount) of every token that could be paid with. Raises Unpayable."""
    found: list[tuple[str, str, str]] = []
    for alias, network in settings.networks.items():
        assets = [asset for asset in ASSETS if asset.network == NETWORK_IDS[alias]]
        rpc = Rpc(network.rpc_url)
        try:
            accounts = await rpc.accounts([_account_of(wallet, asset) for asset in assets])
        finally:
            await rpc.close()
        for asset, account in zip(assets, accounts, strict=True):
            found.append((alias, asset.symbol, _amount(account, asset)))
    return found


def _account_of(wallet: Wallet, asset: Asset) -> Pubkey:
    assert asset.token_program is not None, "Solana's assets all have one"
    mint, program = Pubkey.from_string(asset.address), Pubkey.from_string(asset.token_program)
    return token_account(wallet.pubkey, mint, program)


def _amount(account: Account | None, asset: Asset) -> str:
    """Of a token account: after its mint and its owner, eight bytes."""
    if account is None or str(account.owner) != asset.token_program:
        return "0"
    units = int.from_bytes(account.data[64:72], "little")
    return f"{Decimal(units).scaleb(-asset.decimals):f}"
