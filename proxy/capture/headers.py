"""Which header fields may be kept: those that can't hold a secret.

A list of what is allowed, not of what is forbidden: a field that nobody thought of is left out.
"""

from proxy.wire.parsers import RawHeaders

MAX_VALUE = 1000

_KEPT = frozenset(
    (
        *(b"accept", b"accept-language", b"accept-ranges", b"age", b"allow", b"cache-control"),
        *(b"content-disposition", b"content-encoding", b"content-language", b"content-length"),
        *(b"content-range", b"content-type", b"date", b"etag", b"expires", b"last-modified"),
        *(b"retry-after", b"server", b"vary", b"via", b"x-cache", b"x-request-id"),
        *(b"openai-model", b"openai-processing-ms", b"openai-version"),
        *(b"ratelimit-limit", b"ratelimit-remaining", b"ratelimit-reset"),
        *(b"x-ratelimit-limit", b"x-ratelimit-remaining", b"x-ratelimit-reset"),
    )
)


def kept_headers(raw: RawHeaders) -> dict[str, str]:
    """The fields of `raw` that may be kept, by lower-case name; repeats are joined by ", ", and a
    value ends after 1,000 characters."""
    kept: dict[str, str] = {}
    for name, value in raw:
        key = name.lower()
        if key in _KEPT:
            text = value.decode("utf-8", "replace").replace("\0", "\ufffd")
            known = kept.get(key.decode())
            kept[key.decode()] = (text if known is None else f"{known}, {text}")[:MAX_VALUE]
    return kept
