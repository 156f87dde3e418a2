"""Where the database is, read from a connection URL as asyncpg reads it."""

import inspect
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit, urlunsplit

from asyncpg.connect_utils import _parse_connect_dsn_and_args  # type: ignore[attr-defined]

from proxy.ledger.errors import LedgerError

_DEFAULT_PORT = 5432
_HOST = re.compile(r"(?P<host>\[[^\]]+\]|[^:\[\]]*)(?::(?P<port>\d+))?")
_PLAIN = ("disable", "allow", "prefer")  # sslmodes under which a wire may carry plain text


class AddressError(LedgerError):
    """A connection URL that cannot be used. `str()` is one line, without the URL's password."""


@dataclass(frozen=True, slots=True)
class Target:
    """What a connection URL leads to. Hosts are names, addresses, or directories of a socket."""

    hosts: tuple[tuple[str, int], ...]
    user: str
    password: str
    database: str
    sslmode: str

    @property
    def remote(self) -> list[str]:
        """The hosts that are certainly not this machine: all but loopback and unix sockets."""
        return [host for host, _ in self.hosts if not _is_local(host)]


def target_of(dsn: str) -> Target:
    """Raises AddressError. The reading is asyncpg's own: what is judged is what will be dialled."""
    # A list of names that grows from one version of asyncpg to the next.
    nothing: dict[str, Any] = dict.fromkeys(
        inspect.signature(_parse_connect_dsn_and_args).parameters
    )
    try:
        addresses, params = _parse_connect_dsn_and_args(**{**nothing, "dsn": dsn})
    except (ValueError, OSError) as error:  # asyncpg's own error is a ValueError
        words = " ".join(str(error).split())
        raise AddressError(f"database_url cannot be used: {words}") from None
    hosts = []
    for address in addresses:
        if isinstance(address, str):  # /directory/.s.PGSQL.5432
            directory, _, port = address.rpartition("/.s.PGSQL.")
            hosts.append((directory, int(port)))
        else:
            hosts.append((address[0], int(address[1])))
    mode = params.sslmode.name.replace("_", "-")
    return Target(tuple(hosts), params.user, str(params.password or ""), str(params.database), mode)


def login_of(dsn: str) -> str:
    """The login of a connection URL."""
    return target_of(dsn).user


def sealed(dsn: str, *, allow_plaintext: bool = False, env: Mapping[str, str] = os.environ) -> str:
    """`dsn`, with TLS demanded where it leads off this machine and names no sslmode.

    Raises AddressError if it names one that may send plain text there.
    """
    target = target_of(dsn)
    if not target.remote or target.sslmode not in _PLAIN or allow_plaintext:
        return dsn
    parts = urlsplit(dsn)
    if "sslmode" in parse_qs(parts.query) or env.get("PGSSLMODE"):
        raise AddressError(
            f"sslmode={target.sslmode} may send passwords and books in plain text to"
            f" {target.remote[0]}; use sslmode=require or verify-full,"
            " or set [database] allow_plaintext = true"
        )
    query = f"{parts.query}&sslmode=require" if parts.query else "sslmode=require"
    return urlunsplit(parts._replace(query=query))


def _is_local(host: str) -> bool:
    """Only what can be nothing else: 127.1 or a name that someone's DNS points here is not."""
    if host.startswith("/") or host.lower() == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def tcp_addresses(dsn: str, env: Mapping[str, str] = os.environ) -> list[tuple[str, int]]:
    """(host, port) of every server that a connection URL may lead to over TCP, so that no program
    is taken there; none for a unix socket. Hosts are names or addresses, IPv6 without brackets."""
    parts = urlsplit(dsn)
    query = {name: found[-1] for name, found in parse_qs(parts.query).items()}
    hosts = unquote(parts.netloc.partition("@")[2] if "@" in parts.netloc else parts.netloc)
    hosts = hosts or query.get("host") or env.get("PGHOST") or "localhost"
    ports = [
        int(port)
        for port in (query.get("port") or env.get("PGPORT") or "").split(",")
        if port.strip().isdecimal()
    ] or [_DEFAULT_PORT]
    found = []
    for at, text in enumerate(hosts.split(",")):
        match = None if text.startswith(("/", "@")) else _HOST.fullmatch(text.strip())
        if match is not None:
            port = int(match["port"] or ports[at if at < len(ports) else 0])
            found.append((match["host"].strip("[]") or "localhost", port))
    return found
