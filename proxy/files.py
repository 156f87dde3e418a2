"""Files that appear whole or not at all, whatever happens while they are written; and files that
nobody but their owner may have read."""

import errno
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


class NotPrivate(Exception):
    """A file that is no secret's: `str()` is what is wrong with it, after its name."""

    def __init__(self, why: str, *, exposed: bool) -> None:
        super().__init__(why)
        self.exposed = exposed
        """Whether others can read it, so that what it holds may be known to them."""


def read_private(path: Path, most: int) -> bytes:
    """Up to `most` bytes of a file that is its owner's alone. Raises NotPrivate, or an OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    # Looked at through the open file, so that it cannot be exchanged in between.
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            raise NotPrivate("is not a regular file", exposed=False)
        if mode & 0o077:
            raise NotPrivate(f"can be read by others (mode {mode & 0o777:04o})", exposed=True)
        return os.read(descriptor, most)
    finally:
        os.close(descriptor)


def write_new(path: Path, content: bytes, mode: int) -> None:
    """Write a file that must not exist yet. Raises FileExistsError, or another OSError."""
    with _whole(path, content, mode) as ready:
        # A link refuses to overwrite, and unlike O_EXCL on the name itself it never shows
        # another process a file that is half written.
        os.link(ready, path)
    sync_directory(path.parent)


def replace(path: Path, content: bytes, mode: int) -> None:
    """Write a file in place of what is there. Raises OSError."""
    with _whole(path, content, mode) as ready:
        ready.replace(path)
    sync_directory(path.parent)


@contextmanager
def written(path: Path, mode: int, *, over: bool) -> Iterator[BinaryIO]:
    """A file that is written piece by piece, and appears when that ended without an error. `over`:
    in place of what is there; else FileExistsError, before anything is written if it is known by
    then. Raises another OSError too."""
    if not over and os.path.lexists(path):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
    with _beside(path) as (ready, file):
        yield file
        _flush(file, mode)
        if over:
            ready.replace(path)
        else:
            os.link(ready, path)
    sync_directory(path.parent)


def replace_if_changed(path: Path, content: bytes, mode: int) -> None:
    """As `replace`, but a file that says the same already is left alone. Raises OSError."""
    try:
        if path.read_bytes() == content:
            return
    except FileNotFoundError:
        pass
    replace(path, content, mode)


@contextmanager
def _whole(path: Path, content: bytes, mode: int) -> Iterator[Path]:
    """A complete file beside `path`, gone afterwards unless it was moved to its place."""
    with _beside(path) as (beside, file):
        file.write(content)
        _flush(file, mode)
        yield beside


@contextmanager
def _beside(path: Path) -> Iterator[tuple[Path, BinaryIO]]:
    """A file to be written, gone afterwards unless it was moved to its place."""
    beside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    # 0600 from its first moment, and O_EXCL so that nobody can have laid a file there to read.
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield beside, file
    finally:
        beside.unlink(missing_ok=True)


def _flush(file: BinaryIO, mode: int) -> None:
    """All of it is on the disk, for whom it is."""
    file.flush()
    os.fchmod(file.fileno(), mode)
    os.fsync(file.fileno())


def sync_directory(path: Path) -> None:
    """Make the new name itself durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
