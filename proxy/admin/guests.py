"""Who may come here."""

from aiohttp import web

from proxy.admin.answers import answer
from proxy.admin.keys import Keys
from proxy.admin.rights import needs
from proxy.admin.roles import Role
from proxy.records import as_fields


def routes(keys: Keys) -> list[web.RouteDef]:
    @needs(Role.ADMIN)
    async def list_keys(_: web.Request) -> web.Response:
        """The keys that were not revoked, without what is secret of them."""
        return answer({"items": [as_fields(key) for key in await keys.list_all()]})

    return [web.get("/v1/keys", list_keys)]
