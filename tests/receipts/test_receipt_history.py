"""The history of a token account, searched by signature: what it shows, and what it cannot show.

On real token programs; blocks, and what the chain's clock says, are the test's.
"""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from solders.keypair import Keypair
from solders.pubkey import Pubkey
from solders.transaction import VersionedTransaction

from proxy.chains.solana.node import Node
from proxy.localnet import USDC_DEVNET, Localnet
from proxy.localnet.faults import Fault
from proxy.localnet.params import METHOD_NOT_FOUND, RpcError
from proxy.localnet.tokens import MINTS, ata
from proxy.receipts.history import MARGIN, Search, Wanted, search
from proxy.receipts.patience import TRIES, PatientRpc
from tests.receipts.conftest import DAY, Clock

HOUR = 3600


@dataclass
class Wallet:
    """One whose history explains what it holds from its first transaction on. Times are in seconds
    from the test's own moment."""

    net: Localnet
    clock: Clock
    node: Node
    now: int
    owner: Keypair = field(default_factory=Keypair)
    bank: Keypair = field(default_factory=Keypair)
    told: list[str] = field(default_factory=list)

    @property
    def account(self) -> Pubkey:
        return ata(self.owner.pubkey(), USDC_DEVNET, MINTS[USDC_DEVNET])

    def at(self, seconds: int, blocks: int = 40) -> None:
        """Goes on to that time; what was before is final then."""
        self.clock.shift += self.now + seconds - self.clock.time()
        self.net.chain.advance(blocks)

    def gets(self, amount: int) -> None:
        self.net.chain.transfer(self.bank, self.owner.pubkey(), USDC_DEVNET, amount)

    def pays(self, amount: int) -> str:
        """Our signature: the second one of its transaction."""
        chain, to = self.net.chain, self.net.seller.pubkey()
        return signed(chain.history.get(chain.transfer(self.owner, to, USDC_DEVNET, amount)))

    async def look(self, *signatures: str, recorded: int = 0, closed: int | None = None) -> Search:
        end = recorded + MARGIN if closed is None else closed
        wanted = [Wanted(each, self.now + recorded, self.now + end) for each in signatures]
        return await search(self.node, str(self.account), wanted, self.told.append)

    async def why(self, **times: int) -> str:
        """What an absence lacks to be shown."""
        found = await self.look(NEVER, **times)
        assert (found.found, found.absent) == ({}, set())
        return found.open[NEVER]


NEVER = "5" * 88


def signed(record: Any) -> str:
    tx: VersionedTransaction = record.transaction
    return str(tx.signatures[1])


@pytest.fixture
async def wallet(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Wallet]:
    """It was given 1000 three days ago; then everything stood still for a day."""
    monkeypatch.setattr("proxy.receipts.patience.PAUSE", 0.01)
    async with Localnet(slot_seconds=None) as net:
        rpc = PatientRpc(net.rpc_url)
        wallet = Wallet(net, clock, Node(rpc), int(clock.time()))
        net.fund(wallet.bank.pubkey(), usdc=10**9)
        net.chain.fund(wallet.owner.pubkey(), USDC_DEVNET, 0)
        wallet.at(-3 * DAY)
        wallet.gets(1000)
        wallet.at(-2 * DAY)
        yield wallet
        await rpc.close()


async def test_found_by_our_signature_and_by_nothing_else(wallet: Wallet) -> None:
    wallet.at(0)
    ours, other = wallet.pays(10), wallet.pays(20)
    wallet.at(2 * DAY)
    found = await wallet.look(ours, NEVER)
    record = wallet.net.chain.history.newest_first(wallet.account)
    transactions = {signed(each): str(each.signature) for each in record if each.height > 1100}
    assert found.found == {ours: transactions[ours]}
    assert (found.absent, found.open) == ({NEVER}, {})
    assert set(transactions) == {ours, other}
    assert found.words.endswith("UTC") and str(wallet.account) in found.words


