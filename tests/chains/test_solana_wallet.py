"""The key file: private, never overwritten, and never talkative."""

import json
import os
import stat

import pytest
from solders.keypair import Keypair
from solders.pubkey import Pubkey

from proxy.chains.solana import Wallet, WalletError

KEYPAIR = Keypair.from_seed(b"\1" * 32)
ADDRESS = "AKnL4NNf3DGWZJS6cPknBuEGnVsV4A4m5tgebLHaRSZ9"


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(list(bytes(KEYPAIR))),
        " [" + ",\n".join(str(byte) for byte in bytes(KEYPAIR)) + "]\n",
        str(KEYPAIR),
        str(Pubkey(b"\1" * 32)),
        "01" * 32,
        "01" * 32 + "\n",
    ],
)
def test_keys_as_people_keep_them(text):
    wallet = Wallet.from_text(text)
    assert wallet.address == ADDRESS
    assert wallet.sign(b"x").verify(wallet.pubkey, b"x")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "[1,2,3]",
        json.dumps(list(bytes(KEYPAIR))[:63]),
        json.dumps([256] * 64),
        json.dumps(["1"] * 64),
        json.dumps(list(bytes(KEYPAIR)[:32]) + [0] * 32),
        str(KEYPAIR)[:-1],
        "0" * 63,
        "zz" * 32,
        ADDRESS + ADDRESS,
        "correct horse battery staple",
        "\ud800" * 44,
        "[" * 100_000,
    ],
    ids=lambda text: ascii(text[:12]),
)
def test_other_texts_are_refused_without_being_repeated(text):
    with pytest.raises(WalletError) as refusal:
        Wallet.from_text(text)
    assert text == "" or text not in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_created_file_is_private_and_loads_again(tmp_path):
    path = tmp_path / "wallet.json"
    old = os.umask(0)
    try:
        wallet = Wallet.create(path)
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert Wallet.load(path).address == wallet.address
    assert bytes(Keypair.from_json(path.read_text()).pubkey()) == bytes(wallet.pubkey)


def test_a_file_is_never_overwritten(tmp_path):
    path = tmp_path / "wallet.json"
    Wallet.create(path)
    before = path.read_bytes()
    for attempt in (Wallet(KEYPAIR).save, Wallet.create):
        with pytest.raises(WalletError, match="never overwritten"):
            attempt(path)
    assert path.read_bytes() == before


def test_a_dangling_link_is_not_followed_to_write(tmp_path):
    path = tmp_path / "wallet.json"
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(WalletError):
        Wallet.create(path)
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o666, 0o620])
def test_a_file_open_to_others_is_refused(mode, tmp_path):
    path = tmp_path / "wallet.json"
    Wallet(KEYPAIR).save(path)
    path.chmod(mode)
    with pytest.raises(WalletError, match=f"mode {mode:04o}.*chmod 600"):
        Wallet.load(path)


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_a_private_file_is_accepted(mode, tmp_path):
    path = tmp_path / "wallet.json"
    Wallet(KEYPAIR).save(path)
    path.chmod(mode)
    assert Wallet.load(path).address == ADDRESS


def test_missing_directory_and_foreign_files_are_one_clear_line(tmp_path):
    with pytest.raises(WalletError, match="No such file"):
        Wallet.load(tmp_path / "missing.json")
    with pytest.raises(WalletError, match="No such file"):
        Wallet(KEYPAIR).save(tmp_path / "missing" / "wallet.json")
    with pytest.raises(WalletError, match="not a regular file"):
        Wallet.load(tmp_path)
    noise = tmp_path / "noise"
    noise.touch(mode=0o600)
    noise.write_bytes(b"\xff\x00secret")
    with pytest.raises(WalletError, match="does not hold a Solana key") as refusal:
        Wallet.load(noise)
    assert "secret" not in str(refusal.value)


def test_neither_repr_nor_state_shows_the_secret():
    wallet = Wallet(KEYPAIR)
    assert repr(wallet) == f"Wallet({ADDRESS})"
    assert str(wallet) == repr(wallet)
