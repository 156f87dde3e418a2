"""How values look on the terminal and in JSON: aligned, in dollars, in UTC, and harmless."""

import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from policies import format_usd
from proxy.records import as_fields, plain


def say(text: str = "") -> None:
    """A line on stdout, at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def note(text: str) -> None:
    """A line on stderr: for people, not part of the output."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def dollars(micros: int) -> str:
    return f"${format_usd(micros)}"


def moment(when: datetime) -> str:
    return when.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")


def shortened(text: str, width: int, *, tail: int = 0) -> str:
    """At most `width` characters; what is cut out is marked, `tail` characters of the end stay."""
    if len(text) <= width:
        return text
    return text[: width - tail - 1] + "…" + text[len(text) - tail :]


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Aligned columns; a heading that starts with ">" puts its column to the right."""
    right = [heading.startswith(">") for heading in headings]
    lines = [[heading.removeprefix(">") for heading in headings]]
    lines += [[_harmless(cell) for cell in row] for row in rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headings))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(line, widths, right, strict=True)
        ).rstrip()
        for line in lines
    )


def json_line(record: Any, *, money: Sequence[str] = ()) -> str:
    """A dataclass as one line of JSON; see `as_fields`."""
    return json.dumps(as_fields(record, money=money), default=plain)


def _harmless(text: str) -> str:
    """URLs and reasons come from programs and providers: no escape sequence reaches a terminal."""
    return "".join(char if char.isprintable() else "�" for char in text)
