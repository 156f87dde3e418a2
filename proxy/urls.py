"""URLs as they are shown and kept: what was asked, without the secrets that people put there."""

from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

MAX_URL = 2000
_SECRET = ("key", "token", "secret", "password", "passwd", "signature", "sig", "auth", "credential")


def shown_url(url: str) -> str:
    """`url` with the values of query parameters that look like credentials masked, at most 2,000
    characters."""
    parts = urlsplit(url)
    if parts.query and any(word in parts.query.lower() for word in _SECRET):
        pairs = [
            (name, "***" if any(word in name.lower() for word in _SECRET) else value)
            for name, value in parse_qsl(parts.query, keep_blank_values=True)
        ]
        url = urlunsplit(parts._replace(query=urlencode(pairs, safe="*", quote_via=quote)))
    return url[:MAX_URL]
