"""The decision itself.

One order of questions, here in `RULES`; each is put to every layer that says something of it. The
first "no" is the answer. What the ledger asks after these is in `policies/explanation.py`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from policies.errors import PolicyError
from policies.hours import parse_hours
from policies.money import format_usd
from policies.networks import canonical_network
from policies.pattern import parse_pattern
from policies.policy import Ask, Choice, Layer, Policy, Verdict
from policies.rules import Rules

# What holds where no layer says anything of it: an offer's scheme and flow that are not these need
# a policy that knows of them.
BUILT_IN = Layer("built in", Rules(allowed_schemes=("exact",), allowed_flows=("authorization",)))


@dataclass(frozen=True, slots=True)
class No:
    """Why one layer does not allow it."""

    code: str
    detail: str
    limit: int | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """One question: its key in a layer, the codes it denies with, and the question itself, put to
    one layer (in sight of all, for the one rule that needs to see them)."""

    key: str
    codes: tuple[str, ...]
    ask: Callable[[Layer, Ask, Sequence[Layer]], No | None]

    def layers(self, stack: Sequence[Layer]) -> list[Layer]:
        """Those that say something of it."""
        said = [layer for layer in stack if _says(layer.rules, self.key)]
        return said or ([BUILT_IN] if _says(BUILT_IN.rules, self.key) else [])


def decide(policy: Policy, ask: Ask) -> Verdict:
    """May this agent pay this offer, as far as its policy goes?

    The questions in their order (`RULES`), the first "no" is the answer. What was spent already,
    and to whom, is the ledger's question, asked after these.

    Pure and total. An entry of a policy that cannot be read allows nothing.
    """
    stack = policy.stack
    for rule in RULES:
        noes = [
            (layer, no)
            for layer in rule.layers(stack)
            if (no := rule.ask(layer, ask, stack)) is not None
        ]
        if noes:
            # Of several limits the tightest is the reason; "frozen" goes before "provider_frozen".
            layer, no = min(noes, key=lambda one: (one[1].limit or 0, one[1].code))
            return Verdict(False, no.code, no.detail, no.limit, rule.key, layer.name)
    return _approval(stack, ask) or Verdict(True, "ok", "The policy allows this payment.")


def foresee(policy: Policy, ask: Ask) -> Verdict:
    """May this agent pay there at all, before anybody has named a price? Of the questions in
    `decide`, those that are about no offer; nothing of one is looked at in `ask`."""
    stack = policy.stack
    for rule in RULES:
        if rule.key not in _FORESEEN:
            continue
        for layer in rule.layers(stack):
            no = rule.ask(layer, ask, stack)
            if no is not None:
                return Verdict(False, no.code, no.detail, no.limit, rule.key, layer.name)
    return Verdict(True, "ok", "The policy does not forbid it.")


def choose(policy: Policy, asks: Sequence[Ask]) -> Choice:
    """The offer to pay: of those that are allowed the one of the most preferred asset, on the most
    preferred network, at the least price. If none is, the first by the same order, with the reason
    that it is denied.

    Among equals the server's order decides. `asks` must not be empty (ValueError).
    """
    if not asks:
        raise ValueError("there is nothing to choose from")
    verdicts = [decide(policy, ask) for ask in asks]
    assets, networks = _preferred(policy)
    ranks = [(_asset_rank(assets, ask), _network_rank(networks, ask), ask.price) for ask in asks]
    chosen = min(range(len(asks)), key=lambda i: (not verdicts[i].allowed, ranks[i], i))

    def reason(i: int) -> str:
        if not verdicts[i].allowed:
            return verdicts[i].code
        worse = (theirs > ours for theirs, ours in zip(ranks[i], ranks[chosen], strict=True))
        named = zip(
            worse, ("asset_less_preferred", "network_less_preferred", "dearer"), strict=True
        )
        return next((word for is_worse, word in named if is_worse), "same_price")

    left = tuple((i, reason(i)) for i in range(len(asks)) if i != chosen)
    return Choice(chosen, verdicts[chosen], left)


# --- the questions, in the order of RULES


def _frozen(layer: Layer, _ask: Ask, _stack: Sequence[Layer]) -> No | None:
    if not layer.rules.frozen:
        return None
    if layer.provider is not None:
        return No("provider_frozen", "Spending with this provider is frozen.")
    return No("frozen", "This agent's spending is frozen.")


def _hours(layer: Layer, ask: Ask, _stack: Sequence[Layer]) -> No | None:
    if any(_is_open(text, ask) for text in layer.rules.hours):
        return None
    return No("hours_closed", "This is outside the hours in which it may be paid.")


def _per_call(layer: Layer, ask: Ask, _stack: Sequence[Layer]) -> No | None:
    limit = layer.rules.per_call
    if limit is None or ask.price <= limit:
        return None
    return No(
        "over_per_call_limit",
        f"The price is {format_usd(ask.price)} USD; this agent may pay at most "
        f"{format_usd(limit)} USD per call"
        + (" to this provider." if layer.provider is not None else "."),
        limit,
    )


def _denied_endpoint(layer: Layer, ask: Ask, _stack: Sequence[Layer]) -> No | None:
    if any(_may_cover(pattern, ask) for pattern in layer.rules.denied_endpoints):
        return No("endpoint_denied", "This endpoint is on the list that this agent may not pay.")
    return None


def _endpoint(layer: Layer, ask: Ask, _stack: Sequence[Layer]) -> No | None:
    if any(_covers(pattern, ask) for pattern in layer.rules.allowed_endpoints):
        return None
    return No("endpoint_not_allowed", "This endpoint is not on the list that this agent may pay.")


def _listed_pay_to(layer: Layer, ask: Ask, stack: Sequence[Layer]) -> No | None:
    """Pinned to a list: without any list, nobody is on it."""
    if layer.rules.pay_to_pinning != "list" or any(
        ask.pay_to in one.rules.allowed_pay_to for one in stack
    ):
        return None
    return No("pay_to_not_listed", "The recipient is on no list, and only listed ones are paid.")


def _pay_to(layer: Layer, ask: Ask, _stack: Sequence[Layer]) -> No | None:
    if ask.pay_to in layer.rules.allowed_pay_to:
        return None
    return No("pay_to_not_allowed", "The recipient is not on the list that this agent may pay.")


def _asset(layer: Layer, ask: Ask, _stack: Sequence[Layer]) -> No | None:
    if any(_names_asset(entry, ask) for entry in layer.rules.allowed_assets):
        return None
    return No("asset_not_allowed", f"This agent may not pay with {ask.symbol}.")


def _network(layer: Layer, ask: Ask, _stack: Sequence[Layer]) -> No | None:
    if any(canonical_network(name) == ask.network for name in layer.rules.allowed_networks):
        return None
    return No("network_not_allowed", f"This agent may not pay on {ask.network}.")


def _scheme(layer: Layer, ask: Ask, _stack: Sequence[Layer]) -> No | None:
    if ask.scheme_x402 in layer.rules.allowed_schemes:
        return None
    return No("scheme_not_allowed", "The scheme of this offer is not one that this agent may use.")


def _flow(layer: Layer, ask: Ask, _stack: Sequence[Layer]) -> No | None:
    if ask.flow in layer.rules.allowed_flows:
        return None
    return No(
        "flow_not_allowed", "The payment flow of this offer is not one that this agent may use."
    )


def _timeout(layer: Layer, ask: Ask, _stack: Sequence[Layer]) -> No | None:
    most, asked = layer.rules.max_timeout_seconds, ask.max_timeout_seconds
    if most is None or (asked is not None and asked <= most):
        return None
    how_long = "does not say how long" if asked is None else f"wants {asked} s in which"
    return No(
        "timeout_too_long",
        f"The offer {how_long} the payment may be taken; this agent gives at most {most} s.",
    )


RULES: tuple[Rule, ...] = (
    Rule("frozen", ("frozen", "provider_frozen"), _frozen),
    Rule("hours", ("hours_closed",), _hours),
    Rule("per_call", ("over_per_call_limit",), _per_call),
    Rule("denied_endpoints", ("endpoint_denied",), _denied_endpoint),
    Rule("allowed_endpoints", ("endpoint_not_allowed",), _endpoint),
    Rule("pay_to_pinning", ("pay_to_not_listed",), _listed_pay_to),
    Rule("allowed_pay_to", ("pay_to_not_allowed",), _pay_to),
    Rule("allowed_assets", ("asset_not_allowed",), _asset),
    Rule("allowed_networks", ("network_not_allowed",), _network),
    Rule("allowed_schemes", ("scheme_not_allowed",), _scheme),
    Rule("allowed_flows", ("flow_not_allowed",), _flow),
    Rule("max_timeout_seconds", ("timeout_too_long",), _timeout),
)

_FORESEEN = ("frozen", "hours", "denied_endpoints", "allowed_endpoints")


def _approval(stack: Sequence[Layer], ask: Ask) -> Verdict | None:
    """Over a threshold somebody must have said yes; the lowest one counts."""
    above = [
        (layer.rules.approval_above, layer.name)
        for layer in stack
        if layer.rules.approval_above is not None and ask.price > layer.rules.approval_above
    ]
    if not above:
        return None
    limit, name = min(above, key=lambda one: one[0])
    return Verdict(
        True,
        "ok",
        f"The price is {format_usd(ask.price)} USD; above {format_usd(limit)} USD an operator must"
        " have approved it.",
        limit,
        "approval_above",
        name,
        approval=True,
    )


# --- what they are asked with


def _says(rules: Rules, key: str) -> bool:
    value = getattr(rules, key)
    return value is not None and value is not False and value != ()  # a limit of 0 says much


def _is_open(text: str, ask: Ask) -> bool:
    try:
        return ask.at is not None and parse_hours(text).holds(ask.at)
    except PolicyError:
        return False


def _covers(text: str, ask: Ask) -> bool:
    try:
        pattern = parse_pattern(text)
    except PolicyError:
        return False  # stored by another version, or by hand: what cannot be read allows nothing
    return pattern.matches(ask.method, ask.scheme, ask.host, ask.port, ask.path)


def _may_cover(text: str, ask: Ask) -> bool:
    try:
        pattern = parse_pattern(text)
    except PolicyError:
        return True
    return pattern.may_match(ask.method, ask.scheme, ask.host, ask.port, ask.path)


def _names_asset(entry: str, ask: Ask) -> bool:
    """`entry` is a symbol of our own table, or "network/address" for exactly one mint."""
    network, slash, address = entry.partition("/")
    if slash:
        return canonical_network(network) == ask.network and address == ask.asset
    return entry.upper() == ask.symbol.upper()


def _preferred(policy: Policy) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The orders of assets and networks: of the layers that have one, the narrowest decides."""
    layers = sorted(policy.stack, key=_breadth)
    assets = (layer.rules.asset_order for layer in layers if layer.rules.asset_order)
    networks = (layer.rules.network_order for layer in layers if layer.rules.network_order)
    return next(assets, ()), next(networks, ())


def _breadth(layer: Layer) -> int:
    """Agent and provider, then the agent, then the provider, then the defaults."""
    if layer.provider is not None:
        return 0 if layer.per_agent else 2
    return 3 if layer.name == "defaults" else 1


def _asset_rank(order: Sequence[str], ask: Ask) -> int:
    return next((i for i, entry in enumerate(order) if _names_asset(entry, ask)), len(order))


def _network_rank(order: Sequence[str], ask: Ask) -> int:
    names = [canonical_network(name) for name in order]
    return names.index(ask.network) if ask.network in names else len(names)
