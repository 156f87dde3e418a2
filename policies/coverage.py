"""Whether one entry of a policy says all that another one says: for what lint finds."""

from datetime import UTC, datetime, timedelta

from policies.hours import parse_hours
from policies.pattern import DEFAULT_PORTS, Pattern
from policies.provider import Provider
from policies.rules import window_hours

# Opening hours are compared moment by moment, in a week of winter and in one of summer.
_WEEKS = (datetime(2026, 1, 12, tzinfo=UTC), datetime(2026, 7, 13, tzinfo=UTC))
_WEEK_MINUTES = 7 * 24 * 60
_FIXED_HOURS = {"hour": 1, "day": 24, "month": 31 * 24}


def covers(one: Pattern, other: Pattern) -> bool:
    """Whether `one` matches whatever `other` does."""
    schemes = tuple(DEFAULT_PORTS) if other.scheme is None else (other.scheme,)
    return (
        one.method in (None, other.method)
        and one.scheme in (None, other.scheme)
        and all(_port(one, scheme) == _port(other, scheme) for scheme in schemes)
        and _covers_host(one.host, other.host)
        and _covers_path(one, other)
    )


def concerns(pattern: Pattern, provider: Provider) -> bool:
    """Whether anything that `pattern` matches can be at `provider`."""
    if not (_covers_host(pattern.host, provider.host) or _covers_host(provider.host, pattern.host)):
        return False
    if provider.scheme is None:
        return True
    same_scheme = pattern.scheme in (None, provider.scheme)
    return same_scheme and _port(pattern, provider.scheme) == provider.port


def lies_within(window: str, other: str) -> bool:
    """Whether a window of the one kind is always inside one of the other, so that the limit of the
    other holds for it as well."""
    if other in (window, "lifetime"):
        return True
    rolls, other_rolls = window_hours(window), window_hours(other)
    length, longest = rolls or _FIXED_HOURS.get(window), other_rolls or _FIXED_HOURS.get(other)
    if length is None or longest is None:
        return False  # sessions and traces are as long as they are
    if rolls is not None and other_rolls is None:
        return False  # the end of a day cuts it in two
    return length <= longest


def ever_open_together(lists: list[tuple[str, ...]]) -> bool:
    """Whether there is a moment of the week (of every five minutes one is tried) at which each of
    these lists has an entry that holds."""
    hours = [[parse_hours(text) for text in texts] for texts in lists]
    return any(
        all(any(one.holds(at) for one in alternatives) for alternatives in hours)
        for week in _WEEKS
        for at in (week + timedelta(minutes=minute) for minute in range(0, _WEEK_MINUTES, 5))
    )


def _port(pattern: Pattern, scheme: str) -> int:
    return DEFAULT_PORTS[scheme] if pattern.port is None else pattern.port


def _covers_host(one: str, other: str) -> bool:
    if one.startswith("."):
        return other.endswith(one)
    return one == other


def _covers_path(one: Pattern, other: Pattern) -> bool:
    if one.prefix:
        return other.path.startswith(one.path)
    return not other.prefix and other.path == one.path
