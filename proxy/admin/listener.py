"""The socket of the operator's listener."""

import asyncio
import logging
from collections.abc import Iterable
from typing import Any, Self, cast

from aiohttp import web

from proxy.admin.answers import told
from proxy.wire.problem import Problem

log = logging.getLogger(__name__)

CONNECTIONS = 200
IDLE_SECONDS = 30.0  # before a first request too
CLOSE_SECONDS = 5.0

_NO_LOG = logging.Logger("nobody's", logging.CRITICAL)  # a line for each scrape tells nothing


class Listener:
    """A running one. `addresses`: (host, port) of what is bound."""

    def __init__(self, runner: web.AppRunner, server: asyncio.Server) -> None:
        self._runner = runner
        self._server = server
        self.addresses: list[tuple[str, int]] = [sock.getsockname()[:2] for sock in server.sockets]

    @classmethod
    async def start(cls, app: web.Application, host: str, port: int) -> Self:
        """Bind and serve. Raises OSError."""
        runner = web.AppRunner(app, shutdown_timeout=CLOSE_SECONDS)
        await runner.setup()
        web_server = runner.server
        assert web_server is not None
        loop = asyncio.get_running_loop()

        def connection() -> asyncio.Protocol:
            taken = web_server.connections
            if len(taken) >= CONNECTIONS and not _make_room(taken):
                return _Full()
            return _Connection(
                web_server,
                loop=loop,
                keepalive_timeout=IDLE_SECONDS,
                access_log=_NO_LOG,
                lingering_time=1.0,
            )

        try:
            server = await loop.create_server(connection, host, port)
        except BaseException:
            await runner.cleanup()
            raise
        return cls(runner, server)

    async def close(self) -> None:
        """Stop listening; what is under way has a few seconds to end."""
        self._server.close()
        await self._runner.cleanup()


class _Connection(web.RequestHandler):
    """`used_at`: when it was made, or had its last answer, by the loop's clock."""

    __slots__ = ("used_at",)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.used_at = asyncio.get_running_loop().time()

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        try:
            return await super().finish_response(request, resp, start_time)
        finally:
            self.used_at = asyncio.get_running_loop().time()

    @property
    def idle(self) -> bool:
        """It waits for a request, and has nothing more to send: who takes in an answer slowly is
        being answered."""
        waiter, transport = self._waiter, self.transport  # as aiohttp sees it when their time is up
        return (
            waiter is not None
            and not waiter.done()
            and transport is not None
            and transport.get_write_buffer_size() == 0
        )

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """What never came as far as a route: bytes that are no request; or a stream cut off."""
        if request.writer is not None and request.writer.output_size > 0:
            raise ConnectionError("the answer has begun already")
        if status >= 500:
            log.error("a request failed", exc_info=exc)
            response = told(
                Problem(500, "internal_error", "autopay failed to answer. See its log.")
            )
        else:
            response = told(Problem(400, "bad_request", "Not a valid request."))
        response.force_close()
        return response


def _make_room(taken: Iterable[Any]) -> bool:
    """Closes the one that has been idle for the longest time, so that a crowd of idle ones keeps
    nobody out. Whether there was one."""
    idle = [one for one in taken if isinstance(one, _Connection) and one.idle]
    if not idle:
        return False
    min(idle, key=lambda one: one.used_at).force_close()
    return True


class _Full(asyncio.Protocol):
    """For one connection too many."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast(asyncio.Transport, transport).abort()  # uvloop's is not one by name
