"""What never landed is freed by proof, and never a block before it."""

from solders.compute_budget import set_compute_unit_price
from solders.instruction import AccountMeta, Instruction
from solders.message import MessageV0
from solders.pubkey import Pubkey
from solders.system_program import TransferParams, transfer
from solders.transaction import VersionedTransaction

from proxy.localnet import USDC_DEVNET
from proxy.localnet.tokens import MEMO
from tests.e2e.house import FUNDS
from tests.reconciler.conftest import PRICE, Desk


async def test_a_lone_rpc_frees_it_after_two_looks_150_blocks_apart(desk: Desk) -> None:
    payment = await desk.buy()
    last = await desk.past(payment)
    for height in (last - 100, last - 1, last):
        desk.finalize(height)
        assert await desk.outcome() == "held: alive"
    for height in (last + 1, last + 40, last + 150):
        desk.finalize(height)
        assert await desk.outcome() == "held: second_scan_due"
        assert await desk.home.counters() == (0, PRICE)
    doubt = await desk.home.row("SELECT * FROM chain_doubts")
    assert (doubt["why"], doubt["absent_since"]) == ("second_scan_due", last + 1)
    # The second look is due once 32 more slots have passed, so that a stuck one costs little.
    desk.finalize(last + 182)
    assert await desk.outcome() == "released"
    row = await desk.payment(payment)
    assert (row["status"], row["release_reason"]) == ("FAILED", "proved_dead")
    assert await desk.home.counters() == (0, 0)
    assert await desk.home.rows("SELECT * FROM chain_doubts") == []
    desk.land()
    assert desk.home.paid_on_chain() == 0


async def test_two_rpcs_free_it_as_soon_as_the_last_block_is_final(pair: Desk) -> None:
    payment = await pair.buy()
    last = await pair.past(payment)
    pair.finalize(last)
    assert await pair.outcome() == "held: alive"
    pair.finalize(last + 1)
    assert await pair.outcome() == "released"
    assert await pair.home.counters() == (0, 0)
    pair.land()
    assert pair.home.paid_on_chain() == 0


async def test_a_claim_of_nothing_is_exposed_by_proof_and_reversed(pair: Desk) -> None:
    payment = await pair.buy(claims="5" * 88)
    assert await pair.home.counters() == (PRICE, 0)
    pair.finalize(await pair.past(payment))
    assert await pair.outcome() == "held: alive"
    assert (await pair.payment(payment))["status"] == "CONFIRMED"
    assert await pair.events("ALARM") == []
    pair.finalize(await pair.past(payment) + 1)
    assert await pair.outcome() == "reversed"
    row = await pair.payment(payment)
    assert (row["status"], row["release_reason"]) == ("FAILED", "proved_dead")
    assert await pair.home.counters() == (0, 0)
    (alarm,) = await pair.events("ALARM")
    assert (alarm["code"], alarm["provider"], alarm["claimed"], alarm["severity"]) == (
        "claimed_not_landed",
        pair.seller.url,
        "5" * 88,
        "ERROR",
    )
    log = await pair.home.row("SELECT * FROM transaction_logs")
    assert (log["confirmation_status"], log["gas_fees"]) == ("PROCESSED", None)
    assert "not on the chain" in log["error_message"]
    budget = await pair.home.row("SELECT * FROM budget_counters WHERE kind = 'agent_day'")
    assert budget["paid_calls"] == 0


async def test_a_foreign_transaction_is_exposed_at_once_and_reversed_by_proof(pair: Desk) -> None:
    foreign = str(pair.chain.airdrop(pair.net.seller.pubkey(), 1))
    payment = await pair.buy(claims=foreign)
    for _ in range(2):
        assert await pair.outcome() == "held: alive"
    (alarm,) = await pair.events("ALARM")
    assert (alarm["code"], alarm["provider"]) == ("claimed_foreign", pair.seller.url)
    assert await pair.home.counters() == (PRICE, 0)
    pair.finalize(await pair.past(payment) + 1)
    assert await pair.outcome() == "reversed"
    assert await pair.home.counters() == (0, 0)
    codes = [alarm["code"] for alarm in await pair.events("ALARM")]
    assert codes == ["claimed_foreign", "claimed_not_landed"]


async def test_one_transaction_claimed_for_two_payments(pair: Desk) -> None:
    first = await pair.buy(path="1")
    transaction = str(pair.signed(0).signatures[0])
    # The provider names the transaction of a payment that it has not sent yet for another.
    second = await pair.buy(claims=transaction, path="2")
    assert (await pair.payment(second))["payment_hash"] == transaction
    pair.land(0)
    await pair.look()
    assert (await pair.payment(first))["payment_hash"] == transaction
    assert (await pair.payment(second))["payment_hash"] is None
    pair.finalize(await pair.past(second) + 1)
    outcomes = {str(ruling.payment_id): ruling.outcome for ruling in await pair.look()}
    assert outcomes == {first: "verified", second: "reversed"}
    log = await pair.home.row(
        "SELECT * FROM transaction_logs WHERE payment_id = $1::text::uuid", second
    )
    assert (log["is_duplicate"], log["confirmation_status"]) == (True, "PROCESSED")
    assert await pair.home.counters() == (PRICE, 0)
    assert pair.home.paid_on_chain() == PRICE


