"""The Ed25519 key that one proxy signs its receipts with, and what anyone needs to check them.

It vouches for the books and moves no money. Its id, the fingerprint that auditors pin, is the
SHA-256 of the 32 bytes of the public key, in lower-case hex.
"""

from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Self

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from proxy.files import NotPrivate, read_private, write_new
from proxy.paths import private_directory

KEY_NAME = "receipts.key"

# What is signed says what it is, so that no signature can be shown as one of something else.
LINK = b"autopay receipt link v1\0"
EXPORT = b"autopay receipt export v1\0"

_MAX_FILE = 16 * 1024


class ReceiptKeyError(Exception):
    """The key's file cannot be used. One clear line, without the key."""


class ReceiptKey:
    """The private half never leaves this object."""

    __slots__ = ("_key", "key_id", "public")

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public = key.public_key().public_bytes_raw()
        self.key_id = key_id_of(self.public)

    def __repr__(self) -> str:
        return f"ReceiptKey({self.key_id.hex()})"

    @classmethod
    def load(cls, path: Path) -> Self | None:
        """None if there is no such file. Raises ReceiptKeyError."""
        try:
            content = read_private(path, _MAX_FILE)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ReceiptKeyError(f"the key {path} cannot be read: {error.strerror}") from None
        except NotPrivate as error:
            advice = (
                ": whoever has it can forge receipts; move it away and autopay makes another"
                if error.exposed
                else ""
            )
            raise ReceiptKeyError(f"the key {path} {error}{advice}") from None
        try:
            key = load_pem_private_key(content, None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            key = None
        if not isinstance(key, Ed25519PrivateKey):
            raise ReceiptKeyError(f"{path} holds no Ed25519 key in PEM")
        return cls(key)

    @classmethod
    def load_or_make(cls, path: Path) -> Self:
        """Raises ReceiptKeyError, PathError, or OSError where none can be written."""
        if key := cls.load(path):
            return key
        private_directory(path.parent)
        made = Ed25519PrivateKey.generate()
        pem = made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        with suppress(FileExistsError):  # another process was faster
            write_new(path, pem, 0o600)
        return cls.load(path) or cls(made)

    def sign(self, domain: bytes, digest: bytes) -> bytes:
        """64 bytes."""
        return self._key.sign(domain + digest)


def key_id_of(public: bytes) -> bytes:
    return sha256(public).digest()


def is_signed(public: bytes, domain: bytes, digest: bytes, signature: bytes) -> bool:
    """Whether `signature` is that of the key's owner. False, too, for what is no key at all."""
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, domain + digest)
    except (InvalidSignature, ValueError):
        return False
    return True
