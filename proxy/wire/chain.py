"""The operator's own proxy between us and the providers: who goes through it, and how it is asked.

It looks names up in our stead. So what is left to judge here is what a host says by itself.
"""

import asyncio
import ipaddress
import re
import socket
from base64 import b64encode
from collections.abc import Sequence
from urllib.parse import unquote, urlsplit

from proxy.wire.egress import IPAddress, Kind, Place, kind_of
from proxy.wire.origin import Origin

MAX_HEAD = 8192

# Mean another machine there than here: what an agent may reach of them is never behind a proxy.
_OURS = {Kind.LOOPBACK, Kind.UNSPECIFIED, Kind.LINK_LOCAL, Kind.METADATA, Kind.MULTICAST}
_HOST = re.compile(r"[a-z0-9_.-]{1,255}|[0-9a-f:.]{2,45}")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_SOMEWHERE = ipaddress.IPv4Address(0)  # where a name leads is not ours to know


class ChainRefusal(Exception):
    """The chained proxy does not open a tunnel. One line, fit for people."""


class Chain:
    """A chained proxy. `url` is `http://[USER:PASSWORD@]HOST[:PORT]`; `bypass` are hosts that are
    reached without it: exact, `*.example.com` (below, not itself), or networks for addresses."""

    def __init__(self, url: str, bypass: Sequence[str] = ()) -> None:
        parts = urlsplit(url)
        self.host = parts.hostname or ""
        self.port = parts.port or 80
        self.fields: tuple[tuple[bytes, bytes], ...] = ()
        """The credential, as what only this proxy may see."""
        if parts.username is not None:
            pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            basic = b"Basic " + b64encode(pair.encode())
            self.fields = ((b"Proxy-Authorization", basic),)
        self._networks = [ipaddress.ip_network(text) for text in bypass if "/" in text]
        self._names = [text for text in bypass if "/" not in text]

    @property
    def name(self) -> str:
        """For people, without the credential."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def covers(self, host: str) -> bool:
        """Whether `host` is reached through it."""
        bare = host.rstrip(".")
        if bare == "localhost" or bare.endswith(".localhost"):
            return False
        address = _address(bare)
        if address is not None:
            if kind_of(address) in _OURS or any(address in network for network in self._networks):
                return False
            bare = str(address)
        return not any(
            bare.endswith(name[1:]) if name.startswith("*.") else bare == name
            for name in self._names
        )

    def place(self, host: str, port: int) -> Place:
        """Where `host` leads, as far as can be known here: of a name, only the port counts.

        Raises ValueError for what is no host, and for an address in a spelling that the other
        proxy may read otherwise than we do (`010.0.0.1`), unless the address is to be refused.
        """
        if not _HOST.fullmatch(host):
            raise ValueError("not the name of a host")
        address = _address(host.rstrip("."))
        if address is not None:
            return Place.of(str(address), port)
        if _NUMBER.fullmatch(host.rstrip(".").rpartition(".")[2]):
            raise ValueError("not the name of a host")
        return Place(_SOMEWHERE, port, Kind.PUBLIC)

    def tells_plainly(self, host: str) -> bool:
        """Whether nobody can read `host` as another address than we do."""
        address = _address(host.rstrip("."))
        return address is None or ":" in host or str(address) == host

    async def open_tunnel(
        self, loop: asyncio.AbstractEventLoop, sock: socket.socket, host: str, port: int
    ) -> None:
        """CONNECT through `sock`, which leads to this proxy. Raises ChainRefusal, OSError."""
        target = (f"[{host}]:{port}" if ":" in host else f"{host}:{port}").encode()
        lines = [b"CONNECT " + target + b" HTTP/1.1", b"Host: " + target]
        lines += [name + b": " + value for name, value in self.fields]
        await loop.sock_sendall(sock, b"\r\n".join([*lines, b"\r\n"]))
        head = b""
        while not head.endswith((b"\r\n\r\n", b"\n\n")):
            # Byte by byte: what is behind the head is for somebody else.
            byte = await loop.sock_recv(sock, 1)
            if not byte or len(head) > MAX_HEAD:
                raise ChainRefusal(f"the upstream proxy {self.name} gave no answer to CONNECT")
            head += byte
        status = re.match(rb"HTTP/1\.[01] ([0-9]{3})\b", head)
        if status is None or not status[1].startswith(b"2"):
            raise ChainRefusal(self.refusal(int(status[1]) if status else None, "CONNECT"))

    def refusal(self, status: int | None, what: str) -> str:
        """What its answer means, for people."""
        said = "in no HTTP that is understood" if status is None else str(status)
        text = f"the upstream proxy {self.name} answered {what} with {said}"
        if status == 407:
            text += ": it wants another user or password than upstream_proxy in the settings has"
        return text


def absolute(origin: Origin, target: bytes) -> bytes:
    """A request target as a proxy wants it (RFC 9112 sections 3.2.2 and 3.2.4)."""
    where = origin.scheme.encode() + b"://" + origin.authority
    return where if target == b"*" else where + target


def _address(host: str) -> IPAddress | None:
    """The address that `host` is, however it is spelled (`127.1`, `0x7f000001`); None of a name."""
    try:
        return ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        pass  # not as the standards have it
    if not _NUMBER.fullmatch(host.rpartition(".")[2]):
        return None
    try:
        return ipaddress.IPv4Address(socket.inet_aton(host))
    except (OSError, UnicodeEncodeError):
        return None
