"""Allowed endpoints: `METHOD? scheme://host[:port]/path*`.

- METHOD: optional, in capitals, exact (HTTP methods are case-sensitive).
- scheme: `http`, `https`, or `*` for both.
- host: exact, or `*.example.com`, which means every sub-domain but not `example.com` itself.
- port: the scheme's default when left out.
- path: exact, or a prefix when it ends in `*`; case-sensitive. `/*` is the whole host.

A path can be spelled in many ways, and a server may read `/public/..%2fadmin` as `/admin`. So a
path with dot-segments, or with an encoded dot, slash, backslash, percent, semicolon or control
character, matches nothing narrower than `/*`: it fails closed instead of being guessed at.
"""

import ipaddress
import re
from dataclasses import dataclass
from functools import lru_cache

from policies.errors import PolicyError

DEFAULT_PORTS = {"http": 80, "https": 443}
_PATTERN = re.compile(
    r"(?:(?P<method>\S+) +)?(?P<scheme>[^\s:/]+)://(?P<authority>[^\s/]*)(?P<path>/\S*)?"
)
_METHOD = re.compile(r"[A-Z][A-Z0-9!#$%&'*+.^_`|~-]{0,31}")
_AUTHORITY = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[^\[\]:@]+)(?::(?P<port>[0-9]{1,5}))?")
_ADDRESS = re.compile(r"\[.*\]|[0-9]+(\.[0-9]+){3}")
_HOST_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
# Printable ASCII except what ends a path (? #) and what servers disagree on (space " < > \ `).
_PATH = re.compile(r"/(?:[!$&-;=@A-Z\[\]^_a-z{|}~]|%[0-9A-Fa-f]{2})*")
_ENCODED = re.compile(r"%([0-9A-Fa-f]{2})")
_UNRESERVED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_~")
# What an encoded byte must not decode to: a second reading of the path could move or end it there.
_TRICKS = frozenset("./\\%;") | {chr(code) for code in (*range(0x20), 0x7F)}


@dataclass(frozen=True, slots=True)
class Pattern:
    """One allowed endpoint, taken apart. Make it with `parse_pattern`."""

    text: str
    method: str | None  # None: every method
    scheme: str | None  # None: http and https
    host: str  # lower case; ".example.com" for every sub-domain
    port: int | None  # None: the default of the request's scheme
    path: str  # canonical
    prefix: bool  # whether `path` is only the beginning

    def matches(self, method: str, scheme: str, host: str, port: int, path: str) -> bool:
        """Whether a request falls under this pattern. Never raises."""
        scheme = scheme.lower()
        return (
            self.method in (None, method)
            and scheme in DEFAULT_PORTS
            and self.scheme in (None, scheme)
            and port == (DEFAULT_PORTS[scheme] if self.port is None else self.port)
            and self._matches_host(host)
            and self._matches_path(path)
        )

    def may_match(self, method: str, scheme: str, host: str, port: int, path: str) -> bool:
        """Whether a server could take a request for one that falls under this pattern: the question
        of a list of what is denied, which errs on the other side. A host that cannot be read, a
        path that can be read in two ways, another case, a doubled slash or one at the end do not
        lead around it. Never raises."""
        scheme = scheme.lower()
        return (
            self.method in (None, method.upper())
            and self.scheme in (None, scheme)
            and port == (DEFAULT_PORTS.get(scheme, port) if self.port is None else self.port)
            and (canonical_host(host) is None or self._matches_host(host))
            and self._may_match_path(path)
        )

    def _may_match_path(self, path: str) -> bool:
        asked = _canonical_path(path)
        if asked is None:
            return True
        asked, denied = _loosest(asked), _loosest(self.path)
        if self.prefix:
            return asked.startswith(denied)
        return asked.rstrip("/") == denied.rstrip("/")

    def _matches_host(self, host: str) -> bool:
        asked = canonical_host(host)
        if asked is None:
            return False
        if self.host.startswith("."):
            return asked.endswith(self.host) and asked != self.host
        return asked == self.host

    def _matches_path(self, path: str) -> bool:
        if self.prefix and self.path == "/":
            return True
        asked = _canonical_path(path)
        if asked is None:
            return False
        return asked.startswith(self.path) if self.prefix else asked == self.path


