"""Make what autopay needs: a settings file, a wallet, a certificate authority of your own, the
database, and a first agent.

What is there already is left as it is, so running it again is safe.
"""

import argparse
import asyncio
from collections.abc import Mapping
from pathlib import Path

from proxy import paths
from proxy.chains import DEFAULT_WALLET
from proxy.chains.solana import Wallet
from proxy.cli.books import existing_store
from proxy.cli.errors import CommandError
from proxy.cli.handout import handout
from proxy.cli.render import dollars, say
from proxy.launch.trust import authority_of
from proxy.ledger import agents
from proxy.receipts.keys import KEY_NAME, ReceiptKey
from proxy.settings import Settings, default_toml
from proxy.wallets import wallet_files

FIRST_AGENT = "default"


def arguments(_parser: argparse.ArgumentParser) -> None:
    """None of its own."""


def run(options: argparse.Namespace) -> int:
    file, is_new = _settings_file(options.config)
    settings = Settings.load(file)
    _line("settings", str(file), "new: every line is a comment" if is_new else "kept")
    paths.private_directory(settings.data_dir)
    _line("data", str(settings.data_dir))
    wallets = {}
    for name, path in wallet_files(settings).items():
        wallets[name], is_new = _wallet(path)
        whose = "" if name == DEFAULT_WALLET else f"{name}, "
        remark = f"{whose}new, in {path}" if is_new else f"{whose}kept"
        _line("wallet", wallets[name].address, remark)
    authority, is_new = authority_of(settings.data_dir)
    _line("ca", f"SHA-256 {authority.fingerprint[:16]}…", "new" if is_new else "kept")
    path = settings.data_dir / KEY_NAME
    is_new = not path.exists()
    key = ReceiptKey.load_or_make(path)
    _line("receipts", f"signed by {key.key_id.hex()[:16]}…", "new" if is_new else "kept")
    asyncio.run(_first_agent(settings))
    say(f"\n{_how_to_fund(wallets, settings)}")
    say("\nThen:  autopay serve")
    return 0


def _settings_file(config: Path | None) -> tuple[Path, bool]:
    """The settings file in use, and whether it was made just now."""
    file = config or paths.settings_file() or paths.user_config_dir() / paths.SETTINGS_NAME
    if file.exists():
        return file, False
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch(
            mode=0o600, exist_ok=False
        )  # passwords of databases and proxies may come into it
        file.write_text(default_toml(), encoding="utf-8")
    except OSError as error:
        raise CommandError(
            f"the settings file {file} cannot be written: {error.strerror}; "
            "name another place with --config PATH"
        ) from None
    return file, True


def _wallet(path: Path) -> tuple[Wallet, bool]:
    if path.exists():
        return Wallet.load(path), False
    return Wallet.create(path), True


async def _first_agent(settings: Settings) -> None:
    async with existing_store(settings, new=True) as store:
        _line(
            "database",
            "your own, by database_url" if settings.database_url else "embedded PostgreSQL",
        )
        known = [
            info.agent.name for info in await agents.list_all(store.database) if info.is_active
        ]
        if known:
            _line("agents", ", ".join(known), "kept")
            say("\nA token is never shown again. For a new one:  autopay agent rotate NAME")
            return
        policy = settings.policy.of(FIRST_AGENT)
        new = await agents.add(store.database, store.vault, FIRST_AGENT, policy, by="autopay init")
    _line(
        "agent",
        FIRST_AGENT,
        f"new: at most {dollars(policy.per_call_limit)} per call, "
        f"{dollars(policy.daily_limit)} per day",
    )
    say(f"\n{handout(settings, FIRST_AGENT, new.token)}")


def _how_to_fund(wallets: Mapping[str, Wallet], settings: Settings) -> str:
    lines = [
        "To pay, the wallet needs tokens (no SOL: sellers' facilitators pay the network's fees)."
    ]
    for name, wallet in wallets.items():
        whose = "" if name == DEFAULT_WALLET else f"  ({name})"
        lines.append(f"Send them to  {wallet.address}{whose}")
    if "devnet" in settings.networks:
        lines.append("  devnet   USDC for nothing: https://faucet.circle.com (Solana Devnet)")
    if "mainnet" in settings.networks:
        lines.append("  mainnet  USDC, USDT, USDG, PYUSD or CASH: real money; send little")
    lines.append("What is there:  autopay wallet show --balance")
    return "\n".join(lines)


def _line(what: str, value: str, remark: str = "") -> None:
    say(f"{what:<9} {value}" + (f"  ({remark})" if remark else ""))
