"""Five sellers of one thing, of whom three misbehave: what 1,000 wishes bring, by intent, from
whoever is first on the list, and from one after another (docs/procurement.md).

`python -m bench.procurement [--wishes N] [--seed N]`. Prints the table.
"""

import argparse
import asyncio
import logging
import sys
import tempfile
from pathlib import Path

from policies import format_usd
from proxy.ledger.migrate import migrate
from tests.peers.postgres import cluster, fresh_database
from tests.procurement.contest import Result, contest

WAYS = {
    "by intent": ("procurement", True),
    "round robin": ("round robin", True),
    "round robin, no breakers": ("round robin", False),
    "first candidate always": ("first candidate always", True),
    "first candidate always, no breakers": ("first candidate always", False),
}


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


async def measure(server: str, way: str, wishes: int, seed: int) -> Result:
    dsn = await fresh_database(server)
    await migrate(dsn)
    with tempfile.TemporaryDirectory() as folder:
        kind, breakers = WAYS[way]
        return await contest(dsn, Path(folder), kind, wishes, seed, breakers=breakers)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--wishes", type=int, default=1_000)
    parser.add_argument("--seed", type=int, default=402)
    options = parser.parse_args()
    logging.disable(logging.WARNING)  # three of five are meant to fail
    say("| | served | lost USD | USD per wish served | attempts per wish | ms per wish |")
    say("|---|---|---|---|---|---|")
    with cluster() as server:
        for way in WAYS:
            one = asyncio.run(measure(server, way, options.wishes, options.seed))
            say(
                f"| {way} | {100 * one.share:.1f} % | {format_usd(one.lost)}"
                f" | {format_usd(round(one.spent / max(1, one.served)))}"
                f" | {one.attempts / one.wishes:.2f} | {1000 * one.seconds / one.wishes:.1f} |"
            )


if __name__ == "__main__":
    main()
