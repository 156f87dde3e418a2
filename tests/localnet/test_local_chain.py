"""The chain in the process: money moves as on Solana, or not at all."""

import pytest
from solders.keypair import Keypair
from solders.pubkey import Pubkey
from solders.signature import Signature
from solders.transaction import VersionedTransaction

from proxy.localnet import history
from proxy.localnet.chain import LocalChain, TransferError
from proxy.localnet.tokens import CASH, MINTS, TOKEN_2022, USDC_DEVNET, USDC_MAINNET, ata
from tests.localnet.wallets import Parties, instructions, parties, payment


@pytest.mark.parametrize("mint", MINTS)
def test_a_payment_moves_every_token_of_the_table(chain: LocalChain, mint: Pubkey) -> None:
    who = parties(chain, mint)
    chain.submit(payment(who, chain.blocks.latest("confirmed")[0], mint=mint))
    assert chain.balance(who.payer.pubkey(), mint) == 999_000
    assert chain.balance(who.seller.pubkey(), mint) == 1_000


def test_token_accounts_are_the_associated_ones_of_the_mint_s_program(chain: LocalChain) -> None:
    owner = Keypair().pubkey()
    address = chain.fund(owner, CASH, 5)
    assert address == ata(owner, CASH, TOKEN_2022)
    account = chain.account(address)
    assert account is not None
    assert len(account.data) == 165
    assert account.owner == TOKEN_2022


def test_funds_add_up_and_are_there_at_every_commitment(chain: LocalChain) -> None:
    owner = str(Keypair().pubkey())
    chain.fund(owner, str(USDC_MAINNET), 2)
    chain.fund(owner, USDC_MAINNET, 3)
    assert chain.balance(owner, USDC_MAINNET) == 5
    assert chain.balance(owner, USDC_MAINNET, "finalized") == 5
    assert chain.balance(owner, USDC_DEVNET) == 0


def test_older_commitments_see_older_balances() -> None:
    chain = LocalChain(confirmed_after=1, finalized_after=4)
    who = parties(chain)
    seller = who.seller.pubkey()

    def seen() -> tuple[int, int, int]:
        return (
            chain.balance(seller, USDC_DEVNET),
            chain.balance(seller, USDC_DEVNET, "confirmed"),
            chain.balance(seller, USDC_DEVNET, "finalized"),
        )

    history_of_balances = []
    for _ in range(3):
        chain.transfer(who.payer, seller, USDC_DEVNET, 10)
        history_of_balances.append(seen())
        chain.advance()
    chain.advance(1)
    history_of_balances.append(seen())
    chain.advance(3)
    history_of_balances.append(seen())
    assert history_of_balances == [
        (10, 0, 0),
        (20, 10, 0),
        (30, 20, 0),
        (30, 30, 10),
        (30, 30, 30),
    ]


def test_funds_in_the_middle_leave_what_is_not_final_alone(chain: LocalChain) -> None:
    who = parties(chain)
    chain.transfer(who.payer, who.seller.pubkey(), USDC_DEVNET, 10)
    chain.fund(who.payer.pubkey(), USDC_DEVNET, 5)
    assert chain.balance(who.payer.pubkey(), USDC_DEVNET) == 999_995
    assert chain.balance(who.payer.pubkey(), USDC_DEVNET, "finalized") == 1_000_005
    chain.advance(32)
    assert chain.balance(who.payer.pubkey(), USDC_DEVNET, "finalized") == 999_995


def test_several_writes_in_one_block_undo_as_one(chain: LocalChain) -> None:
    who = parties(chain)
    for _ in range(3):
        chain.transfer(who.payer, who.seller.pubkey(), USDC_DEVNET, 10)
    assert chain.balance(who.payer.pubkey(), USDC_DEVNET, "finalized") == 1_000_000
    chain.advance(32)
    assert chain.balance(who.payer.pubkey(), USDC_DEVNET, "finalized") == 999_970


def paid(chain: LocalChain, who: Parties) -> int:
    return chain.balance(who.seller.pubkey(), USDC_DEVNET)


def test_a_payment_lands_in_the_block_after_its_last_valid_one(chain: LocalChain) -> None:
    who = parties(chain)
    blockhash, last_valid = chain.blocks.latest("confirmed")
    tx = payment(who, blockhash)
    chain.advance(last_valid + 1 - chain.blocks.height)
    chain.submit(tx)
    assert paid(chain, who) == 1_000
    landed = chain.history.get(tx.signatures[0])
    assert landed is not None
    assert landed.height == last_valid + 1


