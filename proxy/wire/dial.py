"""From a provider's name to a connection: resolve, race the addresses, verify its certificate."""

import asyncio
import socket
import ssl
from collections.abc import Callable
from pathlib import Path

import aiohappyeyeballs
from aiohappyeyeballs import AddrInfoType
from cachetools import TTLCache

from proxy.wire.origin import Origin
from proxy.wire.upstream import Upstream, plain

EYEBALLS_DELAY = 0.25  # RFC 8305 section 5
DNS_SECONDS = 10


class DialError(Exception):
    """No connection, so no byte was sent. One line, fit for people."""

    def __init__(self, text: str, *, timeout: bool = False) -> None:
        super().__init__(text)
        self.timeout = timeout


class Dialer:
    """Opens connections. Answers of the resolver are kept for ten seconds.

    `ca_file` adds roots to the system's, for providers behind a private CA.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, *, timeout: float, ca_file: Path | None = None
    ) -> None:
        self._loop = loop
        self._timeout = timeout
        self._addresses: TTLCache[tuple[str, int], list[AddrInfoType]] = TTLCache(4096, DNS_SECONDS)
        # 20 ms to build: once per process.
        self._tls = ssl.create_default_context()
        if ca_file is not None:
            self._tls.load_verify_locations(cafile=ca_file)
        self._tls.set_alpn_protocols(["http/1.1"])

    async def dial(self, origin: Origin, protocol: Callable[[], Upstream]) -> Upstream:
        """A fresh connection to `origin`, or DialError."""
        tls = self._tls if origin.scheme == "https" else None
        try:
            async with asyncio.timeout(self._timeout):
                sock = await self.connect(origin.host, origin.port)
                _, upstream = await self._loop.create_connection(
                    protocol, sock=sock, ssl=tls, server_hostname=origin.host if tls else None
                )
        except TimeoutError:
            raise DialError(f"no connection within {self._timeout:g} s", timeout=True) from None
        except ssl.SSLCertVerificationError as error:
            raise DialError(f"its certificate is not valid: {error.verify_message}") from error
        except (OSError, ValueError) as error:
            raise DialError(f"no connection: {plain(error)}") from error
        return upstream

    async def connect(self, host: str, port: int) -> socket.socket:
        """A connected socket. Raises OSError, or ValueError for what can't be a host's name."""
        return await aiohappyeyeballs.start_connection(
            await self._resolve(host, port),
            happy_eyeballs_delay=EYEBALLS_DELAY,
            interleave=1,
            loop=self._loop,
        )

    async def tunnel(
        self, host: str, port: int, protocol: Callable[[], asyncio.Protocol]
    ) -> asyncio.Protocol:
        """A plain connection for a blind tunnel, or DialError."""
        try:
            async with asyncio.timeout(self._timeout):
                sock = await self.connect(host, port)
                _, far = await self._loop.create_connection(protocol, sock=sock)
        except TimeoutError:
            raise DialError(f"no connection within {self._timeout:g} s", timeout=True) from None
        except (OSError, ValueError) as error:
            raise DialError(f"no connection: {plain(error)}") from error
        return far

    async def _resolve(self, host: str, port: int) -> list[AddrInfoType]:
        found = self._addresses.get((host, port))
        if found is None:
            answer = await self._loop.getaddrinfo(
                host, port, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG
            )
            found = self._addresses[host, port] = list(answer)
        return found
