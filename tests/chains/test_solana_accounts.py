"""Balances and receivers: known ones cost nothing, bad news does not last."""

import asyncio

import pytest
from solders.keypair import Keypair
from solders.pubkey import Pubkey

from proxy.chains import Unpayable
from proxy.chains.solana.accounts import TokenAccounts
from proxy.chains.solana.message import transfer_of
from proxy.chains.solana.rpc import Account

PAYER = Keypair.from_seed(b"\1" * 32).pubkey()
PAY_TO = Keypair.from_seed(b"\3" * 32).pubkey()
OTHER = Pubkey(b"\4" * 32)


class Source:
    """Token accounts under the test's control, and a clock likewise."""

    def __init__(self):
        self.now = 1000.0
        self.calls = []
        self.down = False
        self.accounts = {}
        self.gate = None

    def put(self, address, mint, authority, amount, program, state=1, size=165):
        data = bytes(mint) + bytes(authority) + amount.to_bytes(8, "little")
        data += bytes(36) + bytes([state]) + bytes(56)
        self.accounts[address] = Account(program, data[:size])

    async def fetch(self, keys):
        self.calls.append(keys)
        answer = [self.accounts.get(key) for key in keys]
        if self.gate is not None:
            await self.gate.wait()
        await asyncio.sleep(0)
        if self.down:
            raise Unpayable("rpc_unavailable", "the Solana RPC at x failed: it is down", 2)
        return answer


@pytest.fixture
def source():
    return Source()


@pytest.fixture
def world(source, make_offer):
    """(accounts, take, transfer): a funded wallet and an existing receiver."""
    offer = make_offer(amount=400_000)
    transfer = transfer_of(offer, PAYER)
    source.put(transfer.source, transfer.mint, PAYER, 1_000_000, transfer.token_program)
    source.put(transfer.destination, transfer.mint, PAY_TO, 0, transfer.token_program)
    accounts = TokenAccounts(source.fetch, clock=lambda: source.now)
    return accounts, lambda: accounts.take(transfer, offer.asset), transfer


async def refused(take):
    with pytest.raises(Unpayable) as refusal:
        await take()
    return refusal.value.code, refusal.value.detail


async def test_one_question_and_then_none(source, world):
    _, take, transfer = world
    await take()
    await take()
    assert source.calls == [[transfer.source, transfer.destination]]


async def test_what_was_taken_is_gone_until_the_chain_says_otherwise(source, world):
    _, take, _ = world
    await take()
    await take()
    code, detail = await refused(take)
    assert code == "insufficient_funds"
    assert detail == "the wallet holds 0.2 USDC, the payment needs 0.4 USDC"
    assert len(source.calls) == 1
    source.now += 2.1
    await take()
    assert len(source.calls) == 2, "bad news is two seconds old at most"


async def test_concurrent_takes_cannot_overdraw(source, world):
    _, take, _ = world
    results = await asyncio.gather(*(take() for _ in range(5)), return_exceptions=True)
    assert [result is None for result in results].count(True) == 2
    assert len(source.calls) == 1


async def test_give_back(world):
    accounts, take, transfer = world
    await take()
    await take()
    accounts.give_back(transfer.source, 400_000)
    accounts.give_back(transfer.source, 5)
    await take()
    assert (await refused(take))[0] == "insufficient_funds"


async def test_refreshed_behind_the_payment(source, world):
    _, take, transfer = world
    await take()
    source.now += 11
    source.put(transfer.source, transfer.mint, PAYER, 450_000, transfer.token_program)
    await take()
    assert len(source.calls) == 1, "the payment itself did not wait"
    await asyncio.sleep(0.01)
    assert len(source.calls) == 2
    assert (await refused(take))[0] == "insufficient_funds", "taken while the question was out"


async def test_what_is_taken_while_a_question_is_out_stays_taken(source, world):
    _, take, _ = world
    await take()
    source.now += 11
    source.gate = asyncio.Event()
    await take()  # launches the question
    await asyncio.sleep(0.01)
    source.now += 1
    source.gate.set()
    await asyncio.sleep(0.01)
    await take()  # the first payment is in the new balance, the second is not
    assert (await refused(take))[0] == "insufficient_funds"


async def test_answers_out_of_order_do_not_bring_old_balances_back(source, world, make_offer):
    accounts, take, transfer = world
    other = make_offer(amount=1, pay_to=str(OTHER))
    other_transfer = transfer_of(other, PAYER)
    source.put(other_transfer.destination, transfer.mint, OTHER, 0, transfer.token_program)
    source.gate = asyncio.Event()
    early = asyncio.create_task(accounts.take(other_transfer, other.asset))
    await asyncio.sleep(0.01)

    gate, source.gate = source.gate, None
    source.now += 1
    source.put(transfer.source, transfer.mint, PAYER, 500_000, transfer.token_program)
    await take()
    gate.set()  # the early question is answered now, with the balance of then
    await early
    _, detail = await refused(take)
    assert detail.startswith("the wallet holds 0.099999 USDC")


async def test_an_outage_is_bridged_for_known_receivers_only(source, world, make_offer):
    accounts, take, _ = world
    await take()
    source.down = True
    source.now += 60
    await take()
    await asyncio.sleep(0.01)
    asked = len(source.calls)
    with pytest.raises(Unpayable):
        await take()
    assert len(source.calls) > asked, "not enough left: the RPC must say so itself"
    stranger = make_offer(amount=1, pay_to=str(OTHER))
    code, _ = await refused(lambda: accounts.take(transfer_of(stranger, PAYER), stranger.asset))
    assert code == "rpc_unavailable"


async def test_old_knowledge_ends(source, world):
    _, take, _ = world
    await take()
    source.down = True
    source.now += 601
    assert (await refused(take))[0] == "rpc_unavailable"


async def test_a_receiver_without_account_is_asked_for_again_soon(source, world):
    _, take, transfer = world
    account = source.accounts.pop(transfer.destination)
    code, detail = await refused(take)
    assert (code, detail) == (
        "no_destination_account",
        "the receiver's USDC account does not exist",
    )
    await refused(take)
    assert len(source.calls) == 1
    source.accounts[transfer.destination] = account
    source.now += 2.1
    await take()


@pytest.mark.parametrize("whose", ["source", "destination"])
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (None, "does not exist"),
        ({"program": OTHER}, "belongs to another program"),
        ({"size": 82}, "belongs to another program"),
        ({"mint": OTHER}, "holds another asset"),
        ({"authority": OTHER}, "is controlled by someone else"),
        ({"state": 2}, "is frozen"),
        ({"state": 0}, "is not initialised"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_useless_accounts(whose, changes, words, source, world):
    _, take, transfer = world
    address = getattr(transfer, whose)
    if changes is None:
        del source.accounts[address]
    else:
        good = {
            "mint": transfer.mint,
            "authority": PAYER if whose == "source" else PAY_TO,
            "amount": 10**9,
            "program": transfer.token_program,
        }
        source.put(address, **{**good, **changes})
    code, detail = await refused(take)
    assert code == ("insufficient_funds" if whose == "source" else "no_destination_account")
    assert detail.endswith(words)
