"""RPCs that are down, behind, forgetful or lying: nothing is freed, and nothing is lost."""

import base64
from typing import Any

from proxy.localnet.faults import Fault
from proxy.localnet.params import RpcError
from proxy.localnet.rpc import RpcNode
from tests.e2e.house import FUNDS
from tests.reconciler.conftest import PRICE, Desk, signatures


async def test_an_empty_index_frees_nothing(desk: Desk) -> None:
    """The only RPC has the payment in its balance and not in its index."""
    payment = await desk.buy()
    desk.land()
    desk.net.node.faults.lies["getSignaturesForAddress"] = lambda _: []
    last = await desk.past(payment)
    for height in (last + 1, last + 160, last + 400):
        desk.finalize(height)
        assert await desk.outcome() == "held: not_conserved"
    assert await desk.home.counters() == (0, PRICE)
    (alarm,) = await desk.events("ALARM")
    assert (alarm["code"], alarm["severity"]) == ("not_conserved", "ERROR")
    desk.net.node.faults.clear()
    assert await desk.outcome() == "verified"
    assert await desk.home.counters() == (PRICE, 0)
    assert desk.home.paid_on_chain() == PRICE


async def test_an_index_that_forgets_what_it_showed(pair: Desk) -> None:
    first = await pair.buy(path="1")
    pair.land()
    pair.chain.advance(33)
    second = await pair.buy(path="2")
    await pair.look()
    # Both RPCs go back to an old index; and the balance is as it should be.
    for node in (pair.net.node, *pair.second):
        node.faults.lies["getSignaturesForAddress"] = lambda _: []
    pair.finalize(await pair.past(second) + 1)
    assert await pair.outcome() == "held: scan_incomplete"
    assert (await pair.events("NETWORK_ISSUE"))[-1]["code"] == "scan_incomplete"
    for node in (pair.net.node, *pair.second):
        node.faults.clear()
    pair.chain.advance(32)
    assert await pair.outcome() == "released"
    assert (await pair.payment(first))["status"] == "VERIFIED"
    assert pair.home.paid_on_chain() == PRICE


async def test_an_index_that_once_shows_nothing_of_before(desk: Desk) -> None:
    """What the account held before the payment is not on record, as after a restore, and can only
    be told from its history: which is not there when it is asked for first."""
    await desk.buy(path="1")
    desk.land()
    desk.chain.advance(33)
    assert await desk.outcome() == "verified"
    await desk.by_hand("DELETE FROM chain_balances")
    await desk.by_hand("DELETE FROM chain_seen")
    desk.home.service.reconciler._watches.clear()  # another process takes over
    second = await desk.buy(path="2")
    desk.net.node.faults.lies["getSignaturesForAddress"] = lambda _: []
    desk.finalize(await desk.past(second) + 1)
    assert await desk.outcome() == "held: not_conserved"
    desk.net.node.faults.clear()
    desk.chain.advance(32)
    assert await desk.outcome() == "held: second_scan_due"
    desk.chain.advance(160)
    assert await desk.outcome() == "released"
    assert await desk.home.counters() == (PRICE, 0)
    assert desk.home.paid_on_chain() == PRICE


async def test_one_of_two_hides_the_payment(pair: Desk) -> None:
    for number, node in enumerate((pair.net.node, pair.second[0])):
        await _hidden_by(pair, node, number)


