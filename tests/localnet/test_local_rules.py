"""Every way in which a transaction is not the payment that was asked for."""

import base64
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from solders.compute_budget import set_compute_unit_limit, set_compute_unit_price
from solders.hash import Hash
from solders.instruction import AccountMeta, Instruction
from solders.keypair import Keypair
from solders.message import MessageV0, to_bytes_versioned
from solders.pubkey import Pubkey
from solders.signature import Signature
from solders.transaction import VersionedTransaction

from proxy.localnet.rules import RefusedError, Terms, check, decode, read_terms
from proxy.localnet.tokens import (
    CASH,
    DEVNET,
    LIGHTHOUSE,
    MEMO,
    TOKEN,
    USDC_DEVNET,
    transfer_checked,
)
from tests.localnet.wallets import Parties, as_base64, half_signed, instructions

WHO = Parties(*(Keypair.from_seed(bytes([n]) * 32) for n in (1, 3, 2)))
BLOCKHASH = Hash(bytes([9]) * 32)
TERMS = Terms(
    version=2,
    network=DEVNET,
    asset=USDC_DEVNET,
    amount=1_000,
    pay_to=WHO.seller.pubkey(),
    fee_payer=WHO.fee_payer.pubkey(),
    memo=None,
)
# The protocol digest's vector: what the official client sends for exactly these keys and terms.
OFFICIAL = (
    "AgAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAD9aEdqAhx0r8lk"
    "ARIMGc+eQinYthwwdRwUJaQ1K7BFOFZk+t+jJbiePmTneK9Ns9x3l53Mfk0GFkrSS+UyN3sMgAIBBAiBOXcOqH0XX1ajVGbDTH7My42K"
    "kbTuN6Jd9g9bj8mzlIqI4910CfGV/VLbLTy6XXLKZwm/HZQSG/N0iAG0D29cVfrYUDwcTMIz1rajclqlUU/uq3ieryKWb3Ki2UMxyVvt"
    "xjbgQB4pwJnqJwOAZZHm5AvuwQkVBwJdu/5tY3Yf4gMGRm/lIRcy/+ytunLDm+e8jOW7xfcSayxDmzpAAAAABUpTWpkpIQZNJOhxYNo4"
    "fHw1td28kruB5B+oQEEFRI0G3fbh12Whk9nL4UbO63msHLSF7V9bN5E6jPWFfv8AqTtELLORIVfxOpM9ATQoLQMrX/7NAaLb8bd5Bgjf"
    "AC6nCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkEBAAFAiBOAAAEAAkDAQAAAAAAAAAGBAMHAgEKDOgDAAAAAAAABgUABmlu"
    "di00MgA="
)


def refusal(tx: VersionedTransaction, terms: Terms = TERMS, **options: Any) -> str:
    with pytest.raises(RefusedError) as caught:
        check(tx, terms, [WHO.fee_payer.pubkey()], **options)
    return caught.value.reason


def test_what_the_official_client_sends_is_a_payment() -> None:
    tx = decode({"payload": {"transaction": OFFICIAL}})
    payer = check(tx, replace(TERMS, memo="inv-42"), [WHO.fee_payer.pubkey()])
    assert payer == str(WHO.payer.pubkey())
    ours = half_signed(WHO, BLOCKHASH, instructions(WHO, memo="inv-42"))
    assert as_base64(ours) == OFFICIAL


Steps = list[Instruction]


def token_transfer(**changed: Any) -> Instruction:
    terms: dict[str, Any] = {
        "owner": WHO.payer.pubkey(),
        "pay_to": WHO.seller.pubkey(),
        "mint": USDC_DEVNET,
        "program": TOKEN,
        "amount": 1_000,
    }
    return transfer_checked(**(terms | changed))


def swapped(index: int, step: Instruction) -> Callable[[Steps], Steps]:
    return lambda steps: [*steps[:index], step, *steps[index + 1 :]]


def with_extra(*extra: Instruction) -> Callable[[Steps], Steps]:
    return lambda steps: [*steps[:3], *extra]


