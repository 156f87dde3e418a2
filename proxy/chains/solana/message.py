"""The one transaction this program signs, and the proof that it is that one.

Layout of the `exact` scheme: compute limit, compute price, TransferChecked, memo. The facilitator
is the fee payer and signs first; we sign second, as owner of the source account.

`build` makes the bytes; `read_back` decodes those very bytes with nothing but the offer in hand and
refuses every difference. What `read_back` passed is what `seal` signs and what leaves.
"""

import secrets
from dataclasses import dataclass
from functools import lru_cache

from solders.compute_budget import set_compute_unit_limit, set_compute_unit_price
from solders.hash import Hash, ParseHashError
from solders.instruction import AccountMeta, CompiledInstruction, Instruction
from solders.message import MessageV0, from_bytes_versioned, to_bytes_versioned
from solders.pubkey import Pubkey
from solders.signature import Signature

from proxy.chains import Unpayable
from proxy.x402 import Offer

COMPUTE_BUDGET = Pubkey.from_string("ComputeBudget111111111111111111111111111111")
ASSOCIATED_TOKEN = Pubkey.from_string("ATokenGPvbdGVxr1b2hvZbsiqW5xWH25efTNsLJA8knL")
MEMO_PROGRAM = Pubkey.from_string("MemoSq4gqABAXKb96qnH8TysNcWxMyWCqXgDLGmfcHr")

_TRANSFER_CHECKED = 12
_MICROLAMPORTS_PER_UNIT = 1
_MAX_U64 = 2**64 - 1


class ReadBackError(AssertionError):
    """A built message is not the payment that was decided. A bug or worse: never to be sent.

    Raised explicitly, so that `python -O` keeps the check.
    """


@dataclass(frozen=True, slots=True)
class Transfer:
    """An offer in the chain's own types, safe to build."""

    payer: Pubkey
    fee_payer: Pubkey
    pay_to: Pubkey
    mint: Pubkey
    token_program: Pubkey
    source: Pubkey
    destination: Pubkey
    amount: int
    decimals: int


@lru_cache(maxsize=4096)
def token_account(owner: Pubkey, mint: Pubkey, token_program: Pubkey) -> Pubkey:
    """The associated token account of an owner for a mint. Derived, so it may not exist."""
    seeds = [bytes(owner), bytes(token_program), bytes(mint)]
    return Pubkey.find_program_address(seeds, ASSOCIATED_TOKEN)[0]


def transfer_of(offer: Offer, payer: Pubkey) -> Transfer:
    """What `offer` asks of `payer`. Raises Unpayable("unsafe_offer") for what must not be signed:
    a fee payer that is us, pays in, or is a program; a payment to ourselves; an impossible amount.
    """
    if offer.fee_payer is None or offer.asset.token_program is None:
        raise _unsafe("it names no fee payer or no token program")
    if not 1 <= offer.amount <= _MAX_U64:
        raise _unsafe("its amount is out of range")
    try:
        fee_payer = Pubkey.from_string(offer.fee_payer)
        pay_to = Pubkey.from_string(offer.pay_to)
    except ValueError:
        raise _unsafe("one of its addresses is no Solana address") from None
    mint = Pubkey.from_string(offer.asset.address)
    program = Pubkey.from_string(offer.asset.token_program)
    source = token_account(payer, mint, program)
    destination = token_account(pay_to, mint, program)
    if source == destination:
        raise _unsafe("it would pay this wallet to itself")
    if fee_payer == payer:
        raise _unsafe("it makes this wallet pay the network fee")
    if fee_payer in (source, destination, mint, program, COMPUTE_BUDGET, MEMO_PROGRAM):
        raise _unsafe("its fee payer takes part in the transfer")
    return Transfer(
        payer=payer,
        fee_payer=fee_payer,
        pay_to=pay_to,
        mint=mint,
        token_program=program,
        source=source,
        destination=destination,
        amount=offer.amount,
        decimals=offer.asset.decimals,
    )


def _unsafe(why: str) -> Unpayable:
    return Unpayable("unsafe_offer", f"the offer is not safe to sign: {why}")


def random_memo() -> bytes:
    """32 hex digits: makes the message unique, and findable on chain by a text of our own."""
    return secrets.token_hex(16).encode()


def compute_unit_limit(memo: bytes | None) -> int:
    """20,000, as the official clients ask for; more where the memo costs more than that.

    Measured in LiteSVM: a transfer takes 6,400 units, a memo 3,200 and then what it costs the memo
    program to log each character. Some facilitators refuse 100,000 and above, so that is the end.
    """
    if memo is None or (len(memo) <= 32 and memo.isascii()):
        return 20_000
    units = 8_500 + sum(_logging_units(character) for character in memo.decode())
    return max(20_000, min(99_000, units))


def _logging_units(character: str) -> int:
    """The memo program asks of every character whether it is printable: slow beyond Latin."""
    if " " <= character <= "~":
        return 360
    code = ord(character)
    return 850 if code < 0x800 else 11_500 if code < 0x10000 else 17_500


