"""Inside a CONNECT: show a certificate of ours, and serve what is behind it like any connection.

A program that refuses our certificate is not broken by us: from then on its tunnels to that host
are left closed, and somebody is told.
"""

import asyncio
import contextlib
import logging
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from cachetools import TTLCache

from proxy.wire.agent import Agent, Caller
from proxy.wire.downstream import Downstream, Plane
from proxy.wire.gate import Gate
from proxy.wire.hello import FirstBytes, Opening, Talk
from proxy.wire.origin import Origin, plain_host
from proxy.wire.problem import Problem
from proxy.wire.routes import TunnelRouter

log = logging.getLogger(__name__)

ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"
NEWLINES = b"\r\n"  # some clients send stray ones behind a CONNECT
MAX_NEWLINES = 64
OPENING_SECONDS = 3.0  # a protocol in which the server speaks first says nothing to us
SILENT_CLOSES = 2
SILENT_SECONDS = 300.0

# What a client says that does not want this certificate (RFC 8446 section 6.2).
_REJECTIONS = (
    "ALERT_UNKNOWN_CA",
    "ALERT_BAD_CERTIFICATE",
    "ALERT_CERTIFICATE_UNKNOWN",
    "ALERT_UNSUPPORTED_CERTIFICATE",
    "ALERT_CERTIFICATE_EXPIRED",
    "ALERT_CERTIFICATE_REVOKED",
)


class Certificates(Protocol):
    """Server contexts by host. `context_for` raises ValueError for what is no host name, and other
    exceptions of one line when there can be no certificate."""

    @property
    def generation(self) -> int:
        """Another number once the CA is another one."""
        ...

    def cached(self, host: str) -> ssl.SSLContext | None: ...
    async def context_for(self, host: str) -> ssl.SSLContext: ...


@dataclass(frozen=True, slots=True)
class TunnelRules:
    """Which tunnels are opened. Hosts are exact or `*.example.com` (below, not itself); `tunnel`
    comes before `intercept`, and `intercepts` decides where neither names the host."""

    intercepts: bool = True
    tunnel: Sequence[str] = ()
    intercept: Sequence[str] = ()
    on_reject: Literal["tunnel", "refuse"] = "tunnel"
    reject_seconds: float = 3600.0

    def opens(self, host: str) -> bool:
        if _listed(host, self.tunnel):
            return False
        return self.intercepts or _listed(host, self.intercept)


def _listed(host: str, patterns: Sequence[str]) -> bool:
    return any(
        host.endswith(pattern[1:]) if pattern.startswith("*.") else host == pattern
        for pattern in patterns
    )


class Outside(Plane, Protocol):
    """The plane, where a tunnel can be left closed."""

    @property
    def gate(self) -> Gate: ...
    async def join_blindly(
        self, caller: Caller, host: str, port: int, transport: asyncio.Transport, early: bytes
    ) -> None: ...


