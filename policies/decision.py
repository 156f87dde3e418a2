"""The decision itself."""

from collections.abc import Callable, Sequence

from policies.errors import PolicyError
from policies.money import format_usd
from policies.networks import canonical_network
from policies.pattern import parse_pattern
from policies.policy import Ask, Policy, Verdict


def decide(policy: Policy, ask: Ask) -> Verdict:
    """May this agent pay this offer, as far as its policy goes?

    The questions in their order, the first "no" is the answer:
    frozen → per-call limit → endpoint → pay_to → asset → network.
    (What was spent already is the ledger's question, asked after this one.)

    Pure and total. A policy entry that cannot be read allows nothing.
    """
    for question in _QUESTIONS:
        denial = question(policy, ask)
        if denial is not None:
            return denial
    return Verdict(True, "ok", "The policy allows this payment.")


def choose(policy: Policy, asks: Sequence[Ask]) -> tuple[int, Verdict]:
    """The index of the cheapest allowed offer, or of the cheapest one with the reason it is denied.

    Among equal prices the server's order decides. `asks` must not be empty (ValueError).
    """
    if not asks:
        raise ValueError("there is nothing to choose from")
    by_price = sorted(range(len(asks)), key=lambda i: asks[i].price)
    verdicts = [(i, decide(policy, asks[i])) for i in by_price]
    return next(((i, verdict) for i, verdict in verdicts if verdict.allowed), verdicts[0])


def _frozen(policy: Policy, _ask: Ask) -> Verdict | None:
    if not policy.frozen:
        return None
    return Verdict(False, "frozen", "This agent's spending is frozen.")


def _per_call(policy: Policy, ask: Ask) -> Verdict | None:
    if ask.price <= policy.per_call_limit:
        return None
    return Verdict(
        False,
        "over_per_call_limit",
        f"The price is {format_usd(ask.price)} USD; this agent may pay at most "
        f"{format_usd(policy.per_call_limit)} USD per call.",
        limit=policy.per_call_limit,
    )


def _endpoint(policy: Policy, ask: Ask) -> Verdict | None:
    if not policy.allowed_endpoints or any(
        _covers(pattern, ask) for pattern in policy.allowed_endpoints
    ):
        return None
    return Verdict(
        False, "endpoint_not_allowed", "This endpoint is not on the list that this agent may pay."
    )


def _pay_to(policy: Policy, ask: Ask) -> Verdict | None:
    if not policy.allowed_pay_to or ask.pay_to in policy.allowed_pay_to:
        return None
    return Verdict(
        False, "pay_to_not_allowed", "The recipient is not on the list that this agent may pay."
    )


def _asset(policy: Policy, ask: Ask) -> Verdict | None:
    if not policy.allowed_assets or any(
        _names_asset(entry, ask) for entry in policy.allowed_assets
    ):
        return None
    return Verdict(False, "asset_not_allowed", f"This agent may not pay with {ask.symbol}.")


def _network(policy: Policy, ask: Ask) -> Verdict | None:
    if not policy.allowed_networks or any(
        canonical_network(name) == ask.network for name in policy.allowed_networks
    ):
        return None
    return Verdict(False, "network_not_allowed", f"This agent may not pay on {ask.network}.")


_QUESTIONS: tuple[Callable[[Policy, Ask], Verdict | None], ...] = (
    _frozen,
    _per_call,
    _endpoint,
    _pay_to,
    _asset,
    _network,
)


def _covers(text: str, ask: Ask) -> bool:
    try:
        pattern = parse_pattern(text)
    except PolicyError:
        return False  # stored by another version, or by hand: what cannot be read allows nothing
    return pattern.matches(ask.method, ask.scheme, ask.host, ask.port, ask.path)


def _names_asset(entry: str, ask: Ask) -> bool:
    """`entry` is a symbol of our own table, or "network/address" for exactly one mint."""
    network, slash, address = entry.partition("/")
    if slash:
        return canonical_network(network) == ask.network and address == ask.asset
    return entry.upper() == ask.symbol.upper()
