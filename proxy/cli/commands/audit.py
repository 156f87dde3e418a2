"""Check the books against themselves: every budget against its payments, every payment against its
receipt and its decision. Prints what is wrong; exit status 1 if anything is.

The running proxy does the same by itself ([audit] in autopay.toml), and halts all spending when it
finds something.
"""

import argparse
import asyncio

from proxy.cli.books import open_books
from proxy.cli.render import json_line, say
from proxy.ledger import audit
from proxy.settings import Settings


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="one JSON object a finding")


def run(options: argparse.Namespace) -> int:
    return asyncio.run(_run(options))


async def _run(options: argparse.Namespace) -> int:
    async with open_books(Settings.load(options.config)) as database:
        findings = await audit.findings(database)
        spending = await audit.spending(database)
    if options.json:
        for finding in findings:
            say(json_line(finding))
        return 1 if findings else 0
    for rule, meaning in audit.MEANINGS.items():
        wrong = [finding for finding in findings if finding.rule == rule]
        say(f"{'WRONG' if wrong else 'good ':5}  {meaning}")
        for finding in wrong:
            say(f"         {finding.subject}: {finding.found}, not {finding.expected}")
    if spending.halted:
        say(f"\nAll spending is halted: {spending.reason}. When it is clear why: autopay resume")
    return 1 if findings else 0
