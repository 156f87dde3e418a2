"""RFC 9111, as far as paid answers need it: which answer may be kept for whom, for how long it is
fresh, and which request it may serve (pure: no clock, no I/O, no store).

Our own and not a library's: those that are kept up decide by the clock they read themselves and
leave out Age, `max-stale`, `min-fresh`, `only-if-cached` or a heuristic that can be switched off,
and none of them tells a private answer in a shared cache from one that belongs to nobody.

Where the RFC leaves a choice, the stricter one is taken: only answers below 400 are kept, none of
a part (206), of a stream of events, or without an end that can be told; a request that carries a
credential shares only what its answer says outright may be shared.
"""

from dataclasses import dataclass
from enum import Enum

from proxy.cache.directives import Directives, directives, joined, moment, tags, values
from proxy.wire.credentials import is_credential
from proxy.wire.headers import HOP_BY_HOP, LOCAL
from proxy.wire.parsers import RawHeaders

SAFE = frozenset(("GET", "HEAD", "OPTIONS", "TRACE"))
_HEURISTIC = frozenset((200, 203, 204, 300, 301, 308))
_KEPT = _HEURISTIC | {302, 303, 307}

# What asks for something else than the whole answer, or that only the provider can judge.
_PARTS = (b"range", b"if-range", b"if-match", b"if-unmodified-since")
_PAYMENTS = (b"payment-signature", b"x-payment")
# Of one payment, and of one connection: none of them is the stored answer's.
_NOT_KEPT = HOP_BY_HOP | {
    *(b"age", b"content-length", b"payment-response", b"x-payment-response", b"payment-required"),
}
# Section 3.2, and what is true of the body that is here.
_NOT_FRESHENED = _NOT_KEPT | {b"content-encoding", b"content-type", b"content-range"}
_OF_304 = frozenset(
    (
        *(b"cache-control", b"content-location", b"date", b"etag", b"expires", b"vary"),
        *(b"last-modified", b"cache-status", b"age"),
    )
)


@dataclass(frozen=True, slots=True)
class Terms:
    """What the operator wants of one provider's answers. `fresh_seconds`: for answers that do not
    say how long; `max_seconds`: the most for any; `max_bytes`: of one body."""

    shared: bool = False
    fresh_seconds: int = 0
    max_seconds: int = 86_400
    max_bytes: int = 1_048_576
    methods: frozenset[str] = frozenset(("GET", "HEAD"))


@dataclass(frozen=True, slots=True)
class Wish:
    """What a request says of caching. `bypass`: it has to go to the provider, and its answer is
    not kept. `credential`: it says who asks, so that section 3.5 holds. `known`, `known_since`:
    what the program has already (If-None-Match; If-Modified-Since in seconds since 1970)."""

    bypass: bool
    asks: Directives
    credential: bool
    known: tuple[bytes, ...] | None
    known_since: int | None

    @property
    def conditional(self) -> bool:
        return self.known is not None or self.known_since is not None


class Scope(Enum):
    """Who may be served an answer."""

    NOBODY = "nobody"
    AGENT = "agent"
    ALL = "all"


@dataclass(frozen=True, slots=True)
class Life:
    """How long an answer lasts. Seconds; `age` when it came. `unchecked`: it may be used while it
    is fresh without asking its provider; `strict`: never when it is not. `outright`: it says that
    it may be shared, whoever asked."""

    seconds: int
    age: float
    unchecked: bool
    strict: bool
    outright: bool
    validated: bool
    """Whether its provider can be asked if it has changed."""


class Use(Enum):
    """FRESH, STALE (which the request puts up with): it serves. CHECK: if its provider says that it
    has not changed. NOT: it can't."""

    FRESH = "fresh"
    STALE = "stale"
    CHECK = "check"
    NOT = "not"


def wish(headers: RawHeaders) -> Wish:
    """Of a request."""
    names = {name.lower() for name, _ in headers}
    asks = directives(headers)
    if b"cache-control" not in names and b"no-cache" in (joined(headers, b"pragma") or b"").lower():
        asks = Directives(no_cache=True)
    since = None
    known = tags(values(headers, b"if-none-match")) if b"if-none-match" in names else None
    if known is not None and b"*" in map(bytes.strip, values(headers, b"if-none-match")):
        known = [b"*"]
    elif known is None and b"if-modified-since" in names:
        since = moment(headers, b"if-modified-since")
    return Wish(
        bypass=asks.no_store or any(name in names for name in (*_PARTS, *_PAYMENTS)),
        asks=asks,
        credential=any(map(is_credential, names)),
        known=None if known is None else tuple(known),
        known_since=since,
    )


def life(
    status: int, headers: RawHeaders, terms: Terms, *, scope: Scope, wall: float, delay: float
) -> Life:
    """Of an answer that came at `wall` (seconds since 1970), `delay` seconds after it was asked for
    (sections 4.2.1 to 4.2.3)."""
    said, shared = directives(headers), scope is Scope.ALL
    date = moment(headers, b"date")
    if shared and said.s_maxage is not None:
        seconds = said.s_maxage
    elif said.max_age is not None:
        seconds = said.max_age
    elif values(headers, b"expires"):
        expires = moment(headers, b"expires")
        seconds = 0 if expires is None else max(0, expires - int(wall if date is None else date))
    else:
        seconds = terms.fresh_seconds if status in _HEURISTIC or said.public else 0
    apparent = 0.0 if date is None else max(0.0, wall - date)
    return Life(
        seconds=min(seconds, terms.max_seconds),
        age=max(apparent, _age(headers) + delay),
        unchecked=not said.no_cache,
        strict=said.must_revalidate
        or (shared and (said.proxy_revalidate or said.s_maxage is not None)),
        outright=_outright(said),
        validated=bool(conditions(headers)),
    )


