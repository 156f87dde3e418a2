"""What of a server still lives, told from /proc.

`postmaster.pid` alone proves nothing: after `kill -9` it stays behind, its number may be taken by
another program, and PostgreSQL itself then refuses to start although nothing runs (it also counts
a zombie as running). The certain sign of a server's process is its working directory: postmaster
and children all sit in the data directory.
"""

import contextlib
import os
import time
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from proxy.postgres.errors import PostgresError

PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class PidFile:
    """What a postmaster writes about itself; `status` is "starting", "ready", "stopping"…"""

    pid: int
    socket_dir: str
    status: str


class Life(Enum):
    """What the process that a pid file names is now."""

    SERVER = "our server"
    DYING = "on its way out: neither gone nor certain to hold nothing"
    ZOMBIE = "dead, but not yet collected by its parent: holds no memory and no file"
    STRANGER = "another program under the same number"
    GONE = "no such process"


def read_pid_file(data: Path) -> PidFile | None:
    """The data directory's postmaster.pid; None if absent or not yet written to its end."""
    try:
        lines = (data / "postmaster.pid").read_text().splitlines()
        return PidFile(int(lines[0]), lines[4].strip(), lines[7].strip())
    except (FileNotFoundError, IndexError, ValueError):
        return None


def life_of(pid: int, data: Path) -> Life:
    """What became of the process `pid` that once served `data`."""
    process = PROC / str(pid)
    try:
        # "pid (name) state ppid …"; the name may hold anything, so cut at its last parenthesis.
        head, _, tail = (process / "stat").read_text().rpartition(") ")
        state = tail.split(" ", 1)[0]
        if not head.endswith("(postgres"):
            return Life.STRANGER
        if state in "ZX":
            return Life.ZOMBIE
        return Life.SERVER if (process / "cwd").readlink() == data else Life.STRANGER
    except PermissionError:
        return Life.STRANGER
    except (FileNotFoundError, ProcessLookupError):
        return Life.DYING if process.exists() else Life.GONE


def servers_in(data: Path) -> list[int]:
    """Every live process of a server on `data`: the postmaster, and children that outlive it."""
    pids = (int(entry.name) for entry in PROC.iterdir() if entry.name.isdigit())
    return [pid for pid in pids if life_of(pid, data) is Life.SERVER]


def reap(pid: int) -> None:
    """Collect a dead process if it is our child, as it is when autopay is a container's PID 1."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def settled(data: Path, timeout: float) -> PidFile | None:
    """Wait until the server on `data` is either ready (its pid file) or wholly gone (None).

    Raises PostgresError if it is neither after `timeout` seconds.
    """
    deadline = time.monotonic() + timeout
    while True:
        named = read_pid_file(data)
        alive = servers_in(data)
        if named and named.pid in alive:
            if named.status == "ready":
                return named
        elif not alive and not (named and life_of(named.pid, data) is Life.DYING):
            if named:
                reap(named.pid)
            return None
        if time.monotonic() > deadline:
            raise PostgresError(
                f"PostgreSQL processes {alive or named} in {data} neither serve nor end",
                "look at what they do and end them",
            )
        time.sleep(0.02)
