"""`autopay serve`, several of them, each a process that may be killed and is started again."""

import asyncio
import json
import os
import random
import secrets
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from proxy.crashpoints import POINTS, SURE

# The reconciler comes by its own points seldom, and only one of the replicas leads; few requests
# are sent again.
SELDOM = ("release", "present", "confirm", "verify", "disprove")
PATIENCE = 60.0
_HOST = "127.0.0.1"

SETTINGS = """
database_url = {dsn}
data_dir = {data_dir}
log_level = "warning"
[listen]
proxy = "127.0.0.1:{port}"
mounts = "127.0.0.1:0"
admin = "off"
[networks.devnet]
rpc_url = {rpc}
verify_rpc_urls = {others}
[reconciler]
interval = 0.2
[audit]
every_seconds = 2
[breaker]
enabled = false
[retries]
backoff = 0.05
[timeouts]
paid_response = 3
"""


def _free_port() -> int:
    """Below those that the system hands out by itself: while a replica is dead, nobody takes its
    place."""
    while True:
        port = secrets.choice(range(12_000, 32_000))
        with suppress(OSError), socket.create_server((_HOST, port)):
            return port


class Replica:
    """One of them. While `wanted`, whatever ends it, it is started again."""

    def __init__(
        self,
        number: int,
        data: Path,
        dsn: str,
        rpcs: list[str],
        rng: random.Random,
        tree: Path,
        env: Mapping[str, str],
    ) -> None:
        self.port = _free_port()
        self.name = f"replica {number}"
        self.up = False
        self.kills: Counter[str] = Counter()
        self.faults: list[str] = []
        """Ends that nobody ordered."""
        self.log = data / f"replica{number}.log"
        self._rng = rng
        self._tree = tree
        self._env = env
        self._process: asyncio.subprocess.Process | None = None
        self._ordered = ""
        self._wanted = True
        self._keeper: asyncio.Task[None] | None = None
        self._config = data / f"replica{number}.toml"
        self._config.write_text(
            SETTINGS.format(
                dsn=json.dumps(dsn),
                data_dir=json.dumps(str(data)),
                port=self.port,
                rpc=json.dumps(rpcs[0]),
                others=json.dumps(rpcs[1:]),
            )
        )

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self, *, crashes: bool = False, at: str = "") -> None:
        """`at`: the crash point that ends it (and it lies then); `crashes`: one by chance, again
        and again."""
        self._wanted = not at
        self._keeper = asyncio.create_task(self._keep(crashes, at))

    async def ready(self, patience: float = PATIENCE) -> None:
        end = time.monotonic() + patience
        while not self.up:
            assert self._keeper is not None
            if self._keeper.done():
                self._keeper.result()
            if time.monotonic() > end:
                raise RuntimeError(f"{self.name} does not start: {self.last_words}")
            await asyncio.sleep(0.02)

    @property
    def last_words(self) -> str:
        return (self.log.read_text(errors="replace").splitlines() or [""])[-1]

    def kill(self, why: str) -> bool:
        """Whether there was something to kill."""
        if self._process is None or self._process.returncode is not None:
            return False
        self._ordered = why
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGKILL)
        return True

    async def sleep(self, seconds: float) -> bool:
        """SIGSTOP, and SIGCONT: everything stands still in there, and does not know it."""
        process = self._process
        if process is None or process.returncode is not None:
            return False
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGSTOP)
            await asyncio.sleep(seconds)
            process.send_signal(signal.SIGCONT)
        return True

    async def end(self) -> None:
        """Kill it, and let it lie."""
        self._wanted = False
        self.kill("end")
        if self._keeper is not None:
            await self._keeper

    async def ended(self) -> None:
        """Returns when it has come to the end that `start` gave it."""
        assert self._keeper is not None
        await self._keeper

    async def _keep(self, crashes: bool, at: str) -> None:
        while True:
            crash = at or (self._some_crash() if crashes else "")
            process = await self._launch(crash)
            self._process, self._ordered = process, ""
            ready = asyncio.create_task(self._announced())
            status = await process.wait()
            self.up = False
            ready.cancel()
            await asyncio.gather(ready, return_exceptions=True)
            if self._ordered:
                if self._ordered != "end":
                    self.kills[self._ordered] += 1
            elif status == -signal.SIGKILL and crash:
                self.kills[crash.partition(":")[0]] += 1
            elif status == 1:  # it could not start: the database is away
                self.kills["start refused"] += 1
                await asyncio.sleep(0.2)
            else:
                self.faults.append(f"{self.name} ended with status {status}")
            if not self._wanted:
                return

    def _some_crash(self) -> str:
        """A point, and how often it is passed before; none, every fifth time."""
        if self._rng.random() < 0.2:
            return ""
        point = self._rng.choice(POINTS)
        return f"{point}:{self._rng.randrange(1, 4 if point.startswith(SELDOM) else 15)}"

    async def _launch(self, crash: str) -> asyncio.subprocess.Process:
        env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(self._tree), **self._env}
        if crash:
            env |= {"CRASHPOINT": crash, "CRASHPOINT_ARMED": SURE}
        with self.log.open("ab") as log:
            return await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "proxy", "--config", str(self._config), "serve"),
                env=env,
                cwd=self._tree,
                stdout=log,
                stderr=log,
            )

    async def _announced(self) -> None:
        """A replica that neither serves nor ends is lost to whoever looks after it."""
        end = time.monotonic() + PATIENCE
        while not self.up:
            if time.monotonic() > end:
                self.faults.append(f"{self.name} did not start in {PATIENCE:g} s, nor end")
                self.kill("it hung")
                return
            try:
                _, writer = await asyncio.open_connection(_HOST, self.port)
            except OSError:
                await asyncio.sleep(0.03)
                continue
            writer.close()
            self.up = True
