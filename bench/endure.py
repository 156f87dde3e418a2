"""Break autopay in every way there is, for as long as you like, and hold its books against the
chain: kill -9, dead databases, cut wires, lying RPCs and providers (docs/reliability.md).

`python -m bench.endure [--minutes N] [--seed N] [--replicas N] [--programs N]`. Exits with 1 if a
promise was broken.
"""

import argparse
import asyncio
import random
import sys
from pathlib import Path

from tests.campaign.campaign import KEYED, ROOT, campaign


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))  # noqa: S311
    parser.add_argument("--replicas", type=int, default=3)
    parser.add_argument("--programs", type=int, default=12)
    parser.add_argument("--keyed", type=float, default=KEYED)
    parser.add_argument("--calm", action="store_true", help="nothing is broken: a mere storm")
    parser.add_argument("--tree", type=Path, default=ROOT, help=argparse.SUPPRESS)
    options = parser.parse_args()
    say(f"seed {options.seed}")
    report = asyncio.run(
        campaign(
            options.seed,
            options.minutes * 60,
            replicas=options.replicas,
            programs=options.programs,
            keyed=options.keyed,
            calm=options.calm,
            tree=options.tree,
            say=say,
        )
    )
    say(str(report))
    sys.exit(not report.good)


if __name__ == "__main__":
    main()