async def _hidden_by(pair: Desk, node: RpcNode, number: int) -> None:
    payment = await pair.buy(path=str(number))
    transaction = pair.land()

    def hides(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [line for line in lines if line["signature"] != transaction]

    node.faults.lies |= {
        "getSignaturesForAddress": hides,
        "getTransaction": lambda _: None,
        "getSignatureStatuses": lambda result: {**result, "value": [None] * len(result["value"])},
        # And it knows that the balance would tell.
        "getTokenAccountBalance": lambda result: {
            **result,
            "value": {**result["value"], "amount": str(FUNDS - number * PRICE)},
        },
    }
    pair.finalize(await pair.past(payment) + 1)
    assert await pair.outcome() == "held: rpcs_disagree"
    alarm = (await pair.events("ALARM"))[-1]
    assert (alarm["code"], alarm["severity"]) == ("rpcs_disagree", "ERROR")
    assert sum(await pair.home.counters()) == (number + 1) * PRICE
    pair.chain.advance(200)
    assert await pair.outcome() == "held: rpcs_disagree"
    assert len(await pair.events("ALARM")) == number + 1  # told once
    node.faults.clear()
    pair.chain.advance(32)
    assert await pair.outcome() == "verified"
    assert await pair.home.counters() == ((number + 1) * PRICE, 0)


async def test_an_index_that_never_gets_it_does_not_hold_it_for_ever(pair: Desk) -> None:
    """The second RPC's index has it; the first one knows the transaction when asked for it."""
    payment = await pair.buy()
    transaction = pair.land()
    pair.net.node.faults.lies["getSignaturesForAddress"] = lambda lines: [
        line for line in lines if line["signature"] != transaction
    ]
    pair.finalize(await pair.past(payment) + 1)
    await pair.look()
    await pair.look()
    assert (await pair.payment(payment))["status"] == "VERIFIED"


async def test_a_second_rpc_that_is_down_or_behind(pair: Desk) -> None:
    payment = await pair.buy()
    last = await pair.past(payment)
    pair.finalize(last + 1)
    second = pair.second[0].faults
    second.add(Fault("*", status=429))
    assert await pair.outcome() == "held: second_opinion_due"
    second.clear()
    second.lies["getEpochInfo"] = lambda info: {**info, "blockHeight": last}
    pair.chain.advance(32)
    assert await pair.outcome() == "held: alive"
    assert await pair.home.counters() == (0, PRICE)
    second.clear()
    pair.chain.advance(32)
    assert await pair.outcome() == "released"


FAULTS = (
    Fault("*", status=429),
    Fault("getEpochInfo", error=RpcError(-32005, "Node is behind by 1000 slots")),
    Fault("getSignaturesForAddress", error=RpcError(-32016, "Minimum context slot")),
    Fault("getSignaturesForAddress", status=503),
    Fault("getTokenAccountBalance", status=500),
    Fault("getTokenAccountBalance", error=RpcError(-32602, "could not find account")),
)


async def test_the_only_rpc_fails(desk: Desk) -> None:
    payment = await desk.buy()
    height = await desk.past(payment) + 1
    for fault in FAULTS:
        desk.net.node.faults.add(fault)
        for _ in range(2):
            desk.finalize(height := height + 160)
            report = await desk.home.service.reconciler.reconcile_once()
            (found,) = report.values()
            assert isinstance(found, str) or found[0].why == "scan_incomplete"
            assert await desk.home.counters() == (0, PRICE)
        desk.net.node.faults.clear()
    for _ in range(2):
        desk.finalize(height := height + 160)
        outcome = await desk.outcome()
    assert outcome == "released"


async def test_transactions_that_cannot_be_read(desk: Desk) -> None:
    """Listed, and not to be had: then it is not known whose it is."""
    await desk.buy(path="1")
    desk.land()
    payment = await desk.buy(path="2")
    faults = desk.net.node.faults
    faults.lies["getTransaction"] = lambda _: None
    last = await desk.past(payment)
    for height in (last + 1, last + 160):
        desk.finalize(height)
        assert {ruling.why for ruling in await desk.look()} == {"scan_incomplete"}
    faults.lies["getTransaction"] = lambda result: {**result, "meta": None}
    desk.chain.advance(40)
    assert {ruling.why for ruling in await desk.look()} == {"scan_incomplete"}
    assert await desk.home.counters() == (0, 2 * PRICE)


async def test_a_forged_transaction_is_not_read(desk: Desk) -> None:
    """An RPC cannot invent a landing: it would need the fee payer's signature over our message."""
    await desk.buy(path="1")
    desk.land()
    await desk.buy(path="2")
    first = desk.signed(0)
    real = desk.chain.history.get(first.signatures[0])
    assert real is not None

    def forges(result: dict[str, Any]) -> dict[str, Any]:
        raw = bytearray(bytes(desk.signed(1)))
        raw[1:65] = bytes(first.signatures[0])
        return {**result, "transaction": [base64.b64encode(raw).decode(), "base64"]}

    desk.net.node.faults.lies["getTransaction"] = forges
    desk.chain.advance(33)
    assert {ruling.why for ruling in await desk.look()} == {"alive"}
    assert await desk.home.counters() == (0, 2 * PRICE)


async def test_pages_out_of_order(pair: Desk) -> None:
    await pair.buy(path="1")
    pair.land()
    pair.chain.advance(3)
    await pair.buy(path="2")
    pair.land()
    payment = await pair.buy(path="3")
    for node in (pair.net.node, *pair.second):
        node.faults.lies["getSignaturesForAddress"] = lambda lines: lines[::-1]
    pair.finalize(await pair.past(payment) + 1)
    found = {str(ruling.payment_id): ruling for ruling in await pair.look()}
    # What it shows is good for finding, not for missing.
    assert found[payment].why == "scan_incomplete"
    assert sorted(ruling.outcome for ruling in found.values()) == ["held", "verified", "verified"]
    assert await pair.home.counters() == (2 * PRICE, PRICE)


async def test_an_opening_balance_from_history(pair: Desk) -> None:
    """Payments from before anybody looked: the account's last transaction before them tells what
    it held."""
    await pair.buy(path="old")
    pair.land()
    pair.chain.advance(40)
    payment = await pair.buy()
    await pair.by_hand("DELETE FROM chain_balances")
    pair.finalize(await pair.past(payment) + 1)
    assert {ruling.outcome for ruling in await pair.look()} == {"verified", "released"}
    assert await pair.home.counters() == (PRICE, 0)


async def test_without_any_opening_it_stays_held(pair: Desk) -> None:
    """Played money appears out of nothing, so the account's history does not explain it."""
    payment = await pair.buy()
    await pair.by_hand("DELETE FROM chain_balances")
    pair.finalize(await pair.past(payment) + 1)
    assert await pair.outcome() == "held: not_conserved"
    assert await pair.home.counters() == (0, PRICE)


async def test_a_deposit_is_no_disagreement(pair: Desk) -> None:
    payment = await pair.buy()
    pair.chain.fund(pair.net.seller.pubkey(), "4zMMC9srt5Ri5X14GAgXhaHii3GnPAEERYPJgZJDncDU", 500)
    pair.chain.transfer(
        pair.net.seller,
        pair.home.wallet.pubkey(),
        "4zMMC9srt5Ri5X14GAgXhaHii3GnPAEERYPJgZJDncDU",
        500,
    )
    pair.finalize(await pair.past(payment) + 1)
    assert await pair.outcome() == "released"


async def test_unindexed_by_every_rpc(pair: Desk) -> None:
    payment = await pair.buy()
    transaction = pair.land()
    pair.chain.unindexed |= signatures([transaction])
    pair.finalize(await pair.past(payment) + 1)
    assert await pair.outcome() == "held: not_conserved"
    assert await pair.home.counters() == (0, PRICE)
