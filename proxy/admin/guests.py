"""Who may come here."""

from datetime import timedelta
from typing import Annotated

from aiohttp import web
from pydantic import ConfigDict, Field

from proxy.admin.answers import answer
from proxy.admin.behalf import signed
from proxy.admin.keys import KeyInfo, Keys
from proxy.admin.rights import caller, needs, sent
from proxy.admin.roles import Role
from proxy.admin.shapes import Body, Given, Name, items_of
from proxy.ledger import Database
from proxy.records import as_fields


class NewKey(Body):
    """`role`: what it may do. `expires_in`: it ends by itself after so many seconds."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"name": "grafana", "role": "reader", "expires_in": 7_776_000}]
        },
        strict=False,
    )

    name: Name
    role: Role
    expires_in: Annotated[int, Field(ge=1, le=3650 * 86_400, strict=True)] | None = None


class Made(Given):
    """A new key, which is shown this once."""

    name: Name
    role: Role
    key: str


def routes(database: Database) -> list[web.RouteDef]:
    @needs(Role.ADMIN, gives=items_of(KeyInfo))
    async def list_keys(_: web.Request) -> web.Response:
        """The keys that were not revoked, without what is secret of them."""
        return answer({"items": [as_fields(key) for key in await Keys(database).list_all()]})

    @needs(Role.ADMIN, body=NewKey, gives=Made, status=201, refuses=(409,))
    async def create(request: web.Request) -> web.Response:
        """A new key."""
        new = sent(request, NewKey)
        details = {"name": new.name, "of_role": new.role, "expires_in": new.expires_in}
        key = await Keys(signed(request, database, details)).create(
            new.name,
            new.role,
            lives=None if new.expires_in is None else timedelta(seconds=new.expires_in),
            by=caller(request).name,
        )
        return answer({"name": new.name, "role": new.role, "key": key}, 201)

    @needs(Role.ADMIN)
    async def revoke(request: web.Request) -> web.Response:
        """Ends a key, from the next request on; also the one that asks for it."""
        await Keys(signed(request, database)).revoke(request.match_info["key"])
        return web.Response(status=204)

    return [
        web.get("/v1/keys", list_keys),
        web.post("/v1/keys", create),
        web.delete("/v1/keys/{key}", revoke),
    ]
