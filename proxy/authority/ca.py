"""The certificate authority of this installation, on disk and in memory.

One file, `ca.key`, holds the private key and its certificate, so that they can never be seen apart:
not by a reader, and not after a crash in the middle of a rotation. It must be readable by its
owner alone. No message or repr of this module holds the key.
"""

import secrets
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from proxy import files
from proxy.paths import PathError, private_directory

KEY_NAME = "ca.key"
LIFETIME = timedelta(days=3650)
BACKDATED = timedelta(days=2)  # for clients whose clocks are slow

ORGANIZATION = "autopay"

_MAX_FILE = 64 * 1024


class AuthorityError(Exception):
    """One clear line about an authority that cannot be made, read, trusted or used."""


class Authority:
    """A CA certificate and the key that signs with it. The key never leaves this object."""

    __slots__ = ("_key", "certificate", "key_identifier")

    def __init__(self, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> None:
        """Raises AuthorityError if the two are not the two halves of a CA."""
        if key.public_key() != certificate.public_key():
            raise AuthorityError("the CA's key and certificate do not belong together")
        try:
            extensions = certificate.extensions
            constraints = extensions.get_extension_for_class(x509.BasicConstraints).value
            identifier = extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        except (x509.ExtensionNotFound, ValueError):
            raise AuthorityError("the certificate is not a CA's by RFC 5280") from None
        if not constraints.ca:
            raise AuthorityError("the certificate is not a CA's")
        self._key = key
        self.certificate = certificate
        self.key_identifier = identifier

    def __repr__(self) -> str:
        return f"Authority({self.fingerprint})"

    @property
    def certificate_pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the certificate, in lower-case hex."""
        return self.certificate.fingerprint(hashes.SHA256()).hex()

    @property
    def expires(self) -> datetime:
        """In UTC."""
        return self.certificate.not_valid_after_utc

    def sign(self, unsigned: x509.CertificateBuilder) -> x509.Certificate:
        """Add the issuer and our key's identifier, and sign. The rest is the caller's."""
        issuer_key = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(
            self.key_identifier
        )
        return (
            unsigned.issuer_name(self.certificate.subject)
            .add_extension(issuer_key, critical=False)
            .sign(self._key, hashes.SHA256())
        )

    @classmethod
    def create(
        cls,
        directory: Path,
        *,
        lifetime: timedelta = LIFETIME,
        clock: Callable[[], float] = time.time,
    ) -> Self:
        """Make a new CA in `directory`, which is made private. Never overwrites one: raises
        AuthorityError if there is one already. `clock` gives Unix seconds."""
        authority = cls._fresh(lifetime, clock)
        try:
            files.write_new(private_directory(directory) / KEY_NAME, authority._secret_pem(), 0o600)
        except FileExistsError:
            raise AuthorityError(
                f"{directory / KEY_NAME} exists already; a CA is never overwritten "
                "(autopay ca rotate makes a new one)"
            ) from None
        except (OSError, PathError) as error:
            raise AuthorityError(_failed("write", directory / KEY_NAME, error)) from None
        return authority

    @classmethod
    def load(cls, directory: Path) -> Self:
        """Read the CA of `directory`. Raises AuthorityError if it is missing, readable by others or
        not a CA. One that has ended is still loaded, to be shown, distrusted and rotated."""
        path = directory / KEY_NAME
        content = _read_private(path)
        try:
            key = load_pem_private_key(content, password=None)
            certificate = x509.load_pem_x509_certificate(content)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            raise AuthorityError(f"{path} does not hold a CA's key and certificate") from None
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise AuthorityError(f"{path} does not hold an elliptic curve key")
        try:
            return cls(key, certificate)
        except AuthorityError as error:
            raise AuthorityError(f"{path} cannot be used: {error}") from None

    @classmethod
    def rotate(
        cls,
        directory: Path,
        *,
        lifetime: timedelta = LIFETIME,
        clock: Callable[[], float] = time.time,
    ) -> Self:
        """Replace the CA of `directory` by a new one. Raises AuthorityError.

        The old certificate is kept beside it as ca-<fingerprint>.pem, so that it can be taken out
        of the trust stores it was put into; the old key is gone. A crash leaves either the old CA
        or the new one.
        """
        old = cls.load(directory)
        new = cls._fresh(lifetime, clock)
        path = directory / f"ca-{old.fingerprint}.pem"
        try:
            files.replace_if_changed(path, old.certificate_pem, 0o644)
            path = private_directory(directory) / KEY_NAME
            files.replace(path, new._secret_pem(), 0o600)
        except (OSError, PathError) as error:
            raise AuthorityError(_failed("write", path, error)) from None
        return new

    @classmethod
    def _fresh(cls, lifetime: timedelta, clock: Callable[[], float]) -> Self:
        key = ec.generate_private_key(ec.SECP256R1())
        # Two CAs of one name and different keys confuse the chain building of every client that
        # met both, so each name has a random part of its own.
        name = x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, ORGANIZATION),
                x509.NameAttribute(NameOID.COMMON_NAME, f"autopay CA {secrets.token_hex(8)}"),
            ]
        )
        now = datetime.fromtimestamp(clock(), UTC)
        identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - BACKDATED)
            .not_valid_after(now + lifetime)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_CA_USAGE, critical=True)
            # It has to be able to name any host, but whoever steals it shall not sign code or
            # mail with it where people trusted it.
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(identifier, critical=False)
            .sign(key, hashes.SHA256())
        )
        return cls(key, certificate)

    def _secret_pem(self) -> bytes:
        key = self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return key + self.certificate_pem


_CA_USAGE = x509.KeyUsage(
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)


def _read_private(path: Path) -> bytes:
    """The content of a file that nobody else can read. Raises AuthorityError."""
    try:
        return files.read_private(path, _MAX_FILE)
    except FileNotFoundError:
        raise AuthorityError(f"there is no CA at {path}: run autopay init") from None
    except OSError as error:
        raise AuthorityError(_failed("read", path, error)) from None
    except files.NotPrivate as error:
        advice = (
            ": run chmod 600 on it, and autopay ca rotate if others were on this machine"
            if error.exposed
            else ""
        )
        raise AuthorityError(f"the CA {path} {error}{advice}") from None


def _failed(verb: str, path: Path, error: OSError | PathError) -> str:
    why = error.strerror if isinstance(error, OSError) else str(error)
    return f"cannot {verb} the CA {path}: {why}"
