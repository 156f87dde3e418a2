"""See it all work: a program that knows nothing of payments buys from a paid API.

Everything runs on this machine, in a temporary directory, with play money; nothing of yours is
touched, and nothing is left behind.
"""

import argparse
import asyncio

from proxy.demo import demo


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--keep", action="store_true", help="leave it all running until Ctrl-C, to try it yourself"
    )


def run(options: argparse.Namespace) -> int:
    try:
        return asyncio.run(demo(keep=options.keep))
    except asyncio.CancelledError:  # SIGTERM
        return 143
