"""What an agent may want, and who may be asked for it: values, made of settings or of a call."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

from policies import PolicyError, Rules, parse_usd
from proxy.expectation import Expectation
from proxy.wire.inside import is_inside
from proxy.wire.intents import is_intent
from proxy.wire.origin import DEFAULT_PORTS, Origin, plain_host
from proxy.wire.parsers import RawHeaders

MAX_ATTEMPTS = 3
MOST_ATTEMPTS = 10
MOST_CANDIDATES = 50
TOTAL = 100_000  # micro-USD
ATTEMPT_SECONDS = 30.0
COLLECTED_BYTES = 1_048_576

NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")  # one label of a host
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_METHOD = re.compile(r"[A-Z]{1,20}")
_FIELD = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}")
_CONTENT = re.compile(r"[\t\x20-\x7e]{0,4000}")
# What is about one offer or one place: an intent counts nothing over time, and pays from no wallet.
_RULES = frozenset(
    (
        *("per_call", "denied_endpoints", "allowed_endpoints", "allowed_pay_to"),
        *("allowed_assets", "allowed_networks", "allowed_schemes", "allowed_flows"),
        *("max_timeout_seconds", "hours"),
    )
)
_NOT_OURS_TO_SET = frozenset((b"host", b"content-length", b"connection", b"transfer-encoding"))


class IntentError(ValueError):
    """It can't be read. One line that names the key."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One who may be asked. `method`, `body`: instead of the program's own, where they are set;
    `headers` go beside its own, and before those of the same name. `max_price` in micro-USD."""

    id: str
    url: str
    origin: Origin
    target: bytes
    method: str | None = None
    body: bytes | None = None
    headers: RawHeaders = ()
    expect: Expectation | None = None
    max_price: int | None = None

    @property
    def endpoint(self) -> str:
        """Without the query, which may hold a key."""
        return self.url.partition("?")[0]


@dataclass(frozen=True, slots=True)
class Intent:
    """`total`: what all attempts together may cost, in micro-USD. `rules`: asked beside the agent's
    policy. Of an answer `collected` bytes are read before it is handed on, for `seconds` at most.
    `trusted`: it is the operator's; what any other expects decides on the next attempt, and says
    nothing of the provider to anybody else."""

    name: str
    candidates: tuple[Candidate, ...]
    max_attempts: int = MAX_ATTEMPTS
    total: int = TOTAL
    require_https: bool = False
    rules: Rules | None = None
    seconds: float = ATTEMPT_SECONDS
    collected: int = COLLECTED_BYTES
    trusted: bool = True

    def within(self, max_attempts: int | None, total: int | None) -> "Intent":
        """The same with narrower bounds: wider ones change nothing."""
        return replace(
            self,
            max_attempts=min(self.max_attempts, max_attempts or self.max_attempts),
            total=self.total if total is None else min(self.total, total),
        )


def intent_of(name: str, given: Mapping[str, Any], *, trusted: bool) -> Intent:
    """Of settings, or of JSON that came with a call (not `trusted`). Raises IntentError."""
    if NAME.fullmatch(name) is None:
        raise IntentError(f"{name[:70]!r} is no name of an intent: use a-z, 0-9 and -, 63 at most")
    listed = given["candidates"]
    if not 1 <= len(listed) <= MOST_CANDIDATES:
        raise IntentError(f"candidates: there must be 1 to {MOST_CANDIDATES} of them")
    candidates = tuple(_candidate(i, one, trusted=trusted) for i, one in enumerate(listed, start=1))
    if len({one.id for one in candidates}) < len(candidates):
        raise IntentError("candidates: two of them have the same id")
    attempts = given.get("max_attempts") or MAX_ATTEMPTS
    if not 1 <= attempts <= MOST_ATTEMPTS:
        raise IntentError(f"max_attempts: must be 1 to {MOST_ATTEMPTS}")
    total = given.get("total")
    return Intent(
        name,
        candidates,
        max_attempts=attempts,
        total=TOTAL if total is None else _micros("total", total),
        require_https=bool(given.get("require_https")),
        rules=_rules(given.get("policy")),
        seconds=given.get("seconds") or ATTEMPT_SECONDS,
        trusted=trusted,
    )


def _candidate(number: int, given: Mapping[str, Any], *, trusted: bool) -> Candidate:
    where = f"candidates.{number}"
    name = given.get("id") or f"candidate-{number}"
    if _ID.fullmatch(name) is None:
        raise IntentError(f"{where}.id: use 1 to 100 letters, digits, . _ and -")
    url = given["url"]
    origin, target = _place(where, url)
    method = given.get("method")
    if method is not None and (_METHOD.fullmatch(method) is None or method == "CONNECT"):
        raise IntentError(f"{where}.method: {method[:30]!r} is no method")
    body, price, expected = given.get("body"), given.get("max_price"), given.get("expect")
    try:
        if expected is not None and not isinstance(expected, Expectation):
            expected = Expectation.of(expected, trusted=trusted)
    except ValueError as error:
        raise IntentError(f"{where}.expect: {error}") from None
    return Candidate(
        name,
        url,
        origin,
        target,
        method=method,
        body=None if body is None else body.encode(),
        headers=header_fields(where, given.get("headers") or {}),
        expect=expected,
        max_price=None if price is None else _micros(f"{where}.max_price", price),
    )


def _place(where: str, url: str) -> tuple[Origin, bytes]:
    try:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or "@" in parts.netloc or parts.port == 0:
            raise ValueError
        if not url.isascii() or not url.isprintable() or " " in url or parts.fragment:
            raise ValueError
        port = parts.port or DEFAULT_PORTS[parts.scheme]
        origin = Origin(parts.scheme, plain_host(parts.hostname or ""), port)
    except ValueError:
        raise IntentError(
            f"{where}.url: must be an http:// or https:// URL without user or fragment"
        ) from None
    if is_inside(origin.host) or is_intent(origin.host):
        raise IntentError(f"{where}.url: autopay is no provider")
    path = (parts.path or "/").encode()
    return origin, path + (b"?" + parts.query.encode() if parts.query else b"")


def header_fields(where: str, given: Mapping[str, str]) -> Sequence[tuple[bytes, bytes]]:
    """Fields that a candidate or a call may name. Raises IntentError, which tells no value."""
    for name, value in given.items():
        lower = name.lower().encode("ascii", "replace")
        if (
            _FIELD.fullmatch(name) is None
            or not isinstance(value, str)
            or _CONTENT.fullmatch(value) is None
            or lower in _NOT_OURS_TO_SET
            or lower.startswith((b"autopay-", b"proxy-"))
        ):
            raise IntentError(f"{where}.headers: {name[:60]!r} cannot be set so")
    return [(name.encode(), value.encode()) for name, value in given.items()]


def _rules(given: Mapping[str, Any] | None) -> Rules | None:
    if not given:
        return None
    for key in given:
        if key not in _RULES:
            raise IntentError(f"policy.{key}: an intent can ask only {', '.join(sorted(_RULES))}")
    try:
        return Rules.from_json(dict(given))
    except PolicyError as error:
        raise IntentError(f"policy: {error}") from None


def _micros(where: str, value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value  # of settings: it is micro-USD by now
    try:
        return parse_usd(str(value))
    except PolicyError as error:
        raise IntentError(f"{where}: {error}") from None