TRANSFER = "invalid_exact_svm_payload"
BUDGET = "invalid_exact_svm_payload_transaction_instructions_compute"
MEMO_STEP = Instruction(MEMO, b"m", [])
UNKNOWN = Instruction(Pubkey.new_unique(), b"", [])
SHOWING_THE_FEE_PAYER = Instruction(
    LIGHTHOUSE, b"", [AccountMeta(WHO.fee_payer.pubkey(), is_signer=False, is_writable=False)]
)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda steps: steps[:2], f"{TRANSFER}_transaction_instructions_length"),
        (with_extra(*[MEMO_STEP] * 5), f"{TRANSFER}_transaction_instructions_length"),
        (swapped(0, set_compute_unit_price(1)), f"{BUDGET}_limit_instruction"),
        (swapped(0, Instruction(MEMO, bytes([2, 0, 0, 0, 0]), [])), f"{BUDGET}_limit_instruction"),
        (swapped(1, set_compute_unit_limit(1)), f"{BUDGET}_price_instruction"),
        (swapped(1, set_compute_unit_price(5_000_001)), f"{BUDGET}_price_instruction_too_high"),
        (swapped(2, MEMO_STEP), f"{TRANSFER}_no_transfer_instruction"),
        (swapped(2, token_transfer(mint=CASH)), f"{TRANSFER}_mint_mismatch"),
        (swapped(2, token_transfer(pay_to=Pubkey.new_unique())), f"{TRANSFER}_recipient_mismatch"),
        (swapped(2, token_transfer(amount=999)), f"{TRANSFER}_amount_mismatch"),
        (swapped(2, token_transfer(amount=1_001)), f"{TRANSFER}_amount_mismatch"),
        (
            swapped(2, token_transfer(owner=WHO.fee_payer.pubkey())),
            f"{TRANSFER}_transaction_fee_payer_transferring_funds",
        ),
        (with_extra(SHOWING_THE_FEE_PAYER), f"{TRANSFER}_transaction_fee_payer_transferring_funds"),
        (with_extra(UNKNOWN), f"{TRANSFER}_unknown_fourth_instruction"),
        (with_extra(MEMO_STEP, UNKNOWN), f"{TRANSFER}_unknown_fifth_instruction"),
    ],
)  # fmt: skip
def test_another_transaction_is_refused(change: Callable[[Steps], Steps], reason: str) -> None:
    message = MessageV0.try_compile(
        WHO.fee_payer.pubkey(), change(instructions(WHO)), [], BLOCKHASH
    )
    unsigned = [Signature.default()] * message.header.num_required_signatures
    assert refusal(VersionedTransaction.populate(message, unsigned)) == reason


def test_wallets_may_add_their_guards() -> None:
    guards = [Instruction(LIGHTHOUSE, b"", []), Instruction(MEMO, b"mine", [])]
    tx = half_signed(WHO, BLOCKHASH, [*instructions(WHO), *guards])
    assert check(tx, TERMS, [WHO.fee_payer.pubkey()]) == str(WHO.payer.pubkey())


@pytest.mark.parametrize(
    ("memos", "reason"),
    [
        ([], "invalid_exact_svm_payload_memo_count"),
        ([b"inv-42", b"inv-42"], "invalid_exact_svm_payload_memo_count"),
        ([b"inv-43"], "invalid_exact_svm_payload_memo_mismatch"),
        ([b"inv-42 "], "invalid_exact_svm_payload_memo_mismatch"),
    ],
)
def test_the_seller_s_memo_is_needed_once_and_exactly(memos: list[bytes], reason: str) -> None:
    steps = instructions(WHO, memo=None) + [Instruction(MEMO, memo, []) for memo in memos]
    tx = half_signed(WHO, BLOCKHASH, steps)
    assert refusal(tx, replace(TERMS, memo="inv-42")) == reason


def test_the_old_facilitators_want_no_memo() -> None:
    with_memo = half_signed(WHO, BLOCKHASH, instructions(WHO))
    without = half_signed(WHO, BLOCKHASH, instructions(WHO, memo=None))
    length = "invalid_exact_svm_payload_transaction_instructions_length"
    assert refusal(with_memo, exactly_three=True) == length
    assert check(without, TERMS, [WHO.fee_payer.pubkey()], exactly_three=True)


def test_the_payer_s_signature_must_hold() -> None:
    tx = half_signed(WHO, BLOCKHASH, instructions(WHO))
    forged = VersionedTransaction.populate(
        tx.message, [Signature.default(), WHO.seller.sign_message(to_bytes_versioned(tx.message))]
    )
    assert refusal(forged) == "invalid_exact_svm_payload_signature_invalid"