def build(transfer: Transfer, memo: bytes | None, blockhash: str) -> bytes:
    """The versioned message as it is signed: 0x80, then MessageV0 without lookup tables."""
    instructions = [
        set_compute_unit_limit(compute_unit_limit(memo)),
        set_compute_unit_price(_MICROLAMPORTS_PER_UNIT),
        Instruction(
            transfer.token_program,
            _transfer_data(transfer.amount, transfer.decimals),
            [
                AccountMeta(transfer.source, is_signer=False, is_writable=True),
                AccountMeta(transfer.mint, is_signer=False, is_writable=False),
                AccountMeta(transfer.destination, is_signer=False, is_writable=True),
                AccountMeta(transfer.payer, is_signer=True, is_writable=False),
            ],
        ),
    ]
    if memo is not None:
        instructions.append(Instruction(MEMO_PROGRAM, memo, []))
    message = MessageV0.try_compile(
        transfer.fee_payer, instructions, [], Hash.from_string(blockhash)
    )
    return to_bytes_versioned(message)


def read_back(raw: bytes, offer: Offer, payer: Pubkey, memo: bytes | None, blockhash: str) -> None:
    """Decode a built message and raise ReadBackError unless it pays `offer` and does nothing else.

    Works from the offer alone, not from what `build` was given, and allows no byte of freedom:
    accounts, their order and rights, programs, data and blockhash are all compared.
    """
    try:
        message = from_bytes_versioned(raw)
    except Exception as error:  # solders has one exception type per decoder behind it
        raise ReadBackError("the message does not decode") from error
    if not isinstance(message, MessageV0) or to_bytes_versioned(message) != raw:
        raise ReadBackError("not a version 0 message, or trailing bytes")
    try:
        message.sanitize()
    except Exception as error:  # SanitizeError, which solders does not name
        raise ReadBackError("an index points outside the account list") from error
    if message.address_table_lookups:
        raise ReadBackError("address lookup tables")
    try:
        fee_payer, pay_to = Pubkey.from_string(offer.fee_payer or ""), offer.pay_to
        mint = Pubkey.from_string(offer.asset.address)
        program = Pubkey.from_string(offer.asset.token_program or "")
        destination = token_account(Pubkey.from_string(pay_to), mint, program)
        expected_hash = Hash.from_string(blockhash)
    except (ValueError, ParseHashError) as error:
        raise ReadBackError("the offer holds no Solana addresses") from error
    source = token_account(payer, mint, program)

    keys = message.account_keys
    _same("account list", len(set(keys)), len(keys))
    _same("signers", keys[: message.header.num_required_signatures], [fee_payer, payer])
    _same("read-only signers", message.header.num_readonly_signed_accounts, 1)
    writable = {key for index, key in enumerate(keys) if message.is_maybe_writable(index)}
    _same("writable accounts", writable, {fee_payer, source, destination})
    _same("blockhash", message.recent_blockhash, expected_hash)

    programs = [COMPUTE_BUDGET, COMPUTE_BUDGET, program]
    programs += [MEMO_PROGRAM] if memo is not None else []
    instructions = message.instructions
    # The exact list also keeps AdvanceNonceAccount out, with which a payment would never expire.
    _same("programs", [keys[each.program_id_index] for each in instructions], programs)
    mentioned = {fee_payer, payer, source, destination, mint, *programs}
    _same("accounts", set(keys), mentioned)

    limit, price, transfer, *rest = instructions
    _instruction("compute limit", limit, keys, [], b"\x02" + _u(4, compute_unit_limit(memo)))
    _instruction("compute price", price, keys, [], b"\x03" + _u(8, _MICROLAMPORTS_PER_UNIT))
    _instruction(
        "transfer",
        transfer,
        keys,
        [source, mint, destination, payer],
        _transfer_data(offer.amount, offer.asset.decimals),
    )
    for each in rest:
        _instruction("memo", each, keys, [], memo or b"")


def _instruction(
    name: str,
    found: CompiledInstruction,
    keys: list[Pubkey],
    accounts: list[Pubkey],
    data: bytes,
) -> None:
    _same(f"{name} accounts", [keys[index] for index in found.accounts], accounts)
    _same(f"{name} data", found.data, data)


def _same(what: str, found: object, expected: object) -> None:
    if found != expected:
        raise ReadBackError(f"{what}: {found!r} instead of {expected!r}")


def _transfer_data(amount: int, decimals: int) -> bytes:
    return bytes([_TRANSFER_CHECKED]) + _u(8, amount) + bytes([decimals])


def _u(size: int, value: int) -> bytes:
    return value.to_bytes(size, "little")


def seal(raw: bytes, signature: Signature) -> bytes:
    """The transaction as sent: an empty place for the fee payer's signature, ours, the message.

    Put together from the checked bytes themselves, so that nothing is encoded a second time.
    """
    return bytes([2]) + bytes(64) + bytes(signature) + raw
