"""What a request and an answer say of caching (RFC 9111 section 5.2), read leniently (pure).

What cannot be understood is never taken as leave to do more: a lifetime that is no number is none,
a directive that is given twice counts as its stricter self, and one that names single fields
(`private="x"`) counts as if it named them all.
"""

import re
from calendar import timegm
from collections.abc import Iterable
from dataclasses import dataclass
from email.utils import parsedate_tz

from proxy.wire.parsers import RawHeaders

_DIRECTIVE = re.compile(
    rb"""[\s,]*([!#$%&'*+.^_`|~0-9A-Za-z-]+)\s*(?:=\s*("(?:[^"\\]|\\.)*"|[^\s,;"]*))?[^,]*"""
)
MOST_SECONDS = 2**31  # section 1.2.2: what is greater means this
ANY = MOST_SECONDS


@dataclass(frozen=True, slots=True)
class Directives:
    """Of Cache-Control. Seconds; None: not said. `max_stale` is ANY where it has no value."""

    no_store: bool = False
    no_cache: bool = False
    private: bool = False
    public: bool = False
    must_revalidate: bool = False
    proxy_revalidate: bool = False
    only_if_cached: bool = False
    max_age: int | None = None
    s_maxage: int | None = None
    min_fresh: int | None = None
    max_stale: int | None = None


_SAID_NOTHING = Directives()


def directives(headers: RawHeaders) -> Directives:
    """What Cache-Control says."""
    said: dict[bytes, bytes] = {}
    for value in values(headers, b"cache-control"):
        for name, argument in _DIRECTIVE.findall(value):
            key = name.lower()
            said[key] = _stricter(key, said.get(key), argument.strip(b'"'))
    if not said:
        return _SAID_NOTHING
    return Directives(
        no_store=b"no-store" in said,
        no_cache=b"no-cache" in said,
        private=b"private" in said,
        public=b"public" in said,
        must_revalidate=b"must-revalidate" in said,
        proxy_revalidate=b"proxy-revalidate" in said,
        only_if_cached=b"only-if-cached" in said,
        max_age=_seconds(said, b"max-age", 0),
        s_maxage=_seconds(said, b"s-maxage", 0),
        min_fresh=_seconds(said, b"min-fresh", MOST_SECONDS),
        max_stale=ANY if said.get(b"max-stale") == b"" else _seconds(said, b"max-stale", 0),
    )


def values(headers: RawHeaders, name: bytes) -> list[bytes]:
    """Every value of the field `name` (lower case), in order."""
    return [value for key, value in headers if key.lower() == name]


def joined(headers: RawHeaders, name: bytes) -> bytes | None:
    """The field's values as one list, without white space that means nothing; None: not there."""
    found = values(headers, name)
    if not found:
        return None
    return b", ".join(b" ".join(part.split()) for value in found for part in value.split(b","))


def moment(headers: RawHeaders, name: bytes) -> int | None:
    """A date as seconds since 1970. None if it is not there, twice there, or no date."""
    found = values(headers, name)
    if len(found) != 1:
        return None
    parsed = parsedate_tz(found[0].decode("latin-1"))
    if parsed is None or (parsed[9] or 0) != 0:
        return None
    try:
        return timegm(parsed[:6])
    except (ValueError, OverflowError):
        return None


def tags(listed: Iterable[bytes]) -> list[bytes]:
    """The opaque parts of entity tags: whether one is weak does not matter where they are compared
    weakly (RFC 9110 section 8.8.3.2)."""
    return [tag for value in listed for tag in re.findall(rb'(?:W/)?("[^"]*")', value)]


def _stricter(key: bytes, before: bytes | None, now: bytes) -> bytes:
    if before is None or before == now:
        return now
    try:
        pick = max if key == b"min-fresh" else min
        return b"%d" % pick(int(before), int(now))
    except ValueError:
        return b"?"  # no number


def _seconds(said: dict[bytes, bytes], name: bytes, bad: int) -> int | None:
    value = said.get(name)
    if value is None:
        return None
    return min(int(value), MOST_SECONDS) if re.fullmatch(rb"[0-9]{1,20}", value) else bad
