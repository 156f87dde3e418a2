"""What a call is worked on with: of the data plane as a whole, as much as its parts may ask for."""

import asyncio
from collections.abc import Coroutine
from typing import Any, Protocol

from proxy.wire.gate import Gate
from proxy.wire.limits import Limits
from proxy.wire.pool import Pool
from proxy.wire.retrying import Retries
from proxy.wire.tap import Stock


class Means(Protocol):
    """See DataPlane."""

    loop: asyncio.AbstractEventLoop
    gate: Gate
    limits: Limits
    pool: Pool
    retries: Retries
    copies: Stock

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]: ...
