"""A program of the user's as our child: its streams are ours, its signals and its end too."""

import asyncio
import os
import signal
from collections.abc import Mapping, Sequence
from typing import Self

# What people and supervisors send to a program. SIGKILL cannot be passed on.
PASSED = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
)
# A terminal sends these to every process of its foreground group, so to the program as well.
FROM_TERMINAL = (signal.SIGINT, signal.SIGQUIT)

NOT_EXECUTABLE, NOT_FOUND = 126, 127  # as shells have it


class Interrupted(Exception):
    """A signal came before there was a program to pass it to. `status` is the exit status."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.status = 128 + number


class Child:
    """One program, and the signals that come for it, from entering to leaving."""

    def __init__(self) -> None:
        self._process: asyncio.subprocess.Process | None = None
        self._early: int | None = None
        self._handled: list[int] = []
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()

    def __enter__(self) -> Self:
        for number in PASSED:
            # Whoever ignores a signal (nohup) means his children to ignore it too.
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._loop.add_signal_handler(number, self._received, number)
                self._handled.append(number)
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        for number in self._handled:
            self._loop.remove_signal_handler(number)
        if isinstance(error, asyncio.CancelledError) and self._early is not None:
            raise Interrupted(self._early) from None

    async def run(self, command: Sequence[str], env: Mapping[str, str]) -> int:
        """Its exit status; 128 + n if signal n ended it. Raises OSError if it cannot be started."""
        self._process = await asyncio.create_subprocess_exec(*command, env=env)
        status = await self._process.wait()
        return status if status >= 0 else 128 - status

    def _received(self, number: int) -> None:
        if self._process is None:
            self._early = number
            assert self._task is not None
            self._task.cancel()
        elif self._process.returncode is None and not (
            number in FROM_TERMINAL and _in_foreground()
        ):
            self._process.send_signal(number)


def _in_foreground() -> bool:
    """Whether our process group, and so the program's, is the one that the terminal talks to."""
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)
