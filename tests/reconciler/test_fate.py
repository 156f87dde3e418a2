"""The judgement, as a table: facts in, fate out."""

from dataclasses import replace
from typing import Any

import pytest

from proxy.chains.solana.fate import (
    BLOCKS_BETWEEN_SCANS,
    Balance,
    Dead,
    Evidence,
    Landed,
    Opinion,
    Seen,
    Status,
    Sweep,
    Unknown,
    Why,
    fate,
)

LVBH = 1_150
OURS = Evidence(client_signature="ours", last_valid_block_height=LVBH, blockhash_slot=1_064)
OPENING = Balance(1_060, 10_000)
PAID = Seen(
    signature="tx",
    slot=1_070,
    level="finalized",
    err=None,
    client_signature="ours",
    memo="0f" * 16,
    change=-1_000,
    left=9_000,
    fee=10_000,
)
FAILED = replace(PAID, err='{"InstructionError": [2, {"Custom": 1}]}', change=0, left=10_000)
OTHER = replace(PAID, signature="other", client_signature="theirs")


def swept(*transactions: Seen, rpc: str = "a", height: int = LVBH + 2, **more: Any) -> Sweep:
    """Good, unless something else is said: the balance is what the transactions explain."""
    explained = OPENING.amount + sum(each.change for each in transactions)
    made = Sweep(
        rpc=rpc,
        height=height,
        balance=Balance(height + 64, explained),
        after_slot=OPENING.slot,
        complete=True,
        transactions=transactions,
    )
    return replace(made, **more)


def judged(*seen: Seen, **more: Any) -> Landed | Dead | Unknown:
    return fate(OURS, seen, **{"rpcs": 1, "since": OPENING, **more})


def why(verdict: Landed | Dead | Unknown) -> Why:
    assert isinstance(verdict, Unknown), verdict
    return verdict.why


def test_found_is_landed_at_the_level_it_was_seen_at() -> None:
    assert judged(OTHER, PAID) == Landed(PAID)
    early = replace(PAID, level="confirmed")
    assert judged(early) == Landed(early)
    assert judged(early, replace(PAID, signature="tx2")) == Landed(replace(PAID, signature="tx2"))


def test_a_memo_alone_is_nobodys_payment() -> None:
    """Whoever was sent the payment can put its memo, and our account, into a transaction of his."""
    copied = replace(FAILED, signature="forged", client_signature="theirs")
    assert why(judged(copied)) is Why.ALIVE
    assert why(judged(copied, sweeps=[swept(copied)])) is Why.SECOND_SCAN_DUE


def test_a_failure_counts_when_it_is_final() -> None:
    assert why(judged(replace(FAILED, level="confirmed"))) is Why.FAILED_NOT_FINAL
    dead = judged(FAILED)
    assert isinstance(dead, Dead) and dead.by == FAILED and "Custom" in dead.proof


@pytest.mark.parametrize(
    ("height", "rpcs", "expected"),
    [
        (LVBH - 1, 2, Why.ALIVE),
        (LVBH, 2, Why.ALIVE),
        (LVBH + 1, 2, Why.ALIVE),  # that very block may hold it
        (LVBH + 2, 2, None),
    ],
)
def test_absence_is_proof_past_the_last_block_only(
    height: int, rpcs: int, expected: Why | None
) -> None:
    verdict = judged(
        sweeps=[swept(height=height), swept(rpc="b", height=height)], rpcs=rpcs, absent_since=0
    )
    assert isinstance(verdict, Dead) if expected is None else why(verdict) is expected


def test_absence_needs_every_rpc() -> None:
    a, b = swept(), swept(rpc="b")
    assert isinstance(judged(sweeps=[a, b], rpcs=2), Dead)
    assert why(judged(sweeps=[a], rpcs=2)) is Why.SECOND_OPINION_DUE
    assert why(judged(sweeps=[a, a], rpcs=2)) is Why.SECOND_OPINION_DUE
    assert why(judged(sweeps=[a, b], rpcs=3)) is Why.SECOND_OPINION_DUE
    assert why(judged(sweeps=[a, swept(rpc="b", height=LVBH + 1)], rpcs=2)) is Why.ALIVE
    assert why(judged(sweeps=[a, swept(PAID, rpc="b")], rpcs=2)) is Why.RPCS_DISAGREE
    assert why(judged(sweeps=[swept(PAID), b], rpcs=2)) is Why.RPCS_DISAGREE


