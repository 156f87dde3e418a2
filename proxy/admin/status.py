"""Is all well, at a glance?"""

from typing import Any

from aiohttp import web

from policies import format_usd
from proxy import __version__
from proxy.admin.answers import answer
from proxy.admin.parts import Parts
from proxy.admin.rights import needs
from proxy.admin.roles import Role
from proxy.chains import Chain, Unpayable
from proxy.ledger import history
from proxy.records import as_fields

MOST_IN_DOUBT = 1_000
MOST_BREAKERS = 100


def routes(parts: Parts) -> list[web.RouteDef]:
    @needs(Role.READER)
    async def status(_: web.Request) -> web.Response:
        """Today's budgets, what is in doubt, what is left alone, and what is under way."""
        database, plane = parts.database, parts.plane
        in_doubt = await history.in_doubt(database, limit=MOST_IN_DOUBT)
        tripped = [(key, state) for key, state in parts.providers.breakers() if state != "closed"]
        return answer(
            {
                "version": __version__,
                "networks": {name: await _rpc(chain) for name, chain in parts.chains.items()},
                "today": [
                    as_fields(today, money=today.MONEY) for today in await history.today(database)
                ],
                "in_doubt": {
                    "payments": len(in_doubt),
                    "held_usd": format_usd(sum(payment.price for payment in in_doubt)),
                },
                "breakers": [
                    {"provider": key, "state": state} for key, state in tripped[:MOST_BREAKERS]
                ],
                "certificate_rejections": [
                    as_fields(one) for one in await history.rejections(database)
                ],
                "connections": plane.connections,
                "tunnels": plane.tunnels,
                "unwritten": parts.ledger.waiting,
            }
        )

    return [web.get("/v1/status", status)]


async def _rpc(chain: Chain) -> dict[str, Any]:
    try:
        await chain.check()
    except Unpayable as error:
        return {"well": False, "detail": error.detail}
    return {"well": True, "detail": "answers"}
