"""The options of every command that asks the books."""

import argparse

MOST = 1_000_000


def add_question(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--agent", metavar="NAME", help="of this agent only")
    parser.add_argument(
        "--limit", type=positive, default=20, metavar="N", help="at most so many (default: 20)"
    )
    parser.add_argument(
        "--json", action="store_true", help="one JSON object a line, nothing shortened"
    )


def positive(text: str) -> int:
    """Raises ArgumentTypeError, which argparse shows."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of lines")
    return min(int(text), MOST)
