"""The options of every command that asks the books."""

import argparse
import re
from datetime import UTC, datetime, timedelta
from uuid import UUID

from policies import PolicyError, parse_usd

_TIME = re.compile(r"([1-9][0-9]{0,5})([mhd])")
_SIGNATURE = re.compile(r"[0-9A-Za-z]{64,128}")  # base58 of 64 bytes has 64 to 88
_UNITS = {"m": "minutes", "h": "hours", "d": "days"}

MOST = 1_000_000
_MOST_DAYS = 3650


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


def usd(text: str) -> int:
    """In micro-USD. Raises ArgumentTypeError."""
    try:
        return parse_usd(text)
    except PolicyError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def ago(text: str) -> timedelta:
    """ "30m", "24h" or "7d". Raises ArgumentTypeError, which argparse shows."""
    match = _TIME.fullmatch(text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time like 30m, 24h or 7d")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


def since(text: str) -> datetime:
    """A day, a moment (UTC, if it does not say), or how long ago. Raises ArgumentTypeError."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return datetime.now(UTC) - ago(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def payment_name(text: str) -> UUID | str:
    """A payment's id, or a signature: its transaction's, or ours. Raises ArgumentTypeError."""
    try:
        return UUID(text)
    except ValueError:
        pass
    if not _SIGNATURE.fullmatch(text):
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither a payment's id, as `autopay receipts --json` and the answer's "
            "Autopay-Payment have it, nor a whole signature of a transaction"
        )
    return text


def life(text: str) -> timedelta:
    """How long something holds: "45m", "12h" or "30d". Raises ArgumentTypeError."""
    match = _TIME.fullmatch(text)
    span = timedelta(**{_UNITS[match[2]]: int(match[1])}) if match else timedelta()
    if not timedelta() < span <= timedelta(days=_MOST_DAYS):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no time of at most {_MOST_DAYS} days; write it like 30d, 12h or 45m"
        )
    return span
