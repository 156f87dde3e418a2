"""One layer of a policy: what it says, and how it is written down.

The keys of JSON are those of the files. A rule that is missing says nothing, and neither does an
empty list or `frozen = false`: what a layer does not say, it does not ask.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from decimal import Decimal
from typing import Any

from policies.errors import PolicyError, RuleError
from policies.hours import parse_hours
from policies.money import format_usd, parse_usd
from policies.networks import canonical_network
from policies.pattern import parse_pattern
from policies.target import parse_target

PINNINGS = ("off", "first_use", "list")
MOST_PAYMENTS = 10**9
MOST_TIMEOUT_SECONDS = 10**9
MOST_WAIT_SECONDS = 3600
MOST_HOURS = 31 * 24

# Amounts: key → window. The number of payments has windows of its own, under `payments`.
WINDOWS = {
    "hourly": "hour",
    "daily": "day",
    "monthly": "month",
    "session": "session",
    "trace": "trace",
    "lifetime": "lifetime",
}
AMOUNT_KEYS = {window: key for key, window in WINDOWS.items()}
_FIXED = tuple(AMOUNT_KEYS)
_COUNTED = ("hour", "day", "month", "lifetime")
_ROLLING = re.compile(r"([1-9][0-9]{0,2})([hd])")


@dataclass(frozen=True, slots=True)
class Limit:
    """What may be spent within one window, or how often, or both.

    `window`: "hour", "day", "month" (of UTC), "session", "trace", "lifetime", or a rolling one like
    "24h" or "7d". `micros`: micro-USD.
    """

    window: str
    micros: int | None = None
    payments: int | None = None


@dataclass(frozen=True, slots=True)
class Rules:
    """What one layer says. Amounts in micro-USD; None, () and False say nothing."""

    frozen: bool = False
    hours: tuple[str, ...] = ()  # policies/hours.py; open if any of them is
    per_call: int | None = None
    denied_endpoints: tuple[str, ...] = ()  # policies/pattern.py
    allowed_endpoints: tuple[str, ...] = ()
    pay_to_pinning: str | None = None  # off, first_use or list
    allowed_pay_to: tuple[str, ...] = ()  # exact addresses
    allowed_assets: tuple[str, ...] = ()  # symbols ("USDC") or "network/address"
    allowed_networks: tuple[str, ...] = ()  # CAIP-2 ids
    allowed_schemes: tuple[str, ...] = ()  # of x402
    allowed_flows: tuple[str, ...] = ()  # of x402: extra.paymentFlow
    max_timeout_seconds: int | None = None
    limits: tuple[Limit, ...] = ()  # one per window, in the order of `window_order`
    max_price_ratio_last: Decimal | None = None
    max_price_ratio_median: Decimal | None = None
    loss_cap: int | None = None
    approval_above: int | None = None
    approval_wait_seconds: int | None = None
    wallet: str | None = None
    share_identical: bool = False  # equal requests side by side are one payment
    asset_order: tuple[str, ...] = ()
    network_order: tuple[str, ...] = ()
    allowed_targets: tuple[str, ...] = ()  # policies/target.py; an agent's own
    allowed_ports: tuple[int, ...] = ()  # an agent's own

    def __bool__(self) -> bool:
        """Whether it says anything at all."""
        return self != _NOTHING

    def limit(self, window: str) -> Limit:
        """What it says of this window."""
        return next((one for one in self.limits if one.window == window), Limit(window))

    def limited(self, keys: Sequence[str] = ("per_call", "daily", "session", "trace")) -> "Rules":
        """Of these rules only the ones under these keys, which are of amounts."""
        windows = {WINDOWS[key] for key in keys if key in WINDOWS}
        return Rules(
            per_call=self.per_call if "per_call" in keys else None,
            limits=tuple(
                Limit(one.window, one.micros) for one in self.limits if one.window in windows
            ),
        )

    def where_silent(self, said: "Rules") -> "Rules":
        """What is left of these rules where `said` says nothing of the same: so do defaults give
        way to an agent's own layer. The amount and the number of one window are two rules."""
        kept = {
            one.name: getattr(_NOTHING, one.name)
            for one in fields(said)
            if one.name != "limits" and getattr(said, one.name) != getattr(_NOTHING, one.name)
        }
        limits = (
            Limit(
                one.window,
                one.micros if said.limit(one.window).micros is None else None,
                one.payments if said.limit(one.window).payments is None else None,
            )
            for one in self.limits
        )
        return replace(self, **kept, limits=ordered_limits(limits))

    def to_json(self) -> dict[str, Any]:
        """The layer under its keys, without those that say nothing; `from_json` reads it back to
        an equal one."""
        said: dict[str, Any] = {}
        for key, write in _WRITERS.items():
            value = write(self)
            if value is not None and value is not False and value not in ([], {}):
                said[key] = value
        return said

    @classmethod
    def from_json(cls, document: object) -> "Rules":
        """Reads a layer from its keys (of JSON, of a file).

        Raises RuleError for a key that is unknown or a value that cannot be meant.
        """
        if not isinstance(document, Mapping):
            raise RuleError((), "a layer is a table of rules")
        found: dict[str, Any] = {}
        limits: list[Limit] = []
        for key, value in document.items():
            if key in WINDOWS:
                limits.append(Limit(WINDOWS[key], micros=_usd((key,), value)))
            elif key == "rolling":
                limits += _rolling(value)
            elif key == "payments":
                limits += _payments(value)
            elif key in _READERS:
                found[key] = _READERS[key]((key,), value)
            else:
                raise RuleError((str(key),), "there is no such rule" + _meant(str(key)))
        return cls(**found, limits=ordered_limits(limits))


