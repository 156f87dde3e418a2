"""What a wallet holds of the assets that can be paid with, in one question to the RPC."""

from solders.pubkey import Pubkey

from proxy.x402.assets import ASSETS, Asset

from .message import token_account
from .rpc import Account, Rpc


async def balances(rpc: Rpc, owner: Pubkey, network: str) -> list[tuple[Asset, int]]:
    """Each asset of our table on `network` (CAIP-2), with its atomic units. Raises Unpayable."""
    assets = [asset for asset in ASSETS if asset.network == network]
    accounts = await rpc.accounts([_account_of(owner, asset) for asset in assets])
    return [
        (asset, _amount(account, asset)) for asset, account in zip(assets, accounts, strict=True)
    ]


def _account_of(owner: Pubkey, asset: Asset) -> Pubkey:
    assert asset.token_program is not None, "Solana's assets all have one"
    mint, program = Pubkey.from_string(asset.address), Pubkey.from_string(asset.token_program)
    return token_account(owner, mint, program)


def _amount(account: Account | None, asset: Asset) -> int:
    """Of a token account: after its mint and its owner, eight bytes."""
    if account is None or str(account.owner) != asset.token_program:
        return 0
    return int.from_bytes(account.data[64:72], "little")