class Interceptor:
    """Opens the tunnels of one data plane."""

    def __init__(self, plane: Outside, certificates: Certificates, rules: TunnelRules) -> None:
        self._plane = plane
        self._loop = plane.loop
        self._certificates = certificates
        self._rules = rules
        self._rejected: TTLCache[tuple[str, str], str] = TTLCache(10_000, rules.reject_seconds)
        self._silent: TTLCache[tuple[str, str], int] = TTLCache(10_000, SILENT_SECONDS)
        self._trusted: TTLCache[tuple[str, str], bool] = TTLCache(10_000, rules.reject_seconds)
        self._generation = certificates.generation  # of the CA that these have seen

    def opens(self, caller: Caller, host: str) -> bool:
        """Whether this CONNECT is to be looked into. Raises Problem if it is to be refused."""
        if not self._rules.opens(host):
            return False
        if self._certificates.generation != self._generation:
            self._generation = self._certificates.generation
            for seen in (self._rejected, self._silent, self._trusted):
                seen.clear()  # nobody has said anything of the new CA
        why = self._rejected.get((caller.agent.name, host))
        if why is None:
            return True
        if self._rules.on_reject == "refuse":
            raise Problem(
                403,
                "certificate_rejected",
                f"A program of this agent rejected autopay's certificate for {host} ({why}), and"
                " the settings say to refuse such hosts (intercept.on_reject). Trust autopay's CA"
                " there (`autopay ca install-hint`), or list the host under intercept.tunnel."
                " Nothing was sent or paid.",
            )
        return False

    async def open(
        self, caller: Caller, host: str, port: int, transport: asyncio.Transport, early: bytes
    ) -> None:
        """Answer the CONNECT on `transport` (which is ours now) and serve what is in it."""
        try:
            await self._open(caller, host, port, transport, early)
        except BaseException:
            transport.abort()
            raise

    async def _open(
        self, caller: Caller, host: str, port: int, transport: asyncio.Transport, early: bytes
    ) -> None:
        transport.write(ESTABLISHED)
        listener = _Listener(self._loop, early)
        transport.set_protocol(listener)
        transport.resume_reading()
        try:
            opening, early = await listener.opening(self._plane.limits.client_header)
        except TimeoutError:
            transport.abort()
            return
        if not transport.is_closing():
            transport.pause_reading()
        name = _name(opening, host)
        if transport.is_closing():
            return
        if opening.talk is Talk.HTTP:
            self._serve(transport, caller, Origin("http", host, port), host, early)
        elif opening.talk is Talk.TLS and (name == host or (name and _is_address(host))):
            await self._serve_tls(transport, caller, Origin("https", name, port), host, early)
        else:
            await self._plane.join_blindly(caller, host, port, transport, early)

    def _serve(
        self,
        transport: asyncio.Transport,
        caller: Caller,
        origin: Origin,
        host: str,
        early: bytes,
    ) -> None:
        inner = _Inner(self._plane, TunnelRouter(caller, origin), self, caller.agent, host)
        transport.set_protocol(inner)
        inner.connection_made(transport)
        transport.resume_reading()
        if early:
            inner.data_received(early)

    async def _serve_tls(
        self,
        transport: asyncio.Transport,
        caller: Caller,
        origin: Origin,
        host: str,
        early: bytes,
    ) -> None:
        try:
            context = self._certificates.cached(origin.host)
            context = context or await self._certificates.context_for(origin.host)
        except Exception as error:  # no certificate: the tunnel works as without us
            log.warning("no certificate for %s, so it is tunnelled: %s", origin.host, error)
            await self._plane.join_blindly(caller, host, origin.port, transport, early)
            return
        waiting = _Waiting()
        try:
            tls = await _start_tls(
                self._loop, transport, waiting, context, early, self._plane.limits.client_header
            )
        except (OSError, ssl.SSLError) as error:
            transport.abort()
            if any(word in str(error) for word in _REJECTIONS):
                self.rejected(caller.agent, origin, host, _alert(error))
            elif isinstance(error, ConnectionResetError | ssl.SSLEOFError):
                self.silent(caller.agent, origin, host, "it hangs up in the handshake")
            return
        if tls is not None:
            self._serve(tls, caller, origin, host, b"".join(waiting.early))

    # --- programs that do not want our certificate

    def rejected(self, agent: Agent, origin: Origin, host: str, why: str) -> None:
        """Leave this host's tunnels alone for this agent, and say so once. `host` is what CONNECT
        named, since that is all there is to go by the next time; it may be the origin's address."""
        key = (agent.name, host)
        if key in self._rejected:
            return
        self._rejected[key] = why
        log.warning(
            "agent %s does not accept autopay's certificate for %s (%s): its connections there are"
            " %s for %d s, and are not paid for. Let it trust the CA (`autopay ca install-hint`)"
            " or list the host under intercept.tunnel.",
            agent.name,
            origin.host,
            why,
            "refused" if self._rules.on_reject == "refuse" else "tunnelled blind",
            self._rules.reject_seconds,
        )
        self._plane.gate.certificate_rejected(agent, origin, why, self._rules.reject_seconds)

    def spoke(self, agent: Agent, host: str) -> None:
        """A program has sent something behind the handshake: it likes our certificate."""
        key = (agent.name, host)
        self._trusted[key] = True
        self._silent.pop(key, None)

    def silent(self, agent: Agent, origin: Origin, host: str, how: str) -> None:
        """A program has seen our certificate and hung up without a word. Python's asyncio sends no
        alert; Node finishes the handshake first. Twice, and never a word, is a no."""
        key = (agent.name, host)
        if key not in self._trusted:
            self._silent[key] = self._silent.get(key, 0) + 1
            if self._silent[key] >= SILENT_CLOSES:
                self.rejected(agent, origin, host, how)


