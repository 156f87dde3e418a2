"""autopay as an operator runs it: a process, with an environment of its own."""

import contextlib
import io
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

import pytest

from proxy.cli import main
from proxy.vault import FileKeys, Vault
from tests.peers.postgres import kill_servers, server_directory


@dataclass
class Autopay:
    """Calls `autopay` with one data directory, one settings file, and no other settings.

    `inside`: within this process, which saves the half second that Python takes to start; what
    runs until a signal comes never is.
    """

    data: Path
    env: dict[str, str] = field(default_factory=dict)
    program: tuple[str, ...] = (sys.executable, "-m", "proxy")
    inside: bool = False

    @property
    def config(self) -> Path:
        return self.data / "autopay.toml"

    @property
    def vault(self) -> Vault:
        """Its secret key, as it keeps it by default."""
        return Vault(FileKeys(self.data / "secret.key"))

    @property
    def wallet(self) -> Path:
        return self.data / "wallet.json"

    def environment(self, **env: str) -> dict[str, str]:
        clean = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("AUTOPAY_") and name != "DATABASE_URL"
        }
        return clean | {"AUTOPAY_DATA_DIR": str(self.data)} | self.env | env

    def command(self, *words: str) -> list[str]:
        # Always with --config: root's default would be /etc/autopay of the machine.
        return [*self.program, "--config", str(self.config), *words]

    def __call__(
        self, *words: str, stdin: str = "", **env: str
    ) -> "subprocess.CompletedProcess[str]":
        environment = self.environment(**env)
        if self.inside and words[0] not in ("serve", "demo", "localnet"):
            return self._call_inside(words, stdin, environment)
        return subprocess.run(
            self.command(*words),
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=100,
            env=environment,
        )

    def _call_inside(
        self, words: tuple[str, ...], stdin: str, environment: dict[str, str]
    ) -> "subprocess.CompletedProcess[str]":
        out, err = io.StringIO(), io.StringIO()
        with (
            mock.patch.dict(os.environ, environment, clear=True),
            mock.patch("sys.stdin", io.StringIO(stdin)),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            # In a thread: a test that is async has a loop running in this one already.
            ThreadPoolExecutor(1) as thread,
        ):
            status = thread.submit(main, ["--config", str(self.config), *words]).result()
        return subprocess.CompletedProcess(words, status, out.getvalue(), err.getvalue())

    def well(self, *words: str, stdin: str = "", **env: str) -> str:
        """What it printed; it must have succeeded, silently on stderr."""
        done = self(*words, stdin=stdin, **env)
        assert (done.returncode, done.stderr) == (0, ""), done.stdout
        return done.stdout

    def refused(self, *words: str, stdin: str = "", **env: str) -> str:
        """The one line on stderr that says why not."""
        done = self(*words, stdin=stdin, **env)
        assert done.returncode == 1, done
        assert done.stdout == ""
        assert done.stderr.startswith("autopay: ")
        assert done.stderr.count("\n") == 1, done.stderr
        return done.stderr.removeprefix("autopay: ").rstrip("\n")

    @contextmanager
    def running(self, *words: str, until: str, **env: str) -> Iterator["subprocess.Popen[str]"]:
        """A process that has said `until`; its end is the test's to make, or it is killed."""
        process = subprocess.Popen(
            self.command(*words),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.environment(**env),
        )
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if until in line:
                    break
            else:
                pytest.fail(f"it ended without a word of {until!r}: {process.communicate()}")
            yield process
        finally:
            if process.poll() is None:
                process.kill()
                process.communicate()


@pytest.fixture
def private() -> Iterator[Path]:
    """A data directory, in which autopay may have a server of its own."""
    directory = server_directory()
    yield directory
    kill_servers(directory / "postgres/data")
    shutil.rmtree(directory)


@pytest.fixture
def embedded(private: Path) -> Autopay:
    """With a database of its own making, as on a fresh machine."""
    return Autopay(private)


@pytest.fixture
def autopay(private: Path, dsn: str) -> Autopay:
    """With a ready database, and a settings file in which nothing is set."""
    autopay = Autopay(private, {"DATABASE_URL": dsn}, inside=True)
    autopay.config.touch()
    return autopay


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def until(true: Callable[[], bool], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come true in time"
        time.sleep(0.02)