async def test_an_absence_is_shown_by_what_was_before_and_after(wallet: Wallet) -> None:
    """Only what is around it is read, and what was listed goes back to before it and no further."""
    for day in (-1, 0, 1, 2, 3):
        wallet.at(day * DAY + 12 * HOUR)
        wallet.pays(10)
    wallet.at(5 * DAY)
    found = await wallet.look(NEVER, recorded=DAY)
    assert (found.absent, found.to_the_first) == ({NEVER}, False)
    assert (found.listed, found.read) == (6, 3)  # from 12 h to 60 h; one more tells what was before
    early = await wallet.look(NEVER, recorded=-4 * DAY)
    assert (early.absent, early.to_the_first) == ({NEVER}, True)


async def test_two_that_are_far_from_each_other_are_one_list(wallet: Wallet) -> None:
    wallet.at(0)
    first = wallet.pays(1)
    for day in range(3, 8):
        wallet.at(day * DAY)
        wallet.pays(2)
    wallet.at(12 * DAY)
    last = wallet.pays(3)
    wallet.at(13 * DAY)
    wallet.net.node.calls.clear()
    times = [(first, 0), (NEVER, 0), (last, 12 * DAY)]
    wanted = [Wanted(each, wallet.now + at, wallet.now + at + MARGIN) for each, at in times]
    found = await search(wallet.node, str(wallet.account), wanted, wallet.told.append)
    assert (set(found.found), found.absent) == ({first, last}, {NEVER})
    assert wallet.net.node.calls["getSignaturesForAddress"] == 1
    assert found.read == 3  # its own, the one that comes after, and the last


