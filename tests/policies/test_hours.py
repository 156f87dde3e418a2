from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import PolicyError
from policies.hours import parse_hours

MONDAY = datetime(2026, 3, 2, tzinfo=UTC)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text)


@pytest.mark.parametrize(
    ("hours", "moment", "open_"),
    [
        ("Mon-Fri 08:00-18:00", "2026-03-02T08:00+00:00", True),
        ("Mon-Fri 08:00-18:00", "2026-03-02T07:59:59+00:00", False),
        ("Mon-Fri 08:00-18:00", "2026-03-02T17:59:59+00:00", True),
        ("Mon-Fri 08:00-18:00", "2026-03-02T18:00+00:00", False),
        ("Mon-Fri 08:00-18:00", "2026-03-07T12:00+00:00", False),
        ("mon,wed 00:00-24:00", "2026-03-04T23:59+00:00", True),
        ("mon,wed 00:00-24:00", "2026-03-05T00:00+00:00", False),
        # Around the end of the week.
        ("Sat-Mon 10:00-11:00", "2026-03-02T10:30+00:00", True),
        ("Sat-Mon 10:00-11:00", "2026-03-03T10:30+00:00", False),
        # Overnight: of the day on which it began.
        ("Sun 22:00-06:00", "2026-03-02T05:59+00:00", True),
        ("Sun 22:00-06:00", "2026-03-02T06:00+00:00", False),
        ("Sun 22:00-06:00", "2026-03-02T22:30+00:00", False),
        ("Sun 22:00-06:00", "2026-03-01T21:59+00:00", False),
        ("Sun 22:00-06:00", "2026-03-01T22:00+00:00", True),
        # Elsewhere it is another hour, and another day.
        ("Mon 08:00-09:00 Asia/Tokyo", "2026-03-01T23:30+00:00", True),
        ("Mon 08:00-09:00 Asia/Tokyo", "2026-03-02T08:30+00:00", False),
        # Lisbon is at UTC in winter, and an hour before it in summer.
        ("Mon-Sun 08:00-09:00 Europe/Lisbon", "2026-03-28T08:30+00:00", True),
        ("Mon-Sun 08:00-09:00 Europe/Lisbon", "2026-03-30T08:30+00:00", False),
        ("Mon-Sun 08:00-09:00 Europe/Lisbon", "2026-03-30T07:30+00:00", True),
    ],
)
def test_when_it_is_open(hours: str, moment: str, open_: bool) -> None:
    assert parse_hours(hours).holds(at(moment)) is open_


def test_at_the_ends_of_time_it_is_closed() -> None:
    hours = parse_hours("Mon-Sun 00:00-24:00 Asia/Tokyo")
    assert not hours.holds(datetime.max.replace(tzinfo=UTC))
    assert hours.holds(datetime.min.replace(tzinfo=UTC)) in (True, False)


@pytest.mark.parametrize(
    ("hours", "hint"),
    [
        ("", "write days"),
        ("08:00-18:00", "write days"),
        ("Mon 8:00-18:00", "write days"),
        ("Mon-Fry 08:00-18:00", "days are Mon"),
        ("Mon 08:00-25:00", "no time of day"),
        ("Mon 08:60-18:00", "no time of day"),
        ("Mon 24:00-06:00", "write 00:00"),
        ("Mon 08:00-08:00", "over as it begins"),
        ("Mon 08:00-18:00 Europe/Lisboa", "no time zone Europe/Lisboa"),
        ("Mon 08:00-18:00 ../etc/passwd", "write days"),
        ("Mon 08:00-18:00 /etc/passwd", "no time zone"),
    ],
)
def test_bad_hours_are_one_clear_line(hours: str, hint: str) -> None:
    with pytest.raises(PolicyError, match=r"^hours ") as refused:
        parse_hours(hours)
    assert hint in str(refused.value)


@given(st.integers(0, 1439), st.integers(0, 1440), st.integers(0, 7 * 1440 - 1))
def test_what_is_open_and_what_is_not_make_a_whole_week(begin: int, end: int, minute: int) -> None:
    if begin == end:
        return
    range_ = f"{begin // 60:02}:{begin % 60:02}-{end // 60:02}:{end % 60:02}"
    moment = MONDAY + timedelta(minutes=minute)
    days = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
    each = [parse_hours(f"{day} {range_}").holds(moment) for day in days]
    assert any(each) == parse_hours(f"Mon-Sun {range_}").holds(moment)
    length = (end - begin) % 1440 or 1440
    open_minutes = (minute % 1440 - begin) % 1440 < length
    assert any(each) == open_minutes
