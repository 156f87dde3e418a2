"""Ask the chain once what became of payments that are not proved yet, and book what it proves. The
running proxy does this by itself; here it is done now, and told. Exit status 1 if an account could
not be looked at.

With --rebuild, payments that the chain has and the books have lost are written down again as well:
after a restore from a backup, or when a standby took over that had not heard of all. What was
signed in the last minutes before the loss may still land: do it again two minutes later, then
`autopay audit` and `autopay resume`.
"""

import argparse
import asyncio
import json
from collections.abc import Iterable

from proxy.chains.solana import Wallet
from proxy.cli.books import proxy_store
from proxy.cli.render import json_line, say, table
from proxy.reconciler import Reconciler, Ruling
from proxy.reconciler.books import Account
from proxy.reconciler.rebuild import Found
from proxy.service import reconciler_of
from proxy.settings import Settings
from proxy.wallets import load_wallets

_GOOD = ("rebuilt", "by_hand")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument(
        "--rebuild", action="store_true", help="write down payments that are in no book"
    )
    parser.add_argument(
        "--all",
        action="store_true",
        help="with --rebuild: the accounts' whole history, not only what is newer than the books",
    )


def run(options: argparse.Namespace) -> int:
    return asyncio.run(_run(options, Settings.load(options.config)))


async def _run(options: argparse.Namespace, settings: Settings) -> int:
    wallets = load_wallets(settings).values()
    async with proxy_store(settings) as store:
        reconciler = reconciler_of(settings, store, wallets)
        try:
            report = await reconciler.reconcile_once()
            lost = await _rebuild(options, reconciler, wallets) if options.rebuild else []
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
    _tell(options, lost)
    unseen = any(isinstance(found, str) for found in report.values())
    return 1 if unseen or any(one.outcome not in _GOOD for one in lost) else 0


async def _rebuild(
    options: argparse.Namespace, reconciler: Reconciler, wallets: Iterable[Wallet]
) -> list[Found]:
    addresses = [wallet.address for wallet in wallets]
    return await reconciler.rebuild(addresses, everything=options.all)


def _tell(options: argparse.Namespace, lost: list[Found]) -> None:
    if options.json:
        for one in lost:
            say(json_line(one))
    elif lost:
        rows = [[one.transaction, one.outcome, str(one.amount), one.why] for one in lost]
        say(table(("TRANSACTION", "OUTCOME", "ATOMIC UNITS", "WHY"), rows))
    elif options.rebuild:
        say("The books have every payment that the chain has.")


def _records(account: Account, found: list[Ruling] | str) -> list[dict[str, str]]:
    where = {"network": account.network, "account": account.address}
    if isinstance(found, str):
        return [where | {"trouble": found}]
    return [
        where | {"payment": str(one.payment_id), "outcome": one.outcome, "why": one.why}
        for one in found
    ]
