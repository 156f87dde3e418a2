"""Providers as the operator writes them: a URL, of which the origin counts."""

from proxy.cli.errors import CommandError
from proxy.wire.routes import origin_of


def origin_key(url: str, said: str, otherwise: str = "") -> str:
    """`https://host:port` of a URL. `said` is how it was given, `otherwise` what would do as well.
    Raises CommandError."""
    try:
        if url.startswith(("http://", "https://")) and (origin := origin_of(url)).host:
            return origin.key
    except ValueError as error:  # of the port
        raise CommandError(f"{said}: {error}") from None
    raise CommandError(f"{said}: a provider's URL starts with http:// or https://{otherwise}")
