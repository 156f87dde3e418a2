"""Two file locks: one process at a time starts or stops, and the kernel counts who uses."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from proxy.postgres.errors import PostgresError


@contextmanager
def alone(path: Path, patience: float) -> Iterator[None]:
    """Be the only process in this block. Raises PostgresError after `patience` seconds."""
    descriptor = _open(path)
    try:
        deadline = time.monotonic() + patience
        while not _lock(descriptor, fcntl.LOCK_EX):
            if time.monotonic() > deadline:
                raise PostgresError(
                    f"another process has held {path} for {patience:.0f} s", "end it and try again"
                )
            time.sleep(0.02)
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


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _lock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
