"""What an answer to a payment lets one conclude."""

import base64
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.x402 import SOLANA_DEVNET, Fate, Outcome, read_outcome, read_settlement

PAID, REFUSED, IN_DOUBT = Fate.PAID, Fate.REFUSED, Fate.IN_DOUBT


def b64(value):
    return base64.b64encode(json.dumps(value).encode())


def required(error, version=2):
    return [(b"PAYMENT-REQUIRED", b64({"x402Version": version, "error": error, "accepts": []}))]


def response(name=b"PAYMENT-RESPONSE", **settlement):
    return [(name, b64(settlement))]


def failed(reason, name=b"PAYMENT-RESPONSE"):
    return response(name, success=False, errorReason=reason)


def v1_body(error):
    return json.dumps({"x402Version": 1, "error": error, "accepts": []}).encode()


SETTLED = response(success=True, transaction="5x", network=SOLANA_DEVNET, payer="AK")
OLD_SETTLED = response(b"X-PAYMENT-RESPONSE", success=True, txHash="5x", networkId="solana-devnet")
LENGTH = "invalid_exact_svm_payload_transaction_instructions_length"
MEMO = "invalid_exact_svm_payload_memo_mismatch"

# status, headers, body, fate, reason, wants_no_memo
TABLE = [
    (200, SETTLED, b"", PAID, "", False),
    (200, OLD_SETTLED, b"", PAID, "", False),
    (200, [], b"", PAID, "", False),
    (204, [], b"", PAID, "", False),
    (200, [(b"PAYMENT-RESPONSE", b"garbage")], b"", PAID, "", False),
    (503, SETTLED, b"", PAID, "", False),
    (402, SETTLED, b"", PAID, "", False),
    (302, SETTLED, b"", PAID, "", False),
    (200, failed("odd"), b"", IN_DOUBT, "odd", False),
    # refused before anything was broadcast, as far as the server says
    (402, required("No matching payment requirements"), b"{}", REFUSED, "No matching", False),
    (402, required("transaction_simulation_failed"), b"{}", REFUSED, "transaction_simu", False),
    (402, required("extension_echo_mismatch"), b"{}", REFUSED, "extension_echo", False),
    (402, [], b'{"error":"Payment invalid","reason":"bad_mint"}', REFUSED, "bad_mint", False),
    (402, [], b'{"error":"x","code":"PAYMENT_INVALID"}', REFUSED, "PAYMENT_INVALID", False),
    # the server did not see the payment
    (402, required("Payment required"), b"{}", IN_DOUBT, "payment_not_seen", False),
    (402, [], v1_body("X-PAYMENT header is required"), IN_DOUBT, "payment_not_seen", False),
    (402, required(""), b"{}", IN_DOUBT, "payment_not_seen", False),
    (402, [], None, IN_DOUBT, "payment_not_seen", False),
    (402, [], b"<html>", IN_DOUBT, "payment_not_seen", False),
    # it may be under way or settled
    (402, failed("duplicate_settlement"), b"{}", IN_DOUBT, "dup", False),
    (402, failed("settlement_pending"), b"{}", IN_DOUBT, "sett", False),
    (402, failed("transaction_failed"), b"{}", IN_DOUBT, "tran", False),
    (402, [], v1_body("settle_exact_svm_block_height_exceeded"), IN_DOUBT, "settle_", False),
    (402, [], b'{"error":"x","code":"PAYMENT_REPLAY"}', IN_DOUBT, "PAYMENT_REPLAY", False),
    # the memo trap, in v1 only
    (402, [], v1_body(LENGTH), REFUSED, LENGTH, True),
    (402, required(LENGTH, version=1), b"", REFUSED, LENGTH, True),
    (402, [], v1_body(MEMO), REFUSED, MEMO, True),
    (402, failed(LENGTH, b"X-PAYMENT-RESPONSE"), b"", REFUSED, LENGTH, True),
    (402, required(LENGTH), b"{}", REFUSED, LENGTH, False),
    (402, failed(MEMO), b"{}", REFUSED, MEMO, False),
    # no conclusion
    (409, [], b"", IN_DOUBT, "payment_id_conflict", False),
    (302, [], b"", IN_DOUBT, "status_302", False),
    (404, [], b"", IN_DOUBT, "status_404", False),
    (500, [], b"", IN_DOUBT, "status_500", False),
    (502, [], b'{"error":"facilitator down"}', IN_DOUBT, "status_502", False),
]  # fmt: skip


@pytest.mark.parametrize("row", TABLE, ids=[f"{i}-{row[0]}" for i, row in enumerate(TABLE)])
def test_table(row):
    status, headers, body, fate, reason, wants_no_memo = row
    outcome = read_outcome(status, headers, body)
    assert outcome.fate is fate
    assert outcome.reason.startswith(reason) if reason else outcome.reason == ""
    assert outcome.wants_no_memo is wants_no_memo


def test_a_success_without_header_is_not_claimed():
    assert not read_outcome(200, [], b"").claimed
    assert read_outcome(200, SETTLED, b"").claimed


def test_settlement_of_both_versions():
    new = read_settlement(
        response(success=True, transaction="5x", network="solana-devnet", amount="7")
    )
    assert (new.success, new.transaction, new.network, new.amount) == (True, "5x", SOLANA_DEVNET, 7)
    old = read_settlement(OLD_SETTLED)
    assert (old.success, old.transaction, old.network, old.amount) == (
        True,
        "5x",
        SOLANA_DEVNET,
        None,
    )
    assert old.raw == OLD_SETTLED[0][1].decode()


def test_the_new_header_wins_over_the_old_one():
    headers = OLD_SETTLED + failed("x")
    assert read_settlement(headers).success is False


@pytest.mark.parametrize("success", [1, "yes", None, "false", [True]])
def test_only_true_is_success(success):
    assert read_settlement(response(success=success)).success is False


def test_settlement_is_bounded_and_printable():
    settlement = read_settlement(
        response(success=False, errorReason="a\x00b\n" * 900, transaction="t" * 900, amount=-1)
    )
    assert len(settlement.raw) == 8192
    assert len(settlement.error_reason) == 300
    assert settlement.error_reason.isprintable()
    assert len(settlement.transaction) == 200
    assert settlement.amount is None


def test_absent_and_unreadable_settlements_are_none():
    assert read_settlement([]) is None
    assert read_settlement([(b"PAYMENT-RESPONSE", b"[1]")]) is None
    assert read_settlement([(b"PAYMENT-RESPONSE", b"x" * 70_000)]) is None


@settings(max_examples=300, deadline=None)
@given(
    st.integers(100, 599),
    st.lists(
        st.tuples(
            st.sampled_from([b"PAYMENT-RESPONSE", b"X-PAYMENT-RESPONSE", b"PAYMENT-REQUIRED"]),
            st.binary(max_size=80)
            | st.dictionaries(
                st.sampled_from(["success", "errorReason", "error", "transaction", "network"]),
                st.none() | st.booleans() | st.integers() | st.text(),
            ).map(b64),
        ),
        max_size=3,
    ),
    st.none() | st.binary(max_size=80),
)
def test_arbitrary_answers_never_surprise(status, headers, body):
    outcome = read_outcome(status, headers, body)
    assert isinstance(outcome, Outcome)
    if outcome.fate is PAID:
        assert outcome.claimed or 200 <= status < 300
