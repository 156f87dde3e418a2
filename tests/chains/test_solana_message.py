"""The transaction: byte for byte the official one, and nothing else passes the read-back."""

import base64
import struct

import pytest
from solders.account import Account
from solders.compute_budget import set_compute_unit_limit, set_compute_unit_price
from solders.hash import Hash
from solders.instruction import AccountMeta, Instruction
from solders.keypair import Keypair
from solders.litesvm import LiteSVM
from solders.message import Message, MessageV0, to_bytes_versioned
from solders.pubkey import Pubkey
from solders.system_program import (
    AdvanceNonceAccountParams,
    TransferParams,
    advance_nonce_account,
    transfer,
)
from solders.transaction import VersionedTransaction
from solders.transaction_metadata import FailedTransactionMetadata

from proxy.chains import Unpayable
from proxy.chains.solana.message import (
    MEMO_PROGRAM,
    ReadBackError,
    build,
    compute_unit_limit,
    read_back,
    seal,
    token_account,
    transfer_of,
)
from proxy.x402 import ASSETS, SOLANA_DEVNET

PAYER, FEE_PAYER, PAY_TO = (Keypair.from_seed(bytes([n]) * 32) for n in (1, 2, 3))
BLOCKHASH = "cGfHiC6Kgg3FpFZvgwGcswsCRtp4aBP2fzuXRQPizuN"
OTHER = Pubkey(bytes([4]) * 32)

# Dumped from the official Python client 2.25 for these keys.
VECTOR = (
    "AgAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAD9aEdqAh"
    "x0r8lkARIMGc+eQinYthwwdRwUJaQ1K7BFOFZk+t+jJbiePmTneK9Ns9x3l53Mfk0GFkrSS+UyN3sMgAIBBAiBOXcOqH0X"
    "X1ajVGbDTH7My42KkbTuN6Jd9g9bj8mzlIqI4910CfGV/VLbLTy6XXLKZwm/HZQSG/N0iAG0D29cVfrYUDwcTMIz1rajcl"
    "qlUU/uq3ieryKWb3Ki2UMxyVvtxjbgQB4pwJnqJwOAZZHm5AvuwQkVBwJdu/5tY3Yf4gMGRm/lIRcy/+ytunLDm+e8jOW7"
    "xfcSayxDmzpAAAAABUpTWpkpIQZNJOhxYNo4fHw1td28kruB5B+oQEEFRI0G3fbh12Whk9nL4UbO63msHLSF7V9bN5E6jP"
    "WFfv8AqTtELLORIVfxOpM9ATQoLQMrX/7NAaLb8bd5BgjfAC6nCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkE"
    "BAAFAiBOAAAEAAkDAQAAAAAAAAAGBAMHAgEKDOgDAAAAAAAABgUABmludi00MgA="
)


def test_the_official_clients_vector_byte_for_byte(make_offer):
    offer = make_offer(memo="inv-42")
    transfer = transfer_of(offer, PAYER.pubkey())
    assert str(transfer.source) == "H1AviagU5Y17z77v1F9qZPJ9kCbCsL4ewiZABNfGYoRs"
    assert str(transfer.destination) == "6ndWAgFxMAVLobD8WrdBj5w41GrDeJYiQX91nNSrwkZp"
    raw = build(transfer, b"inv-42", BLOCKHASH)
    read_back(raw, offer, PAYER.pubkey(), b"inv-42", BLOCKHASH)
    sealed = seal(raw, PAYER.sign_message(raw))
    assert base64.b64encode(sealed).decode() == VECTOR
    assert bytes(VersionedTransaction.from_bytes(sealed)) == sealed


@pytest.mark.parametrize(
    ("memo", "units"),
    [
        (None, 20_000),
        (b"", 20_000),
        (b"x" * 32, 20_000),
        (b"x" * 33, 8_500 + 360 * 33),
        (b"x" * 128, 8_500 + 360 * 128),
        (b"x" * 251, 8_500 + 360 * 251),
        (b"x" * 252, 99_000),
        (b"x" * 256, 99_000),
        ("é".encode() * 4, 20_000),
        ("\U0001f600".encode(), 26_000),
        ("漢".encode() * 64, 99_000),
    ],
)
def test_compute_limit_scales_with_the_memo(memo, units):
    assert compute_unit_limit(memo) == units


