"""A part of a measurement in a process of its own: what it uses is nobody else's."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvloop

TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Process:
    pid: int
    port: int

    def cpu(self) -> float:
        """Seconds of CPU used so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS


@asynccontextmanager
async def spawned(module: str, part: str, *options: str) -> AsyncIterator[Process]:
    """Until the block ends, `python -m MODULE --play PART`, which has to `play` that."""
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module, "--play", part, *options), stdout=asyncio.subprocess.PIPE
    )
    try:
        assert child.stdout is not None
        yield Process(child.pid, int(await child.stdout.readline()))
    finally:
        child.kill()
        await child.wait()


def play(
    listen: Coroutine[Any, Any, int],
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop,
) -> None:
    """Serve in this process until it is killed; the port is the first line it prints."""
    with asyncio.Runner(loop_factory=factory) as runner:
        sys.stdout.write(f"{runner.run(listen)}\n")
        sys.stdout.flush()
        runner.run(asyncio.Event().wait())  # type: ignore[arg-type]