@lru_cache(maxsize=4096)
def parse_pattern(text: str) -> Pattern:
    """Reads a pattern. Raises PolicyError: one line that says what is wrong and what would do."""
    match = _PATTERN.fullmatch(text.strip())
    if match is None:
        raise _bad(text, "write METHOD scheme://host/path*, like GET https://api.example.com/v1/*")
    method, scheme, path = match["method"], match["scheme"].lower(), match["path"]
    if method is not None and _METHOD.fullmatch(method) is None:
        raise _bad(text, "write the method in capitals, or leave it out for every method")
    if scheme not in (*DEFAULT_PORTS, "*"):
        raise _bad(text, "the scheme is http, https or *")
    authority = parse_authority(match["authority"])
    if authority is None:
        raise _bad(text, _authority_hint(match["authority"]))
    host, port = authority
    if path is None:
        raise _bad(text, "it has no path: write /* at its end for the whole host")
    if "?" in path or "#" in path:
        raise _bad(text, "a pattern has no query and no fragment")
    prefix = path.endswith("*")
    stem = _canonical_path(path.removesuffix("*"))
    if stem is None or "*" in stem:
        raise _bad(
            text,
            "its path may hold no . or .. segment, no encoded / \\ . or %, and * only at its end",
        )
    return Pattern(
        text=text.strip(),
        method=method,
        scheme=None if scheme == "*" else scheme,
        host=host,
        port=port,
        path=stem,
        prefix=prefix,
    )


def parse_authority(authority: str) -> tuple[str, int | None] | None:
    """`host[:port]` → the host in its one spelling (".example.com" for `*.example.com`) and the
    port, if one is written; None if that is not what it is."""
    match = _AUTHORITY.fullmatch(authority)
    if match is None:
        return None
    port = None if match["port"] is None else int(match["port"])
    if port is not None and not 1 <= port <= 65535:
        return None
    wild = match["host"].startswith("*.")
    host = canonical_host(match["host"].removeprefix("*."))
    if host is None or (wild and is_address(host)):
        return None
    return (f".{host}" if wild else host), port


def _authority_hint(authority: str) -> str:
    match = _AUTHORITY.fullmatch(authority)
    if match is None:
        return "after :// comes a host, and a port if it is not the default one"
    if match["port"] is not None and not 1 <= int(match["port"]) <= 65535:
        return "a port is 1 to 65535"
    return "the host is a name in ASCII (xn--… for others), an address, or *.name for sub-domains"


def canonical_host(host: str) -> str | None:
    """Lower case, without the root's dot, IPv6 in its one short form, an IPv4 address mapped into
    it as IPv4; None if malformed."""
    name = host.lower().removesuffix(".")
    if name.startswith("[") or ":" in name:
        try:
            address = ipaddress.IPv6Address(name.removeprefix("[").removesuffix("]"))
        except ValueError:
            return None
        mapped = address.ipv4_mapped
        return f"[{address}]" if mapped is None else str(mapped)
    labels = name.split(".")
    return name if all(_HOST_LABEL.fullmatch(label) for label in labels) else None


def is_address(host: str) -> bool:
    """Whether a host in its one spelling is an IP address: told as the database tells it."""
    return _ADDRESS.fullmatch(host) is not None


def _canonical_path(path: str) -> str | None:
    """The one spelling of a path (RFC 3986 §6.2.2); None when it could be read as another."""
    if _PATH.fullmatch(path) is None:
        return None
    for segment in path.split("/"):
        # `..;x` too: servers that know path parameters cut them off before they resolve the dots.
        if segment.partition(";")[0] in (".", ".."):
            return None
    parts = _ENCODED.split(path)
    for i in range(1, len(parts), 2):
        char = chr(int(parts[i], 16))
        if char in _TRICKS:
            return None
        parts[i] = char if char in _UNRESERVED else f"%{parts[i].upper()}"
    return "".join(parts)


def _loosest(path: str) -> str:
    """What is left of a canonical path once all is gone that some server does not heed."""
    bare = "/".join(segment.partition(";")[0] for segment in path.split("/"))
    return re.sub(r"/{2,}", "/", bare).lower()


def _bad(text: str, hint: str) -> PolicyError:
    shown = text if len(text) <= 120 else text[:120] + "…"
    return PolicyError(f"endpoint pattern {shown!r}: {hint}")
