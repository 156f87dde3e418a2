"""What a policy says in vain, or against itself: contradictions, and rules that can never match.

Nothing here changes what is decided. An `error` is a layer that can allow no payment at all, or
that cannot be what was meant; a `warning` is a rule that has no effect.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from policies.book import Book, LayerKey
from policies.coverage import concerns, covers, ever_open_together, lies_within
from policies.money import format_usd
from policies.networks import canonical_network
from policies.pattern import Pattern, parse_pattern
from policies.provider import parse_provider
from policies.rules import AMOUNT_KEYS, Limit, Rules

SCHEMES = ("exact", "upto")
FLOWS = ("authorization", "upfront", "escrow")
_LISTS = (
    "allowed_pay_to",
    "allowed_assets",
    "allowed_networks",
    "allowed_schemes",
    "allowed_flows",
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it looks. `rule` is the key in the layer, `entry` the position in
    its list if it is about one."""

    layer: LayerKey
    rule: str
    why: str
    level: Literal["error", "warning"] = "warning"
    entry: int | None = None


@dataclass(frozen=True, slots=True)
class Known:
    """What there is outside the policy; None where that is not known."""

    assets: Collection[str] | None = None  # symbols, and network/address
    networks: Collection[str] | None = None  # CAIP-2 ids
    wallets: Collection[str] | None = None
    agents: Collection[str] | None = None


def lint(
    book: Book,
    known: Known | None = None,
    written: Mapping[LayerKey, Mapping[str, Any]] | None = None,
) -> list[Finding]:
    """All that can be found, layer by layer. `written`: the tables as they stand in the files,
    where there is more to see than in the book: an empty list, which says nothing."""
    findings: list[Finding] = []
    for key, table in (written or {}).items():
        findings += _empty(key, table)
    for key, rules in book.layers():
        findings += _alone(key, rules)
        findings += _unknown(key, rules, known or Known())
        findings += _beside_its_agent(key, rules, book)
    findings += _unheard(book)
    return findings


# --- one layer by itself


def _empty(key: LayerKey, table: Mapping[str, Any]) -> Iterator[Finding]:
    for rule, value in table.items():
        if value == [] and rule.startswith("allowed_"):
            yield Finding(key, rule, "an empty list says nothing: by this layer ALL is allowed")
        elif value in ([], {}):
            yield Finding(key, rule, "it is empty and says nothing")


def _alone(key: LayerKey, rules: Rules) -> Iterator[Finding]:
    yield from _windows(key, rules)
    yield from _endpoints(key, rules)
    yield from _preferences(key, rules)
    if rules.per_call == 0:
        yield Finding(
            key, "per_call", "a limit of 0 allows no payment: write frozen = true", "error"
        )
    if rules.approval_wait_seconds is not None and rules.approval_above is None and key.agent:
        yield Finding(
            key,
            "approval_wait_seconds",
            "without approval_above in this layer, it may never be used",
        )
    for rule in ("max_price_ratio_last", "max_price_ratio_median"):
        ratio = getattr(rules, rule)
        if ratio is not None and ratio < 1:
            yield Finding(key, rule, "below 1 it denies a price that has not changed", "error")
    if rules.hours and not ever_open_together([rules.hours]):
        yield Finding(key, "hours", "it is never open", "error")


def _windows(key: LayerKey, rules: Rules) -> Iterator[Finding]:
    for one in rules.limits:
        rule = amount_key(one.window)
        if one.micros == 0:
            yield Finding(key, rule, "a limit of 0 allows no payment: write frozen = true", "error")
        if one.payments == 0:
            yield Finding(key, "payments", "none is allowed: write frozen = true", "error")
        if rules.per_call is not None and one.micros is not None and rules.per_call > one.micros:
            yield Finding(
                key,
                "per_call",
                f"{format_usd(rules.per_call)} is above {rule}, {format_usd(one.micros)}: no call"
                " of that price can be paid",
            )
        if (
            rules.loss_cap is not None
            and one.window == "day"
            and _reaches(rules.loss_cap, one.micros)
        ):
            yield Finding(key, "loss_cap", f"{rule} is reached before it")
        for wider in rules.limits:
            yield from _shadowed_window(key, one, wider)


