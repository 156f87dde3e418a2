"""Every rule in order: the same verdict as is decided, and the numbers behind it."""

from dataclasses import replace
from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from policies import Ask, Book, Facts, LayerKey, Limit, Rules, Used, decide, explain, ledger_rules
from policies.decision import RULES
from policies.explanation import LEDGER_RULES, Ceiling, Step, conclusion, first_no
from tests.policies.drawn import SELLER, asks, books
from tests.policies.test_layers import ASK, BOTH, PROVIDER

BOT = LayerKey("bot")


def explained(rules: Rules, facts: Facts | None, ask: Ask = ASK) -> list[Step]:
    return explain(Book.of({BOT: rules}).policy("bot", "https", ask.host, ask.port), ask, facts)


def step(steps: list[Step], rule: str) -> Step:
    (one,) = [one for one in steps if one.rule == rule]
    return one


@given(books(), asks, st.none() | st.just(Facts()))
def test_it_says_what_is_decided(book: Book, ask: Ask, facts: Facts | None) -> None:
    policy = book.policy("bot", ask.scheme, ask.host, ask.port)
    verdict = decide(policy, ask)
    steps = explain(policy, ask, facts)
    no = first_no(steps)
    pure = {rule.key for rule in RULES}
    if not verdict.allowed:
        assert no is not None
        assert (no.rule, no.code) == (verdict.rule, verdict.code)
    else:
        assert no is None or no.code in {code for _, codes in LEDGER_RULES for code in codes}
    asked = [one.rule for one in steps if one.rule in pure]
    order = [rule.key for rule in RULES]
    first = [asked.index(key) for key in order]
    assert first == sorted(first)


def test_without_facts_the_ledgers_rules_are_unknown() -> None:
    steps = explained(Rules(pay_to_pinning="first_use", loss_cap=1, approval_above=1), None)
    for rule in ("halted", "loss_cap", "approval_above", "daily", "session", "trace"):
        assert step(steps, rule).outcome == "unknown"


def test_spending_is_halted() -> None:
    no = first_no(explained(Rules(), Facts(halted="something is odd")))
    assert no is not None
    assert (no.code, no.detail) == ("spending_halted", "something is odd")


def test_a_receiver_that_is_not_the_pinned_one() -> None:
    rules = Rules(pay_to_pinning="first_use")
    for pinned, code in ((["x"], "pay_to_changed"), ([SELLER, "x"], ""), ([], "")):
        steps = explained(rules, Facts(pinned=pinned))
        assert [one.code for one in steps if one.rule == "pay_to_pinning"][-1] == code


def test_a_price_that_has_drifted() -> None:
    rules = Rules(max_price_ratio_last=Decimal("1.5"), max_price_ratio_median=Decimal("2"))
    facts = Facts(last_paid=6_666, median_paid=Decimal("5000"))
    steps = explained(rules, facts)
    assert step(steps, "max_price_ratio_last").code == "price_drift"
    assert step(steps, "max_price_ratio_median").outcome == "allows"
    assert step(steps, "max_price_ratio_last").numbers == {
        "asked_usd": "0.01",
        "last_usd": "0.006666",
        "most_usd": "0.009999",
    }
    steps = explained(rules, Facts(last_paid=6_667, median_paid=Decimal("4999.5")))
    assert step(steps, "max_price_ratio_last").outcome == "allows"
    assert step(steps, "max_price_ratio_median").code == "price_drift"
    assert first_no(explained(rules, Facts())) is None  # nothing was paid before


def test_losses_count_what_this_could_add() -> None:
    rules = Rules(loss_cap=25_000)
    assert first_no(explained(rules, Facts(lost={"agent bot": 15_000}))) is None
    no = first_no(explained(rules, Facts(lost={"agent bot": 15_001})))
    assert no is not None
    assert no.code == "over_loss_cap"