async def test_pages(wallet: Wallet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.chains.solana.node.PAGE", 2)
    monkeypatch.setattr("proxy.receipts.history._BATCH", 3)
    wallet.at(0)
    paid = [wallet.pays(amount) for amount in range(1, 8)]
    wallet.at(2 * DAY)
    found = await wallet.look(*paid[:2], NEVER)
    assert (set(found.found), found.absent) == (set(paid[:2]), {NEVER})
    assert wallet.told[-1].endswith("7 of 7 transactions read")
    monkeypatch.setattr("proxy.chains.solana.scan.MOST_PAGES", 2)
    assert "too long to be read to its end" in await wallet.why()


async def test_the_nearest_is_read_first(wallet: Wallet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.receipts.history._BATCH", 1)
    paid = []
    for hours in range(5):
        wallet.at(hours * HOUR)
        paid.append(wallet.pays(hours + 1))
    wallet.at(2 * DAY)
    found = await wallet.look(paid[2], recorded=2 * HOUR + 60)
    assert (set(found.found), found.read) == ({paid[2]}, 1)


async def test_what_may_still_come(wallet: Wallet) -> None:
    wallet.at(0)
    ours = wallet.pays(10)
    assert "may still come" in (await wallet.look(ours)).open[ours]  # not final
    wallet.at(HOUR)
    assert "may still come" in await wallet.why()
    assert "may still come" in await wallet.why(closed=2 * HOUR)
    assert (await wallet.look(NEVER, closed=HOUR - 60)).absent == {NEVER}
    assert (await wallet.look(ours)).found
    wallet.net.node.faults.lies["getBlockTime"] = lambda _: None
    assert "an unknown time" in await wallet.why(closed=HOUR - 60)


async def test_a_history_that_was_cut_off(wallet: Wallet) -> None:
    """What the account held at first came from transactions that are not there any more."""
    lies = wallet.net.node.faults.lies
    wallet.at(0)
    ours = wallet.pays(1000)  # nothing is left: what is lost would not be missed in the balance
    wallet.at(3 * DAY)
    wallet.gets(50)
    wallet.at(6 * DAY)
    assert (await wallet.look(ours)).found
    first = wallet.net.chain.blocks.slot(wallet.net.chain.blocks.height - 45)  # three days old
    lies["getSignaturesForAddress"] = lambda lines: [one for one in lines if one["slot"] >= first]
    lies["getFirstAvailableBlock"] = lambda _: first
    for recorded in (0, -DAY, 4 * DAY):
        assert "does not say that its history goes back so far" in await wallet.why(
            recorded=recorded
        )
    # With the one transaction that it has, it can tell what came after it.
    assert (await wallet.look(NEVER, recorded=4 * DAY + HOUR)).absent
    wallet.net.node.faults.clear()
    refusal = RpcError(METHOD_NOT_FOUND, "Method not found")
    wallet.net.node.faults.add(Fault("getFirstAvailableBlock", error=refusal))
    assert "goes back so far" in await wallet.why(recorded=-3 * DAY)


async def test_no_history_at_all(wallet: Wallet) -> None:
    """Everything pruned, and nothing left in the account: that shows nothing."""
    wallet.at(0)
    ours = wallet.pays(1000)
    wallet.at(2 * DAY)
    lies = wallet.net.node.faults.lies
    lies["getSignaturesForAddress"] = lambda _: []
    assert "something is left out" in await wallet.why()  # what made the account, at least
    lies["getFirstAvailableBlock"] = lambda _: 999_999
    found = await wallet.look(ours)
    assert "goes back so far" in found.open[ours]
    assert "has no transactions, as this RPC tells it" in found.words
    wallet.net.node.faults.clear()
    wallet.owner = Keypair()  # of one that was never there, there is nothing to be left out
    assert (await wallet.look(NEVER)).absent


async def test_a_hole_in_the_index(wallet: Wallet) -> None:
    wallet.at(0)
    ours = wallet.pays(10)
    wallet.at(HOUR)
    wallet.pays(20)
    wallet.at(2 * DAY)
    wallet.pays(30)
    wallet.at(3 * DAY)
    (record,) = [
        each for each in wallet.net.chain.history.newest_first(wallet.account)
        if signed(each) == ours
    ]  # fmt: skip
    wallet.net.chain.unindexed.add(record.signature)
    found = await wallet.look(ours)
    assert "something is left out" in found.open[ours]
    wallet.net.chain.unindexed.clear()
    wallet.net.node.faults.lies["getSignaturesForAddress"] = lambda lines: lines[::-1]
    assert "out of order" in await wallet.why()


async def test_what_is_listed_and_cannot_be_read(wallet: Wallet) -> None:
    wallet.at(0)
    wallet.pays(10)
    wallet.at(2 * DAY)
    wallet.net.node.faults.lies["getTransaction"] = lambda _: None
    assert await wallet.why() == "1 transactions of that time could not be read"
    wallet.at(3 * DAY)
    wallet.pays(20)
    wallet.at(5 * DAY)
    assert "could not be read" in await wallet.why(recorded=4 * DAY + HOUR)


@pytest.mark.parametrize(
    "method",
    ["getEpochInfo", "getTokenAccountBalance", "getSignaturesForAddress", "getTransaction"],
)
async def test_an_rpc_that_counts_calls(wallet: Wallet, method: str) -> None:
    wallet.at(0)
    ours = wallet.pays(10)
    wallet.at(2 * DAY)
    faults = wallet.net.node.faults
    faults.add(Fault(method, status=429, times=TRIES - 1))
    assert (await wallet.look(ours)).found  # asked again
    faults.add(Fault(method, status=429))
    wallet.net.node.calls.clear()
    found = await wallet.look(ours)
    assert (found.found, found.absent) == ({}, set())
    assert "429" in found.open[ours] or "could not be read" in found.open[ours]
    assert wallet.net.node.calls[method] == TRIES
    faults.clear()
    assert (await wallet.look(ours)).found


async def test_once_an_rpc_is_gone_nobody_waits_for_it_each_time(wallet: Wallet) -> None:
    faults, rpc = wallet.net.node.faults, wallet.node.rpc
    faults.add(Fault("getSlot", status=503))
    for calls in (TRIES, TRIES + 1):
        with pytest.raises(Exception, match="503"):
            await rpc.call("getSlot")
        assert wallet.net.node.calls["getSlot"] == calls
    faults.clear()
    await rpc.call("getSlot")
    faults.add(Fault("getSlot", status=503, times=2))
    assert await rpc.call("getSlot")
    with pytest.raises(Exception, match="code -32601"):
        await rpc.call("noSuchMethod")
    await asyncio.wait_for(rpc.call("getSlot"), 10)
