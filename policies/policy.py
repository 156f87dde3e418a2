"""The values a decision is made of, and what a policy must look like to be stored."""

import re
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from policies.errors import PolicyError
from policies.money import MAX_MICROS
from policies.networks import canonical_network
from policies.pattern import parse_pattern
from policies.rules import Limit, Rules, ordered_limits
from policies.target import parse_target

DEFAULTS = "defaults"


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer that holds for an agent at a provider. `provider` is the pattern it is about, if it
    is about one; `per_agent` whether what it limits is counted for each agent by itself."""

    name: str
    rules: Rules
    provider: str | None = None
    per_agent: bool = True


@dataclass(frozen=True, slots=True)
class Policy:
    """What holds for one agent, at one provider if `layers` says more. Limits in micro-USD.

    The fields up to `allowed_ports` are of the agent's own layer; limits that it does not name are
    those of the defaults, and listed in `inherited`. An empty list allows all, but for the last
    two, which are about every connection, paid or not (`proxy/wire/egress.py`). `layers` are all
    others that match, and what the agent's own says beyond these fields: a payment must be allowed
    by each of them. Made by `Book.policy`.
    """

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
    layers: tuple[Layer, ...] = ()
    inherited: tuple[str, ...] = ()  # of per_call, daily, session, trace

    @property
    def stack(self) -> tuple[Layer, ...]:
        """Every layer that holds, in the order in which they are asked: the agent's own first."""
        own = self._fields
        if not self.inherited:
            return (Layer(f"agent {self.agent}", own), *self.layers)
        below = own.limited(self.inherited)
        own = own.where_silent(below)
        return (Layer(f"agent {self.agent}", own), Layer(DEFAULTS, below), *self.layers)

    @property
    def wallet(self) -> str | None:
        """The wallet that pays, by the most specific layer that names one: the agent's for this
        provider, the provider's, the agent's own, the defaults'. None: the default one."""
        # From behind: providers' layers come last and the narrowest of them at the end, and the
        # defaults say nothing here of what the agent's own layer says.
        named = (layer.rules.wallet for layer in reversed(self.layers))
        return next((name for name in named if name is not None), None)

    @property
    def share_identical(self) -> bool:
        """Whether equal requests side by side are one payment: if any layer says so."""
        return any(layer.rules.share_identical for layer in self.layers)

    @property
    def _fields(self) -> Rules:
        return Rules(
            frozen=self.frozen,
            per_call=self.per_call_limit,
            limits=ordered_limits(
                (
                    Limit("day", self.daily_limit),
                    Limit("session", self.session_limit),
                    Limit("trace", self.trace_limit),
                )
            ),
            allowed_endpoints=self.allowed_endpoints,
            allowed_pay_to=self.allowed_pay_to,
            allowed_assets=self.allowed_assets,
            allowed_networks=self.allowed_networks,
            allowed_targets=self.allowed_targets,
            allowed_ports=self.allowed_ports,
        )

    @classmethod
    def of(
        cls,
        agent: str,
        own: Rules,
        defaults: Rules,
        *,
        version: int = 1,
        layers: tuple[Layer, ...] = (),
    ) -> "Policy":
        """A policy of the agent's own layer, of the defaults, and of the others that match.

        Four limits always hold: what neither names is as little as the fields say by themselves.
        """
        named = {
            "per_call": (own.per_call, defaults.per_call),
            "daily": (own.limit("day").micros, defaults.limit("day").micros),
            "session": (own.limit("session").micros, defaults.limit("session").micros),
            "trace": (own.limit("trace").micros, defaults.limit("trace").micros),
        }
        limits: dict[str, Any] = {
            f"{key}_limit": below if mine is None else mine
            for key, (mine, below) in named.items()
            if (mine, below) != (None, None)
        }
        flat = cls(
            agent,
            frozen=own.frozen,
            allowed_endpoints=own.allowed_endpoints,
            allowed_pay_to=own.allowed_pay_to,
            allowed_assets=own.allowed_assets,
            allowed_networks=own.allowed_networks,
            allowed_targets=own.allowed_targets,
            allowed_ports=own.allowed_ports,
            version=version,
            inherited=tuple(key for key, (mine, _) in named.items() if mine is None),
            **limits,
        )
        more = (
            Layer(f"agent {agent}", own.where_silent(flat._fields)),
            Layer(DEFAULTS, defaults.where_silent(own).where_silent(flat._fields.limited())),
        )
        return replace(flat, layers=(*(layer for layer in more if layer.rules), *layers))


@dataclass(frozen=True, slots=True)
class Ask:
    """One offer of a 402, in the words of policy.

    The first five fields describe the request that met the 402 (path without query, as it was
    sent); `symbol` comes from our own table of assets; `price` is micro-USD, rounded up.
    `scheme_x402` and `flow` are what the offer calls its scheme and its extra.paymentFlow; `at` is
    the moment of the question, for opening hours: where they are set, and it is not, it is closed.
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
    scheme_x402: str = "exact"
    flow: str = "authorization"
    max_timeout_seconds: int | None = None
    at: datetime | None = None

    def __post_init__(self) -> None:
        # A negative price would pass every limit and fill the budget: it must not even exist.
        if self.price < 0:
            raise ValueError(f"a price is not negative: {self.price}")


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer. `detail` is one sentence that holds nothing a seller wrote.

    `rule` and `layer` name what decided. `approval`: it is allowed if an operator has approved it,
    which the ledger knows; `rule`, `layer` and `limit` are then those of the threshold.
    """

    allowed: bool
    code: str
    detail: str
    limit: int | None = None  # micro-USD, where a limit decided
    rule: str = ""
    layer: str = ""
    approval: bool = False


@dataclass(frozen=True, slots=True)
class Choice:
    """The offer that was chosen, by its index, and what was decided of it. `left`: every other one,
    in the server's order, with the reason: the code of its denial, or why it came second
    (`asset_less_preferred`, `network_less_preferred`, `dearer`, `same_price`)."""

    index: int
    verdict: Verdict
    left: tuple[tuple[int, str], ...] = ()


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
