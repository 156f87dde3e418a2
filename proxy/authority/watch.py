"""The CA of a directory, as it is there now."""

import logging
import os
from pathlib import Path

from proxy.authority.ca import KEY_NAME, Authority, AuthorityError

log = logging.getLogger(__name__)

Stamp = tuple[int, int, int]  # which file, when it was written, and how long it is


class AuthorityFile:
    """Follows the file from which a CA was loaded: `autopay ca rotate` puts another in its place.

    To look costs 2 us. A file that is missing, half written or no CA's is no new CA: the one that
    was known stays, the log says so once for every such file, and the next look tries again.
    """

    def __init__(self, directory: Path) -> None:
        """Raises AuthorityError if there is no usable CA."""
        self._directory = directory
        self._path = directory / KEY_NAME
        self._stamp = self._look()
        self._bad: Stamp | None = None
        self._authority = Authority.load(directory)

    def current(self) -> Authority:
        """The CA; the same object as long as the file is the same."""
        # Before the file is read: what is written meanwhile is seen at the next look.
        stamp = self._look()
        if stamp == self._stamp:
            return self._authority
        try:
            self._authority = Authority.load(self._directory)
        except AuthorityError as error:
            if stamp != self._bad:
                self._bad = stamp
                log.error("the CA in use stays the one that was there before: %s", error)
            return self._authority
        self._stamp, self._bad = stamp, None
        log.warning("a new CA is in use: SHA-256 %s", self._authority.fingerprint)
        return self._authority

    def _look(self) -> Stamp:
        try:
            seen = os.stat(self._path)  # noqa: PTH116 - half the cost of Path.stat()
        except OSError:
            return (0, 0, 0)
        return seen.st_ino, seen.st_mtime_ns, seen.st_size
