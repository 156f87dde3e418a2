"""Receipts that name no transaction, or the wrong one, and reversals: proved against the chain by
whoever has the export and an RPC. A whole autopay, a scripted seller, blocks by the test's hand."""

import json
import time
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from solders.keypair import Keypair

from proxy.localnet import USDC_DEVNET
from proxy.localnet.faults import Fault, Faults
from proxy.receipts.on_chain import Checked, check, nodes_of
from proxy.receipts.patience import PatientRpc
from proxy.receipts.verify import Paid, verify
from tests.e2e.seller import DEVNET, challenge, offer, pays_once, reply, settled
from tests.receipts.conftest import DAY, Cli, Clock, all_signed, with_a_past
from tests.reconciler.conftest import PRICE, Desk, opened


class Audit(Desk):
    """Sells, brings on chain or not, exports, and proves."""

    cli: Cli
    clock: Clock

    async def sell(self, *, claims: str | None = None, path: str = "") -> str:
        """Is paid and serves; names that transaction, or none. The payment's id."""
        entry = offer(str(self.net.seller.pubkey()), str(self.net.fee_payer.pubkey()))
        goods = reply(200, body=b"goods") if claims is None else settled(claims)
        self.seller.answer = pays_once(challenge(entry), lambda _: goods)
        # The test's blocks fly by; a blockhash that was fetched a second ago may be long dead.
        self.home.service.chains[DEVNET]._blockhashes._newest = None  # type: ignore[attr-defined]
        answer = await self.home.ask(f"{self.seller.url}/{path}")
        assert answer.status == 200
        return answer.headers["Autopay-Payment"]

    async def reverse(self, payment_id: str) -> None:
        row = await self.home.row("SELECT disprove($1::text::uuid, 'absent') AS was", payment_id)
        assert row["was"] == "reversed"

    def later(self, seconds: float) -> None:
        self.clock.shift += seconds
        self.chain.advance(40)

    async def export(self, *words: str) -> None:
        await all_signed(self.home)
        assert (await self.cli("export", "--force", str(self.cli.file), *words))[0] == 0

    async def proof(self) -> tuple[int, list[dict[str, Any]]]:
        """Exit status, and what is said of each receipt."""
        await self.export()
        status, said = await self.cli.chain(self.net.rpc_url)
        assert said["proved"]
        return status, said["chain"]

    async def check(self, paid: Iterable[Paid]) -> Checked:
        rpc = PatientRpc(self.net.rpc_url)
        try:
            return await check(await nodes_of([rpc]), paid)
        finally:
            await rpc.close()

    async def verdict(self) -> tuple[int, str]:
        """Of the only receipt."""
        status, (one,) = await self.proof()
        return status, one["verdict"]


@pytest.fixture
async def audit(
    dsn: str, tmp_path: Path, cli: Cli, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Audit]:
    monkeypatch.setattr("proxy.receipts.patience.PAUSE", 0.01)
    async with opened(dsn, tmp_path) as desk:
        audit = Audit(desk.home, desk.net, desk.seller, desk.second)
        audit.cli, audit.clock = cli, clock
        with_a_past(audit.home, clock)
        yield audit


async def test_served_without_a_word_and_found_by_our_signature(audit: Audit) -> None:
    await audit.sell()
    transaction = audit.land()
    assert await audit.verdict() == (1, "not_shown")  # not final: nothing is said too early
    audit.later(60)
    status, (one,) = await audit.proof()
    assert (status, one["verdict"], one["good"]) == (0, "found", True)
    assert (one["transaction"], one["found"]) == (None, transaction)
    status, said = await audit.cli("verify", str(audit.cli.file), "--rpc", audit.net.rpc_url)
    assert status == 0
    assert f"good   receipt {one['receipt_id']}, (none named), found {transaction}: " in said
    assert "ON THE CHAIN: 1 of 1 receipts, as they say\n" in said
    assert "looking for 1 payments in its history" in said
    # Once the reconciler has seen it final, a link says which one it was, and nothing is searched.
    assert await audit.outcome() == "verified"
    audit.net.node.calls.clear()
    assert await audit.verdict() == (0, "landed")
    assert audit.net.node.calls["getSignaturesForAddress"] == 0


