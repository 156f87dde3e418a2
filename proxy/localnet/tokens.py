"""Token mints and token accounts as bytes: what SPL Token and Token-2022 keep on chain.

Written apart from the signer on purpose: the facilitator checks what the signer built, and a
mistake shared by both would be seen by neither.
"""

import struct
from dataclasses import dataclass

from solders.account import Account
from solders.instruction import AccountMeta, Instruction
from solders.pubkey import Pubkey

TOKEN = Pubkey.from_string("TokenkegQfeZyiNwAJbNbGKPFXCWuBvf9Ss623VQ5DA")
TOKEN_2022 = Pubkey.from_string("TokenzQdBNbLqP5VEhdkAS6EPFLC1PHnBqCXEpPxuEb")
TOKEN_PROGRAMS = (TOKEN, TOKEN_2022)
ASSOCIATED_TOKEN = Pubkey.from_string("ATokenGPvbdGVxr1b2hvZbsiqW5xWH25efTNsLJA8knL")
COMPUTE_BUDGET = Pubkey.from_string("ComputeBudget111111111111111111111111111111")
LIGHTHOUSE = Pubkey.from_string("L2TExMFKdjpN9kozasaurPirfHy9P8sbXoAN1qA3S95")
MEMO = Pubkey.from_string("MemoSq4gqABAXKb96qnH8TysNcWxMyWCqXgDLGmfcHr")

DEVNET = "solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1"
MAINNET = "solana:5eykt4UsFv8P8NJdTREpY1vzqKqZKvdp"

USDC_DEVNET = Pubkey.from_string("4zMMC9srt5Ri5X14GAgXhaHii3GnPAEERYPJgZJDncDU")
USDC_MAINNET = Pubkey.from_string("EPjFWdd5AufqSSqeM2qN1xzybapC8G4wEGGkZwyTDt1v")
CASH = Pubkey.from_string("CASHx9KJUStyftLFWGvEVf59SGeG9sh5FfcnZMVPCASH")

# Every mint the local chain is born with, at its public address. All have 6 decimals.
MINTS: dict[Pubkey, Pubkey] = {
    USDC_DEVNET: TOKEN,
    USDC_MAINNET: TOKEN,
    Pubkey.from_string("Es9vMFrzaCERmJfrF4H2FYD4KCoNkY11McCe8BenwNYB"): TOKEN,  # USDT
    CASH: TOKEN_2022,
    Pubkey.from_string("2u1tszSeqZ3qBWF3uNGPFc8TzMk2tdiwknnRMWGWjGWH"): TOKEN_2022,  # USDG
    Pubkey.from_string("2b1kV6DkPAnxd5ixfnxCpjxmKwqjjaYmCZfHsFu24GXo"): TOKEN_2022,  # PYUSD
    Pubkey.from_string("4F6PM96JJxngmHnZLBh9n58RH4aTVNWvDs2nuwrT5BP7"): TOKEN_2022,  # USDG devnet
    Pubkey.from_string("CXk2AMBfi3TwaEL2468s6zP8xq9NxTXjp9gjMgzeUynM"): TOKEN_2022,  # PYUSD devnet
}
DECIMALS = 6

_MINT = struct.Struct("<I32sQBBI32s")
_HOLDING = struct.Struct("<32s32sQI32sBIQQI32s")


@dataclass(frozen=True, slots=True)
class Mint:
    supply: int
    decimals: int


@dataclass(frozen=True, slots=True)
class Holding:
    """A token account: `amount` in atomic units of `mint`, spendable by `owner`."""

    mint: Pubkey
    owner: Pubkey
    amount: int


def ata(owner: Pubkey, mint: Pubkey, program: Pubkey) -> Pubkey:
    """The associated token account of `owner` for `mint`, which `program` owns."""
    seeds = [bytes(owner), bytes(program), bytes(mint)]
    return Pubkey.find_program_address(seeds, ASSOCIATED_TOKEN)[0]


def mint_account(program: Pubkey, supply: int) -> Account:
    data = _MINT.pack(0, bytes(32), supply, DECIMALS, 1, 0, bytes(32))
    return Account(1_461_600, data, program)


def token_account(holding: Holding, program: Pubkey) -> Account:
    """165 bytes: no delegate, initialised, not native, no close authority."""
    data = _HOLDING.pack(
        bytes(holding.mint), bytes(holding.owner), holding.amount, 0, bytes(32), 1, 0, 0, 0, 0,
        bytes(32),
    )  # fmt: skip
    return Account(2_039_280, data, program)


def read_mint(account: Account | None) -> Mint | None:
    if account is None or account.owner not in TOKEN_PROGRAMS or len(account.data) != _MINT.size:
        return None
    _, _, supply, decimals, initialized, _, _ = _MINT.unpack(account.data)
    return Mint(supply, decimals) if initialized else None


def read_holding(account: Account | None) -> Holding | None:
    """None unless it is an initialised token account; Token-2022 extensions are skipped."""
    if account is None or account.owner not in TOKEN_PROGRAMS or len(account.data) < _HOLDING.size:
        return None
    mint, owner, amount, _, _, state, *_ = _HOLDING.unpack(account.data[: _HOLDING.size])
    return Holding(Pubkey(mint), Pubkey(owner), amount) if state else None


def transfer_checked(
    owner: Pubkey, pay_to: Pubkey, mint: Pubkey, program: Pubkey, amount: int
) -> Instruction:
    """From one associated token account to another."""
    data = bytes([12]) + amount.to_bytes(8, "little") + bytes([DECIMALS])
    metas = [
        AccountMeta(ata(owner, mint, program), is_signer=False, is_writable=True),
        AccountMeta(mint, is_signer=False, is_writable=False),
        AccountMeta(ata(pay_to, mint, program), is_signer=False, is_writable=True),
        AccountMeta(owner, is_signer=True, is_writable=False),
    ]
    return Instruction(program, data, metas)
