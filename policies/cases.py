"""What a policy is expected to decide: the `[[test]]` tables of the files.

    [[test]]
    agent = "bot"
    url = "https://api.example.com/v1/quote"
    price = "0.05"
    expect = "ok"                     # or the code of a denial, or approval_required

What is not given is as usual as can be: GET, Solana's USDC, the scheme `exact`, 60 seconds. A test
of `method`, `pay_to`, `asset`, `network`, `scheme`, `flow`, `max_timeout_seconds` or `at` gives
them. `at` is a moment with its time zone: a test says the same whenever it runs, so without one it
is outside any opening hours.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

from policies.book import Book
from policies.decision import decide
from policies.errors import PolicyError, RuleError
from policies.money import parse_usd
from policies.networks import checked_network
from policies.pattern import DEFAULT_PORTS, canonical_host
from policies.policy import Ask, Verdict

APPROVAL = "approval_required"
_REQUIRED = ("agent", "url", "price", "expect")
_TEXTS = (*_REQUIRED, "method", "pay_to", "asset", "network", "scheme", "flow")
_KEYS = (*_TEXTS, "at", "max_timeout_seconds")


@dataclass(frozen=True, slots=True)
class Case:
    """One question and the code that is expected of it."""

    file: str
    line: int
    agent: str
    ask: Ask
    expect: str

    def code(self, book: Book) -> tuple[str, Verdict]:
        """What the book says: `ok`, the code of a denial, or `approval_required`."""
        ask = self.ask
        policy = book.policy(self.agent, ask.scheme, ask.host, ask.port)
        verdict = decide(policy, ask)
        return (APPROVAL if verdict.approval else verdict.code), verdict


def ask_for(
    url: str,
    price: int,
    *,
    method: str = "GET",
    pay_to: str = "",
    asset: str = "USDC",
    network: str = "solana",
    scheme: str = "exact",
    flow: str = "authorization",
    max_timeout_seconds: int | None = 60,
    at: datetime | None = None,
) -> Ask:
    """The question that an offer at this URL would put. `asset` is a symbol or network/address.

    Raises PolicyError if the URL or the network is none.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise PolicyError(f"{url[:200]!r}: {error}") from None
    host = canonical_host(parts.hostname or "")
    if parts.scheme not in DEFAULT_PORTS or not parts.hostname or host is None:
        raise PolicyError(f"{url[:200]!r} is no URL like https://api.example.com/v1/quote")
    place, _, address = asset.rpartition("/")
    return Ask(
        method=method,
        scheme=parts.scheme,
        host=host,
        port=DEFAULT_PORTS[parts.scheme] if port is None else port,
        path=parts.path or "/",
        pay_to=pay_to,
        asset=address if place else "",
        symbol="" if place else asset,
        network=checked_network(place or network),
        price=price,
        scheme_x402=scheme,
        flow=flow,
        max_timeout_seconds=max_timeout_seconds,
        at=at,
    )


def read_cases(file: str, lines: Mapping[tuple[str | int, ...], int], value: object) -> list[Case]:
    """Reads the tests of one file. Raises RuleError."""
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise RuleError(("test",), "write each test as [[test]]")
    return [_case(file, lines.get(("test", i), 1), ("test", i), one) for i, one in enumerate(value)]


def _case(file: str, line: int, path: tuple[str | int, ...], table: Mapping[str, Any]) -> Case:
    for key in _REQUIRED:
        if key not in table:
            raise RuleError(path, f"it has no {key}")
    for key, value in table.items():
        if key not in _KEYS:
            raise RuleError((*path, key), "a test has no such key: it may have " + ", ".join(_KEYS))
        if key in _TEXTS and not isinstance(value, str):
            raise RuleError((*path, key), "write it as text")
    seconds = table.get("max_timeout_seconds", 60)
    if not isinstance(seconds, int) or isinstance(seconds, bool):
        raise RuleError((*path, "max_timeout_seconds"), "this is a whole number")
    if re.fullmatch(r"[a-z_]{1,60}", table["expect"]) is None:
        raise RuleError((*path, "expect"), "this is ok, approval_required or the code of a denial")
    more = {key: table[key] for key in _TEXTS if key in table and key not in _REQUIRED}
    try:
        price = parse_usd(table["price"])
    except PolicyError as error:
        raise RuleError((*path, "price"), str(error)) from None
    at = _moment((*path, "at"), table["at"]) if "at" in table else None
    try:
        checked_network(table.get("network", "solana"))
    except PolicyError as error:
        raise RuleError((*path, "network"), str(error)) from None
    try:
        ask = ask_for(table["url"], price, max_timeout_seconds=seconds, at=at, **more)
    except PolicyError as error:
        raise RuleError((*path, "url"), str(error)) from None
    return Case(file, line, table["agent"], ask, table["expect"])


def _moment(path: tuple[str | int, ...], value: object) -> datetime:
    """TOML has moments of its own; as text they are as welcome."""
    try:
        at = datetime.fromisoformat(value) if isinstance(value, str) else value
    except ValueError:
        at = None
    if not isinstance(at, datetime) or at.tzinfo is None:
        raise RuleError(path, "write a moment with its time zone, like 2026-03-02T09:30:00Z")
    return at