def window_hours(window: str) -> int | None:
    """The length of a rolling window in hours; None of a window that does not roll."""
    match = _ROLLING.fullmatch(window)
    return int(match[1]) * (24 if match[2] == "d" else 1) if match else None


def window_order(window: str) -> tuple[int, int]:
    """Sorts windows: the fixed ones as they are documented, then the rolling ones by length."""
    hours = window_hours(window)
    return (_FIXED.index(window), 0) if hours is None else (len(_FIXED), hours)


def ordered_limits(limits: Iterable[Limit]) -> tuple[Limit, ...]:
    """One limit per window, in their order; those that say nothing are left out."""
    merged: dict[str, Limit] = {}
    for one in limits:
        known = merged.get(one.window, Limit(one.window))
        merged[one.window] = Limit(
            one.window,
            known.micros if one.micros is None else one.micros,
            known.payments if one.payments is None else one.payments,
        )
    said = [one for one in merged.values() if (one.micros, one.payments) != (None, None)]
    return tuple(sorted(said, key=lambda one: window_order(one.window)))


# --- reading

_Path = tuple[str | int, ...]


def _flag(path: _Path, value: object) -> bool:
    if not isinstance(value, bool):
        raise RuleError(path, f"{_shown(value)} is neither true nor false")
    return value


def _usd(path: _Path, value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if isinstance(value, float):
        raise RuleError(path, f'write the amount as text, in USD: "{value:.6g}"')
    if not isinstance(value, str):
        raise RuleError(path, f'{_shown(value)} is not an amount in USD, like "0.05"')
    micros: int = _by(parse_usd, path, value)
    return micros


def _number(least: int, most: int) -> Callable[[_Path, object], int]:
    def read(path: _Path, value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise RuleError(path, f"{_shown(value)} is not a whole number from {least} to {most}")
        return value

    return read


def _ratio(path: _Path, value: object) -> Decimal:
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,6})?", value):
        raise RuleError(path, f'{_shown(value)} is not a ratio: write text like "1.5"')
    # Of equal numbers there is one spelling, so that equal rules look equal.
    ratio = Decimal(format_usd(parse_usd(value)))
    if not ratio:
        raise RuleError(path, "a ratio of 0 allows no price: to pay nothing, write frozen = true")
    return ratio


def _one_of(*words: str) -> Callable[[_Path, object], str]:
    def read(path: _Path, value: object) -> str:
        if value not in words:
            raise RuleError(path, f"{_shown(value)} is not {' or '.join(words)}")
        return str(value)

    return read


def _word(shape: str, wanted: str) -> Callable[[_Path, object], str]:
    compiled = re.compile(shape, re.ASCII)

    def read(path: _Path, value: object) -> str:
        if not isinstance(value, str) or compiled.fullmatch(value) is None:
            raise RuleError(path, f"{_shown(value)} is not {wanted}")
        return value

    return read


def _parsed(parse: Callable[[str], object]) -> Callable[[_Path, object], str]:
    """Text that `parse` understands, as it is written."""

    def read(path: _Path, value: object) -> str:
        text = _text(path, value)
        _by(parse, path, text)
        return text.strip()

    return read


def _network(path: _Path, value: object) -> str:
    name = canonical_network(_text(path, value))
    if re.fullmatch(r"[-a-z0-9]{3,8}:[-_a-zA-Z0-9]{1,32}", name, re.ASCII) is None:
        raise RuleError(
            path,
            f"{_shown(value)} is not a CAIP-2 id like solana:5eykt4UsFv8P8NJdTREpY1vzqKqZKvdp, or"
            " solana-devnet",
        )
    return name


def _target(path: _Path, value: object) -> str:
    return str(_by(parse_target, path, _text(path, value)))


def _listed(read: Callable[[_Path, object], Any]) -> Callable[[_Path, object], tuple[Any, ...]]:
    """A list; what is in it twice is in it once."""

    def read_all(path: _Path, value: object) -> tuple[Any, ...]:
        if not isinstance(value, list | tuple):
            raise RuleError(path, f"{_shown(value)} is not a list")
        return tuple(dict.fromkeys(read((*path, i), one) for i, one in enumerate(value)))

    return read_all


def _rolling(value: object) -> list[Limit]:
    return [
        Limit(window, micros=_usd(("rolling", given), amount))
        for window, given, amount in _windows("rolling", value, fixed=())
    ]


