"""The local chain behind JSON-RPC 2.0 over HTTP, single calls and batches."""

import asyncio
import json
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

from aiohttp import web

from proxy.localnet.chain import LocalChain
from proxy.localnet.control import CONTROLS
from proxy.localnet.faults import Faults, LostAnswerError
from proxy.localnet.methods import METHODS
from proxy.localnet.params import (
    INTERNAL_ERROR,
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    PARSE_ERROR,
    Params,
    RpcError,
)

_log = logging.getLogger(__name__)


class RpcNode:
    """Serves one chain, and makes its blocks: one every `slot_seconds`; None: only on demand.

    `calls` counts the calls per method, `faults` makes some of them fail. The controls are open to
    whoever reaches the port, so it belongs on loopback only.
    """

    def __init__(self, chain: LocalChain, *, slot_seconds: float | None = 0.4) -> None:
        self.chain = chain
        self.faults = Faults(asyncio.sleep)
        self.calls: Counter[str] = Counter()
        self._slot_seconds = slot_seconds
        self._ticker: asyncio.Task[None] | None = None

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_post("/", self._post)
        app.cleanup_ctx.append(self._ticking)
        return app

    def pace(self, slot_seconds: float | None) -> None:
        """Call from within the running event loop."""
        self._slot_seconds = slot_seconds
        if self._ticker is not None:
            self._ticker.cancel()
        self._ticker = asyncio.create_task(self._tick(slot_seconds)) if slot_seconds else None

    async def _ticking(self, _app: web.Application) -> AsyncIterator[None]:
        self.pace(self._slot_seconds)
        yield
        if self._ticker is not None:
            self._ticker.cancel()
            with suppress(asyncio.CancelledError):
                await self._ticker

    async def _tick(self, slot_seconds: float) -> None:
        while True:
            await asyncio.sleep(slot_seconds)
            self.chain.advance()

    async def _post(self, request: web.Request) -> web.Response:
        try:
            calls = json.loads(await request.read())
        except ValueError:
            return web.json_response(_failure(None, RpcError(PARSE_ERROR, "Parse error")))
        try:
            if not isinstance(calls, list):
                return web.json_response(await self._answer(calls))
            if not calls:
                return web.json_response(_failure(None, RpcError(INVALID_REQUEST, "empty batch")))
            return web.json_response([await self._answer(call) for call in calls])
        except LostAnswerError as lost:
            return web.Response(status=lost.status, text=str(lost))

    async def _answer(self, call: Any) -> dict[str, Any]:
        if not isinstance(call, dict) or not isinstance(call.get("method"), str):
            return _failure(None, RpcError(INVALID_REQUEST, "Invalid request"))
        call_id, name = call.get("id"), call["method"]
        try:
            handler = self._handler(name, call.get("params") or [])
            if name in CONTROLS:  # a fault must not lock out the one who set it
                result = handler()
            else:
                result = await self.faults.around(name, handler)
        except RpcError as error:
            return _failure(call_id, error)
        except LostAnswerError:
            raise
        except Exception as error:
            _log.exception("%s", name)
            return _failure(call_id, RpcError(INTERNAL_ERROR, f"Internal error: {error!r}"))
        return {"jsonrpc": "2.0", "result": result, "id": call_id}

    def _handler(self, name: str, values: Any) -> Callable[[], Any]:
        params = Params(values)
        if name in CONTROLS:
            return lambda: CONTROLS[name](self, params)
        if name not in METHODS:
            raise RpcError(METHOD_NOT_FOUND, "Method not found")
        self.calls[name] += 1
        return lambda: METHODS[name](self.chain, params)


def _failure(call_id: Any, error: RpcError) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "error": error.body(), "id": call_id}
