"""One message posted to one URL of the operator's, and what came of it.

The URL leads where the operator said and nowhere else: no redirect is followed, no proxy of the
environment is used, and the address that its name stands for is looked at before it is dialled.
Public addresses by https; loopback and private networks, by https or http, where that is allowed
for this webhook; a cloud's metadata service and the like never.
"""

import asyncio
import ipaddress
import re
import socket
import ssl
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Self

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from proxy.notices.signing import signed_headers
from proxy.wire.egress import Kind, Place

SECONDS = 10.0
_NEAR = (Kind.LOOPBACK, Kind.PRIVATE)
_NUMBER = re.compile(r"[0-9]*|0[xX][0-9a-fA-F]*")  # as the last label of a host


@dataclass(frozen=True, slots=True)
class Outcome:
    """`status` is None where no answer came; `error` one line for people, "" if it was taken."""

    status: int | None
    error: str

    @property
    def gone(self) -> bool:
        """The receiver says that it wants no more of these."""
        return self.status == 410


@cache
def _roots(ca_file: Path | None) -> ssl.SSLContext:
    """Whom to trust. 20 ms to read, and the courier and the operator's listener post alike."""
    roots = ssl.create_default_context()
    if ca_file is not None:
        roots.load_verify_locations(cafile=ca_file)
    return roots


class Elsewhere(OSError):
    """Its name stands for an address where this webhook may not lead."""


class Poster:
    """An HTTP client for webhooks. A context manager."""

    def __init__(self, *, ca_file: Path | None = None, seconds: float = SECONDS) -> None:
        """`ca_file` adds roots to the system's."""
        self._tls = _roots(ca_file)
        self._seconds = seconds
        self._sessions: dict[tuple[str, bool], aiohttp.ClientSession] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        for session in self._sessions.values():
            await session.close()
        self._sessions.clear()

    async def post(
        self, url: str, secret: bytes, message_id: str, body: bytes, *, private: bool
    ) -> Outcome:
        """Never raises. Taken is what is answered by 2xx within ten seconds."""
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "autopay",
            **signed_headers(secret, message_id, int(time.time()), body),
        }
        try:
            target = URL(url)
            if why := forbidden(target, private):
                raise Elsewhere(why)
            async with self._session(target.scheme, private).post(
                target, data=body, headers=headers, allow_redirects=False
            ) as response:
                status = response.status
                response.close()  # whatever it says
        except TimeoutError:
            return Outcome(None, f"no answer within {self._seconds:g} s")
        except aiohttp.ClientConnectorCertificateError as error:
            words = getattr(error.certificate_error, "verify_message", "it can't be verified")
            return Outcome(None, f"its certificate is not valid: {words}")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return Outcome(None, _line(error))
        if 200 <= status < 300:
            return Outcome(status, "")
        if 300 <= status < 400:
            return Outcome(status, f"it answered {status}: redirects are not followed")
        return Outcome(status, f"it answered {status}")

    def _session(self, scheme: str, private: bool) -> aiohttp.ClientSession:
        session = self._sessions.get((scheme, private))
        if session is None:
            session = self._sessions[scheme, private] = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    resolver=_Resolver(scheme, private),
                    use_dns_cache=False,
                    ssl=self._tls,
                    force_close=True,
                ),
                timeout=aiohttp.ClientTimeout(total=self._seconds),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                trust_env=False,
            )
        return session


class _Resolver(AbstractResolver):
    """The system's, without the addresses where the webhook may not lead. A name is resolved once:
    what is looked at is what is dialled."""

    def __init__(self, scheme: str, private: bool) -> None:
        self._scheme = scheme
        self._private = private

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, family=family, flags=socket.AI_ADDRCONFIG
        )
        allowed: list[ResolveResult] = []
        refused = ""
        for family_, _, protocol, _, address in found:
            ip = str(address[0])
            if why := _refusal(ip, port, self._scheme, self._private):
                refused = why
            else:
                allowed.append(
                    ResolveResult(
                        hostname=host,
                        host=ip,
                        port=port,
                        family=family_,
                        proto=protocol,
                        flags=socket.AI_NUMERICHOST,
                    )
                )
        if not allowed:
            raise Elsewhere(refused or f"{host} has no address")
        return allowed

    async def close(self) -> None:
        """Nothing is held."""


def forbidden(url: URL, private: bool) -> str:
    """Why nothing is sent to the address that stands in the URL itself, which is never resolved; ""
    if it may be, or if a name stands there. Raises ValueError for a URL without a host.

    Nor is resolved what merely looks like an address to whoever dials: 2852039166 or 0xa9fea9fe,
    which would be 169.254.169.254. No name ends in a number, so all that does and is no address is
    refused.
    """
    host = url.raw_host or ""
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        if not host:
            raise ValueError("the URL names no host") from None
        if _NUMBER.fullmatch(host.rstrip(".").rpartition(".")[2]):
            return f"{host[:100]} is no canonical address and no name"
        return ""
    return _refusal(host, url.port or 0, url.scheme, private)


def _refusal(address: str, port: int, scheme: str, private: bool) -> str:
    """Why nothing is sent to this address; "" if it is."""
    kind = Place.of(address, port).kind
    if kind is Kind.PUBLIC:
        return "" if scheme == "https" else "plain http is for private addresses only"
    if kind in _NEAR and private:
        return ""
    remedy = " (it may with --private)" if kind in _NEAR else ""
    return f"it leads to a {kind.replace('_', '-')} address, where it may not lead{remedy}"


def _line(error: BaseException) -> str:
    if isinstance(error, aiohttp.ClientResponseError):  # which would repeat the whole URL
        return "what it answered is not valid HTTP"
    cause = error.__cause__ if isinstance(error.__cause__, Elsewhere) else error
    return " ".join(str(cause).split())[:300] or type(cause).__name__
