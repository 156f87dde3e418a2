"""Every group of routes. A new one is a file with a function `routes`, and a line here."""

from aiohttp import web

from proxy.admin import (
    agents,
    approvals,
    books,
    budgets,
    chats,
    claims,
    dashboard,
    events,
    guests,
    halt,
    health,
    limits,
    metrics,
    openapi,
    pins,
    policies,
    procure,
    providers,
    ratings,
    status,
    stream,
    tokens,
    versions,
    webhooks,
)
from proxy.admin.keys import Keys
from proxy.admin.parts import Parts


def all_routes(parts: Parts, *, open_metrics: bool) -> list[web.RouteDef]:
    """`open_metrics`: the metrics are for everyone who reaches the listener."""
    database = parts.database
    groups = [
        *health.routes(parts),
        *metrics.routes(parts, open_to_all=open_metrics),
        *status.routes(parts),
        *agents.routes(parts),
        *tokens.routes(parts),
        *halt.routes(database),
        *limits.routes(database),
        *policies.routes(database),
        *versions.routes(database),
        *approvals.routes(database),
        *pins.routes(database),
        *books.routes(database),
        *claims.routes(database),
        *budgets.routes(database),
        *events.routes(database),
        *stream.routes(parts.streams, Keys(database)),
        *chats.routes(database),
        *ratings.routes(database),
        *providers.routes(parts),
        *dashboard.routes(database),
        *webhooks.routes(parts),
        *guests.routes(database),
        *procure.routes(parts.procurement, database),
    ]
    return [*groups, *openapi.routes(groups)]
