"""RPC trouble on request: errors, delays, lost answers and lies, per method."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from proxy.localnet.params import RpcError


class LostAnswerError(Exception):
    """The call gets this HTTP status instead of a JSON-RPC answer."""

    def __init__(self, status: int) -> None:
        super().__init__(f"HTTP {status} on request")
        self.status = status


@dataclass(slots=True)
class Fault:
    """What happens to the next `times` calls of `method` ("*": any); None: until cleared.

    First `delay` seconds pass; then the call fails with `error` or `status`, if one is set. With
    `after`, the call is first carried out in full: only its answer is lost.
    """

    method: str
    delay: float = 0.0
    error: RpcError | None = None
    status: int | None = None
    after: bool = False
    times: int | None = None

    def strike(self) -> None:
        if self.error is not None:
            raise self.error
        if self.status is not None:
            raise LostAnswerError(self.status)


class Faults:
    def __init__(self, sleep: Callable[[float], Awaitable[Any]]) -> None:
        self._sleep = sleep
        self._faults: list[Fault] = []
        self.lies: dict[str, Callable[[Any], Any]] = {}
        """By method: what becomes of a result before it leaves this node. The chain itself, and
        other nodes of it, know nothing of it."""

    def add(self, fault: Fault) -> None:
        self._faults.append(fault)

    def clear(self) -> None:
        self._faults.clear()
        self.lies.clear()

    async def around(self, method: str, call: Callable[[], Any]) -> Any:
        result = await self._around(method, call)
        lie = self.lies.get(method)
        return result if lie is None else lie(result)

    async def _around(self, method: str, call: Callable[[], Any]) -> Any:
        fault = self._take(method)
        if fault is None:
            return call()
        if fault.delay:
            await self._sleep(fault.delay)
        if not fault.after:
            fault.strike()
        result = call()
        fault.strike()
        return result

    def _take(self, method: str) -> Fault | None:
        for fault in self._faults:
            if fault.method in (method, "*"):
                if fault.times is not None:
                    fault.times -= 1
                    if fault.times == 0:
                        self._faults.remove(fault)
                return fault
        return None