def test_no_key_of_the_facilitator_pays_for_goods() -> None:
    tx = half_signed(WHO, BLOCKHASH, instructions(WHO))
    with pytest.raises(RefusedError, match="fee_payer_transferring_funds"):
        check(tx, TERMS, [WHO.fee_payer.pubkey(), WHO.payer.pubkey()])


def test_only_our_own_fee_payer_pays() -> None:
    tx = half_signed(WHO, BLOCKHASH, instructions(WHO))
    stranger = replace(TERMS, fee_payer=Pubkey.new_unique())
    assert refusal(tx, stranger) == "fee_payer_not_managed_by_facilitator"
    other = Parties(WHO.payer, WHO.seller, Keypair())
    tx = half_signed(other, BLOCKHASH, instructions(other))
    assert refusal(tx) == "invalid_exact_svm_fee_payer_mismatch"


@pytest.mark.parametrize(
    ("inner", "reason"),
    [
        (None, "invalid_exact_svm_payload"),
        ({}, "invalid_exact_svm_payload"),
        ({"transaction": 7}, "invalid_exact_svm_payload"),
        (
            {"transaction": "not base64!"},
            "invalid_exact_svm_payload_transaction_could_not_be_decoded",
        ),
        ({"transaction": "AAAA"}, "invalid_exact_svm_payload_transaction_could_not_be_decoded"),
    ],
)
def test_what_is_no_transaction(inner: Any, reason: str) -> None:
    with pytest.raises(RefusedError) as caught:
        decode({"payload": inner})
    assert caught.value.reason == reason


def test_accounts_from_lookup_tables_are_not_followed() -> None:
    from solders.address_lookup_table_account import AddressLookupTableAccount

    # A key that is no signer and no program may come from a table: the seller's token account.
    step = instructions(WHO)[2]
    table = AddressLookupTableAccount(Pubkey.new_unique(), [step.accounts[2].pubkey])
    message = MessageV0.try_compile(WHO.fee_payer.pubkey(), instructions(WHO), [table], BLOCKHASH)
    tx = VersionedTransaction.populate(message, [Signature.default()] * 2)
    with pytest.raises(RefusedError, match="could_not_be_decoded"):
        decode({"payload": {"transaction": base64.b64encode(bytes(tx)).decode()}})


WANTED = {
    "scheme": "exact",
    "network": DEVNET,
    "amount": "1000",
    "asset": str(USDC_DEVNET),
    "payTo": str(WHO.seller.pubkey()),
    "maxTimeoutSeconds": 60,
    "extra": {"feePayer": str(WHO.fee_payer.pubkey())},
}


def test_terms_are_read_from_both_versions() -> None:
    assert read_terms(2, {"accepted": WANTED}, WANTED) == TERMS
    v1 = {**WANTED, "network": "solana-devnet", "maxAmountRequired": "1000"}
    payload = {"scheme": "exact", "network": "solana-devnet"}
    expected = replace(TERMS, version=1, network="solana-devnet")
    assert read_terms(1, payload, v1) == expected


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"scheme": "upto"}, "unsupported_scheme"),
        ({"network": "eip155:8453"}, "invalid_network"),
        ({"network": ["solana"]}, "invalid_network"),
        ({"extra": {}}, "invalid_exact_svm_payload_missing_fee_payer"),
        ({"extra": None}, "invalid_exact_svm_payload_missing_fee_payer"),
        ({"amount": "1.5"}, "invalid_payment_requirements"),
        ({"payTo": "nobody"}, "invalid_payment_requirements"),
        ({"asset": None}, "invalid_payment_requirements"),
    ],
)
def test_terms_that_nobody_can_meet(change: dict[str, Any], reason: str) -> None:
    wanted = {**WANTED, **change}
    with pytest.raises(RefusedError) as caught:
        read_terms(2, {"accepted": wanted}, wanted)
    assert caught.value.reason == reason


def test_terms_that_were_not_the_ones_accepted() -> None:
    from proxy.localnet.tokens import MAINNET

    with pytest.raises(RefusedError, match="network_mismatch"):
        read_terms(2, {"accepted": {**WANTED, "network": MAINNET}}, WANTED)
