"""Whom a request is for."""

from typing import NamedTuple

DEFAULT_PORTS = {"http": 80, "https": 443}


class Origin(NamedTuple):
    """A provider, as RFC 6454 names it. `host` is lower case, IPv6 without brackets."""

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