async def test_a_copied_memo_proves_nothing(audit: Audit) -> None:
    """Whoever saw the payment can put its memo into a transaction of his own; to our account too,
    for as much as we were to pay."""
    stranger = Keypair()
    audit.net.fund(stranger.pubkey(), usdc=10 * PRICE)
    payment = await audit.sell()
    memo = (await audit.payment(payment))["memo"]
    for to in (audit.home.wallet, audit.net.seller):
        audit.chain.transfer(stranger, to.pubkey(), USDC_DEVNET, PRICE, memo=memo)
    audit.later(60)
    assert await audit.verdict() == (1, "not_shown")  # it may still come, for all that is known
    audit.later(2 * DAY)
    status, (one,) = await audit.proof()
    assert (status, one["verdict"], one["good"]) == (1, "not_found", False)
    assert "2 transactions of" in one["detail"] and "1 read" in one["detail"]


TROUBLES: dict[str, Callable[[Faults], object]] = {
    "an empty index": lambda faults: faults.lies.update(getSignaturesForAddress=lambda _: []),
    "cut off": lambda faults: faults.lies.update(
        getSignaturesForAddress=lambda lines: [
            line for line in lines if line["blockTime"] > time.time() - DAY
        ]
    ),
    "pruned": lambda faults: faults.lies.update(getTransaction=lambda _: None),
    "no clock": lambda faults: faults.lies.update(getBlockTime=lambda _: None),
    "429": lambda faults: faults.add(Fault("getSignaturesForAddress", status=429)),
    "500": lambda faults: faults.add(Fault("getTransaction", status=500)),
}


async def test_what_an_rpc_does_not_show_is_not_said_to_be_absent(audit: Audit) -> None:
    await audit.sell(path="1")
    await audit.reverse(await audit.sell(path="2"))
    # Something of that time, so that there is what could not be read.
    audit.chain.transfer(audit.home.wallet, audit.net.seller.pubkey(), USDC_DEVNET, 7)
    audit.later(2 * DAY)
    for trouble in ("", *TROUBLES):
        if trouble:
            TROUBLES[trouble](audit.net.node.faults)
        status, both = await audit.proof()
        verdicts = ["not_shown", "not_shown"] if trouble else ["not_found", "reversed"]
        assert (status, [one["verdict"] for one in both]) == (1, verdicts), trouble
        if trouble != "500":
            audit.net.node.faults.clear()
    status, said = await audit.cli("verify", str(audit.cli.file), "--rpc", audit.net.rpc_url)
    assert status == 1
    assert "not found, which shows nothing" in said and "WRONG" not in said
    assert "0 of 2 receipts, as they say; 2 are open: neither shown nor refuted\n" in said


async def test_a_named_transaction_that_this_rpc_has_not(audit: Audit) -> None:
    """A node that has lost it says the same as one that never had it."""
    await audit.sell(claims="5" * 88)
    transaction = audit.land()
    audit.later(60)
    status, (one,) = await audit.proof()
    assert (status, one["verdict"], one["found"]) == (1, "other_transaction", transaction)
    audit.net.node.faults.add(Fault("getTransaction", status=500))
    assert await audit.verdict() == (1, "no_answer")
    audit.net.node.faults.clear()
    audit.net.node.faults.lies["getTransaction"] = lambda _: None
    assert await audit.verdict() == (1, "not_shown")


async def test_another_payments_transaction_was_named(audit: Audit) -> None:
    await audit.sell(path="1")
    foreign = audit.land()
    audit.later(60)
    await audit.sell(claims=foreign, path="2")
    status, both = await audit.proof()
    assert (status, [one["verdict"] for one in both]) == (1, ["found", "not_ours"])
    # Taken back, it claims nothing any more, and may land for all that this chain knows.
    *_, paid = verify(audit.cli.file.read_bytes().splitlines()).paid
    back = replace(paid, reversed=True, reversed_at="9999-01-01T00:00:00Z")
    assert [one.verdict for one in (await audit.check([back])).receipts] == ["not_shown"]
    ours = audit.land()
    audit.later(60)
    status, both = await audit.proof()
    assert (status, both[1]["verdict"], both[1]["found"]) == (1, "other_transaction", ours)


async def test_a_reversal_of_what_did_land_is_exposed(audit: Audit) -> None:
    payment = await audit.sell()
    await audit.reverse(payment)
    assert await audit.verdict() == (1, "not_shown")  # the chain is not that far yet
    audit.later(60)
    assert await audit.verdict() == (0, "reversed")
    transaction = audit.land()  # too late for an honest reversal: it was none
    audit.later(60)
    status, (one,) = await audit.proof()
    assert (status, one["verdict"], one["found"]) == (1, "landed_though_reversed", transaction)
    assert one["good"] is False