def _shadowed_window(key: LayerKey, one: Limit, wider: Limit) -> Iterator[Finding]:
    if one.window == wider.window or not lies_within(one.window, wider.window):
        return
    if _reaches(one.micros, wider.micros):
        yield Finding(
            key,
            amount_key(one.window),
            f"{format_usd(one.micros or 0)} is never reached: {amount_key(wider.window)} is"
            f" {format_usd(wider.micros or 0)}",
        )
    if _reaches(one.payments, wider.payments):
        yield Finding(
            key,
            "payments",
            f"{one.payments} per {one.window} are never reached: it is {wider.payments} per"
            f" {wider.window}",
        )


def _endpoints(key: LayerKey, rules: Rules) -> Iterator[Finding]:
    allowed = [parse_pattern(text) for text in rules.allowed_endpoints]
    denied = [parse_pattern(text) for text in rules.denied_endpoints]
    yield from _shadowed(key, "allowed_endpoints", allowed)
    yield from _shadowed(key, "denied_endpoints", denied)
    yield from _denied(key, allowed, denied, "")
    if key.provider is None:
        return
    provider = parse_provider(key.provider)
    for rule, patterns in (("allowed_endpoints", allowed), ("denied_endpoints", denied)):
        foreign = [i for i, one in enumerate(patterns) if not concerns(one, provider)]
        for i in foreign:
            nothing = rule == "allowed_endpoints" and len(foreign) == len(patterns)
            yield Finding(
                key,
                rule,
                f"{patterns[i].text!r} is not of this provider and never matches"
                + (", nor does any other: nothing can be paid here" if nothing else ""),
                "error" if nothing else "warning",
                i,
            )


def _shadowed(key: LayerKey, rule: str, patterns: list[Pattern]) -> Iterator[Finding]:
    for i, one in enumerate(patterns):
        for j, other in enumerate(patterns):
            # Of two that say the same the later one is too much.
            if i != j and covers(other, one) and (j < i or not covers(one, other)):
                yield Finding(key, rule, f"{one.text!r} is within {other.text!r}", entry=i)
                break


def _denied(
    key: LayerKey, allowed: list[Pattern], denied: list[Pattern], where: str
) -> Iterator[Finding]:
    for i, one in enumerate(allowed):
        for other in denied:
            if covers(other, one):
                yield Finding(
                    key,
                    "allowed_endpoints",
                    f"{one.text!r} is denied by {other.text!r}{where}, which goes before",
                    "error",
                    i,
                )
                break


def _preferences(key: LayerKey, rules: Rules) -> Iterator[Finding]:
    for order, allowed in (
        ("asset_order", "allowed_assets"),
        ("network_order", "allowed_networks"),
    ):
        entries = getattr(rules, allowed)
        for i, one in enumerate(getattr(rules, order)):
            if entries and one.upper() not in {entry.upper() for entry in entries}:
                yield Finding(key, order, f"{one} is not in {allowed}", entry=i)
    homes = [
        canonical_network(one.partition("/")[0]) if "/" in one else None
        for one in rules.allowed_assets
    ]
    networks = rules.allowed_networks
    if homes and networks and all(home is not None and home not in networks for home in homes):
        yield Finding(
            key, "allowed_assets", "none of them is on a network of allowed_networks", "error"
        )


# --- a layer beside what there is


def _unknown(key: LayerKey, rules: Rules, known: Known) -> Iterator[Finding]:
    if known.agents is not None and key.agent is not None and key.agent not in known.agents:
        yield Finding(key, "", f"there is no agent {key.agent!r}", "error")
    if known.wallets is not None and rules.wallet and rules.wallet not in known.wallets:
        yield Finding(key, "wallet", f"there is no wallet {rules.wallet!r}", "error")
    for rule, there in (
        ("allowed_assets", known.assets),
        ("asset_order", known.assets),
        ("allowed_networks", known.networks),
        ("network_order", known.networks),
        ("allowed_schemes", SCHEMES),
        ("allowed_flows", FLOWS),
    ):
        if there is not None:
            yield from _not_among(key, rule, getattr(rules, rule), there)


def _not_among(
    key: LayerKey, rule: str, entries: tuple[str, ...], there: Collection[str]
) -> Iterator[Finding]:
    names = {one.upper() for one in there}
    strange = [i for i, one in enumerate(entries) if _plain(one).upper() not in names]
    nothing = rule.startswith("allowed_") and len(strange) == len(entries)
    for i in strange:
        yield Finding(
            key,
            rule,
            f"{entries[i]} is not known here and matches nothing"
            + (", nor does any other: nothing can be paid" if nothing else ""),
            "error" if nothing else "warning",
            i,
        )


