"""An RPC that is asked again. A proof makes many calls, and public nodes count them (HTTP 429)."""

import asyncio
from typing import Any

from proxy.chains import Unpayable
from proxy.chains.solana.rpc import Rpc, RpcRefusal

TRIES = 5
PAUSE = 1.0  # seconds; twice as long each time, so that ten-second windows of counting pass
_TIMEOUT = 15.0
_NO_METHOD, _INVALID_PARAMS = -32601, -32602


class PatientRpc(Rpc):
    """Once a call has failed for good, the others are tried once, until one succeeds."""

    def __init__(self, url: str) -> None:
        """Raises ValueError for a URL of no use."""
        super().__init__(url, timeout=_TIMEOUT)
        self._given_up = False

    async def call(self, method: str, *params: Any) -> Any:
        """The `result` as parsed JSON. Raises Unpayable."""
        for attempt in range(TRIES):
            try:
                answer = await super().call(method, *params)
            except Unpayable as failure:
                if isinstance(failure, RpcRefusal) and (
                    failure.rpc_code in (_NO_METHOD, _INVALID_PARAMS)
                ):
                    raise  # it answers, and will say the same again
                if self._given_up or attempt == TRIES - 1:
                    self._given_up = True
                    raise
                await asyncio.sleep(PAUSE * 2**attempt)
            else:
                self._given_up = False
                return answer
        raise AssertionError("the last try returns or raises")
