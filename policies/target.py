"""Allowed targets: `ADDRESS[:PORT]` or `NETWORK[:PORT]`, IPv6 in brackets where a port follows.

They name what would be reached: an IPv4 address that is written inside an IPv6 one is covered by an
entry for the IPv4 address alone.
"""

import ipaddress
import re
from functools import lru_cache
from typing import NamedTuple

from policies.errors import PolicyError

IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

_SHAPE = re.compile(
    r"(?:\[(?P<bracketed>[0-9A-Fa-f:./]+)\]|(?P<plain>[0-9.]+(?:/[0-9]{1,2})?))"
    r"(?::(?P<port>[0-9]{1,5}))?|(?P<bare>[0-9A-Fa-f:.]+(?:/[0-9]{1,3})?)"
)


class Target(NamedTuple):
    """One entry of `allowed_targets`. `port` is None where every port is meant."""

    network: IPNetwork
    port: int | None

    def __str__(self) -> str:
        """The one spelling of this entry."""
        single = self.network.num_addresses == 1
        host = str(self.network.network_address if single else self.network)
        if self.port is None:
            return host
        return f"[{host}]:{self.port}" if self.network.version == 6 else f"{host}:{self.port}"


@lru_cache(maxsize=4096)
def parse_target(text: str) -> Target:
    """Reads `10.0.0.0/8`, `127.0.0.1:8080`, `[::1]:8080` or `fd00::/8`.

    Raises PolicyError: one line that says what is wrong and what would do.
    """
    match = _SHAPE.fullmatch(text.strip())
    if match is None:
        raise _bad(text, _EXAMPLES)
    port = None if match["port"] is None else int(match["port"])
    if port is not None and not 1 <= port <= 65535:
        raise _bad(text, "a port is 1 to 65535")
    host = match["bracketed"] or match["plain"] or match["bare"]
    try:
        network = ipaddress.ip_network(host)
    except ValueError as error:
        if str(error).endswith("has host bits set"):
            meant = ipaddress.ip_network(host, strict=False)
            raise _bad(text, f"the network is written {meant}") from None
        raise _bad(text, _EXAMPLES) from None
    if network.version == 6 and network.network_address.ipv4_mapped is not None:
        raise _bad(text, "write the IPv4 address itself")
    return Target(network, port)


_EXAMPLES = (
    "write an address or a network, and a port if only that one is meant, like 10.0.0.0/8,"
    " 127.0.0.1:8080 or [::1]:8080"
)


def _bad(text: str, hint: str) -> PolicyError:
    return PolicyError(f"target {text[:60]!r}: {hint}")
