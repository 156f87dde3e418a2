"""US dollars as whole micro-dollars: parsed and printed exactly, never as a float."""

import re

from policies.errors import PolicyError

MICROS = 1_000_000
# What the seed's numeric(18,6) columns hold: 12 digits before the point. It also leaves room for
# spent + held + price to be added up in a signed 64-bit counter.
MAX_MICROS = 10**18 - 1

_AMOUNT = re.compile(r"\$?([0-9]{1,30})(?:\.([0-9]{1,6}))?")


def parse_usd(text: str) -> int:
    """`"0.05"`, `"$1"` → micro-USD. Raises PolicyError for anything that is not exactly that."""
    match = _AMOUNT.fullmatch(text.strip())
    if match is None:
        raise PolicyError(
            f"{_shown(text)} is not an amount in USD: write at most 6 decimals, like 0.05"
        )
    micros = int(match[1]) * MICROS + int((match[2] or "").ljust(6, "0"))
    if micros > MAX_MICROS:
        raise PolicyError(f"{_shown(text)} USD is too much: the most is {format_usd(MAX_MICROS)}")
    return micros


def format_usd(micros: int) -> str:
    """Micro-USD → `"0.05"`, `"1.00"`, `"0.000001"`: two to six decimals, no exponent."""
    whole, fraction = divmod(abs(micros), MICROS)
    decimals = f"{fraction:06d}".rstrip("0").ljust(2, "0")
    return f"{'-' if micros < 0 else ''}{whole}.{decimals}"


def _shown(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:40] + "…")
