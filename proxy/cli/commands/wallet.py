"""The key that payments are signed with. It is kept in a file that only you can read.

There may be more than one, under [wallets] in the settings; policies name which of them pays.
A proxy that runs already keeps the wallets it started with: restart `autopay serve` after a change.
"""

import argparse
import asyncio
import getpass
import sys
from pathlib import Path

from proxy import paths
from proxy.chains import DEFAULT_WALLET
from proxy.chains.solana import Wallet
from proxy.chains.solana.wallet import WalletError
from proxy.cli.balances import balances
from proxy.cli.errors import CommandError
from proxy.cli.render import say, table
from proxy.settings import Settings
from proxy.wallets import wallet_file, wallet_files

MAX_KEY_CHARS = 4096


def arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(required=True, metavar="ACTION", dest="action")
    which = argparse.ArgumentParser(add_help=False)
    which.add_argument(
        "--wallet",
        metavar="NAME",
        default=DEFAULT_WALLET,
        help="one of those under [wallets] in the settings (default: the one under [wallet])",
    )
    list_ = actions.add_parser("list", help="every wallet of the settings")
    list_.set_defaults(act=_list)
    show = actions.add_parser(
        "show", parents=[which], help="the address, and with --balance what is there"
    )
    show.add_argument("--balance", action="store_true", help="ask the networks of the settings")
    show.set_defaults(act=_show)
    new = actions.add_parser("new", parents=[which], help="make a key; never overwrites one")
    new.set_defaults(act=_new)
    bring = actions.add_parser(
        "import",
        parents=[which],
        help="take over a key, from a file or from stdin; never overwrites one",
        description="Reads a Solana CLI key file, a base58 secret as browser wallets export it, or "
        "a 32-byte seed in base58 or hex. Never an argument: those show in the process list.",
    )
    bring.add_argument("file", nargs="?", type=Path, metavar="FILE", help="default: stdin")
    bring.set_defaults(act=_import)


def run(options: argparse.Namespace) -> int:
    options.act(options, Settings.load(options.config))
    return 0


def _show(options: argparse.Namespace, settings: Settings) -> None:
    path = wallet_file(settings, options.wallet)
    if not path.exists():
        name = "" if options.wallet == DEFAULT_WALLET else f" --wallet {options.wallet}"
        raise CommandError(
            f"there is no wallet at {path}; run: autopay wallet new{name} (or import)"
        )
    wallet = Wallet.load(path)
    say(wallet.address)
    if options.balance:
        rows = asyncio.run(balances(wallet, settings))
        say(table(("NETWORK", "TOKEN", ">BALANCE"), rows))


def _list(_options: argparse.Namespace, settings: Settings) -> None:
    rows = [
        (name, Wallet.load(path).address if path.exists() else "no key yet", str(path))
        for name, path in wallet_files(settings).items()
    ]
    say(table(("NAME", "ADDRESS", "FILE"), rows))


def _new(options: argparse.Namespace, settings: Settings) -> None:
    path = wallet_file(settings, options.wallet)
    _make_room(settings, path)
    wallet = Wallet.create(path)
    say(f"{wallet.address}  (new, in {path})")


def _import(options: argparse.Namespace, settings: Settings) -> None:
    path = wallet_file(settings, options.wallet)
    try:
        wallet = Wallet.from_text(_key_text(options.file))
    except WalletError as error:
        where = options.file or "stdin"
        raise CommandError(f"{where}: {error}") from None
    _make_room(settings, path)
    wallet.save(path)
    say(f"{wallet.address}  (imported, in {path})")


def _key_text(file: Path | None) -> str:
    if file is not None and str(file) != "-":
        try:
            with file.open(encoding="ascii", errors="replace") as open_file:
                return open_file.read(MAX_KEY_CHARS)
        except OSError as error:
            raise CommandError(f"cannot read {file}: {error.strerror}") from None
    if sys.stdin.isatty():
        return getpass.getpass("The key (it will not be shown): ")
    return sys.stdin.read(MAX_KEY_CHARS)


def _make_room(settings: Settings, path: Path) -> None:
    if path.parent == settings.data_dir:
        paths.private_directory(settings.data_dir)