@pytest.mark.parametrize("symbol", ["USDC", "USDG"])
@pytest.mark.parametrize(
    "memo", [None, b"x" * 32, b"x" * 36, b"x" * 256, "é".encode() * 60, "\U0001f600\n".encode() * 4]
)
def test_the_real_programs_run_it_within_its_limit(symbol, memo, make_offer):
    asset = next(a for a in ASSETS if (a.network, a.symbol) == (SOLANA_DEVNET, symbol))
    offer = make_offer(asset=asset, amount=1234)
    mint, program = Pubkey.from_string(asset.address), Pubkey.from_string(asset.token_program)
    svm = LiteSVM()
    svm.airdrop(FEE_PAYER.pubkey(), 10**9)
    supply = struct.pack("<I32sQBBI32s", 0, bytes(32), 10**15, 6, 1, 0, bytes(32))
    svm.set_account(mint, Account(10**9, supply, program))
    for owner, amount in ((PAYER.pubkey(), 5000), (PAY_TO.pubkey(), 0)):
        data = (
            bytes(mint) + bytes(owner) + struct.pack("<Q", amount) + bytes(36) + b"\1" + bytes(56)
        )
        svm.set_account(token_account(owner, mint, program), Account(2039280, data, program))

    raw = build(transfer_of(offer, PAYER.pubkey()), memo, str(svm.latest_blockhash()))
    signatures = bytes(FEE_PAYER.sign_message(raw)) + bytes(PAYER.sign_message(raw))
    done = svm.send_transaction(VersionedTransaction.from_bytes(b"\2" + signatures + raw))
    assert not isinstance(done, FailedTransactionMetadata), done.err()
    received = svm.get_account(token_account(PAY_TO.pubkey(), mint, program))
    assert int.from_bytes(bytes(received.data)[64:72], "little") == 1234


@pytest.mark.parametrize(
    "changes",
    [
        {"fee_payer": str(PAYER.pubkey())},
        {"fee_payer": None},
        {"fee_payer": "H1AviagU5Y17z77v1F9qZPJ9kCbCsL4ewiZABNfGYoRs"},  # our token account
        {"fee_payer": "6ndWAgFxMAVLobD8WrdBj5w41GrDeJYiQX91nNSrwkZp"},  # the receiver's
        {"fee_payer": "4zMMC9srt5Ri5X14GAgXhaHii3GnPAEERYPJgZJDncDU"},  # the mint
        {"fee_payer": "TokenkegQfeZyiNwAJbNbGKPFXCWuBvf9Ss623VQ5DA"},
        {"fee_payer": str(MEMO_PROGRAM)},
        {"fee_payer": "nonsense"},
        {"pay_to": "nonsense"},
        {"pay_to": str(PAYER.pubkey())},
        {"amount": 0},
        {"amount": -1},
        {"amount": 2**64},
    ],
    ids=lambda changes: "-".join(f"{k}={str(v)[:8]}" for k, v in changes.items()),
)
def test_unsafe_offers_are_refused(changes, make_offer):
    with pytest.raises(Unpayable) as refusal:
        transfer_of(make_offer(**changes), PAYER.pubkey())
    assert refusal.value.code == "unsafe_offer"


# --- the read-back: build the same payment by hand, with one thing wrong at a time ---

MEMO = b"inv-42"
CHECKED = bytes([12])


class Draft:
    """The parts of a good message, to be spoiled one at a time."""

    def __init__(self, offer):
        good = transfer_of(offer, PAYER.pubkey())
        self.fee_payer = good.fee_payer
        self.blockhash = BLOCKHASH
        self.program = good.token_program
        self.source, self.mint, self.destination = good.source, good.mint, good.destination
        self.owner = PAYER.pubkey()
        self.amount, self.decimals = good.amount, good.decimals
        self.kind = CHECKED
        self.limit, self.price = 20_000, 1
        self.memo = MEMO
        self.memo_accounts = []
        self.extra_accounts = []
        self.destination_writable = self.source_writable = True
        self.mint_writable = self.owner_writable = False
        self.before = []
        self.after = []
        self.swapped = False

    def instructions(self):
        middle = [
            set_compute_unit_limit(self.limit),
            set_compute_unit_price(self.price),
            Instruction(
                self.program,
                self.kind + struct.pack("<QB", self.amount, self.decimals),
                [
                    AccountMeta(self.source, False, self.source_writable),
                    AccountMeta(self.mint, False, self.mint_writable),
                    AccountMeta(self.destination, False, self.destination_writable),
                    AccountMeta(self.owner, True, self.owner_writable),
                    *self.extra_accounts,
                ],
            ),
        ]
        if self.memo is not None:
            middle.append(Instruction(MEMO_PROGRAM, self.memo, self.memo_accounts))
        if self.swapped:
            middle[0], middle[1] = middle[1], middle[0]
        return [*self.before, *middle, *self.after]

    def raw(self):
        blockhash = Hash.from_string(self.blockhash)
        return to_bytes_versioned(
            MessageV0.try_compile(self.fee_payer, self.instructions(), [], blockhash)
        )


NONCE = advance_nonce_account(
    AdvanceNonceAccountParams(nonce_pubkey=OTHER, authorized_pubkey=PAYER.pubkey())
)
DRAIN = transfer(TransferParams(from_pubkey=PAYER.pubkey(), to_pubkey=OTHER, lamports=1))
CREATE_ACCOUNT = Instruction(
    Pubkey.from_string("ATokenGPvbdGVxr1b2hvZbsiqW5xWH25efTNsLJA8knL"), b"\1", []
)
TOKEN_2022 = Pubkey.from_string("TokenzQdBNbLqP5VEhdkAS6EPFLC1PHnBqCXEpPxuEb")

