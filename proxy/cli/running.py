"""What the proxy that runs has loaded: files that came after it was started are not its own."""

import asyncio
import json
from dataclasses import dataclass
from typing import Any

from proxy.settings import Address

_SECONDS = 3.0
_MOST = 64 * 1024


@dataclass(frozen=True, slots=True)
class Running:
    """Whether it has a default wallet, and a certificate authority."""

    wallet: bool
    ca: bool


async def running(address: Address) -> Running | None:
    """As the operator's listener at `address` says; None if nobody there says it."""
    ask = f"GET /healthz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    try:
        async with asyncio.timeout(_SECONDS):
            reader, writer = await asyncio.open_connection(address.host, address.port)
            try:
                writer.write(ask.encode())
                await reader.readuntil(b"\r\n\r\n")
                body = await reader.read(_MOST)
            finally:
                writer.close()
        said: Any = json.loads(body)
        return Running(said["wallet"] is True, said["ca"] is True)
    except (OSError, EOFError, asyncio.LimitOverrunError, ValueError, KeyError, TypeError):
        return None
