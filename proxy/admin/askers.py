"""Agents at the operator's listener: what they may do there, they do with their own credential."""

from aiohttp import web

from proxy.ledger import Agent, Directory
from proxy.wire.problem import Problem
from proxy.wire.routes import basic_credentials

_CHALLENGE = (
    (b"WWW-Authenticate", b'Basic realm="autopay", charset="UTF-8"'),
    (b"WWW-Authenticate", b'Bearer realm="autopay"'),
)


def agent_of(request: web.Request, directory: Directory) -> Agent | None:
    """Whose credential was sent: `Basic NAME:TOKEN`, as to the proxy, or `Bearer TOKEN`."""
    value = request.headers.get("Authorization", "")
    scheme, _, token = value.partition(" ")
    if scheme.lower() == "bearer":
        return directory.by_token(token.strip())
    credentials = basic_credentials(value.encode("latin-1", "replace"))
    return None if credentials is None else directory.authenticate(*credentials)


def nobody() -> Problem:
    return Problem(
        401,
        "authentication_required",
        "This is done with an agent's rights: send its name and token as Basic credentials, or its"
        " token as `Authorization: Bearer` (`autopay agent add NAME` prints them). Nothing was sent"
        " or paid.",
        headers=_CHALLENGE,
    )
