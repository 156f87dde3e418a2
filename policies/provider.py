"""Which providers a layer is about: `api.example.com`, `*.example.com` or `https://host:port`.

A bare host is that host under any scheme and on any port; `*.example.com` is every sub-domain but
not `example.com` itself; a whole origin is that one alone.
"""

from dataclasses import dataclass
from functools import lru_cache

from policies.errors import PolicyError
from policies.pattern import DEFAULT_PORTS, canonical_host, is_address, parse_authority


@dataclass(frozen=True, slots=True)
class Provider:
    """A provider pattern, taken apart. Make it with `parse_provider`."""

    text: str  # its one spelling; an origin's always has its port
    host: str  # lower case; ".example.com" for every sub-domain
    scheme: str | None = None  # None: any, and any port
    port: int | None = None

    def matches(self, scheme: str, host: str, port: int) -> bool:
        """Whether the pattern is about this origin. Never raises."""
        asked = canonical_host(host)
        if asked is None:
            return False
        if self.host.startswith("."):
            below = asked.endswith(self.host) and asked != self.host
            return below and not is_address(asked)  # an address has no domain
        if asked != self.host:
            return False
        return self.scheme is None or (self.scheme, self.port) == (scheme.lower(), port)

    @property
    def narrowness(self) -> tuple[int, int]:
        """Of two patterns that match the same provider the greater one says it more exactly."""
        if self.host.startswith("."):
            return 0, len(self.host)
        return (1 if self.scheme is None else 2), 0


@lru_cache(maxsize=4096)
def parse_provider(text: str) -> Provider:
    """Reads a pattern. Raises PolicyError: one line that says what is wrong and what would do."""
    given = text.strip()
    scheme, mark, rest = given.partition("://")
    if mark:
        scheme = scheme.lower()
        if scheme not in DEFAULT_PORTS:
            raise _bad(text, "the scheme of an origin is http or https")
        authority = parse_authority(rest)
        if authority is None:
            raise _bad(text, "an origin is scheme://host or scheme://host:port, and no more")
        host, port = authority
        if host.startswith("."):
            raise _bad(text, "*.name stands alone, without scheme and port")
        port = DEFAULT_PORTS[scheme] if port is None else port
        return Provider(f"{scheme}://{host}:{port}", host, scheme, port)
    wild = given.startswith("*.")
    name = canonical_host(given.removeprefix("*."))
    if name is None or (wild and is_address(name)):
        raise _bad(
            text,
            "write a host like api.example.com, *.example.com for those below it, or an origin",
        )
    return Provider(f"*.{name}" if wild else name, f".{name}" if wild else name)


def _bad(text: str, hint: str) -> PolicyError:
    shown = text if len(text) <= 120 else text[:120] + "…"
    return PolicyError(f"provider {shown!r}: {hint}")
