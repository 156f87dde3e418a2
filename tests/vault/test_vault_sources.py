"""The key from the environment, from a file of our own, from a command: read, made, refused."""

import asyncio
import base64
import stat
import sys
import time
from pathlib import Path

import pytest

from proxy.paths import PathError
from proxy.settings import Settings, SettingsError
from proxy.vault import CommandKeys, FileKeys, GivenKeys, Vault, VaultError, source_of
from proxy.vault.keyring import Keyring

KEY, OTHER = bytes(range(32)), bytes(range(200, 232))
TEXT = base64.b64encode(KEY).decode()


@pytest.fixture
def file(tmp_path: Path) -> FileKeys:
    return FileKeys(tmp_path / "secret.key")


async def keys_of(text: str) -> tuple[bytes, ...]:
    return (await GivenKeys(text).read()).keys


async def test_every_way_to_write_a_key() -> None:
    for written in (TEXT, TEXT.rstrip("="), KEY.hex(), KEY.hex().upper(), f" {TEXT}\n"):
        assert await keys_of(written) == (KEY,)
    url = base64.urlsafe_b64encode(OTHER).decode()
    assert await keys_of(f"{url},{TEXT}") == (OTHER, KEY)
    assert await keys_of(f"{OTHER.hex()}\n{TEXT}\n") == (OTHER, KEY)


async def test_what_is_no_key_is_told_without_it() -> None:
    for written in ("", " ,\n", "x", TEXT[:-4], KEY.hex()[:-2], f"{TEXT},{'g' * 64}", "ü" * 44):
        with pytest.raises(VaultError, match="AUTOPAY_SECRETS__KEY") as error:
            await keys_of(written)
        assert "base64" in str(error.value) and "\n" not in str(error.value)
        assert TEXT[:8] not in str(error.value) and "gggg" not in str(error.value)


async def test_the_settings_name_one_source(tmp_path: Path) -> None:
    def source(**environ: str) -> object:
        settings = Settings.load(
            tmp_path / "autopay.toml", {"AUTOPAY_DATA_DIR": str(tmp_path)} | environ
        )
        return source_of(settings)

    (tmp_path / "autopay.toml").touch()
    default = source()
    assert isinstance(default, FileKeys) and default.path == tmp_path / "secret.key"
    elsewhere = source(AUTOPAY_SECRETS__KEY_FILE="/elsewhere/key")
    assert isinstance(elsewhere, FileKeys) and elsewhere.path == Path("/elsewhere/key")
    assert isinstance(source(AUTOPAY_SECRETS__KEY_COMMAND="kms"), CommandKeys)
    given = source(AUTOPAY_SECRETS__KEY=TEXT, AUTOPAY_SECRETS__KEY_COMMAND="kms")
    assert isinstance(given, GivenKeys)
    assert (await given.read()).keys == (KEY,)
    settings = Settings.load(tmp_path / "autopay.toml", {"AUTOPAY_SECRETS__KEY": TEXT})
    assert TEXT not in repr(settings)
    (tmp_path / "autopay.toml").write_text(f'[secrets]\nkey = ["{TEXT}"]')
    with pytest.raises(SettingsError) as error:
        Settings.load(tmp_path / "autopay.toml", {})
    assert TEXT not in str(error.value)


async def test_the_first_key_is_made_once_and_for_its_owner(file: FileKeys) -> None:
    assert not await file.read()
    vaults = [Vault(file) for _ in range(4)]
    made = await asyncio.gather(*(vault.first_key() for vault in vaults))
    assert len({keyring.keys for keyring in made}) == 1
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
    assert made[0].keys == (await file.read()).keys


async def test_a_directory_that_others_write_to_gets_no_key(file: FileKeys) -> None:
    file.path.parent.chmod(0o777)
    with pytest.raises(PathError):
        await Vault(file).first_key()
    assert not file.path.exists()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o660])
async def test_a_file_that_others_reach_is_refused(file: FileKeys, mode: int) -> None:
    file.make()
    file.path.chmod(mode)
    with pytest.raises(VaultError, match=f"mode {mode:04o}.*chmod 600"):
        await file.read()


async def test_what_is_no_key_file(file: FileKeys) -> None:
    file.path.mkdir(mode=0o700)
    with pytest.raises(VaultError, match="not a regular file"):
        await file.read()
    file.path.rmdir()
    file.path.touch(0o600)
    with pytest.raises(VaultError, match="holds no key"):
        await file.read()


async def test_keys_are_put_first_and_dropped(file: FileKeys) -> None:
    file.make()
    first = await file.read()

    def put(n: int) -> None:
        asyncio.run(file.put_first(bytes([n]) * 32))

    await asyncio.gather(*(asyncio.to_thread(put, n) for n in range(8)))  # as processes would
    keyring = await file.read()
    assert len(keyring.keys) == 9 and keyring.keys[-1] == first.keys[0]
    await file.drop(keyring.key_ids[:3])
    assert (await file.read()).keys == (keyring.keys[0], *keyring.keys[3:])
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600


def command(code: str, seconds: float = 10.0) -> CommandKeys:
    return CommandKeys(f'"{sys.executable}" -c "{code}"', seconds)


async def test_a_command_prints_the_keys() -> None:
    assert (await command(f"print('{TEXT}')").read()).keys == (KEY,)


async def test_a_command_that_fails_says_why_and_shows_no_key() -> None:
    with pytest.raises(VaultError, match="status 3: no access") as error:
        await command(f"import sys; sys.stderr.write('no access to {TEXT}'); sys.exit(3)").read()
    assert TEXT not in str(error.value)
    with pytest.raises(VaultError, match="holds something else"):
        await command("print('AccessDenied')").read()
    with pytest.raises(VaultError, match="cannot be run: No such file"):
        await CommandKeys("/nowhere/kms decrypt", 1).read()
    with pytest.raises(VaultError, match="cannot be run"):
        await CommandKeys('kms "', 1).read()


async def test_a_command_that_hangs_is_ended() -> None:
    started = time.monotonic()
    with pytest.raises(VaultError, match=r"did not end within 0\.3 s"):
        await command("import time; time.sleep(60)", 0.3).read()
    assert time.monotonic() - started < 30


class Counted:
    words = "the counted source"

    def __init__(self) -> None:
        self.keys = [KEY]
        self.reads = 0
        self.fails = False

    async def read(self) -> Keyring:
        self.reads += 1
        if self.fails:
            raise VaultError("the counted source fails")
        return Keyring(self.keys)


async def test_keys_are_read_again_when_a_new_one_is_met_and_not_for_every_made_up_one() -> None:
    source = Counted()
    vault = Vault(source)
    assert source.reads == 0
    before = await vault.keyring()
    assert await vault.keyring_for(before.key_ids) is before
    assert source.reads == 1
    source.keys = [OTHER, KEY]
    newer = Keyring(source.keys)
    found = await asyncio.gather(*(vault.keyring_for(newer.key_ids) for _ in range(5)))
    assert all(keyring.key_ids == newer.key_ids for keyring in found)
    assert source.reads == 2

    started = time.monotonic()
    for _ in range(50):
        await vault.keyring_for([b"none"])
    assert source.reads == 3
    for n in range(2):  # different ones each time: as often as that, and not oftener
        await vault.keyring_for([bytes([n]) * 4])
    assert time.monotonic() - started >= 1.0

    source.fails = True
    with pytest.raises(VaultError):
        await vault.keyring_for([b"more"])
    assert (await vault.keyring()).key_ids == newer.key_ids, "what was known stays known"
