"""A caller of JSON-RPC over HTTP, as small as the facilitator needs it."""

from typing import Any

import aiohttp


class JsonRpcError(Exception):
    """No result: the node refused, answered nonsense, or could not be reached."""


class JsonRpc:
    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self._url = url
        self._session = session

    async def call(self, method: str, *params: Any) -> Any:
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        try:
            async with self._session.post(self._url, json=body) as response:
                answer = await response.json()
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise JsonRpcError(f"{method}: {error!r}") from error
        if not isinstance(answer, dict) or "result" not in answer:
            raise JsonRpcError(f"{method}: {answer}")
        return answer["result"]
