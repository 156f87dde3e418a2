"""The wallets of the settings: where their keys are, and the keys that are there."""

from pathlib import Path

from proxy.chains import DEFAULT_WALLET
from proxy.chains.solana import Wallet, WalletError
from proxy.settings import Settings


def wallet_files(settings: Settings) -> dict[str, Path]:
    """Name → key file of every wallet, whether there is a key or not; the default one first."""
    files = {DEFAULT_WALLET: settings.wallet_path}
    for name, wallet in settings.wallets.items():
        files[name] = wallet.path or settings.data_dir / f"wallet-{name}.json"
    return files


def wallet_file(settings: Settings, name: str) -> Path:
    """The key file of one wallet. Raises WalletError if the settings have none of that name."""
    files = wallet_files(settings)
    if name not in files:
        raise WalletError(f"there is no wallet {name} in the settings: add [wallets.{name}]")
    return files[name]


def low_balance(settings: Settings, name: str) -> int:
    """Under how much (micro-USD) a wallet is low."""
    own = settings.wallets[name].low_balance if name in settings.wallets else None
    return settings.wallet.low_balance if own is None else own


def load_wallets(settings: Settings) -> dict[str, Wallet]:
    """Name → wallet, of those whose key is there.

    Raises WalletError for a file that is no key or that others can read, and for one key under two
    names: each name has its own money.
    """
    found: dict[str, Wallet] = {}
    names: dict[str, str] = {}
    for name, path in wallet_files(settings).items():
        if not path.exists():
            continue
        wallet = found[name] = Wallet.load(path)
        first = names.setdefault(wallet.address, name)
        if first != name:
            raise WalletError(f"the wallets {first} and {name} are the same key: {wallet.address}")
    return found
