"""For what watches over the process: is it alive, can it pay?"""

import asyncio

from aiohttp import web

from proxy.admin.answers import answer
from proxy.admin.parts import Parts
from proxy.admin.rights import anyone
from proxy.admin.shapes import Given
from proxy.chains import DEFAULT_WALLET, Chain, Unpayable
from proxy.ledger import LedgerError
from proxy.wire.problem import Problem

FRESH_SECONDS = 1.0  # anyone may ask: the database and the RPC are asked no more often


class Alive(Given):
    """`ok`, and what the process found when it was started: the default wallet, without which it
    pays for nothing, and the certificate authority, without which it pays for no https."""

    status: str
    wallet: bool
    ca: bool


class Ready(Given):
    """`ready`."""

    status: str


def routes(parts: Parts) -> list[web.RouteDef]:
    readiness = Readiness(parts)

    @anyone(gives=Alive)
    async def healthz(_: web.Request) -> web.Response:
        """Whether the process answers at all."""
        wallet = any(DEFAULT_WALLET in chain.wallets for chain in parts.chains.values())
        return answer({"status": "ok", "wallet": wallet, "ca": parts.plane.intercepts})

    @anyone(gives=Ready)
    async def readyz(_: web.Request) -> web.Response:
        """Whether payments can be made: the database answers, and each network's RPC."""
        reasons = await readiness.reasons()
        if reasons:
            raise Problem(
                503,
                "not_ready",
                "Nothing can be paid, or not everywhere; requests that need no payment still pass.",
                {"reasons": reasons},
            )
        return answer({"status": "ready"})

    return [web.get("/healthz", healthz), web.get("/readyz", readyz)]


class Readiness:
    """Asks, and remembers the answer for a moment."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._lock = asyncio.Lock()
        self._asked_at: float | None = None
        self._reasons: list[str] = []

    async def reasons(self) -> list[str]:
        """Why not: `ledger_unavailable`, or `rpc_unavailable:` and the network. Empty: ready."""
        loop = asyncio.get_running_loop()
        async with self._lock:
            if self._asked_at is None or loop.time() - self._asked_at >= FRESH_SECONDS:
                asked = [self._database(), *map(_rpc, self._parts.chains.values())]
                self._reasons = [why for why in await asyncio.gather(*asked) if why is not None]
                self._asked_at = loop.time()
            return self._reasons

    async def _database(self) -> str | None:
        try:
            await self._parts.database.execute("SELECT 1")
        except LedgerError:
            return "ledger_unavailable"
        return None


async def _rpc(chain: Chain) -> str | None:
    try:
        await chain.check()
    except Unpayable:
        return f"rpc_unavailable:{chain.network}"
    return None
