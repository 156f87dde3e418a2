"""Where the database listens, so that no program is taken there."""

import os
import re
from collections.abc import Mapping
from urllib.parse import parse_qs, unquote, urlsplit

_DEFAULT_PORT = 5432
_HOST = re.compile(r"(?P<host>\[[^\]]+\]|[^:\[\]]*)(?::(?P<port>\d+))?")


def tcp_addresses(dsn: str, env: Mapping[str, str] = os.environ) -> list[tuple[str, int]]:
    """(host, port) of every server that a connection URL may lead to over TCP, read as asyncpg
    reads it; none for a unix socket. Hosts are names or addresses, IPv6 without brackets."""
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
