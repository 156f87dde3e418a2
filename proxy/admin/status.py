"""Is all well, at a glance?"""

import math
from datetime import UTC, datetime, timedelta
from typing import Any

from aiohttp import web

from policies import format_usd
from proxy import __version__
from proxy.admin.answers import answer
from proxy.admin.parts import Parts
from proxy.admin.rights import needs
from proxy.admin.roles import Role
from proxy.admin.shapes import Given, Usd, shape
from proxy.chains import Chain, Unpayable
from proxy.ledger import history
from proxy.ledger.wallets import held
from proxy.providers import Tripped
from proxy.records import as_fields

MOST_IN_DOUBT = 1_000
MOST_BREAKERS = 100


class Network(Given):
    """Whether its RPC answers."""

    well: bool
    detail: str


class Balance(Given):
    """In whole tokens, as it was seen last."""

    network: str
    usdc: str
    cash: str
    low: bool
    seen_at: str


class Wallet(Given):
    """One that pays, by the name that policies know it by."""

    name: str
    address: str
    balances: list[Balance]


class InDoubt(Given):
    """What has left, and of which it is not known what became of it."""

    payments: int
    held_usd: Usd


class Breaker(Given):
    """Of a provider that is left alone, or tried again: "open" or "half-open". `retry_at`: when it
    may be tried, null if it may be now; `probing`: whether this proxy is trying it."""

    provider: str
    state: str
    last_error: str
    retry_at: str | None
    probing: bool


class Status(Given):
    """How things are. `unwritten`: what waits to be written to the ledger."""

    version: str
    networks: dict[str, Network]
    wallets: list[Wallet]
    today: list[shape(history.Today)]  # type: ignore[valid-type]
    in_doubt: InDoubt
    breakers: list[Breaker]
    certificate_rejections: list[shape(history.Rejection)]  # type: ignore[valid-type]
    connections: int
    tunnels: int
    unwritten: int


def routes(parts: Parts) -> list[web.RouteDef]:
    @needs(Role.READER, gives=Status)
    async def status(_: web.Request) -> web.Response:
        """Today's budgets, what is in doubt, what is left alone, and what is under way."""
        database, plane = parts.database, parts.plane
        in_doubt = await history.in_doubt(database, limit=MOST_IN_DOUBT)
        return answer(
            {
                "version": __version__,
                "networks": {name: await _rpc(chain) for name, chain in parts.chains.items()},
                "wallets": await _wallets(parts),
                "today": [
                    as_fields(today, money=today.MONEY) for today in await history.today(database)
                ],
                "in_doubt": {
                    "payments": len(in_doubt),
                    "held_usd": format_usd(sum(payment.price for payment in in_doubt)),
                },
                "breakers": [_breaker(one) for one in parts.providers.tripped()[:MOST_BREAKERS]],
                "certificate_rejections": [
                    as_fields(one) for one in await history.rejections(database)
                ],
                "connections": plane.connections,
                "tunnels": plane.tunnels,
                "unwritten": parts.ledger.waiting,
            }
        )

    return [web.get("/v1/status", status)]


def _breaker(tripped: Tripped) -> dict[str, Any]:
    at = datetime.now(UTC) + timedelta(seconds=math.ceil(tripped.seconds))
    return {
        "provider": tripped.key,
        "state": tripped.state,
        "last_error": tripped.last_error,
        "retry_at": at.isoformat() if tripped.seconds else None,
        "probing": tripped.probing,
    }


async def _wallets(parts: Parts) -> list[dict[str, Any]]:
    found = {name: at for chain in parts.chains.values() for name, at in chain.wallets.items()}
    balances: dict[str, list[dict[str, Any]]] = {address: [] for address in found.values()}
    for one in await held(parts.database, found.values()):
        balances[one.address].append(
            {
                "network": one.network,
                "usdc": f"{one.usdc:f}",
                "cash": f"{one.cash:f}",
                "low": one.low,
                "seen_at": one.seen_at.isoformat(),
            }
        )
    return [
        {"name": name, "address": address, "balances": balances[address]}
        for name, address in found.items()
    ]


async def _rpc(chain: Chain) -> dict[str, Any]:
    try:
        await chain.check()
    except Unpayable as error:
        return {"well": False, "detail": error.detail}
    return {"well": True, "detail": "answers"}