def test_and_not_one_block_later(chain: LocalChain) -> None:
    who = parties(chain)
    blockhash, last_valid = chain.blocks.latest("confirmed")
    tx = payment(who, blockhash)
    chain.advance(last_valid + 2 - chain.blocks.height)
    assert chain.simulate(tx).err == "BlockhashNotFound"
    chain.submit(tx)
    assert paid(chain, who) == 0
    assert chain.history.get(tx.signatures[0]) is None


def test_the_same_message_lands_once_in_its_whole_life(chain: LocalChain) -> None:
    who = parties(chain)
    blockhash, last_valid = chain.blocks.latest("confirmed")
    tx = payment(who, blockhash)
    while chain.blocks.height <= last_valid + 2:
        chain.submit(tx)
        chain.advance(10)
    assert paid(chain, who) == 1_000


def test_a_duplicate_is_told_by_its_message_not_by_its_signatures(chain: LocalChain) -> None:
    who = parties(chain)
    tx = payment(who, chain.blocks.latest("confirmed")[0])
    chain.submit(tx)
    unsigned = VersionedTransaction.populate(tx.message, [Signature.new_unique()] * 2)
    assert chain.simulate(unsigned).err == "AlreadyProcessed"


def test_without_a_memo_equal_payments_under_one_blockhash_are_one(chain: LocalChain) -> None:
    who = parties(chain)
    blockhash, _ = chain.blocks.latest("confirmed")
    for _ in range(2):
        chain.submit(payment(who, blockhash, memo=None))
    assert paid(chain, who) == 1_000
    for memo in ("a", "b"):
        chain.submit(payment(who, blockhash, memo=memo))
    assert paid(chain, who) == 3_000


def test_an_unsigned_transaction_does_not_land(chain: LocalChain) -> None:
    who = parties(chain)
    tx = payment(who, chain.blocks.latest("confirmed")[0])
    for forged in (0, 1):
        signatures = list(tx.signatures)
        signatures[forged] = Signature.default()
        chain.submit(VersionedTransaction.populate(tx.message, signatures))
    assert paid(chain, who) == 0


def test_too_little_money_lands_as_an_error_and_costs_the_fee(chain: LocalChain) -> None:
    who = parties(chain, amount=999)
    tx = payment(who, chain.blocks.latest("confirmed")[0])
    chain.submit(tx)
    landed = chain.history.get(tx.signatures[0])
    assert landed is not None
    assert landed.err == {"InstructionError": [2, {"Custom": 1}]}
    fee_payer = chain.account(who.fee_payer.pubkey())
    assert fee_payer is not None
    assert fee_payer.lamports == 10**9 - landed.fee
    chain.fund(who.payer.pubkey(), USDC_DEVNET, 10_000)
    chain.submit(tx)
    assert paid(chain, who) == 0, "a failed message is spent, too"


def test_a_missing_destination_account_is_invalid_account_data(chain: LocalChain) -> None:
    who = parties(chain)
    stranger = Parties(who.payer, Keypair(), who.fee_payer)
    run = chain.simulate(payment(stranger, chain.blocks.latest("confirmed")[0]))
    assert run.err == {"InstructionError": [2, "InvalidAccountData"]}


def test_a_fee_payer_without_money_leaves_no_trace(chain: LocalChain) -> None:
    who = parties(chain)
    poor = Parties(who.payer, who.seller, Keypair())
    tx = payment(poor, chain.blocks.latest("confirmed")[0])
    chain.submit(tx)
    assert chain.history.get(tx.signatures[0]) is None
    chain.airdrop(poor.fee_payer.pubkey(), 10**9)
    chain.submit(tx)
    assert paid(chain, who) == 1_000, "what never was in a block may still land"


def test_a_long_memo_overruns_the_usual_compute_limit(chain: LocalChain) -> None:
    who = parties(chain)
    blockhash, _ = chain.blocks.latest("confirmed")
    assert chain.simulate(payment(who, blockhash, memo="m" * 32)).err is None
    over = chain.simulate(payment(who, blockhash, memo="m" * 64)).err
    assert over == {"InstructionError": [3, "ProgramFailedToComplete"]}


def test_dropped_transactions_are_lost_and_may_be_sent_again(chain: LocalChain) -> None:
    who = parties(chain)
    blockhash, _ = chain.blocks.latest("confirmed")
    first, second, third = (payment(who, blockhash, memo=memo) for memo in "abc")
    chain.drop_next(2)
    for tx in (first, second, third):
        chain.submit(tx)
    assert paid(chain, who) == 1_000
    chain.submit(first)
    assert paid(chain, who) == 2_000