async def test_a_reversal_of_what_failed_on_the_chain(audit: Audit) -> None:
    """By a transaction that is found, or that the reversal names; neither moved any money."""
    wallet, seller = audit.home.wallet, audit.net.seller.pubkey()
    first = await audit.sell(path="1")
    await audit.sell(path="2")
    left = audit.chain.balance(wallet.pubkey(), USDC_DEVNET)
    audit.chain.transfer(wallet, seller, USDC_DEVNET, left)  # now neither can be paid
    failed = [audit.land(0), audit.land(1)]
    await audit.export()
    one, two = verify(audit.cli.file.read_bytes().splitlines()).paid
    early = replace(one, transaction=failed[0], reversed=True, reversed_at="2026-01-01T00:00:00Z")
    checked = await audit.check([early, replace(two, transaction=failed[1])])
    # On a fork it may land yet.
    assert [each.verdict for each in checked.receipts] == ["not_shown", "failed"]
    audit.later(60)
    status, both = await audit.proof()
    assert (status, [each["verdict"] for each in both]) == (1, ["failed", "failed"])
    await audit.reverse(first)
    assert await audit.outcome() == "reversed"
    status, both = await audit.proof()
    assert (status, [each["verdict"] for each in both]) == (0, ["reversed", "reversed"])
    assert [each["transaction"] for each in both] == [None, failed[1]]
    assert [each["found"] for each in both] == [failed[0], None]


async def test_another_amount_or_receiver_than_the_receipt_says(audit: Audit) -> None:
    payment = await audit.sell()
    audit.land()
    audit.later(60)
    await audit.export()
    (paid,) = verify(audit.cli.file.read_bytes().splitlines()).paid
    assert (str(paid.receipt_id), paid.transaction) == (payment, None)
    others: list[tuple[str, dict[str, Any]]] = [
        ("found", {}),
        ("found", {"source_account": None}),
        ("other_amount", {"amount_atomic": str(PRICE + 1)}),
        ("other_amount", {"pay_to": str(Keypair().pubkey())}),
        ("other_amount", {"pay_to": "nobody"}),
        ("not_shown", {"payer": None}),
        ("not_shown", {"payer": str(Keypair().pubkey())}),  # and not the account's
        ("not_shown", {"client_signature": None}),
        ("not_shown", {"client_signature": "5" * 88}),
        ("not_shown", {"recorded_at": "yesterday"}),
        ("not_shown", {"recorded_at": "2026-11-22T00:00:00"}),
        ("not_shown", {"recorded_at": "9999-12-31T23:59:59Z", "client_signature": "5" * 88}),
        ("other_network", {"network": "solana:other"}),
        ("receipt_elsewhere", {"kind": "correction"}),
    ]
    checked = await audit.check(
        [replace(paid, content={**paid.content, **other}) for _, other in others]
    )
    audit.later(2 * DAY)
    never = {**paid.content, "client_signature": "5" * 88}
    late = await audit.check(
        [replace(paid, content=never), replace(paid, content={**never, "source": "chain"})]
    )
    assert [one.verdict for one in checked.receipts] == [verdict for verdict, _ in others]
    assert len(checked.searches) == 1
    # What the reconciler has booked may have landed long before it did.
    assert [one.verdict for one in late.receipts] == ["not_found", "not_shown"]


async def test_what_was_learnt_of_a_receipt_before_the_file(audit: Audit) -> None:
    payment = await audit.sell(path="1")
    row = await audit.home.row("SELECT max(recorded_at) AS at FROM receipt_links")
    await audit.reverse(payment)
    audit.later(60)
    behind = row["at"] + timedelta(microseconds=1)
    await audit.export("--since", behind.isoformat().replace("+00:00", "Z"))
    _, *lines = audit.cli.file.read_text().splitlines()
    status, said = await audit.cli.chain(audit.net.rpc_url)
    assert [json.loads(line)["kind"] for line in lines] == ["reversal"]
    assert (status, [one["verdict"] for one in said["chain"]]) == (1, ["receipt_elsewhere"])


async def test_the_rpc_of_another_network(audit: Audit) -> None:
    await audit.sell()
    await audit.export()
    audit.chain.genesis = "5eykt4UsFv8P8NJdTREpY1vzqKqZKvdpKuc147dw2N9d"  # mainnet's
    status, said = await audit.cli.chain(audit.net.rpc_url)
    assert (status, [one["verdict"] for one in said["chain"]]) == (1, ["other_network"])
