"""AES-256-GCM under several keys: the first one seals, every one opens.

A sealed value is: version (1 byte, 0x01) | id of its key (4) | nonce (12) | ciphertext and tag.
It is bound to what it is sealed for (`aad`), so it can't be carried to another place. No message
or repr of this module holds a key.
"""

import secrets
from collections.abc import Sequence
from hashlib import sha256

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_BYTES = 32
OVERHEAD = 33  # bytes by which a sealed value is longer than what is in it

_VERSION = b"\x01"
_ID_BYTES = 4
_NONCE_BYTES = 12


class VaultError(Exception):
    """One clear line about a secret key, or about something that was sealed with one."""


class SealError(VaultError):
    """This was not sealed by any of these keys for this place, or it was altered since."""


class UnknownKey(SealError):
    """It says that it was sealed under a key that is not there."""

    def __init__(self, key_id: bytes) -> None:
        super().__init__(f"sealed under the secret key {key_id.hex()}, which is not at hand")
        self.key_id = key_id


class Keyring:
    """Keys of 32 bytes each, the current one first. It never changes."""

    __slots__ = ("_ciphers", "_current", "keys")

    def __init__(self, keys: Sequence[bytes] = ()) -> None:
        """Raises VaultError for a key of another length."""
        if any(len(key) != KEY_BYTES for key in keys):
            raise VaultError(f"a secret key has {KEY_BYTES} bytes")
        self.keys = tuple(dict.fromkeys(keys))
        self._ciphers = {_id(key): AESGCM(key) for key in self.keys}
        if len(self._ciphers) != len(self.keys):
            raise VaultError("two secret keys have the same id; replace one of them")
        self._current = next(iter(self._ciphers), b"")

    def __repr__(self) -> str:
        return f"Keyring({', '.join(key_id.hex() for key_id in self._ciphers)})"

    def __bool__(self) -> bool:
        return bool(self._ciphers)

    @property
    def key_ids(self) -> tuple[bytes, ...]:
        """The first 4 bytes of each key's SHA-256, the current one's first."""
        return tuple(self._ciphers)

    def seal(self, plain: bytes, aad: bytes) -> bytes:
        """Under the current key. Raises VaultError if there is none."""
        if not self._current:
            raise VaultError("there is no secret key to seal with")
        nonce = secrets.token_bytes(_NONCE_BYTES)
        sealed = self._ciphers[self._current].encrypt(nonce, plain, aad)
        return _VERSION + self._current + nonce + sealed

    def open(self, sealed: bytes, aad: bytes) -> bytes:
        """What was sealed for just this `aad`. Raises SealError; UnknownKey is one."""
        key_id = key_id_of(sealed)
        if key_id is None:
            raise SealError("this is not a sealed value")
        if key_id not in self._ciphers:
            raise UnknownKey(key_id)
        nonce_at = len(_VERSION) + _ID_BYTES
        text_at = nonce_at + _NONCE_BYTES
        try:
            return self._ciphers[key_id].decrypt(sealed[nonce_at:text_at], sealed[text_at:], aad)
        except InvalidTag:
            raise SealError("this was not sealed for its place, or was altered since") from None


def new_key() -> bytes:
    return secrets.token_bytes(KEY_BYTES)


def key_id_of(sealed: bytes) -> bytes | None:
    """The id of the key that a value says it is sealed under; None if it has no such form."""
    if len(sealed) < OVERHEAD or not sealed.startswith(_VERSION):
        return None
    return sealed[len(_VERSION) : len(_VERSION) + _ID_BYTES]


def _id(key: bytes) -> bytes:
    return sha256(key).digest()[:_ID_BYTES]
