"""Ask the chain once what became of payments that are not proved yet, and book what it proves. The
running proxy does this by itself; here it is done now, and told. Exit status 1 if an account could
not be looked at."""

import argparse
import asyncio
import json

from proxy.chains.solana import Wallet
from proxy.cli.books import proxy_store
from proxy.cli.render import say, table
from proxy.reconciler import Ruling
from proxy.reconciler.books import Account
from proxy.service import reconciler_of
from proxy.settings import Settings


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="one JSON object a line")


def run(options: argparse.Namespace) -> int:
    return asyncio.run(_run(options, Settings.load(options.config)))


async def _run(options: argparse.Namespace, settings: Settings) -> int:
    wallet = Wallet.load(settings.wallet_path) if settings.wallet_path.exists() else None
    async with proxy_store(settings) as store:
        reconciler = reconciler_of(settings, store, wallet)
        try:
            report = await reconciler.reconcile_once()
        finally:
            await reconciler.close()
    for account, found in report.items():
        if options.json:
            for record in _records(account, found):
                say(json.dumps(record))
        elif isinstance(found, str):
            say(f"{account.address} on {account.network}: {found}")
        else:
            say(f"{account.address} on {account.network}:")
            rows = [[str(one.payment_id), one.outcome, one.why] for one in found]
            say(table(("PAYMENT", "OUTCOME", "WHY"), rows))
    if not report and not options.json:
        say("Every payment is proved.")
    return 1 if any(isinstance(found, str) for found in report.values()) else 0


def _records(account: Account, found: list[Ruling] | str) -> list[dict[str, str]]:
    where = {"network": account.network, "account": account.address}
    if isinstance(found, str):
        return [where | {"trouble": found}]
    return [
        where | {"payment": str(one.payment_id), "outcome": one.outcome, "why": one.why}
        for one in found
    ]
