"""Which offer of a 402 is paid: what policy chooses, of what can be signed, and of what an intent
has left for it."""

from collections.abc import Sequence
from dataclasses import replace

from policies import Ask, Choice, Layer, Policy, Rules, Verdict, choose, format_usd
from proxy.wire.gate import Errand

SIGNED_SCHEME = "exact"
OVER_CAP = "over_intent_cap"


def choice_of(policy: Policy, asks: Sequence[Ask], errand: Errand | None = None) -> Choice:
    """The offer to pay, or the first that is denied. What an intent has no money left for is not
    chosen, and its own rules are asked beside those of the policy."""
    if errand is None:
        return _signable(policy, asks)
    if isinstance(errand.rules, Rules):
        layer = Layer(f"intent {errand.intent}", errand.rules)
        policy = replace(policy, layers=(*policy.layers, layer))
    if errand.ceiling is None:
        return _signable(policy, asks)
    within = [i for i, ask in enumerate(asks) if ask.price <= errand.ceiling]
    if not within:
        return _over(_signable(policy, asks), asks, errand.ceiling)
    among = _signable(policy, [asks[i] for i in within])
    left = {i: OVER_CAP for i in range(len(asks)) if i not in within}
    left |= {within[i]: code for i, code in among.left}
    return Choice(within[among.index], among.verdict, tuple(sorted(left.items())))


def _over(choice: Choice, asks: Sequence[Ask], ceiling: int) -> Choice:
    """Not one offer fits: what policy says against them all goes first."""
    if not choice.verdict.allowed:
        return choice
    verdict = Verdict(
        False,
        OVER_CAP,
        f"The price is {format_usd(asks[choice.index].price)} USD; {format_usd(ceiling)} USD are"
        " left for this attempt, of what the intent may cost.",
        ceiling,
        "ceiling",
        "intent",
    )
    left = tuple((i, OVER_CAP) for i in range(len(asks)) if i != choice.index)
    return replace(choice, verdict=verdict, left=left)


def _signable(policy: Policy, asks: Sequence[Ask]) -> Choice:
    """What the policy chooses; of that which can be signed, if there is any that it allows."""
    choice = choose(policy, asks)
    if not choice.verdict.allowed or asks[choice.index].scheme_x402 == SIGNED_SCHEME:
        return choice
    signed = [i for i, ask in enumerate(asks) if ask.scheme_x402 == SIGNED_SCHEME]
    among = choose(policy, [asks[i] for i in signed]) if signed else choice
    if not signed or not among.verdict.allowed:
        return choice
    left = {i: code for i, code in choice.left if i not in signed}
    left |= {i: "scheme_not_supported" for i in range(len(asks)) if i not in signed}
    left |= {signed[i]: code for i, code in among.left}
    return Choice(signed[among.index], among.verdict, tuple(sorted(left.items())))
