"""From a provider's name to a connection: resolve, leave out where this agent may not be taken,
race the other addresses, verify its certificate.

A name is resolved once, and what is checked is what is dialled: it can't be bound anew in between.
Behind a chained proxy, which looks names up itself, only what a host says by itself is judged.
"""

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import aiohappyeyeballs
from aiohappyeyeballs import AddrInfoType
from cachetools import TTLCache

from proxy.errors import of_connecting
from proxy.wire.chain import Chain, ChainRefusal
from proxy.wire.egress import EVERYWHERE, IPAddress, Leave, Place
from proxy.wire.origin import Origin
from proxy.wire.problem import Problem
from proxy.wire.upstream import Upstream, plain

EYEBALLS_DELAY = 0.25  # RFC 8305 section 5
DNS_SECONDS = 10
OWN_LISTENER = "egress_own_listener"

Resolver = Callable[[str, int], Awaitable[Sequence[AddrInfoType]]]

_WHY = {
    "egress_loopback": "leads back to the machine that autopay runs on",
    "egress_private": "leads to a private address",
    "egress_link_local": "leads to a link-local address",
    "egress_metadata": "leads to a cloud's metadata service",
    "egress_multicast": "leads to a multicast address",
    "egress_unspecified": "leads to the unspecified address",
    "egress_reserved": "leads to an address that is set aside for no service",
    "egress_port": "is at a port that no web service uses",
    OWN_LISTENER: "leads to autopay itself or to its database",
}
_REMEDY = {
    "egress_port": " An operator can allow the port (`autopay agent set NAME --allow-port`).",
    "egress_unspecified": "",
    OWN_LISTENER: "",
}
_USUAL_REMEDY = " An operator can allow it (`autopay agent set NAME --allow-target`)."


class DialError(Exception):
    """No connection, so no byte was sent. One line, fit for people. `error_class`: a code of
    `proxy.errors`."""

    def __init__(self, text: str, error_class: str = "connect_failed") -> None:
        super().__init__(text)
        self.error_class = error_class

    @property
    def timeout(self) -> bool:
        return self.error_class == "connect_timeout"


class Forbidden(DialError):
    """There is no address of `where` to which this agent may be taken. `address` is one of those
    that were refused, for the operator: the agent need not learn what a name stands for."""

    def __init__(self, code: str, where: str, address: str) -> None:
        text = f"{where} {_WHY[code]}, where this agent may not be taken"
        super().__init__(text, "address_forbidden")
        self.code = code
        self.address = address

    def problem(self) -> Problem:
        """What the program is told."""
        remedy = _REMEDY.get(self.code, _USUAL_REMEDY)
        return Problem(403, self.code, f"{self}. Nothing was sent or paid.{remedy}")


class ChainError(DialError):
    """The operator's own proxy is at fault, or refuses: it says nothing of the provider."""

    def __init__(self, text: str, *, refused: bool = False) -> None:
        super().__init__(text, "upstream_proxy_refused" if refused else "upstream_proxy_failed")