def _payments(value: object) -> list[Limit]:
    count = _number(0, MOST_PAYMENTS)
    return [
        Limit(window, payments=count(("payments", given), number))
        for window, given, number in _windows("payments", value, fixed=_COUNTED)
    ]


def _windows(key: str, value: object, *, fixed: tuple[str, ...]) -> list[tuple[str, str, object]]:
    """The windows of a table, each in its one spelling (more than one whole day as days) and as it
    is written."""
    if not isinstance(value, Mapping):
        raise RuleError((key,), f'{_shown(value)} is not a table, like {{ "24h" = … }}')
    found: dict[str, tuple[str, str, object]] = {}
    for given, inner in value.items():
        window, hours = str(given), window_hours(str(given))
        if window not in fixed and (hours is None or hours > MOST_HOURS):
            named = f"{', '.join(fixed)}, or " if fixed else ""
            raise RuleError((key, window), f"a window is {named}1h to 744h or 1d to 31d")
        if hours is not None:
            window = f"{hours}h" if hours % 24 or hours == 24 else f"{hours // 24}d"
        if window in found:
            raise RuleError((key, str(given)), f"this is {found[window][1]} once more")
        found[window] = window, str(given), inner
    return list(found.values())


def _text(path: _Path, value: object) -> str:
    if not isinstance(value, str):
        raise RuleError(path, f"{_shown(value)} is not text")
    return value


def _by(parse: Callable[[str], Any], path: _Path, text: str) -> Any:
    try:
        return parse(text)
    except PolicyError as error:
        raise RuleError(path, str(error)) from None


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:60] + "…"


def _meant(key: str) -> str:
    from difflib import get_close_matches  # noqa: PLC0415 - only for who mistyped

    close = get_close_matches(key, KEYS, n=1)
    return f"; is {close[0]} meant?" if close else ""


_asset = _word(r"[^\s/]{1,64}(/[0-9A-Za-z]{1,128})?", "USDC or network/address")
_token = _word(r"[A-Za-z][A-Za-z0-9_-]{0,31}", "a name of x402, like exact")

_READERS: dict[str, Callable[[_Path, object], Any]] = {
    "frozen": _flag,
    "hours": _listed(_parsed(parse_hours)),
    "per_call": _usd,
    "denied_endpoints": _listed(_parsed(parse_pattern)),
    "allowed_endpoints": _listed(_parsed(parse_pattern)),
    "pay_to_pinning": _one_of(*PINNINGS),
    "allowed_pay_to": _listed(_word(r"[0-9A-Za-z]{1,128}", "an address, without spaces")),
    "allowed_assets": _listed(_asset),
    "allowed_networks": _listed(_network),
    "allowed_schemes": _listed(_token),
    "allowed_flows": _listed(_token),
    "max_timeout_seconds": _number(1, MOST_TIMEOUT_SECONDS),
    "max_price_ratio_last": _ratio,
    "max_price_ratio_median": _ratio,
    "loss_cap": _usd,
    "approval_above": _usd,
    "approval_wait_seconds": _number(0, MOST_WAIT_SECONDS),
    "wallet": _word(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", "a wallet's name"),
    "share_identical": _flag,
    "asset_order": _listed(_asset),
    "network_order": _listed(_network),
    "allowed_targets": _listed(_target),
    "allowed_ports": _listed(_number(1, 65535)),
}


# --- writing


def _amount(micros: int | None) -> str | None:
    return None if micros is None else format_usd(micros)


def _plain(key: str) -> Callable[[Rules], Any]:
    def write(rules: Rules) -> Any:
        value = getattr(rules, key)
        if isinstance(value, tuple):
            return list(value)
        return str(value) if isinstance(value, Decimal) else value

    return write


def _money(key: str) -> Callable[[Rules], Any]:
    return lambda rules: _amount(getattr(rules, key))


def _window(window: str) -> Callable[[Rules], Any]:
    return lambda rules: _amount(rules.limit(window).micros)


def _rolled(rules: Rules) -> dict[str, str]:
    return {
        one.window: format_usd(one.micros)
        for one in rules.limits
        if one.micros is not None and window_hours(one.window) is not None
    }


def _counted(rules: Rules) -> dict[str, int]:
    return {one.window: one.payments for one in rules.limits if one.payments is not None}


# In the order in which a layer is written down.
_WRITERS: dict[str, Callable[[Rules], Any]] = {}
for _key in _READERS:
    _WRITERS[_key] = (
        _money(_key) if _key in ("per_call", "loss_cap", "approval_above") else _plain(_key)
    )
    if _key == "per_call":
        _WRITERS |= {name: _window(window) for name, window in WINDOWS.items()}
        _WRITERS |= {"rolling": _rolled, "payments": _counted}
KEYS = tuple(_WRITERS)
# What is counted for an agent as a whole, and what is asked before there is any provider.
NOT_OF_PROVIDERS = ("session", "trace", "allowed_targets", "allowed_ports")
NOT_OF_DEFAULTS = ("allowed_targets", "allowed_ports")

_NOTHING = Rules()
