"""Where the secret keys come from: the environment, a file of our own, or a command."""

import base64
import binascii
import fcntl
import os
import re
import shlex
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from proxy.files import NotPrivate, read_private, replace, write_new
from proxy.paths import private_directory
from proxy.settings import Settings
from proxy.subprocesses import heard
from proxy.vault.keyring import KEY_BYTES, Keyring, VaultError, new_key

KEY_NAME = "secret.key"
ENVIRONMENT = "AUTOPAY_SECRETS__KEY"

_MAX_FILE = 64 * 1024
_FORM = f"each key is {KEY_BYTES} bytes, in base64 or in hex (try: openssl rand -base64 32)"
# In what a command complains of, anything as long as a key might be one.
_LIKE_A_KEY = re.compile(r"[A-Za-z0-9+/=_-]{40,}")


class KeySource(Protocol):
    """`words` names it in messages."""

    @property
    def words(self) -> str: ...

    async def read(self) -> Keyring:
        """The keys as they are there now; none only if none was made yet. Raises VaultError."""
        ...


class GivenKeys:
    """Keys that were handed to this process, and don't change while it lives."""

    def __init__(self, text: str, words: str = ENVIRONMENT) -> None:
        self.words = words
        self._text = text

    async def read(self) -> Keyring:
        return _keyring(self._text, self.words)


class FileKeys:
    """A file of one key a line, the newest first, readable by its owner alone."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.words = f"the key file {path}"

    async def read(self) -> Keyring:
        try:
            content = read_private(self.path, _MAX_FILE)
        except FileNotFoundError:
            return Keyring()
        except OSError as error:
            raise VaultError(f"{self.words} cannot be read: {error.strerror}") from None
        except NotPrivate as error:
            advice = ": run chmod 600 on it, then autopay secret rotate" if error.exposed else ""
            raise VaultError(f"{self.words} {error}{advice}") from None
        return _keyring(content.decode("ascii", "replace"), self.words)

    def make(self) -> None:
        """A first key, unless somebody else has just made one. Raises VaultError or PathError."""
        private_directory(self.path.parent)
        try:
            write_new(self.path, _lines([new_key()]), 0o600)
        except FileExistsError:
            pass
        except OSError as error:
            raise VaultError(f"{self.words} cannot be written: {error.strerror}") from None

    async def put_first(self, key: bytes) -> None:
        """Makes this the current key; the others stay. Raises VaultError or PathError."""
        private_directory(self.path.parent)
        with self._alone():
            self._write([key, *(await self.read()).keys])

    async def drop(self, key_ids: Collection[bytes]) -> None:
        """Takes these keys out, for good; never the current one. Raises VaultError."""
        with self._alone():
            keyring = await self.read()
            current, *older = zip(keyring.key_ids, keyring.keys, strict=True)
            self._write([current[1], *(key for key_id, key in older if key_id not in key_ids)])

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Whoever else would change the file now waits: a key that was lost is lost for good."""
        descriptor = os.open(self.path.parent, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)  # which unlocks

    def _write(self, keys: Sequence[bytes]) -> None:
        """Whole or not at all."""
        try:
            replace(self.path, _lines(keys), 0o600)
        except OSError as error:
            raise VaultError(f"{self.words} cannot be written: {error.strerror}") from None


class CommandKeys:
    """A command that prints the keys, such as one that asks a KMS. No shell is between."""

    def __init__(self, command: str, seconds: float) -> None:
        self.words = "secrets.key_command"
        self._command = command
        self._seconds = seconds

    async def read(self) -> Keyring:
        try:
            words = shlex.split(self._command)
            status, out, err = await heard(words, os.environ, self._seconds)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise VaultError(f"{self.words} cannot be run: {reason}") from None
        if status is None:
            raise VaultError(f"{self.words} did not end within {self._seconds:g} s")
        if status != 0:
            last = (err.strip().splitlines() or [""])[-1]
            told = _LIKE_A_KEY.sub("…", last)[:200]
            raise VaultError(f"{self.words} failed with status {status}: {told or '(no word)'}")
        return _keyring(out, self.words)


def source_of(settings: Settings) -> KeySource:
    """What the settings name: a key itself, else a command, else a file."""
    secrets = settings.secrets
    if secrets.key:
        return GivenKeys(secrets.key)
    if secrets.key_command:
        return CommandKeys(secrets.key_command, secrets.key_command_seconds)
    return FileKeys(secrets.key_file or settings.data_dir / KEY_NAME)


def _keyring(text: str, words: str) -> Keyring:
    keys = [_key(word) for word in re.split(r"[\s,]+", text) if word]
    if not keys or None in keys:
        what = "holds no key" if not keys else f"holds something else (key {keys.index(None) + 1})"
        raise VaultError(f"{words} {what}: {_FORM}")
    return Keyring([key for key in keys if key is not None])


def _key(word: str) -> bytes | None:
    try:
        if len(word) == 2 * KEY_BYTES:
            return bytes.fromhex(word)
        plain = word.rstrip("=").replace("-", "+").replace("_", "/")
        key = base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except (ValueError, binascii.Error):
        return None
    return key if len(key) == KEY_BYTES else None


def _lines(keys: Sequence[bytes]) -> bytes:
    return b"".join(base64.b64encode(key) + b"\n" for key in keys)
