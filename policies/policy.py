"""The values a decision is made of, and what a policy must look like to be stored."""

import re
from dataclasses import dataclass, replace

from policies.errors import PolicyError
from policies.money import MAX_MICROS
from policies.networks import canonical_network
from policies.pattern import parse_pattern
from policies.target import parse_target


@dataclass(frozen=True, slots=True)
class Policy:
    """What one agent may spend, and on what. Limits in micro-USD; an empty list allows all, but for
    the last two, which are about every connection, paid or not (`proxy/wire/egress.py`)."""

    agent: str
    frozen: bool = False
    per_call_limit: int = 50_000
    daily_limit: int = 1_000_000
    session_limit: int = 1_000_000
    trace_limit: int = 1_000_000
    allowed_endpoints: tuple[str, ...] = ()  # patterns, see policies/pattern.py
    allowed_pay_to: tuple[str, ...] = ()  # exact addresses
    allowed_assets: tuple[str, ...] = ()  # symbols ("USDC") or "network/address"
    allowed_networks: tuple[str, ...] = ()  # CAIP-2 ids or names of policies/networks.py
    allowed_targets: tuple[str, ...] = ()  # policies/target.py: not public, allowed anyway
    allowed_ports: tuple[int, ...] = ()  # of public addresses; empty: those of the web's habits
    version: int = 1


@dataclass(frozen=True, slots=True)
class Ask:
    """One offer of a 402, in the words of policy.

    The first five fields describe the request that met the 402 (path without query, as it was
    sent); `symbol` comes from our own table of assets; `price` is micro-USD, rounded up.
    """

    method: str
    scheme: str
    host: str
    port: int
    path: str
    pay_to: str
    asset: str
    symbol: str
    network: str
    price: int

    def __post_init__(self) -> None:
        # A negative price would pass every limit and fill the budget: it must not even exist.
        if self.price < 0:
            raise ValueError(f"a price is not negative: {self.price}")


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer. `detail` is one sentence that holds nothing a seller wrote."""

    allowed: bool
    code: str
    detail: str
    limit: int | None = None  # micro-USD, where a limit decided


def validated(policy: Policy) -> Policy:
    """The policy with its networks and targets in their one spelling, ready to be stored.

    Raises PolicyError with one line that names the field, the value and what would be right.
    """
    for name in ("per_call_limit", "daily_limit", "session_limit", "trace_limit"):
        limit = getattr(policy, name)
        if not 0 <= limit <= MAX_MICROS:
            raise PolicyError(f"{name} {limit}: a limit is 0 to {MAX_MICROS} micro-USD")
    for pattern in policy.allowed_endpoints:
        parse_pattern(pattern)
    for address in policy.allowed_pay_to:
        _check(address, r"[0-9A-Za-z]{1,128}", "allowed_pay_to", "an address, without spaces")
    for asset in policy.allowed_assets:
        _check(
            asset,
            r"[^\s/]{1,64}(/[0-9A-Za-z]{1,128})?",
            "allowed_assets",
            "USDC or network/address",
        )
    for network in policy.allowed_networks:
        _check(
            canonical_network(network),
            r"[-a-z0-9]{3,8}:[-_a-zA-Z0-9]{1,32}",
            "allowed_networks",
            "a CAIP-2 id like solana:5eykt4UsFv8P8NJdTREpY1vzqKqZKvdp, or solana-devnet",
        )
    for port in policy.allowed_ports:
        if not 1 <= port <= 65535:
            raise PolicyError(f"allowed_ports: {port} is not a port, which is 1 to 65535")
    return replace(
        policy,
        allowed_networks=tuple(canonical_network(name) for name in policy.allowed_networks),
        allowed_targets=tuple(str(parse_target(text)) for text in policy.allowed_targets),
    )


def _check(value: str, shape: str, field: str, wanted: str) -> None:
    if re.fullmatch(shape, value, re.ASCII) is None:
        raise PolicyError(f"{field}: {value[:60]!r} is not {wanted}")
