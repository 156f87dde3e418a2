"""Changes for whoever calls: each leaves an event that says who it was, from where, and what."""

from collections.abc import Mapping
from typing import Any

from aiohttp import web

from proxy.admin.rights import caller
from proxy.ledger import Database
from proxy.ledger.signed import Signature, SignedDatabase


def signed(
    request: web.Request,
    database: Database,
    details: Mapping[str, Any] | None = None,
    *,
    agent: str | None = None,
) -> Database:
    """`database` for the changes of this request. `details`: what of it is worth a note. `agent`:
    whom it is about, if the path does not name one."""
    key, resource = caller(request), request.match_info.route.resource
    assert resource is not None, "a route with a mark has a path"
    path = {name: text for name, text in request.match_info.items() if name != "agent"}
    return SignedDatabase(
        database,
        Signature(
            by=key.name,
            origin=origin_of(request),
            agent=agent or request.match_info.get("agent"),
            details={
                "role": key.role,
                "action": f"{request.method} {resource.canonical}",
                **path,
                **(details or {}),
            },
        ),
    )


def origin_of(request: web.Request) -> str:
    """Where a change comes from: this listener, and who was connected to it."""
    return f"api {request.remote or 'unknown'}"
