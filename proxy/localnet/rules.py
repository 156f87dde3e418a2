"""Is this transaction the payment that was asked for? The static half of a facilitator's check.

The rules and the reasons are those of the official facilitators for the scheme `exact` on Solana
(x402 for Python 2.25, and where it is stricter for TypeScript 2.27). Pure: whether the transaction
would also succeed is for the chain to say.
"""

import base64
import binascii
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from solders.instruction import CompiledInstruction
from solders.message import MessageV0
from solders.pubkey import Pubkey
from solders.transaction import VersionedTransaction

from proxy.localnet.tokens import (
    COMPUTE_BUDGET,
    DEVNET,
    LIGHTHOUSE,
    MAINNET,
    MEMO,
    TOKEN_PROGRAMS,
    ata,
)

MAX_PRICE = 5_000_000  # micro-lamports per compute unit
MAX_INSTRUCTIONS = 7
V1_NETWORKS = {"solana-devnet": DEVNET, "solana": MAINNET}
ORDINALS = ("fourth", "fifth", "sixth", "seventh")


class RefusedError(Exception):
    """`reason` is what goes into invalidReason or errorReason."""

    def __init__(self, reason: str, payer: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.payer = payer


@dataclass(frozen=True, slots=True)
class Terms:
    """What the seller asks for. `amount` in atomic units; `network` as the seller spelled it."""

    version: int
    network: str
    asset: Pubkey
    amount: int
    pay_to: Pubkey
    fee_payer: Pubkey
    memo: str | None


def read_terms(version: int, payload: Mapping[str, Any], wanted: Mapping[str, Any]) -> Terms:
    """From a facilitator request's paymentPayload and paymentRequirements. Raises RefusedError."""
    named = payload if version == 1 else payload.get("accepted")
    if not isinstance(named, Mapping):
        raise RefusedError("invalid_payload")
    if wanted.get("scheme") != "exact" or named.get("scheme") != "exact":
        raise RefusedError("unsupported_scheme")
    network = wanted.get("network")
    known = V1_NETWORKS if version == 1 else (DEVNET, MAINNET)
    if not isinstance(network, str) or network not in known:
        raise RefusedError("invalid_network")
    if named.get("network") != network:
        raise RefusedError("network_mismatch")
    extra = wanted.get("extra") or {}
    if not isinstance(extra, Mapping) or not isinstance(extra.get("feePayer"), str):
        raise RefusedError("invalid_exact_svm_payload_missing_fee_payer")
    memo = extra.get("memo")
    try:
        return Terms(
            version=version,
            network=network,
            asset=Pubkey.from_string(wanted["asset"]),
            amount=int(wanted["maxAmountRequired" if version == 1 else "amount"]),
            pay_to=Pubkey.from_string(wanted["payTo"]),
            fee_payer=Pubkey.from_string(extra["feePayer"]),
            memo=memo if isinstance(memo, str) and memo else None,
        )
    except (KeyError, ValueError, TypeError):
        raise RefusedError("invalid_payment_requirements") from None


def decode(payload: Mapping[str, Any]) -> VersionedTransaction:
    """The transaction of a paymentPayload; every account in it is named in it."""
    inner = payload.get("payload")
    if not isinstance(inner, Mapping) or not isinstance(inner.get("transaction"), str):
        raise RefusedError("invalid_exact_svm_payload")
    undecodable = RefusedError("invalid_exact_svm_payload_transaction_could_not_be_decoded")
    try:
        raw = base64.b64decode(inner["transaction"], validate=True)
    except (binascii.Error, ValueError):
        raise undecodable from None
    try:
        tx = VersionedTransaction.from_bytes(raw)
        tx.sanitize()
    except Exception:  # solders' own errors, which it does not export
        raise undecodable from None
    if isinstance(tx.message, MessageV0) and tx.message.address_table_lookups:
        raise undecodable
    return tx


def check(
    tx: VersionedTransaction,
    terms: Terms,
    managed: Collection[Pubkey],
    *,
    exactly_three: bool = False,
) -> str:
    """Returns the payer; raises RefusedError.

    `managed` are the facilitator's own keys, which must do nothing but pay fees.
    `exactly_three` forbids every instruction beside the transfer, the memo too, as npm x402 1.2.0.
    """
    if terms.fee_payer not in managed:
        raise RefusedError("fee_payer_not_managed_by_facilitator")
    keys, instructions = tx.message.account_keys, tx.message.instructions
    most = 3 if exactly_three else MAX_INSTRUCTIONS
    if not 3 <= len(instructions) <= most:
        raise RefusedError("invalid_exact_svm_payload_transaction_instructions_length")
    _check_compute_budget(keys, instructions)
    if keys[0] != terms.fee_payer:
        raise RefusedError("invalid_exact_svm_fee_payer_mismatch")
    payer = _check_transfer(keys, instructions[2], terms, managed)
    _check_extras(keys, instructions[3:], terms, payer)
    for instruction in instructions:
        # The fee payer pays the fee and takes part in nothing else.
        if 0 in bytes(instruction.accounts):
            raise RefusedError(
                "invalid_exact_svm_payload_transaction_fee_payer_transferring_funds", payer
            )
    # Signature 0 is still to be made, by the facilitator itself; all others must hold now.
    if not all(tx.verify_with_results()[1:]):
        raise RefusedError("invalid_exact_svm_payload_signature_invalid", payer)
    return payer


def _check_compute_budget(keys: list[Pubkey], instructions: list[CompiledInstruction]) -> None:
    base = "invalid_exact_svm_payload_transaction_instructions_compute"
    limit, price = instructions[0], instructions[1]
    data = bytes(limit.data)
    if keys[limit.program_id_index] != COMPUTE_BUDGET or len(data) != 5 or data[0] != 2:
        raise RefusedError(f"{base}_limit_instruction")
    data = bytes(price.data)
    if keys[price.program_id_index] != COMPUTE_BUDGET or len(data) != 9 or data[0] != 3:
        raise RefusedError(f"{base}_price_instruction")
    if int.from_bytes(data[1:], "little") > MAX_PRICE:
        raise RefusedError(f"{base}_price_instruction_too_high")


def _check_transfer(
    keys: list[Pubkey],
    transfer: CompiledInstruction,
    terms: Terms,
    managed: Collection[Pubkey],
) -> str:
    """TransferChecked: source, mint, destination, authority. Returns the authority: the payer."""
    program, data = keys[transfer.program_id_index], bytes(transfer.data)
    accounts = bytes(transfer.accounts)
    if program not in TOKEN_PROGRAMS or len(data) != 10 or data[0] != 12 or len(accounts) < 4:
        raise RefusedError("invalid_exact_svm_payload_no_transfer_instruction")
    _, mint, destination, authority = (keys[index] for index in accounts[:4])
    payer = str(authority)
    if authority in managed:
        raise RefusedError(
            "invalid_exact_svm_payload_transaction_fee_payer_transferring_funds", payer
        )
    if mint != terms.asset:
        raise RefusedError("invalid_exact_svm_payload_mint_mismatch", payer)
    if destination != ata(terms.pay_to, terms.asset, program):
        raise RefusedError("invalid_exact_svm_payload_recipient_mismatch", payer)
    if int.from_bytes(data[1:9], "little") != terms.amount:
        raise RefusedError("invalid_exact_svm_payload_amount_mismatch", payer)
    return payer


def _check_extras(
    keys: list[Pubkey], extras: list[CompiledInstruction], terms: Terms, payer: str
) -> None:
    memos = []
    for ordinal, extra in zip(ORDINALS, extras, strict=False):
        program = keys[extra.program_id_index]
        if program == MEMO:
            memos.append(bytes(extra.data))
        elif program != LIGHTHOUSE:
            raise RefusedError(f"invalid_exact_svm_payload_unknown_{ordinal}_instruction", payer)
    if terms.memo is not None:
        if len(memos) != 1:
            raise RefusedError("invalid_exact_svm_payload_memo_count", payer)
        if memos[0] != terms.memo.encode():
            raise RefusedError("invalid_exact_svm_payload_memo_mismatch", payer)