def _plain(asset: str) -> str:
    network, slash, address = asset.partition("/")
    return f"{canonical_network(network)}/{address}" if slash else asset


# --- a layer beside others that hold with it


def _beside_its_agent(key: LayerKey, rules: Rules, book: Book) -> Iterator[Finding]:
    """With an agent's layer, the defaults that speak where it does not; with that of an agent and a
    provider, both of these too."""
    if key.agent is None:
        if rules.pay_to_pinning == "list" and not rules.allowed_pay_to and not _any_list(book):
            yield _no_list(key)
        return
    own = book.agents.get(key.agent, Rules())
    below = book.defaults.where_silent(own)
    others = [(LayerKey(), below)]
    if key.provider is not None:
        others.append((LayerKey(key.agent), own))
        others += [
            (LayerKey(None, pattern), book.providers[pattern])
            for pattern in book.providers
            if pattern == key.provider
        ]
    stack = [rules, *(other for _, other in others)]
    listed = any(one.allowed_pay_to for one in stack)
    if rules.pay_to_pinning == "list" and not listed and not _provider_list(book):
        yield _no_list(key)
    yield from _approvals(key, rules, others)
    for name, other in others:
        yield from _against(key, rules, name, other)


def _approvals(
    key: LayerKey, rules: Rules, others: Iterable[tuple[LayerKey, Rules]]
) -> Iterator[Finding]:
    for name, other in ((key, rules), *others):
        if rules.approval_above is not None and _reaches(rules.approval_above, other.per_call):
            where = "" if name == key else f" of {name}"
            yield Finding(
                key,
                "approval_above",
                f"{format_usd(rules.approval_above)} is never passed: per_call{where} is"
                f" {format_usd(other.per_call or 0)}",
            )


def _against(key: LayerKey, rules: Rules, name: LayerKey, other: Rules) -> Iterator[Finding]:
    if key.provider is not None:
        if rules.per_call is not None and _exceeds(rules.per_call, other.per_call):
            yield Finding(
                key, "per_call", f"{name} allows {format_usd(other.per_call or 0)} at most"
            )
        for one in rules.limits:
            wider = other.limit(one.window)
            if _exceeds(one.micros, wider.micros):
                yield Finding(
                    key,
                    amount_key(one.window),
                    f"{name} allows {format_usd(wider.micros or 0)} at most",
                )
            if _exceeds(one.payments, wider.payments):
                yield Finding(key, "payments", f"{name} allows {wider.payments} per {one.window}")
    allowed = [parse_pattern(text) for text in rules.allowed_endpoints]
    denied = [parse_pattern(text) for text in other.denied_endpoints]
    yield from _denied(key, allowed, denied, f" of {name}")
    for rule in _LISTS:
        mine, theirs = set(getattr(rules, rule)), set(getattr(other, rule))
        if mine and theirs and not mine & theirs:
            yield Finding(key, rule, f"nothing of it is on the list of {name}", "error")
    if rules.hours and other.hours and not ever_open_together([rules.hours, other.hours]):
        yield Finding(key, "hours", f"it is closed whenever {name} is open", "error")
    if name == LayerKey() and other.frozen and rules:
        yield Finding(key, "frozen", "the defaults are frozen: no agent pays anything", "error")


def _unheard(book: Book) -> Iterator[Finding]:
    """Defaults that each agent has an answer of its own to."""
    if not book.agents:
        return
    said = book.defaults.to_json()
    heard: set[str] = set()
    for own in book.agents.values():
        heard |= book.defaults.where_silent(own).to_json().keys()
    for rule in said:
        if rule not in heard:
            yield Finding(LayerKey(), rule, "each agent of this policy says its own")


# --- small words


def amount_key(window: str) -> str:
    """The key that the amount of a window stands under."""
    return AMOUNT_KEYS.get(window, "rolling")


def _no_list(key: LayerKey) -> Finding:
    return Finding(
        key,
        "pay_to_pinning",
        "pinned to a list, and no layer has allowed_pay_to: nobody can be paid",
        "error",
    )


def _any_list(book: Book) -> bool:
    return any(rules.allowed_pay_to for _, rules in book.layers())


def _provider_list(book: Book) -> bool:
    return any(rules.allowed_pay_to for rules in book.providers.values())


def _reaches(one: int | None, other: int | None) -> bool:
    return one is not None and other is not None and one >= other


def _exceeds(one: int | None, other: int | None) -> bool:
    return one is not None and other is not None and one > other