class Dialer:
    """Opens connections. Answers of the resolver are kept for ten seconds.

    `ca_file` adds roots to the system's, for providers behind a private CA. `resolver` stands in
    for the system's: (host, port) to what getaddrinfo gives. `chain`: what it covers is reached
    through it.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        timeout: float,
        ca_file: Path | None = None,
        resolver: Resolver | None = None,
        chain: Chain | None = None,
    ) -> None:
        self._loop = loop
        self._chain = chain
        self._timeout = timeout
        self._resolver = resolver or self._system_resolver
        self._addresses: TTLCache[tuple[str, int], Sequence[AddrInfoType]] = TTLCache(
            4096, DNS_SECONDS
        )
        self.own: list[tuple[str, int]] = []
        """autopay's own listeners and its database, by name or address: nobody is taken there."""
        # 20 ms to build: once per process.
        self._tls = ssl.create_default_context()
        if ca_file is not None:
            self._tls.load_verify_locations(cafile=ca_file)
        self._tls.set_alpn_protocols(["http/1.1"])

    async def dial(
        self,
        origin: Origin,
        leave: Leave,
        protocol: Callable[[], Upstream],
        *,
        tunnel: bool = False,
    ) -> Upstream:
        """A fresh connection to `origin`, or DialError (Forbidden if `leave` does not reach).

        With `tunnel` a chained proxy has no part in what is said, even where it is plain http.
        """
        tls = self._tls if origin.scheme == "https" else None
        asks = self._through(origin.host) if tls is None and not tunnel else None
        try:
            async with asyncio.timeout(self._timeout):
                sock, place = await self._reach(origin.host, origin.port, leave, ready=not asks)
                _, upstream = await self._loop.create_connection(
                    protocol, sock=sock, ssl=tls, server_hostname=origin.host if tls else None
                )
        except TimeoutError:
            text = f"no connection within {self._timeout:g} s"
            raise DialError(text, "connect_timeout") from None
        except ssl.SSLCertVerificationError as error:
            text = f"its certificate is not valid: {error.verify_message}"
            raise DialError(text, of_connecting(error)) from error
        except (OSError, ValueError) as error:
            raise DialError(f"no connection: {plain(error)}", of_connecting(error)) from error
        upstream.place = place
        upstream.chain = asks
        return upstream

    async def connect(self, host: str, port: int, leave: Leave) -> socket.socket:
        """A connected socket. Raises Forbidden, OSError, or ValueError for what can't be a host's
        name."""
        return await aiohappyeyeballs.start_connection(
            await self._vetted(host, port, leave),
            happy_eyeballs_delay=EYEBALLS_DELAY,
            interleave=1,
            loop=self._loop,
        )

    async def tunnel(
        self, host: str, port: int, leave: Leave, protocol: Callable[[], asyncio.Protocol]
    ) -> asyncio.Protocol:
        """A plain connection for a blind tunnel, or DialError (Forbidden among them)."""
        try:
            async with asyncio.timeout(self._timeout):
                sock, _ = await self._reach(host, port, leave, ready=True)
                _, far = await self._loop.create_connection(protocol, sock=sock)
        except TimeoutError:
            text = f"no connection within {self._timeout:g} s"
            raise DialError(text, "connect_timeout") from None
        except (OSError, ValueError) as error:
            raise DialError(f"no connection: {plain(error)}", of_connecting(error)) from error
        return far

    def _through(self, host: str) -> Chain | None:
        """The chained proxy, if it covers `host`."""
        return self._chain if self._chain is not None and self._chain.covers(host) else None

    async def _reach(
        self, host: str, port: int, leave: Leave, *, ready: bool
    ) -> tuple[socket.socket, Place]:
        """A connected socket, and where it leads. With `ready` a chained proxy has opened the way
        already; without, it is to be told with every request."""
        chain = self._through(host)
        if chain is None:
            sock = await self.connect(host, port, leave)
            return sock, Place.of(*sock.getpeername()[:2])
        place = chain.place(host, port)
        own = (host, port) in self.own or await self._is_own(place)
        code = OWN_LISTENER if own else leave.refusal(place)
        if code is not None:
            raise _forbidden(code, host, port, host)  # of a name there is no address to tell
        if not chain.tells_plainly(host):
            raise ValueError(f"the upstream proxy might read this otherwise: ask {place.address}")
        try:
            sock = await self.connect(chain.host, chain.port, EVERYWHERE)
        except Forbidden:
            text = "upstream_proxy in the settings is autopay itself"
            raise ChainError(text, refused=True) from None
        except OSError as error:
            text = f"no connection to the upstream proxy {chain.name}: {plain(error)}"
            raise ChainError(text) from error
        if ready:
            try:
                await chain.open_tunnel(self._loop, sock, host, port)
            except BaseException as error:
                sock.close()
                if isinstance(error, ChainRefusal):
                    raise ChainError(str(error), refused=True) from error
                raise
        return sock, place

    async def _vetted(self, host: str, port: int, leave: Leave) -> list[AddrInfoType]:
        """The addresses of `host` to which `leave` reaches; Forbidden if there is none."""
        vetted, forbidden = [], None
        for info in await self._resolve(host, port):
            place = Place.of(info[4][0], port)
            code = OWN_LISTENER if await self._is_own(place) else leave.refusal(place)
            if code is None:
                vetted.append(info)
            elif forbidden is None:
                forbidden = _forbidden(code, host, port, str(place.address))
        if forbidden is not None and not vetted:
            raise forbidden
        return vetted

    async def _is_own(self, place: Place) -> bool:
        """Whether this is one of `own`, at whichever address of the same machine."""
        for host, port in self.own:
            if port == place.port:
                known = await self._own_addresses(host, port)
                if place.address in known:
                    return True
                if _is_here(place.address) and any(_is_here(address) for address in known):
                    return True
        return False

    async def _own_addresses(self, host: str, port: int) -> list[IPAddress]:
        try:
            return [ipaddress.ip_address(host)]
        except ValueError:
            pass  # a name
        try:
            return [Place.of(info[4][0], port).address for info in await self._resolve(host, port)]
        except OSError as error:
            # What can't be told from the database is not dialled.
            raise DialError(
                f"it can't be told from autopay's own database, whose name is not found: "
                f"{plain(error)}",
                "name_unresolved",
            ) from error

    async def _resolve(self, host: str, port: int) -> Sequence[AddrInfoType]:
        found = self._addresses.get((host, port))
        if found is None:
            found = self._addresses[host, port] = await self._resolver(host, port)
        return found

    async def _system_resolver(self, host: str, port: int) -> Sequence[AddrInfoType]:
        return await self._loop.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG
        )


def _forbidden(code: str, host: str, port: int, address: str) -> Forbidden:
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return Forbidden(code, where, address)


def _is_here(address: IPAddress) -> bool:
    """Whether an address is one of this machine's: only those can be bound."""
    if address.version == 6 and address.is_link_local:
        return True  # can't be bound without its interface; better wrong on the safe side
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((str(address), 0))
    except OSError:
        return False
    return True
