"""The data plane under test as in tests/wire, but each client is inside a tunnel that is opened."""

import asyncio
import contextlib
import functools
import socket
import ssl
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

from wire_rig import CREDENTIAL, Client, Rig
from wire_rig import rig as open_rig
from wire_tls import Authority as Issuer

from proxy.authority import Leaves
from proxy.wire.intercept import TunnelRules

HOST = "shop.autopay.test"
ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"


@dataclass
class Ca:
    """The CA of the providers, and ours: what it mints, and its certificate."""

    theirs: Issuer
    leaves: Leaves
    ours: str

    @functools.cached_property
    def provider(self) -> ssl.SSLContext:
        return self.theirs.context(HOST, "127.0.0.1", "::1", "localhost")

    def trust(self, *, theirs: bool = False) -> ssl.SSLContext:
        """What a program trusts: our CA, or (as one that pins) the provider's only."""
        if theirs:
            return ssl.create_default_context(cafile=str(self.theirs.ca_file))
        return ssl.create_default_context(cadata=self.ours)

    @functools.cached_property
    def trusting(self) -> ssl.SSLContext:
        return self.trust()


async def to_loopback(host: str, port: int) -> Sequence[tuple[int, int, int, str, tuple[str, int]]]:
    """A resolver for which every name is this machine."""
    address = "127.0.0.1" if host != "::1" else host
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return [(family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, port))]


@dataclass
class Inside(Rig):
    """`client()` is one behind its CONNECT (and, for https, its handshake); `request()` is what
    belongs there: origin form, no credential."""

    ca: Ca = field(kw_only=True)

    async def opened(
        self, *early: bytes, host: str = HOST, port: int | None = None, wait: bool = True
    ) -> socket.socket:
        """A socket on which CONNECT was answered; `early` rides behind it."""
        loop = asyncio.get_running_loop()
        sock = socket.socket(proto=socket.IPPROTO_TCP)  # asyncio sets TCP_NODELAY on these only
        sock.setblocking(False)
        await loop.sock_connect(sock, ("127.0.0.1", self.forward))
        named = f"[{host}]" if ":" in host else host
        where = f"{named}:{port or self.provider.port}".encode()
        head = b"CONNECT %b HTTP/1.1\r\nHost: %b\r\n%b\r\n\r\n" % (where, where, CREDENTIAL)
        await loop.sock_sendall(sock, head + b"".join(early))
        got = b""
        while wait and not got.endswith(b"\r\n\r\n"):
            more = await loop.sock_recv(sock, 1)
            assert more, got
            got += more
        assert got == (ESTABLISHED if wait else b"")
        return sock

    async def behind(
        self,
        sock: socket.socket,
        context: ssl.SSLContext | None = None,
        name: str | None = HOST,
    ) -> Client:
        """A client on `sock`; with TLS if the provider has it."""
        tls = context or (self.ca.trusting if self.provider.scheme == "https" else None)
        try:
            reader, writer = await asyncio.open_connection(
                sock=sock, limit=1 << 20, ssl=tls, server_hostname=name if tls else None
            )
        except BaseException:
            sock.close()
            raise
        self.clients.append(Client(reader, writer))
        return self.clients[-1]

    async def client(self, port: int | None = None) -> Client:
        assert port is None
        return await self.behind(await self.opened())

    def request(
        self,
        path: bytes = b"/a",
        *lines: bytes,
        method: bytes = b"GET",
        version: bytes = b"1.1",
        body: bytes = b"",
    ) -> bytes:
        fields = b"".join(line + b"\r\n" for line in lines)
        if body:
            fields += b"Content-Length: %d\r\n" % len(body)
        return b"%b %b HTTP/%b\r\nHost: %b\r\n%b\r\n%b" % (
            method, path, version, self.provider.authority, fields, body,
        )  # fmt: skip


@contextlib.asynccontextmanager
async def inside(
    ca: Ca, scheme: str = "https", rules: TunnelRules | None = None, host: str = HOST
) -> AsyncIterator[Inside]:
    async with open_rig(
        tls=ca.provider if scheme == "https" else None,
        ca_file=ca.theirs.ca_file if scheme == "https" else None,
        host=host,
        resolver=to_loopback,
    ) as outer:
        outer.plane.intercept(ca.leaves, rules or TunnelRules())
        yield Inside(
            outer.plane, outer.gate, outer.provider, outer.forward, outer.mounts, outer.clients,
            ca=ca,
        )  # fmt: skip
