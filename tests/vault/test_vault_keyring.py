"""AES-256-GCM under several keys, and what comes of every byte that is changed."""

from hashlib import sha256

import pytest

from proxy.vault import Keyring, SealError, UnknownKey, VaultError, key_id_of

OLD, NEW = bytes(range(32)), bytes(range(1, 33))


def test_what_was_sealed_opens_for_its_place_only() -> None:
    keyring = Keyring([OLD])
    sealed = keyring.seal(b"plain", b"here")
    assert sealed[0] == 1
    assert sealed[1:5] == sha256(OLD).digest()[:4] == key_id_of(sealed)
    assert len(sealed) == 1 + 4 + 12 + 5 + 16
    assert b"plain" not in sealed
    assert keyring.open(sealed, b"here") == b"plain"
    assert keyring.seal(b"plain", b"here") != sealed, "a nonce is used once"
    with pytest.raises(SealError):
        keyring.open(sealed, b"there")


def test_a_newer_key_seals_and_the_older_ones_open() -> None:
    sealed = Keyring([OLD]).seal(b"plain", b"")
    both = Keyring([NEW, OLD, NEW])
    assert both.open(sealed, b"") == b"plain"
    assert key_id_of(both.seal(b"plain", b"")) == sha256(NEW).digest()[:4]
    assert both.key_ids == (sha256(NEW).digest()[:4], sha256(OLD).digest()[:4])
    with pytest.raises(UnknownKey, match=sha256(OLD).hexdigest()[:8]):
        Keyring([NEW]).open(sealed, b"")


def test_every_changed_byte_is_noticed() -> None:
    keyring = Keyring([OLD])
    sealed = keyring.seal(b"plain", b"")
    for at in range(len(sealed)):
        with pytest.raises(SealError):
            keyring.open(sealed[:at] + bytes([sealed[at] ^ 1]) + sealed[at + 1 :], b"")
    for short in (b"", sealed[:1], sealed[:32], sealed[:-1], sealed + b"\0"):
        with pytest.raises(SealError):
            keyring.open(short, b"")


def test_what_is_no_key() -> None:
    with pytest.raises(VaultError, match="32 bytes"):
        Keyring([OLD, b"short"])
    assert not Keyring()
    with pytest.raises(VaultError, match="no secret key"):
        Keyring().seal(b"", b"")


def test_no_key_is_shown() -> None:
    assert repr(Keyring([OLD])) == f"Keyring({sha256(OLD).hexdigest()[:8]})"