def test_an_approval() -> None:
    rules = Rules(approval_above=9_999)
    no = first_no(explained(rules, Facts()))
    assert no is not None
    assert no.code == "approval_required"
    assert first_no(explained(rules, Facts(approved=True))) is None
    assert first_no(explained(rules, Facts(), replace(ASK, price=9_999))) is None


def test_what_nobody_can_know() -> None:
    rules = Rules(approval_above=9_999, pay_to_pinning="first_use")
    steps = explained(rules, Facts(approved=None, approval="One may be of it."))
    assert conclusion(steps) == ("unknown", None, step(steps, "approval_above"))
    assert step(steps, "approval_above").detail == "One may be of it."
    # Whatever that is: this denies.
    denied = explained(rules, Facts(approved=None, lost={"agent bot": 1}, halted="x"))
    assert conclusion(denied)[:2] == ("spending_halted", False)
    assert conclusion(explained(rules, Facts(approved=True))) == ("ok", True, None)
    nobody = explained(rules, Facts(pinned=["x"], approved=True), replace(ASK, pay_to=""))
    assert conclusion(nobody)[:2] == ("unknown", None)
    whose = Ceiling("this wallet, per day", "over_wallet_limit", 10_000, None)
    assert conclusion(explained(Rules(), Facts(ceilings=[whose])))[0] == "unknown"


def test_limits_with_what_is_used_of_them() -> None:
    rules = Rules(limits=(Limit("day", 100_000), Limit("24h", 50_000, 7)))
    used = {
        ("agent bot", "day"): Used(spent=80_000, held=10_000),
        ("agent bot", "24h"): Used(spent=40_001, payments=6),
    }
    steps = explained(rules, Facts(used=used))
    assert step(steps, "daily").outcome == "allows"
    assert step(steps, "daily").numbers["left_usd"] == "0.01"
    assert step(steps, "rolling.24h").code == "over_rolling_limit"
    assert step(steps, "payments.24h").outcome == "allows"
    used["agent bot", "24h"] = Used(payments=7)
    steps = explained(rules, Facts(used=used))
    assert step(steps, "payments.24h").code == "too_many_payments"


def test_a_ceiling() -> None:
    ceiling = Ceiling("everything", "over_fleet_limit", 10_000, Used(spent=1))
    no = first_no(explained(Rules(), Facts(ceilings=[ceiling])))
    assert no is not None
    assert (no.rule, no.code) == ("ceiling: everything", "over_fleet_limit")


def test_what_the_ledger_is_asked() -> None:
    book = Book.of(
        {
            BOT: Rules(max_price_ratio_last=Decimal("1.50"), loss_cap=7, approval_above=20_000),
            PROVIDER: Rules(
                pay_to_pinning="first_use", max_price_ratio_last=Decimal("1.20"), loss_cap=8
            ),
            BOTH: Rules(approval_above=9_000, approval_wait_seconds=20, loss_cap=9),
            LayerKey(): Rules(approval_wait_seconds=10, max_price_ratio_median=Decimal("3.00")),
        }
    )
    policy = book.policy("bot", "https", "api.example.com", 443)
    assert ledger_rules(policy, decide(policy, ASK)) == {
        "pinning": "first_use",
        "ratio_last": "1.20",
        "ratio_median": "3.00",
        "loss_cap": [
            {"layer": "agent bot", "provider": None, "per_agent": True, "micros": 7},
            {
                "layer": 'provider "api.example.com"',
                "provider": "api.example.com",
                "per_agent": False,
                "micros": 8,
            },
            {
                "layer": 'agent bot provider "*.example.com"',
                "provider": "*.example.com",
                "per_agent": True,
                "micros": 9,
            },
        ],
        "approval": True,
        "approval_wait": 10,
    }
    cheap = replace(ASK, price=9_000)
    assert "approval" not in ledger_rules(policy, decide(policy, cheap))
    plain = Book().policy("bot", "https", "api.example.com", 443)
    assert ledger_rules(plain, decide(plain, ASK)) == {}
