"""A trust store for Java, which reads neither PEM bundles nor the variables that name them.

A PKCS#12 file, as Java's own since version 9, made here because there may be no Java, and so no
keytool, where autopay runs.
"""

import warnings
from collections.abc import Iterable
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import PrivateFormat, pkcs12
from cryptography.utils import CryptographyDeprecationWarning

from proxy.authority.bundle import all_roots, write_public
from proxy.authority.ca import Authority

# For -Djavax.net.ssl.trustStorePassword. It keeps no secret, and is the one all of Java uses.
JAVA_PASSWORD = "changeit"  # noqa: S105

# The password is no secret, and every Java that starts pays for each round.
_ROUNDS = 1


def write_java_truststore(path: Path, authority: Authority, extra: Iterable[Path] = ()) -> Path:
    """Write the system's roots, those in the PEM files `extra` and our CA, and return the path.

    The file is replaced in one step, and only if its certificates changed. Raises AuthorityError.
    """
    with warnings.catch_warnings():
        # Of roots with a serial number of 0 or less. What the system trusts is not ours to judge.
        warnings.simplefilter("ignore", CryptographyDeprecationWarning)
        trusted = _readable(all_roots(authority, extra))
        # Salted, so that no two writings are alike: what counts is what it holds.
        if _held(path) == set(trusted):
            return path
    form = (
        PrivateFormat.PKCS12.encryption_builder()
        .kdf_rounds(_ROUNDS)
        .key_cert_algorithm(pkcs12.PBES.PBESv2SHA256AndAES256CBC)
        .hmac_hash(hashes.SHA256())
        .build(JAVA_PASSWORD.encode())
    )
    entries = [pkcs12.PKCS12Certificate(root, _alias(root)) for root in trusted]
    return write_public(path, pkcs12.serialize_java_truststore(entries, form))


def _readable(pems: Iterable[bytes]) -> list[x509.Certificate]:
    """A few systems keep roots whose encoding is faulty. Java would refuse the whole store."""
    readable = []
    for pem in pems:
        try:
            readable.append(x509.load_pem_x509_certificate(pem))
        except ValueError:
            continue
    return readable


def _alias(certificate: x509.Certificate) -> bytes:
    """Of two entries of one alias Java sees one."""
    return certificate.fingerprint(hashes.SHA256()).hex().encode()


def _held(path: Path) -> set[x509.Certificate]:
    try:
        store = pkcs12.load_pkcs12(path.read_bytes(), JAVA_PASSWORD.encode())
    except (OSError, ValueError):
        return set()
    return {entry.certificate for entry in store.additional_certs}
