"""The roots a program needs behind us: those of its system, and our CA.

Most of the settings that name a bundle (SSL_CERT_FILE, REQUESTS_CA_BUNDLE, CURL_CA_BUNDLE, ...)
replace the system's roots, and hosts that are not intercepted still show their own certificates.
"""

import re
import ssl
from collections.abc import Iterable, Iterator
from pathlib import Path

from proxy import files
from proxy.authority.ca import Authority, AuthorityError

# Inside `autopay run`, SSL_CERT_FILE names a bundle of ours. What follows this line in it is not
# the system's: taken for that, a CA that was rotated away would be trusted for ever.
_OURS = b"# The CA of this autopay\n"

# The distributions' places, for where neither a variable nor Python's OpenSSL knows one.
_COMMON = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Ubuntu, Arch, Alpine, NixOS
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",  # Fedora, RHEL
    "/etc/pki/tls/certs/ca-bundle.crt",  # older Fedora, RHEL
    "/etc/ssl/ca-bundle.pem",  # openSUSE
    "/etc/ssl/cert.pem",  # macOS, Alpine, OpenBSD
    "/usr/local/etc/ssl/cert.pem",  # FreeBSD
)
_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----[A-Za-z0-9+/=\s]+-----END CERTIFICATE-----")


def system_roots() -> bytes:
    """The roots this system trusts, in PEM: SSL_CERT_FILE's, else those of Python's OpenSSL, of the
    distribution, of certifi where that is installed. Raises AuthorityError if there are none."""
    for path in _places():
        if roots := _roots_in(path):
            return b"".join(roots)
    raise AuthorityError("no trusted roots were found on this system: name them in SSL_CERT_FILE")


def all_roots(authority: Authority, extra: Iterable[Path] = ()) -> list[bytes]:
    """The system's roots, those in the files `extra`, and our CA as the last: each once, in PEM.

    A file of `extra` that is missing or not PEM adds nothing. Raises AuthorityError.
    """
    found = _certificates(system_roots())
    for path in extra:
        found += _roots_in(path)
    ours = authority.certificate_pem
    return [pem for pem in dict.fromkeys(found) if pem != ours] + [ours]


def write_bundle(path: Path, authority: Authority, extra: Iterable[Path] = ()) -> Path:
    """Write `all_roots` to one PEM file that everybody can read, and return its path.

    `extra` is for the files that a program's own settings named before ours took their place. The
    file is replaced in one step, and only if it changed. Raises AuthorityError.
    """
    *others, ours = all_roots(authority, extra)
    return write_public(path, b"".join([*others, _OURS, ours]))


def write_certificate(path: Path, authority: Authority) -> Path:
    """Write our CA's certificate alone: for what adds to the system's roots (NODE_EXTRA_CA_CERTS),
    and for people to install. Else as `write_bundle`."""
    return write_public(path, _OURS + authority.certificate_pem)


def write_public(path: Path, content: bytes) -> Path:
    """Write a file that everybody can read, unless it says that already. Raises AuthorityError."""
    try:
        files.replace_if_changed(path, content, 0o644)
    except OSError as error:
        raise AuthorityError(f"cannot write {path}: {error.strerror}") from None
    return path


def _places() -> Iterator[Path]:
    # Python's answer heeds SSL_CERT_FILE, and is None where there is no such file.
    if path := ssl.get_default_verify_paths().cafile:
        yield Path(path)
    yield from map(Path, _COMMON)
    try:
        import certifi  # noqa: PLC0415  # welcome, not required
    except ImportError:
        return
    yield Path(certifi.where())


def _roots_in(path: Path) -> list[bytes]:
    try:
        content = path.read_bytes()
    except OSError:
        return []
    return _certificates(content.partition(_OURS)[0])


def _certificates(content: bytes) -> list[bytes]:
    """The certificates of a PEM file, with lines that end as ours do."""
    lines = content.replace(b"\r\n", b"\n")
    return [found[0] + b"\n" for found in _CERTIFICATE.finditer(lines)]
