"""How many of the calls of the last so many seconds failed."""

from collections import deque

PARTS = 10


class Window:
    """Slides in tenths of `seconds`, on any clock that does not go back."""

    __slots__ = ("_parts", "_width", "calls", "failures")

    def __init__(self, seconds: float) -> None:
        self._width = seconds / PARTS
        self._parts: deque[list[int]] = deque()  # number, calls, failures
        self.calls = 0
        self.failures = 0

    def add(self, now: float, calls: int, failures: int) -> None:
        """`calls` is 0 for a failure of a call that was counted before."""
        number = int(now / self._width)
        parts = self._parts
        if not parts or parts[-1][0] != number:
            while parts and parts[0][0] <= number - PARTS:
                _, old_calls, old_failures = parts.popleft()
                self.calls -= old_calls
                self.failures -= old_failures
            parts.append([number, 0, 0])
        parts[-1][1] += calls
        parts[-1][2] += failures
        self.calls += calls
        self.failures += failures

    def clear(self) -> None:
        self._parts.clear()
        self.calls = self.failures = 0