class _Inner(Downstream):
    """A connection inside a tunnel."""

    __slots__ = ("_agent", "_host", "_interceptor", "_origin", "_spoke")

    def __init__(
        self,
        plane: Plane,
        router: TunnelRouter,
        interceptor: Interceptor,
        agent: Agent,
        host: str,
    ) -> None:
        super().__init__(plane, router)
        self._host = host
        self._origin = router.origin
        self._interceptor = interceptor
        self._agent = agent
        self._spoke = router.origin.scheme == "http"  # no certificate was shown

    @property
    def _has_place(self) -> bool:
        return True  # that of the connection which asked for the tunnel

    def data_received(self, data: bytes) -> None:
        if not self._spoke:  # at once: this connection may outlive others that stay silent
            self._spoke = True
            self._interceptor.spoke(self._agent, self._host)
        super().data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if not self._spoke:
            self._interceptor.silent(
                self._agent, self._origin, self._host, "it hangs up after the handshake"
            )


class _Listener(asyncio.Protocol):
    """Waits for enough of a tunnel's first bytes to know what they are."""

    def __init__(self, loop: asyncio.AbstractEventLoop, early: bytes) -> None:
        self._newlines = b""
        self._first = FirstBytes()
        self._known: asyncio.Future[Opening] = loop.create_future()
        self.data_received(early)

    async def opening(self, patience: float) -> tuple[Opening, bytes]:
        """What it is, and the bytes so far. Silence is something other than HTTP; so is an end.
        Raises TimeoutError if it has begun, and is not told in `patience` seconds."""
        silence = min(OPENING_SECONDS, patience)
        await asyncio.wait([self._known], timeout=silence)
        if not self._known.done() and self._first.data:
            await asyncio.wait([self._known], timeout=patience - silence)
            if not self._known.done():
                raise TimeoutError
        opening = self._known.result() if self._known.done() else Opening(Talk.OTHER)
        data = bytes(self._first.data)
        return opening, self._newlines + data if opening.talk is Talk.OTHER else data

    def data_received(self, data: bytes) -> None:
        if not self._first.data:
            rest = data.lstrip(NEWLINES)
            self._newlines = (self._newlines + data[: len(data) - len(rest)])[-MAX_NEWLINES:]
            data = rest
        opening = self._first.add(data)
        if opening is not None and not self._known.done():
            self._known.set_result(opening)

    def eof_received(self) -> bool:
        if not self._known.done():
            self._known.set_result(Opening(Talk.OTHER))
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self.eof_received()


class _Waiting(asyncio.Protocol):
    """Holds what arrives while a handshake ends: in TLS 1.3 the first request may ride behind it,
    and be delivered before start_tls() returns."""

    def __init__(self) -> None:
        self.early: list[bytes] = []

    def data_received(self, data: bytes) -> None:
        self.early.append(data)


async def _start_tls(
    loop: asyncio.AbstractEventLoop,
    transport: asyncio.Transport,
    protocol: asyncio.Protocol,
    context: ssl.SSLContext,
    early: bytes,
    patience: float,
) -> asyncio.Transport | None:
    """loop.start_tls() for bytes that were read already: the TLS layer gets them before the socket
    is read again. Works on asyncio and uvloop. The handshake may take `patience` seconds."""
    transport.pause_reading()
    task = loop.create_task(
        loop.start_tls(
            transport,
            protocol,
            context,
            server_side=True,
            ssl_handshake_timeout=patience,
        )
    )
    await asyncio.sleep(0)  # start_tls() has put its protocol on the transport
    layer: Any = transport.get_protocol()

    def feed() -> None:
        data = early
        while data:
            buffer = layer.get_buffer(len(data))
            size = min(len(buffer), len(data))
            buffer[:size] = data[:size]
            layer.buffer_updated(size)
            data = data[size:]

    # Behind the layer's own connection_made(), and before the loop looks at the socket again.
    loop.call_soon(feed)
    return await task


def _alert(error: Exception) -> str:
    reason = getattr(error, "reason", None) or str(error)
    with contextlib.suppress(ValueError):
        reason = reason[reason.index("ALERT_") + len("ALERT_") :]
    return str(reason).replace("_", " ").lower()[:60]


def _name(opening: Opening, host: str) -> str:
    """The host that TLS is asked for; empty if that is none. `host` is what CONNECT named."""
    try:
        return plain_host(opening.server_name) if opening.server_name else host
    except ValueError:
        return ""


def _is_address(host: str) -> bool:
    return host.replace(".", "").isdigit() or ":" in host
