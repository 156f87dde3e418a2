"""An event loop whose clock jumps, and processes that can be killed between any two of its steps.

When nothing is ready, time becomes that of the next timer: an hour of waiting costs nothing, and
nothing depends on how fast this machine is. There are no sockets, threads or signals, so what a run
does depends on its seed alone.

A simulated process is a context: every task and callback inherits the one of who made it. To kill
it is to never run any of its callbacks again. No `finally`, no `except CancelledError` of it runs,
as none would after `kill -9`.
"""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from typing import Any, TypeVar

T = TypeVar("T")


class Life:
    """Of one simulated process."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.alive = True
        self.steps_left: int | None = None
        """It is killed after so many steps, wherever it is then."""
        self.tasks: list[asyncio.Task[Any]] = []

    def __repr__(self) -> str:
        return self.name


LIFE: ContextVar[Life | None] = ContextVar("life", default=None)


class Deadlock(AssertionError):
    """Nothing is ready and nothing ever will be."""


class _Clock:
    """In the place of a selector: to wait is to move the clock."""

    def __init__(self, loop: "VirtualLoop") -> None:
        self._loop = loop

    def select(self, timeout: float | None) -> list[Any]:
        if timeout is None:
            raise Deadlock("nothing will ever happen any more")
        self._loop.now += max(timeout, 0.0)
        return []

    def close(self) -> None: ...


class VirtualLoop(asyncio.BaseEventLoop):
    """`on_death` is told of a process that has used up its steps."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self._selector = _Clock(self)
        self._clock_resolution = 1e-9
        self.on_death: Callable[[Life], None] = lambda _: None
        self.steps = 0
        self.set_exception_handler(self._failed)
        self.failures: list[str] = []

    def time(self) -> float:
        return self.now

    # What BaseEventLoop leaves to those with a selector.
    def _process_events(self, _events: object) -> None: ...
    def _write_to_self(self) -> None: ...

    def run_in_executor(self, *_: object) -> Any:
        raise AssertionError("a thread would not know what time it is")

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        handle = super().call_soon(callback, *args, context=context)
        self._owned(handle, context)
        return handle

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: Any = None
    ) -> asyncio.TimerHandle:
        handle = super().call_at(when, callback, *args, context=context)
        self._owned(handle, context, counts=False)
        return handle

    def create_task(self, coro: Any, *, name: Any = None, context: Any = None) -> Any:
        task = super().create_task(coro, name=name, context=context)
        life = (context or copy_context()).get(LIFE)
        if life is not None:
            life.tasks.append(task)
        return task

    def _owned(
        self, handle: asyncio.Handle, context: Context | None, *, counts: bool = True
    ) -> None:
        life = LIFE.get() if context is None else context.get(LIFE)
        self.steps += 1
        if life is None:
            return
        if counts and life.alive and life.steps_left is not None:
            life.steps_left -= 1
            if life.steps_left <= 0:
                self.kill(life)
                self.on_death(life)
        if not life.alive:
            handle.cancel()

    def kill(self, life: Life) -> None:
        """What it was about to do is not done."""
        life.alive = False
        for handle in [*self._ready, *self._scheduled]:  # type: ignore[attr-defined]
            if handle._context is not None and handle._context.get(LIFE) is life:
                handle.cancel()

    def bury(self, life: Life) -> None:
        """Frees what it had, without a word of its own: call it when the run is over."""
        life.alive = False
        for task in life.tasks:
            if not task.done():
                task._log_destroy_pending = False  # type: ignore[attr-defined]
                with contextlib.suppress(BaseException):
                    task.get_coro().close()  # type: ignore[union-attr]

    def spawn(self, life: Life | None, work: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        """A task of that process."""
        context = Context()
        context.run(LIFE.set, life)
        task: asyncio.Task[T] = self.create_task(work, context=context)
        return task

    def _failed(self, _loop: object, context: dict[str, Any]) -> None:
        self.failures.append(repr(context.get("exception") or context.get("message")))
