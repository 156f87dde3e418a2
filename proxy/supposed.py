"""A request that nobody has made yet, as the proxy would know it: what is asked to be explained."""

import hashlib
from dataclasses import replace

from policies import Ask, PolicyError
from proxy.entries import request_key
from proxy.wire.routes import origin_of
from proxy.x402.assets import ASSETS

# Their requests have no body but for the oddest of programs. What others send, nobody can guess.
_BODILESS = ("GET", "HEAD")


def completed(ask: Ask) -> Ask:
    """With the address of a symbol, or the symbol of an address, from our own table."""
    for asset in ASSETS:
        if asset.network == ask.network and (
            asset.address == ask.asset or (not ask.asset and asset.symbol == ask.symbol.upper())
        ):
            return replace(ask, asset=asset.address, symbol=asset.symbol)
    return ask


def supposed_key(method: str, url: str, body_sha256: bytes | None = None) -> bytes | None:
    """What the request would be known by (`entries.request_key`); None if its body is not known.

    Raises PolicyError for a URL that no request could have.
    """
    if body_sha256 is None and method in _BODILESS:
        body_sha256 = hashlib.sha256(b"").digest()
    try:
        origin = origin_of(url)
    except ValueError as error:
        raise PolicyError(f"{url[:200]!r}: {error}") from None
    rest = url.partition("#")[0].partition("://")[2]
    start = min((at for at in (rest.find("/"), rest.find("?")) if at >= 0), default=len(rest))
    path = rest[start:]
    target = path if path.startswith("/") else f"/{path}"
    return request_key(
        method, f"{origin.scheme}://{origin.authority.decode()}{target}", body_sha256
    )
