"""Decisions replayed under another book: what it would have said of each, in the order of then."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import Ask, Book, LayerKey, Limit, Rules, decide
from policies.simulation import DayLimit, Logged, simulate
from tests.policies.drawn import asks, books
from tests.policies.test_layers import ASK, BOTH, PROVIDER

START = datetime(2026, 3, 2, 9, 30, tzinfo=UTC)
BOT = LayerKey("bot")


def log(*minutes: int, **more: Any) -> list[Logged]:
    """A payment of a cent at each of these minutes."""
    return [
        Logged(
            START + timedelta(minutes=minute),
            "bot",
            "https://api.example.com:443",
            replace(ASK, at=None),
            "ok",
            **more,
        )
        for minute in minutes
    ]


def codes(rules: Rules, those: list[Logged], key: LayerKey = BOT) -> list[str]:
    book = Book.of({key: rules})
    return [one.code for one in simulate(book, those, START - timedelta(days=99))]


@pytest.mark.parametrize(
    ("window", "minutes", "denied"),
    [
        ("hour", (0, 10, 29, 30, 40), 2),  # 09:30, 09:40, 09:59 | 10:00, 10:10
        ("day", (0, 60, 14 * 60, 15 * 60), 2),
        ("month", (0, 60, 29 * 1440, 31 * 1440), 2),
        ("lifetime", (0, 60, 90 * 1440), 2),
        ("1h", (0, 59, 59, 60, 61), 2),  # what is an hour old is gone
    ],
)
def test_windows(window: str, minutes: tuple[int, ...], denied: int) -> None:
    amounts = codes(Rules(limits=(Limit(window, 20_000),)), log(*minutes))
    numbers = codes(Rules(limits=(Limit(window, payments=2),)), log(*minutes))
    assert [i for i, code in enumerate(amounts) if code != "ok"][:1] == [denied]
    assert [code == "ok" for code in amounts] == [code == "ok" for code in numbers]
    assert numbers[denied] == "too_many_payments"


def test_sessions_and_traces_are_counted_by_name() -> None:
    rules = Rules(limits=(Limit("session", 10_000), Limit("trace", 20_000)))
    one = log(0, 1, session="a")
    other = log(2, session="b", trace="t")
    nameless = log(3, 4, 5)
    assert codes(rules, [*one, *other, *nameless]) == ["ok", "over_session_limit", *["ok"] * 4]


@pytest.mark.parametrize(("key", "together"), [(BOT, False), (PROVIDER, True), (BOTH, False)])
def test_whom_a_layer_counts(key: LayerKey, together: bool) -> None:
    those = [*log(0), replace(log(1)[0], agent="ant")]
    said = codes(Rules(limits=(Limit("day", 10_000),)), those, key)
    assert said == ["ok", "over_daily_limit" if together else "ok"]


def test_what_it_denies_takes_nothing() -> None:
    """A dear payment that this book denies leaves room for the next."""
    dear = replace(log(1)[0], ask=replace(ASK, price=20_000))
    rules = Rules(limits=(Limit("day", 20_000),))
    assert codes(rules, [*log(0), dear, *log(2)]) == ["ok", "over_daily_limit", "ok"]


def test_what_came_back_takes_nothing() -> None:
    rules = Rules(limits=(Limit("day", 10_000),))
    assert codes(rules, [*log(0, final=False), *log(1), *log(2)]) == [
        "ok",
        "ok",
        "over_daily_limit",
    ]


def test_receivers_prices_losses_and_approvals() -> None:
    other = replace(log(1)[0], ask=replace(ASK, pay_to="x"))
    assert codes(Rules(pay_to_pinning="first_use"), [*log(0), other]) == ["ok", "pay_to_changed"]
    dear = replace(log(2)[0], ask=replace(ASK, price=15_001))
    assert codes(Rules(max_price_ratio_last=Decimal("1.5")), [*log(0, 1), dear])[2] == "price_drift"
    assert codes(Rules(loss_cap=15_000), [*log(0, lost=True), *log(1)]) == ["ok", "over_loss_cap"]
    assert codes(Rules(loss_cap=15_000), [*log(0, lost=True), *log(1440)]) == ["ok", "ok"]
    said = codes(Rules(approval_above=1), [*log(0), *log(1, approved=True)])
    assert said == ["approval_required", "ok"]


def test_hours_are_those_of_then() -> None:
    rules = Rules(hours=("Mon 09:00-10:00",))
    assert codes(rules, log(0, 29, 30)) == ["ok", "ok", "hours_closed"]


BARE = replace(ASK, pay_to="", symbol="", asset="", network="", max_timeout_seconds=None)


def test_what_the_log_does_not_hold_is_not_known() -> None:
    unknown = replace(
        log(0)[0], ask=BARE, code="over_per_call_limit", offer_known=False, terms_known=False
    )
    rules = Rules(
        allowed_pay_to=("x",),
        allowed_assets=("USDC",),
        pay_to_pinning="list",
        allowed_networks=("solana",),
        allowed_schemes=("upto",),
        max_timeout_seconds=1,
    )
    book = Book.of({BOT: rules})
    (told,) = simulate(book, [unknown], START)
    assert (told.code, told.effect) == ("unknown", "unknown")
    assert told.not_known == (
        "pay_to_pinning",
        "allowed_pay_to",
        "allowed_assets",
        "allowed_networks",
        "allowed_schemes",
        "allowed_flows",  # what is built in asks too
        "max_timeout_seconds",
    )
    # What denies it all the same is known, before those and after.
    assert codes(replace(rules, per_call=1), [unknown]) == ["over_per_call_limit"]
    day = Rules(max_timeout_seconds=1, limits=(Limit("day", 1),))
    assert codes(day, [unknown]) == ["over_daily_limit"]


def test_a_timeout_of_which_only_the_least_is_known() -> None:
    those = log(0, timeout_known=False)  # 60 s, or more, or none was named
    assert codes(Rules(max_timeout_seconds=59), those) == ["timeout_too_long"]
    assert codes(Rules(max_timeout_seconds=60), those) == ["unknown"]
    assert codes(Rules(), those) == ["ok"]
    assert codes(Rules(max_timeout_seconds=60), log(0)) == ["ok"]


def test_what_was_paid_and_is_not_known_fills_the_windows() -> None:
    rules = Rules(max_timeout_seconds=60, limits=(Limit("day", 10_000),))
    denied = replace(log(0)[0], code="frozen", timeout_known=False)
    those = [denied, *log(1, timeout_known=False), *log(2)]
    assert codes(rules, those) == ["unknown", "unknown", "over_daily_limit"]


@given(books(), st.lists(asks, min_size=1, max_size=4), st.booleans(), st.booleans(), st.booleans())
def test_what_is_said_without_knowing_all_is_true(
    book: Book, offers: list[Ask], offer: bool, terms: bool, timeout: bool
) -> None:
    """Of the first: what comes behind one that is not known is told as if it went as it did."""
    ask = offers[0]
    whole = Logged(START, "bot", f"https://{ask.host}:{ask.port}", ask, "ok")
    lacking = replace(whole, offer_known=offer, terms_known=terms, timeout_known=timeout)
    (true,), (told,) = (simulate(book, [one], START) for one in (whole, lacking))
    if told.effect != "unknown":
        assert told.effect == true.effect
    elif offer and terms and timeout:
        raise AssertionError("all is known")


LIMITS = [
    DayLimit("provider_day", None, "*", 30_000),
    DayLimit("agent_provider_day", None, "https://api.example.com:443", 10_000),
    DayLimit("agent_provider_day", "ant", "*", 20_000),
]


def ceilings(those: list[Logged], *limits: DayLimit, book: Book | None = None) -> list[str]:
    found = simulate(book or Book(), those, START, ceilings=limits, running=Book())
    return [one.code for one in found]


def test_ceilings() -> None:
    """That of the agent goes before what names the provider, as the ledger has it."""
    ants = [replace(one, agent="ant") for one in log(2, 3, 4)]
    assert ceilings([*log(0, 1), *ants], *LIMITS) == [
        "ok",
        "over_agent_provider_limit",
        "ok",
        "ok",
        "over_agent_provider_limit",
    ]
    more = DayLimit("agent_provider_day", None, "https://api.example.com:443", 99_000)
    assert ceilings(log(0, 1, 2, 3), LIMITS[0], more)[2:] == ["ok", "over_provider_limit"]
    elsewhere = replace(log(4)[0], provider="https://other.example:443")
    assert ceilings([*log(0, 1, 2), elsewhere], LIMITS[0])[3] == "ok"  # each by itself
    fleet = DayLimit("fleet_day", None, "*", 30_000)
    assert ceilings([*log(0, 1, 2), elsewhere], fleet)[3] == "over_fleet_limit"
    assert ceilings([*log(0, 1, 2), *log(1440)], fleet)[3] == "ok"  # a day later


def test_the_ceiling_of_a_wallet() -> None:
    limit = DayLimit("wallet_day", None, "w", 10_000)
    assert ceilings(log(0, 1, payer="w"), limit) == ["ok", "over_wallet_limit"]
    assert ceilings(log(0, 1, payer="v"), limit) == ["ok", "ok"]
    assert ceilings(log(0), limit) == ["unknown"]
    other = replace(log(1, payer="w")[0], ask=replace(ASK, network="x"))
    assert ceilings([*log(0, payer="w"), other], limit) == ["ok", "ok"]
    # By this book another wallet would have paid: its address is in no log.
    moved = Book.of({BOT: Rules(wallet="savings")})
    assert ceilings(log(0, payer="w"), limit, book=moved) == ["unknown"]


def test_only_what_came_since_is_told() -> None:
    book = Book.of({BOT: Rules(limits=(Limit("24h", 20_000),))})
    told = list(simulate(book, log(0, 10, 20), START + timedelta(minutes=15)))
    assert [(one.code, one.effect) for one in told] == [("over_rolling_limit", "denied")]


@given(books(), st.lists(asks, max_size=6))
def test_each_decision_is_told_and_none_allowed_that_is_denied(
    book: Book, offers: list[Ask]
) -> None:
    those = [
        Logged(START + timedelta(minutes=i), "bot", f"https://{ask.host}:{ask.port}", ask, "ok")
        for i, ask in enumerate(offers)
    ]
    told = list(simulate(book, those, START))
    assert [one.logged for one in told] == those
    for one, ask in zip(told, offers, strict=True):
        policy = book.policy("bot", ask.scheme, ask.host, ask.port)
        verdict = decide(policy, replace(ask, at=one.logged.at))
        if not verdict.allowed:
            assert one.code == verdict.code
        assert one.effect == ("same" if one.code == "ok" else "denied")
