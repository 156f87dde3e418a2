"""Let agents spend again after `autopay halt`, or after an audit halted it."""

import argparse
import asyncio

from proxy.cli.books import existing_store
from proxy.cli.render import say
from proxy.ledger import audit
from proxy.settings import Settings


def arguments(parser: argparse.ArgumentParser) -> None:
    del parser  # there is nothing to say


def run(options: argparse.Namespace) -> int:
    asyncio.run(_run(options))
    return 0


async def _run(options: argparse.Namespace) -> None:
    async with existing_store(Settings.load(options.config)) as store:
        changed = await audit.resume(store.database, by="autopay resume")
    say("Agents may spend again." if changed else "Spending was not halted.")