def scope(method: str, asked: Wish, status: int, headers: RawHeaders, terms: Terms) -> Scope:
    """Who may be served this answer, if it may be kept at all (section 3)."""
    said = directives(headers)
    vary = joined(headers, b"vary")
    kind = (joined(headers, b"content-type") or b"").lower()
    if (
        method not in terms.methods
        or asked.bypass
        or status not in _KEPT
        or said.no_store
        or (vary is not None and b"*" in vary)
        or kind.startswith(b"text/event-stream")
    ):
        return Scope.NOBODY
    explicit = (
        said.public
        or said.private
        or said.max_age is not None
        or said.s_maxage is not None
        or bool(values(headers, b"expires"))
    )
    if not explicit and status not in _HEURISTIC:
        return Scope.NOBODY
    if not terms.shared or said.private or values(headers, b"set-cookie"):
        return Scope.AGENT
    return Scope.AGENT if asked.credential and not _outright(said) else Scope.ALL


def use(one: Life, age: float, asked: Wish) -> Use:
    """What an answer of this age is good for (sections 4 and 5.2.1)."""
    asks = asked.asks
    left = one.seconds - age
    check = Use.CHECK if one.validated else Use.NOT
    if asks.no_cache or not one.unchecked or (asks.max_age is not None and age > asks.max_age):
        return check
    if left > 0 and left >= (asks.min_fresh or 0):
        return Use.FRESH
    if left > 0 or one.strict or asks.max_stale is None or -left > asks.max_stale:
        return check
    return Use.STALE if asks.min_fresh is None else check


def varied(answer: RawHeaders, request: RawHeaders) -> tuple[tuple[bytes, bytes | None], ...]:
    """The request's fields that chose this answer, as its Vary names them (section 4.1)."""
    names = {name.strip().lower() for name in (joined(answer, b"vary") or b"").split(b",")}
    return tuple((name, joined(request, name)) for name in sorted(names) if name)


def suits(chosen_by: tuple[tuple[bytes, bytes | None], ...], request: RawHeaders) -> bool:
    """Whether this request would have chosen it too."""
    return all(joined(request, name) == value for name, value in chosen_by)


def conditions(headers: RawHeaders) -> list[tuple[bytes, bytes]]:
    """What asks a provider whether this answer has changed (section 4.3.1)."""
    fields = []
    if len(tag := values(headers, b"etag")) == 1 and tags(tag):
        fields.append((b"If-None-Match", tag[0]))
    if moment(headers, b"last-modified") is not None:
        fields.append((b"If-Modified-Since", values(headers, b"last-modified")[0]))
    return fields


def unchanged(asked: Wish, headers: RawHeaders) -> bool:
    """Whether the program has this answer already, by what it says it has (section 4.3.2)."""
    if asked.known is not None:
        tag = tags(values(headers, b"etag"))
        return asked.known == (b"*",) or any(known in tag for known in asked.known)
    if asked.known_since is None:
        return False
    changed = moment(headers, b"last-modified")
    return changed is not None and changed <= asked.known_since


def agrees(stored: RawHeaders, said: RawHeaders) -> bool:
    """Whether a 304 is about this stored answer (section 4.3.4)."""
    tag = tags(values(said, b"etag"))
    if tag:
        return tag == tags(values(stored, b"etag"))
    changed = values(said, b"last-modified")
    return not changed or changed == values(stored, b"last-modified")


def kept_fields(headers: RawHeaders) -> RawHeaders:
    """The provider's fields that are part of an answer that is kept (section 3.1)."""
    return _without(headers, _NOT_KEPT)


def freshened(stored: RawHeaders, said: RawHeaders) -> RawHeaders:
    """The fields of a stored answer after a 304 (section 3.2)."""
    new = _without(said, _NOT_FRESHENED)
    renewed = {name.lower() for name, _ in new}
    return (*(field for field in stored if field[0].lower() not in renewed), *new)


def of_304(headers: RawHeaders) -> RawHeaders:
    """Those that a 304 is to have (RFC 9110 section 15.4.5)."""
    return tuple(field for field in headers if field[0].lower() in _OF_304)


def _without(headers: RawHeaders, names: frozenset[bytes] | set[bytes]) -> RawHeaders:
    listed = {
        token.strip().lower()
        for value in values(headers, b"connection")
        for token in value.split(b",")
    }
    return tuple(
        (name, value)
        for name, value in headers
        if (key := name.lower()) not in names and key not in listed and not key.startswith(LOCAL)
    )


def _outright(said: Directives) -> bool:
    """Whether an answer may be shared although its request said who asked (section 3.5)."""
    return said.public or said.must_revalidate or said.s_maxage is not None


def _age(headers: RawHeaders) -> int:
    found = values(headers, b"age")
    value = found[0].split(b",")[0].strip() if found else b""
    return int(value) if value.isdigit() and len(value) <= 12 else 0