SPOILED = {
    "amount": {"amount": 1001},
    "decimals": {"decimals": 7},
    "mint": {"mint": OTHER},
    "destination": {"destination": OTHER},
    "destination is pay_to itself": {"destination": PAY_TO.pubkey()},
    "source": {"source": OTHER},
    "owner": {"owner": OTHER},
    "fee payer": {"fee_payer": OTHER},
    "fee payer is us": {"fee_payer": PAYER.pubkey()},
    "blockhash": {"blockhash": str(Hash(bytes([8]) * 32))},
    "token program": {"program": TOKEN_2022},
    "approve instead of transfer": {"kind": bytes([13])},
    "memo": {"memo": b"inv-43"},
    "memo missing": {"memo": None},
    "memo with a signer": {"memo_accounts": [AccountMeta(OTHER, True, False)]},
    "memo naming the fee payer": {"memo_accounts": [AccountMeta(FEE_PAYER.pubkey(), True, True)]},
    "compute limit": {"limit": 1_400_000},
    "compute price": {"price": 5_000_000},
    "another signer": {"extra_accounts": [AccountMeta(OTHER, True, False)]},
    "another account": {"extra_accounts": [AccountMeta(OTHER, False, False)]},
    "fee payer in the transfer": {
        "extra_accounts": [AccountMeta(FEE_PAYER.pubkey(), False, False)]
    },
    "mint writable": {"mint_writable": True},
    "owner writable": {"owner_writable": True},
    "destination read-only": {"destination_writable": False},
    "order of the first two": {"swapped": True},
    "durable nonce": {"before": [NONCE]},
    "lamports drained": {"after": [DRAIN]},
    "account creation": {"after": [CREATE_ACCOUNT]},
    "second memo": {"after": [Instruction(MEMO_PROGRAM, MEMO, [])]},
}

# Several checks overlap on purpose; for these, the one that must speak first.
FIRST_WORDS = {
    "fee payer": "signers",
    "owner": "signers",
    "another signer": "signers",
    "another account": "accounts",
    "destination read-only": "writable accounts",
    "account creation": "programs",
    "amount": "transfer data",
}


def test_the_hand_made_message_is_good_before_it_is_spoiled(make_offer):
    draft = Draft(make_offer(memo="inv-42"))
    read_back(draft.raw(), make_offer(memo="inv-42"), PAYER.pubkey(), MEMO, BLOCKHASH)
    assert draft.raw() == build(transfer_of(make_offer(), PAYER.pubkey()), MEMO, BLOCKHASH)


@pytest.mark.parametrize("what", SPOILED)
def test_read_back_catches(what, make_offer):
    offer = make_offer(memo="inv-42")
    draft = Draft(offer)
    for name, value in SPOILED[what].items():
        assert hasattr(draft, name)
        setattr(draft, name, value)
    with pytest.raises(ReadBackError, match=f"^{FIRST_WORDS.get(what, '')}"):
        read_back(draft.raw(), offer, PAYER.pubkey(), MEMO, BLOCKHASH)


def test_read_back_catches_a_memo_nobody_wanted(make_offer):
    with pytest.raises(ReadBackError):
        read_back(Draft(make_offer()).raw(), make_offer(), PAYER.pubkey(), None, BLOCKHASH)


def test_read_back_catches_every_flipped_bit(make_offer):
    offer = make_offer(memo="inv-42")
    good = build(transfer_of(offer, PAYER.pubkey()), MEMO, BLOCKHASH)
    for at in range(len(good)):
        for bit in (1, 128):
            bad = bytearray(good)
            bad[at] ^= bit
            with pytest.raises(ReadBackError):
                read_back(bytes(bad), offer, PAYER.pubkey(), MEMO, BLOCKHASH)


def test_read_back_refuses_other_shapes(make_offer):
    offer = make_offer(memo="inv-42")
    draft = Draft(offer)
    good = draft.raw()
    lookup = bytearray(good)
    lookup[-1:] = b"\x01" + bytes(32) + b"\x00\x00"
    legacy = Message.new_with_blockhash(
        draft.instructions(), draft.fee_payer, Hash.from_string(BLOCKHASH)
    )
    for raw in (b"", good[:-1], good + b"\0", bytes(lookup), bytes(legacy), b"\x81" + good[1:]):
        with pytest.raises(ReadBackError):
            read_back(raw, offer, PAYER.pubkey(), MEMO, BLOCKHASH)


def test_read_back_works_from_the_offer_and_not_from_the_builder(make_offer):
    raw = build(transfer_of(make_offer(amount=999), PAYER.pubkey()), MEMO, BLOCKHASH)
    with pytest.raises(ReadBackError, match="transfer data"):
        read_back(raw, make_offer(amount=1000), PAYER.pubkey(), MEMO, BLOCKHASH)
