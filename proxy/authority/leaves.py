"""A certificate for every host we answer for: minted when first asked for, kept while it is good.

Measured (2 cores, CPython 3.11, OpenSSL 3.0): a new host costs 1.2 to 2 ms, three quarters of it
OpenSSL reading a key and a certificate into a context, which it does without Python's lock. So it
is done on a thread: where that has a core to run on, the event loop is held up for 0.3 to 0.6 ms
instead of all of it.
"""

import asyncio
import ipaddress
import os
import re
import ssl
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import NamedTuple

from cachetools import LRUCache
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from proxy.authority.ca import BACKDATED, Authority, AuthorityError

LIFETIME = timedelta(days=30)
# Clients whose clocks are fast must not see a leaf that has ended by them.
RENEWED_BEFORE_END = timedelta(days=2)

_LONGEST_COMMON_NAME = 64  # RFC 5280 appendix A.1, ub-common-name
_LONGEST_NAME = 253
# Underscores are no host name's by RFC 952, and met in the wild.
_NAME = re.compile(r"[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*")


class _Minted(NamedTuple):
    context: ssl.SSLContext
    good_until: float  # Unix seconds


class Leaves:
    """Server-side TLS contexts by host, the `size` last used of them.

    A context takes about 20 KB. One event loop's; `close` ends its thread.
    """

    def __init__(
        self,
        authority: Authority,
        size: int = 1024,
        *,
        newest: Callable[[], Authority] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`newest` says which authority to sign with from now on (see AuthorityFile); it is asked
        before every answer, and what another one has signed is not given out any more."""
        self._authority = authority
        self._newest = newest
        self._generation = 0
        self._clock = clock
        # One key for all leaves of this process: whoever could read one in its memory could read
        # them all. It dies with the process.
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._key_pem = self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        self._minted: LRUCache[str, _Minted] = LRUCache(size)
        self._flights: dict[str, asyncio.Future[_Minted]] = {}
        # Its own thread: the loop's are shared with the resolver, and one slow name server would
        # hold every handshake up.
        self._thread = ThreadPoolExecutor(1, "leaves")

    @property
    def generation(self) -> int:
        """Goes up by one with every new authority."""
        self._follow()
        return self._generation

    def _follow(self) -> None:
        if self._newest is not None and (newest := self._newest()) is not self._authority:
            self._authority = newest
            self._generation += 1
            self._minted.clear()
            self._flights.clear()  # who waits for one of those gets it; nobody else does

    def cached(self, host: str) -> ssl.SSLContext | None:
        """The context for `host` if there is one that is still good; waits for nothing."""
        self._follow()
        minted = self._minted.get(_key(host))
        if minted is None or minted.good_until <= self._clock():
            return None
        return minted.context

    async def context_for(self, host: str) -> ssl.SSLContext:
        """The context to answer as `host` with: a DNS name as it comes in SNI, or an IP address.

        All who ask for a new host at the same time wait for one leaf. Raises ValueError for what
        cannot be a host, and AuthorityError once the CA itself has ended; each is one line.
        """
        return self.cached(host) or (await asyncio.shield(self._flight(host))).context

    def close(self) -> None:
        """No new leaves from here on; contexts that were handed out stay good."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _flight(self, host: str) -> asyncio.Future[_Minted]:
        key = _key(host)
        flight = self._flights.get(key)
        if flight is None:
            subject = _subject(host)
            loop = asyncio.get_running_loop()
            flight = loop.run_in_executor(self._thread, self._mint, subject, self._authority)
            self._flights[key] = flight
            # Added before any waiter's: whoever resumes finds the leaf in the cache.
            flight.add_done_callback(partial(self._landed, key))
        return flight

    def _landed(self, key: str, flight: asyncio.Future[_Minted]) -> None:
        current = self._flights.get(key) is flight
        if current:
            del self._flights[key]
        # The exception is fetched here because all who waited may be gone.
        if not flight.cancelled() and flight.exception() is None and current:
            self._minted[key] = flight.result()

    def _mint(self, subject: x509.DNSName | x509.IPAddress, authority: Authority) -> _Minted:
        now = datetime.fromtimestamp(self._clock(), UTC)
        # A leaf must not outlive its issuer: strict clients look.
        end = min(now + LIFETIME, authority.expires)
        if end <= now:
            raise AuthorityError(
                f"the CA ended on {end:%Y-%m-%d}: run autopay ca rotate, and trust the new one"
            )
        text = str(subject.value)
        # No common name is that long. A subject may be empty, if the name beside it is critical.
        named = len(text) <= _LONGEST_COMMON_NAME
        name = [x509.NameAttribute(NameOID.COMMON_NAME, text)] if named else []
        certificate = authority.sign(
            x509.CertificateBuilder()
            .subject_name(x509.Name(name))
            .public_key(self._key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - BACKDATED)
            .not_valid_after(end)
            .add_extension(x509.SubjectAlternativeName([subject]), critical=not named)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_LEAF_USAGE, critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        )
        # Near the CA's own end a new leaf would be no longer than this one.
        renewal = end if end == authority.expires else end - RENEWED_BEFORE_END
        # The leaf alone: our CA is a root, which a client has or does not trust, so that sending
        # it would only add 330 bytes to each handshake.
        return _Minted(
            _context(certificate.public_bytes(Encoding.PEM) + self._key_pem), renewal.timestamp()
        )


_LEAF_USAGE = x509.KeyUsage(
    digital_signature=True,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=False,
    crl_sign=False,
    encipher_only=False,
    decipher_only=False,
)


def _key(host: str) -> str:
    return host.lower().removesuffix(".")


def _subject(host: str) -> x509.DNSName | x509.IPAddress:
    """What a certificate says for `host`. Raises ValueError with one clear line."""
    key = _key(host)
    if len(key) > _LONGEST_NAME:
        raise ValueError(f"not a host: {len(key)} characters long, at most {_LONGEST_NAME} can be")
    # Asked of what came in: lower() makes ASCII of some letters that are not, as the kelvin sign.
    if host.isascii() and _NAME.fullmatch(key) and not key.rpartition(".")[2].isdecimal():
        return x509.DNSName(key)
    try:
        address = ipaddress.ip_address(key)
    except ValueError:
        raise ValueError(f"not a host: {host!a}") from None
    if "%" in key:
        raise ValueError(f"not a host that a certificate can name, for its zone: {host!a}")
    return x509.IPAddress(address)


def _context(pem: bytes) -> ssl.SSLContext:
    """A server's context with this certificate and key."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    # A ticket costs us 30 us in each handshake and saves a client that comes back 250 us of its
    # own, but us nothing; and one that a client never reads turns its close into a reset.
    context.num_tickets = 0
    _load(context, pem)
    return context


def _load_from_memory(context: ssl.SSLContext, pem: bytes) -> None:
    """Python's ssl takes a key from a file only. This one exists in memory alone."""
    descriptor = os.memfd_create("leaf", os.MFD_CLOEXEC)
    with os.fdopen(descriptor, "wb") as file:
        file.write(pem)
        file.flush()
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")


def _load_from_disk(context: ssl.SSLContext, pem: bytes) -> None:
    """Where there are no files in memory: one that only we can read, for a millisecond."""
    descriptor, path = tempfile.mkstemp(prefix="leaf-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(pem)
        context.load_cert_chain(path)
    finally:
        Path(path).unlink()


# A container may have no /proc.
_in_memory = hasattr(os, "memfd_create") and Path("/proc/self/fd").is_dir()
_load = _load_from_memory if _in_memory else _load_from_disk
