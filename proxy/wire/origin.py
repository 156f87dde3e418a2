"""Whom a request is for."""

import ipaddress
import socket
from typing import NamedTuple

DEFAULT_PORTS = {"http": 80, "https": 443}


class Origin(NamedTuple):
    """A provider, as RFC 6454 names it. `host` is as `plain_host` spells it."""

    scheme: str
    host: str
    port: int

    @property
    def key(self) -> str:
        """The provider's name in breakers, stats and receipts: `https://api.example:443`."""
        return f"{self.scheme}://{self.netloc_host}:{self.port}"

    @property
    def netloc_host(self) -> str:
        return f"[{self.host}]" if ":" in self.host else self.host

    @property
    def authority(self) -> bytes:
        """The Host header's value: the port only where it is not the scheme's own."""
        if self.port == DEFAULT_PORTS[self.scheme]:
            return self.netloc_host.encode()
        return f"{self.netloc_host}:{self.port}".encode()


def plain_host(written: str) -> str:
    """The one spelling of a host, so that whoever goes by a provider's name (policies, ceilings,
    breakers, the pool) is not led around by another: lower case, without the root's dot, IPv6
    short and without brackets, an IPv4 address mapped into it as IPv4.

    Raises ValueError, in one line, for what is no host, and for addresses that are not read alike
    everywhere: `127.1`, `0x7f000001`, `010.8.8.8`, and those with a zone.
    """
    host = written.lower().removesuffix(".")
    if not host or host.endswith("."):
        raise ValueError("not a host")
    if ":" in host:
        if "%" in host:  # any number of names for one interface
            raise ValueError("write the address without a zone")
        try:
            address = ipaddress.IPv6Address(host)
        except ValueError:
            raise ValueError("not a host") from None
        return str(address.ipv4_mapped or address)
    if host.rpartition(".")[2][:1].isdigit() and _is_odd_number(host):
        raise ValueError("write an IPv4 address as four decimal numbers, like 192.0.2.1")
    return host


def _is_odd_number(host: str) -> bool:
    """Whether the system takes it for an IPv4 address that the standards do not."""
    try:
        address = ipaddress.IPv4Address(socket.inet_aton(host))
    except OSError:
        return False
    return str(address) != host
