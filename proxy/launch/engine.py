"""The proxy that a program goes through: the one that runs already, or one for its life alone."""

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from proxy.service import Service
from proxy.settings import Address, Settings
from proxy.settings.model import Listen

ANSWER_SECONDS = 3.0
HEARD_SECONDS = 2.0  # until a running proxy has heard of a new token
_ANY_PORT = Address("127.0.0.1", 0)

# Refused by every autopay once it knows who asks, and before anything is done about it: port 0.
_QUESTION = b"GET http://autopay.invalid:0/ HTTP/1.1\r\nHost: autopay.invalid:0\r\n"
_OURS = b"urn:autopay:problem:"


@asynccontextmanager
async def running(
    settings: Settings, listener: Address, agent: str, token: str
) -> AsyncIterator[Address]:
    """Where a proxy takes this credential. One that had to be started is stopped at the end.
    Raises the one-line errors of Service."""
    if await takes(listener, agent, token):
        yield listener
        return
    listen = Listen(proxy=_ANY_PORT, mounts=_ANY_PORT, admin=None)
    free = settings.model_copy(update={"listen": listen})
    service = Service(free)
    await service.start()
    try:
        yield Address(*service.proxy_address)
    finally:
        await service.stop()


async def takes(listener: Address, agent: str, token: str) -> bool:
    """Whether an autopay on the same books listens there: one that knows this token."""
    if not await _answers(listener, b""):
        return False
    credential = base64.b64encode(f"{agent}:{token}".encode())
    end = asyncio.get_running_loop().time() + HEARD_SECONDS
    while not await _answers(listener, b"Proxy-Authorization: Basic " + credential + b"\r\n", 400):
        if asyncio.get_running_loop().time() > end:
            return False
        await asyncio.sleep(0.05)
    return True


async def _answers(listener: Address, header: bytes, status: int = 407) -> bool:
    """Whether an autopay answers so."""
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            reader, writer = await asyncio.open_connection(listener.host, listener.port)
            try:
                writer.write(_QUESTION + header + b"Connection: close\r\n\r\n")
                answer = await reader.read(65536)
                while _OURS not in answer and (more := await reader.read(65536)):
                    answer += more
            finally:
                writer.close()
    except OSError:
        return False
    return answer.startswith(b"HTTP/1.1 %d " % status) and _OURS in answer
