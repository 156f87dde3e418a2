"""Which provider is meant: people write a host, an origin or a URL; the keys are whole origins."""

import difflib
from collections.abc import Iterable

NEAR = 3
_PORTS = {"http": "80", "https": "443"}


def named(text: str, known: Iterable[str]) -> str | None:
    """The provider that is meant by an origin or a URL of it, or by its host, with or without the
    port; None if nothing is known of it. Of several, the one over TLS."""
    return min(
        meant(text, known), key=lambda key: (not key.startswith("https://"), key), default=None
    )


def meant(text: str, known: Iterable[str]) -> list[str]:
    """All that may be meant by it. A whole origin, its port said or its scheme's, is one."""
    scheme, wanted = _wanted(text)
    found = [key for key in known if wanted in _spelled(key)]
    whole = (wanted, f"{wanted}:{_PORTS.get(scheme)}")
    return [key for key in found if key in whole] or found


def near(text: str, known: Iterable[str]) -> list[str]:
    """Those that are written much like it, the nearest first."""
    spelled = {spelling: key for key in known for spelling in _spelled(key)}
    found = difflib.get_close_matches(_wanted(text)[1], spelled, n=NEAR * 4)
    return list(dict.fromkeys(spelled[spelling] for spelling in found))[:NEAR]


def _wanted(text: str) -> tuple[str, str]:
    scheme, slashes, rest = text.strip().lower().rpartition("://")
    return scheme, scheme + slashes + rest.partition("/")[0]


def _spelled(key: str) -> tuple[str, ...]:
    host = key.partition("://")[2]
    return (key, key.rpartition(":")[0], host, host.rpartition(":")[0])