async def test_served_and_never_taken(pair: Desk) -> None:
    """An answer without a claim was booked as paid; the chain knows better, and nobody lied."""
    payment = await pair.buy(claims="5" * 88)
    await pair.by_hand("ALTER TABLE x402_payment_logs DISABLE TRIGGER x402_payment_logs_keep")
    await pair.by_hand("UPDATE x402_payment_logs SET claimed = false, settle_tx_hash = NULL")
    pair.finalize(await pair.past(payment) + 1)
    assert await pair.outcome() == "reversed"
    assert await pair.events("ALARM") == []
    codes = [event.get("code") for event in await pair.events("PAYMENT_STATUS")]
    assert "served_unpaid" in codes


async def test_a_failure_on_chain_frees_it_once_it_is_final(desk: Desk) -> None:
    payment = await desk.buy()
    # All that the wallet has goes elsewhere, in a transaction that the chain remembers.
    desk.chain.transfer(desk.home.wallet, desk.net.seller.pubkey(), USDC_DEVNET, FUNDS)
    transaction = desk.land()
    assert await desk.outcome() == "held: failed_not_final"
    assert await desk.home.counters() == (0, PRICE)
    desk.chain.advance(33)
    assert await desk.outcome() == "released"
    assert await desk.home.counters() == (0, 0)
    row = await desk.payment(payment)
    assert row["status"] == "FAILED"
    log = await desk.home.row("SELECT * FROM transaction_logs")
    assert (log["confirmation_status"], log["gas_fees"]) == ("FINALIZED", 10_000)
    assert transaction in log["error_message"]


async def test_a_copied_memo_frees_nothing(desk: Desk) -> None:
    """The seller knows the memo and our account, and sends a failing transaction with both, to have
    us free the money that it takes in the next block."""
    payment = await desk.buy()
    row = await desk.payment(payment)
    thief = desk.net.fee_payer
    steal = TransferParams(
        from_pubkey=thief.pubkey(), to_pubkey=Pubkey.new_unique(), lamports=10**18
    )
    ours = Pubkey.from_string(row["source_account"])
    steps = [
        set_compute_unit_price(1),
        Instruction(MEMO, row["memo"].encode(), []),
        transfer(steal),
    ]
    steps[2] = Instruction(
        steps[2].program_id,
        bytes(steps[2].data),
        [*steps[2].accounts, AccountMeta(ours, is_signer=False, is_writable=False)],
    )
    message = MessageV0.try_compile(
        thief.pubkey(), steps, [], desk.chain.blocks.latest("confirmed")[0]
    )
    desk.chain.submit(VersionedTransaction(message, [thief]))
    desk.chain.advance(40)
    (seen,) = [record.err for record in desk.chain.history.newest_first(ours)]
    assert seen is not None
    assert await desk.outcome() == "held: alive"
    desk.land()
    assert await desk.outcome() == "settled"
    assert await desk.home.counters() == (PRICE, 0)
    assert desk.home.paid_on_chain() == PRICE


async def test_a_fork_that_dies(pair: Desk) -> None:
    """Seen, booked and gone. It may land again while its blockhash lives; else the money is free,
    and the provider, who had told the truth, is not accused."""
    for again in (True, False):
        payment = await pair.buy(path=str(again))
        transaction = pair.land()
        assert await pair.outcome() == "settled"
        assert [str(one) for one in pair.chain.roll_back()] == [transaction]
        assert await pair.outcome() == "held: not_finalized"
        if again:
            pair.chain.advance(100)
            pair.land()
        pair.finalize(await pair.past(payment) + 1)
        assert await pair.outcome() == ("verified" if again else "reversed")
        assert await pair.home.counters() == (PRICE, 0)
        assert pair.home.paid_on_chain() == PRICE
        codes = {event.get("code") for event in await pair.events("PAYMENT_STATUS")}
        assert ("rolled_back" in codes) is not again
    assert await pair.events("ALARM") == []


async def test_moves_may_be_repeated(pair: Desk) -> None:
    """Two who think that they lead, or a move whose acknowledgement was lost."""
    payment = await pair.buy(claims="5" * 88)
    pair.finalize(await pair.past(payment) + 1)
    assert await pair.outcome() == "reversed"
    for _ in range(2):
        row = await pair.home.row("SELECT disprove($1::text::uuid, 'again') AS said", payment)
        assert row["said"] == "already"
    seen = '{"signature": "x", "slot": 1, "fee_lamports": 1}'
    row = await pair.home.row("SELECT verify_payment($1::text::uuid, $2) AS said", payment, seen)
    assert row["said"] == "released"
    assert await pair.home.counters() == (0, 0)
    assert len(await pair.events("ALARM")) == 1

    found = await pair.buy(path="found")
    pair.land()
    pair.chain.advance(33)
    assert await pair.outcome() == "verified"
    row = await pair.home.row("SELECT disprove($1::text::uuid, 'no') AS said", found)
    assert row["said"] == "verified"
    row = await pair.home.row("SELECT verify_payment($1::text::uuid, $2) AS said", found, seen)
    assert row["said"] == "already"
    assert await pair.home.counters() == (PRICE, 0)
    assert (await pair.payment(found))["status"] == "VERIFIED"
