"""Every group of routes. A new one is a file with a function `routes`, and a line here."""

from aiohttp import web

from proxy.admin import books, chats, dashboard, guests, health, metrics, openapi, status
from proxy.admin.keys import Keys
from proxy.admin.parts import Parts


def all_routes(parts: Parts, keys: Keys, *, open_metrics: bool) -> list[web.RouteDef]:
    """`open_metrics`: the metrics are for everyone who reaches the listener."""
    groups = [
        *health.routes(parts),
        *metrics.routes(parts, open_to_all=open_metrics),
        *status.routes(parts),
        *books.routes(parts.database),
        *chats.routes(parts.database),
        *dashboard.routes(parts.database),
        *guests.routes(keys),
    ]
    return [*groups, *openapi.routes(groups)]
