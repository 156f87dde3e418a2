"""Three file locks: one process at a time starts or stops, the kernel counts who uses, and a server
that lives is known wherever it runs."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from proxy.postgres.errors import PostgresError

_DYING_SECONDS = 5.0


@contextmanager
def alone(path: Path, patience: float) -> Iterator[None]:
    """Be the only process in this block. Raises PostgresError after `patience` seconds."""
    descriptor = _open(path)
    try:
        if not _lock_within(patience, descriptor):
            raise PostgresError(
                f"another process has held {path} for {patience:.0f} s", "end it and try again"
            )
        yield
    finally:
        os.close(descriptor)


class Membership:
    """One process among the users of a server: a shared lock that ends with the process.

    `is_last` and `join` are to be called inside `alone`, so that nobody comes in between.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor = _open(path)

    def join(self) -> None:
        fcntl.flock(self._descriptor, fcntl.LOCK_SH)

    def is_last(self) -> bool:
        """Whether no other process is a user now."""
        last = _lock(self._descriptor, fcntl.LOCK_EX)
        # A refused conversion has dropped our own share as well.
        fcntl.flock(self._descriptor, fcntl.LOCK_SH)
        return last

    def leave(self) -> None:
        os.close(self._descriptor)


@contextmanager
def sign_of_life(path: Path) -> Iterator[int]:
    """The lock that a server holds as long as one of its processes lives; the descriptor is for the
    new server to inherit.

    The processes of another container cannot be seen from here, nor does PostgreSQL see them, and a
    second server on the same files would ruin them. A lock is seen by everybody who has the files.
    Raises PostgresError if a server lives.
    """
    descriptor = _open(path)
    try:
        # One that was killed closes its files a moment after it is gone to the eye.
        if not _lock_within(_DYING_SECONDS, descriptor):
            raise PostgresError(
                f"the PostgreSQL in {path.parent} runs where it cannot be seen from here, as in "
                "another container",
                "run this there (docker exec), or stop that one first",
            )
        yield descriptor
    finally:
        os.close(descriptor)


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _lock_within(seconds: float, descriptor: int) -> bool:
    deadline = time.monotonic() + seconds
    while not _lock(descriptor, fcntl.LOCK_EX):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def _lock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
