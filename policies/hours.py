"""Opening hours: `DAYS HH:MM-HH:MM [ZONE]`, like `Mon-Fri 08:00-18:00 Europe/Lisbon`.

- DAYS: `Mon`, `Mon-Fri`, `Sat-Mon`, `Mon,Wed,Fri-Sun`.
- The first minute counts, the last does not; `00:00-24:00` is the whole day. `22:00-06:00` ends on
  the next morning, and belongs to the day on which it begins.
- ZONE: a name of the IANA time zone database; UTC when left out. Clocks that are put forward or
  back are followed: what counts is what a clock on the wall shows there.
"""

import re
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from zoneinfo import ZoneInfo

from policies.errors import PolicyError

_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_SHAPE = re.compile(
    r"(?P<days>[A-Za-z,-]+) +(?P<from>[0-9]{2}:[0-9]{2})-(?P<to>[0-9]{2}:[0-9]{2})"
    r"(?: +(?P<zone>[A-Za-z0-9_+/-]{1,64}))?"
)
_DAY = 24 * 60


@dataclass(frozen=True, slots=True)
class Hours:
    """One entry, taken apart. Make it with `parse_hours`. Minutes of the day; `end` is past 24
    hours where it is on the next day."""

    days: frozenset[int]  # Monday is 0
    begin: int
    end: int
    zone: ZoneInfo

    def holds(self, at: datetime) -> bool:
        """Whether it is open at this moment (with a time zone). Never raises."""
        try:
            there = at.astimezone(self.zone)
        except (OverflowError, ValueError):
            return False  # at the very ends of time
        minute = there.hour * 60 + there.minute
        today = there.weekday()
        if today in self.days and self.begin <= minute < self.end:
            return True
        return (today - 1) % 7 in self.days and minute + _DAY < self.end


@lru_cache(maxsize=1024)
def parse_hours(text: str) -> Hours:
    """Reads an entry. Raises PolicyError: one line that says what is wrong and what would do."""
    match = _SHAPE.fullmatch(text.strip())
    if match is None:
        raise _bad(
            text, "write days, a range and a time zone, like Mon-Fri 08:00-18:00 Europe/Paris"
        )
    begin, end = _minutes(text, match["from"]), _minutes(text, match["to"])
    if begin == _DAY:
        raise _bad(text, "it begins at 24:00: write 00:00")
    if begin == end:
        raise _bad(text, "it is over as it begins: the whole day is 00:00-24:00")
    return Hours(
        days=frozenset(_days(text, match["days"])),
        begin=begin,
        end=end if end > begin else end + _DAY,
        zone=_zone(text, match["zone"] or "UTC"),
    )


def _minutes(text: str, clock: str) -> int:
    hours, minutes = int(clock[:2]), int(clock[3:])
    if minutes > 59 or hours * 60 + minutes > _DAY:
        raise _bad(text, f"{clock} is no time of day, which is 00:00 to 24:00")
    return hours * 60 + minutes


def _days(text: str, words: str) -> set[int]:
    days: set[int] = set()
    for part in words.lower().split(","):
        first, dash, last = part.partition("-")
        if first not in _DAYS or (dash and last not in _DAYS):
            raise _bad(
                text, "days are Mon, Tue, Wed, Thu, Fri, Sat and Sun, like Mon-Fri or Mon,Wed"
            )
        begin = _DAYS.index(first)
        length = (_DAYS.index(last) - begin) % 7 if dash else 0
        days |= {(begin + more) % 7 for more in range(length + 1)}
    return days


def _zone(text: str, name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ValueError, OSError, KeyError):  # ZoneInfoNotFoundError is a KeyError
        raise _bad(text, f"there is no time zone {name}: names are like Europe/Paris") from None


def _bad(text: str, hint: str) -> PolicyError:
    shown = text if len(text) <= 80 else text[:80] + "…"
    return PolicyError(f"hours {shown!r}: {hint}")