def test_a_lone_rpc_says_it_twice_far_apart() -> None:
    last = LVBH + 2 + BLOCKS_BETWEEN_SCANS
    assert why(judged(sweeps=[swept()])) is Why.SECOND_SCAN_DUE
    assert why(judged(sweeps=[swept(height=last - 1)], absent_since=LVBH + 2)) is (
        Why.SECOND_SCAN_DUE
    )
    assert isinstance(judged(sweeps=[swept(height=last)], absent_since=LVBH + 2), Dead)


@pytest.mark.parametrize(
    ("lack", "expected"),
    [
        ({"complete": False}, Why.SCAN_INCOMPLETE),
        ({"after_slot": OURS.blockhash_slot + 1}, Why.SCAN_INCOMPLETE),
        ({"balance": Balance(LVBH + 66, 9_000)}, Why.NOT_CONSERVED),
        ({"balance": Balance(LVBH + 66, 10_001)}, Why.NOT_CONSERVED),
        ({"balance": Balance(OPENING.slot - 1, 10_000)}, Why.NOT_CONSERVED),
    ],
)
def test_one_scan_that_is_not_whole_keeps_it_held(lack: dict[str, Any], expected: Why) -> None:
    for sweeps in ([swept(**lack), swept(rpc="b")], [swept(), swept(rpc="b", **lack)]):
        assert why(judged(sweeps=sweeps, rpcs=2, absent_since=0)) is expected
    assert why(judged(sweeps=[swept(height=9_999, **lack)], absent_since=0)) is expected


def test_a_balance_from_after_the_payment_proves_nothing() -> None:
    sweeps = [swept(), swept(rpc="b")]
    assert why(judged(sweeps=sweeps, rpcs=2, since=None)) is Why.NO_OPENING
    late = Balance(OURS.blockhash_slot + 1, 10_000)
    assert why(judged(sweeps=sweeps, rpcs=2, since=late)) is Why.NO_OPENING


def test_other_payments_and_deposits_are_accounted_for() -> None:
    deposit = replace(OTHER, signature="deposit", change=5_000)
    later = replace(OTHER, signature="later", slot=LVBH + 200, change=-7)
    sweep = swept(OTHER, deposit)
    # What came after the balance was read is in the scan, and not in the balance.
    assert sweep.conserves(OPENING) and replace(
        sweep, transactions=(OTHER, deposit, later)
    ).conserves(OPENING)
    assert not replace(sweep, transactions=(OTHER,)).conserves(OPENING)


def test_what_was_confirmed_and_is_gone_past_the_end_is_dead() -> None:
    gone = replace(PAID, level="confirmed")
    assert isinstance(judged(gone, sweeps=[swept(), swept(rpc="b")], rpcs=2), Dead)
    assert judged(gone, sweeps=[swept(), swept(rpc="b", complete=False)], rpcs=2) == Landed(gone)


@pytest.mark.parametrize("seen", [PAID, FAILED])
def test_a_second_opinion_on_what_is_final(seen: Seen) -> None:
    failed = seen.err is not None
    agrees = Opinion("b", LVBH, {"tx": Status("finalized", failed, 1_070)})
    verdict = judged(seen, opinions=[agrees], rpcs=2)
    assert isinstance(verdict, Dead if failed else Landed)
    assert why(judged(seen, rpcs=2)) is Why.SECOND_OPINION_DUE
    behind = replace(agrees, statuses={"tx": Status("confirmed", failed, 1_070)})
    assert why(judged(seen, opinions=[behind], rpcs=2)) is Why.SECOND_OPINION_DUE
    assert why(judged(seen, opinions=[replace(agrees, statuses={})], rpcs=2)) is (
        Why.SECOND_OPINION_DUE
    )
    denies = replace(agrees, statuses={}, height=LVBH + 2)
    assert why(judged(seen, opinions=[denies], rpcs=2)) is Why.RPCS_DISAGREE
    differs = replace(agrees, statuses={"tx": Status("finalized", not failed, 1_070)})
    assert why(judged(seen, opinions=[differs], rpcs=2)) is Why.RPCS_DISAGREE
