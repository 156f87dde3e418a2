"""Stop all spending, of every agent, in every proxy, at once. Requests that need no payment still
flow; payments that have left are finished. `autopay resume` ends it."""

import argparse
import asyncio

from proxy.cli.books import existing_store
from proxy.cli.render import say
from proxy.ledger import audit
from proxy.settings import Settings


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("reason", metavar="REASON", help="for whoever reads the log")


def run(options: argparse.Namespace) -> int:
    asyncio.run(_run(options))
    return 0


async def _run(options: argparse.Namespace) -> None:
    async with existing_store(Settings.load(options.config)) as store:
        changed = await audit.halt(store.database, options.reason, by="autopay halt")
    say("Nothing is paid from now on." if changed else "It was halted already.")