def test_held_transactions_land_on_release_unless_they_died_meanwhile(chain: LocalChain) -> None:
    who = parties(chain)
    old, last_valid = chain.blocks.latest("confirmed")
    chain.hold()
    dying = payment(who, old, memo="old")
    chain.submit(dying)
    chain.advance(last_valid + 2 - chain.blocks.height)
    living = payment(who, chain.blocks.latest("confirmed")[0], memo="new")
    chain.submit(living)
    chain.submit(living)
    assert paid(chain, who) == 0
    assert len(chain.held) == 3
    assert chain.release() == [living.signatures[0]]
    assert paid(chain, who) == 1_000
    assert chain.held == []
    chain.submit(payment(who, chain.blocks.latest("confirmed")[0], memo="after"))
    assert paid(chain, who) == 2_000


def test_the_helper_s_transfers_pass_drops_and_holds(chain: LocalChain) -> None:
    who = parties(chain)
    chain.drop_next(5)
    chain.hold()
    signature = chain.transfer(who.payer, who.seller.pubkey(), USDC_DEVNET, 7, memo="rent")
    landed = chain.history.get(signature)
    assert landed is not None
    assert landed.memo == "[4] rent"
    assert paid(chain, who) == 7


def test_a_transfer_that_fails_says_so(chain: LocalChain) -> None:
    who = parties(chain, amount=1)
    with pytest.raises(TransferError, match="Custom"):
        chain.transfer(who.payer, who.seller.pubkey(), USDC_DEVNET, 2)


def test_the_oldest_transactions_are_forgotten_first(
    chain: LocalChain, monkeypatch: pytest.MonkeyPatch
) -> None:
    who = parties(chain)
    monkeypatch.setattr(history, "KEPT", 3)
    seller = who.seller.pubkey()
    sent = [chain.transfer(who.payer, seller, USDC_DEVNET, n) for n in range(1, 6)]
    account = ata(seller, USDC_DEVNET, MINTS[USDC_DEVNET])
    known = [record.signature for record in chain.history.newest_first(account)]
    assert known == list(reversed(sent))[:3]
    assert len(chain.history) == 3
    assert chain.history.get(sent[0]) is None


def test_a_new_token_account_made_on_chain_is_found_by_its_owner(chain: LocalChain) -> None:
    """With the real associated-token program, in a payment's own transaction."""
    from solders.instruction import AccountMeta, Instruction
    from solders.message import MessageV0
    from solders.system_program import ID as SYSTEM_PROGRAM

    from proxy.localnet.tokens import ASSOCIATED_TOKEN

    who = parties(chain)
    newcomer = Parties(who.payer, Keypair(), who.fee_payer)
    owner, program = newcomer.seller.pubkey(), MINTS[USDC_DEVNET]
    address = ata(owner, USDC_DEVNET, program)
    keys = [who.fee_payer.pubkey(), address, owner, USDC_DEVNET, SYSTEM_PROGRAM, program]
    metas = [AccountMeta(key, index == 0, index < 2) for index, key in enumerate(keys)]
    steps = [Instruction(ASSOCIATED_TOKEN, b"\x01", metas), *instructions(newcomer)[2:]]
    message = MessageV0.try_compile(
        who.fee_payer.pubkey(), steps, [], chain.blocks.latest("confirmed")[0]
    )
    chain.submit(VersionedTransaction(message, [who.fee_payer, who.payer]))
    assert chain.balance(owner, USDC_DEVNET) == 1_000
    assert [found for found, _ in chain.holdings(owner, "processed")] == [address]
    assert chain.holdings(owner, "finalized") == []


def test_a_fork_takes_back_all_that_is_not_final(chain: LocalChain) -> None:
    who = parties(chain, USDC_DEVNET)
    chain.submit(payment(who, chain.blocks.latest("confirmed")[0], memo="kept"))
    chain.advance(33)
    tx = payment(who, chain.blocks.latest("confirmed")[0], memo="gone")
    chain.submit(tx)
    chain.advance()
    assert chain.roll_back() == [tx.signatures[0]]
    assert chain.balance(who.payer.pubkey(), USDC_DEVNET) == 999_000
    assert chain.balance(who.seller.pubkey(), USDC_DEVNET) == 1_000
    assert chain.history.get(tx.signatures[0]) is None
    source = ata(who.payer.pubkey(), USDC_DEVNET, MINTS[USDC_DEVNET])
    assert [record.memo for record in chain.history.newest_first(source)] == ["[4] kept"]
    chain.submit(tx)
    assert chain.balance(who.payer.pubkey(), USDC_DEVNET) == 998_000
