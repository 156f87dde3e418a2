"""Blockhashes at hand: fetched ahead, forgotten when old, fresh on demand."""

import asyncio

import pytest

from proxy.chains import Unpayable
from proxy.chains.solana.blockhash import Blockhashes
from proxy.chains.solana.rpc import Blockhash


class Source:
    """A chain under the test's control, and a clock likewise."""

    def __init__(self):
        self.now = 1000.0
        self.height = 100
        self.calls = 0
        self.down = False
        self.hash_of = lambda height: f"hash-{height}"

    async def fetch(self):
        self.calls += 1
        await asyncio.sleep(0)
        if self.down:
            raise Unpayable("rpc_unavailable", "the Solana RPC at x failed: it is down", 2)
        return Blockhash(self.hash_of(self.height), self.height + 150, self.height + 7)

    def make(self, **options):
        return Blockhashes(self.fetch, clock=lambda: self.now, **options)


@pytest.fixture
def source():
    return Source()


async def test_one_fetch_serves_many_for_twenty_seconds(source):
    hashes = source.make()
    first = await asyncio.gather(*(hashes.current() for _ in range(50)))
    assert {each.hash for each in first} == {"hash-100"}
    assert source.calls == 1
    source.now += 19.9
    assert await hashes.current() == Blockhash("hash-100", 250, 107)
    assert source.calls == 1


async def test_a_stale_one_is_replaced_before_it_is_used(source):
    hashes = source.make()
    await hashes.current()
    source.now += 20
    source.height = 150
    assert (await hashes.current()).hash == "hash-150"


async def test_stale_and_rpc_down_is_unpayable_and_recovers(source):
    hashes = source.make()
    await hashes.current()
    source.down = True
    source.now += 19
    assert (await hashes.current()).hash == "hash-100", "still young: no RPC needed"
    source.now += 1
    for _ in range(5):
        with pytest.raises(Unpayable) as refusal:
            await hashes.current()
        assert (refusal.value.code, refusal.value.retry_after) == ("rpc_unavailable", 2)
    assert source.calls == 2, "a dead RPC is asked once a second, not once a payment"
    source.now += 1
    source.down = False
    assert (await hashes.current()).hash == "hash-100"


async def test_polling_keeps_ahead_and_rests_when_idle(source):
    hashes = source.make(every=0.01)
    await hashes.start()
    await asyncio.sleep(0.1)
    assert source.calls >= 3
    source.now += 301
    await asyncio.sleep(0.05)
    resting = source.calls
    await asyncio.sleep(0.1)
    assert source.calls == resting, "nobody has paid for five minutes"
    source.now += 301  # what was under way when it began to rest has come in after that
    source.height = 900
    assert (await hashes.current()).hash == "hash-900", "fetched on demand"
    await asyncio.sleep(0.05)
    assert source.calls > resting + 1, "and polled again"
    await hashes.close()
    stopped = source.calls
    await asyncio.sleep(0.05)
    assert source.calls == stopped


async def test_polling_survives_an_outage(source):
    source.down = True
    hashes = source.make(every=0.01)
    await hashes.start()
    await asyncio.sleep(0.03)
    source.down = False
    await asyncio.sleep(0.05)
    calls = source.calls
    assert (await hashes.current()).hash == "hash-100"
    assert source.calls - calls <= 1
    await hashes.close()


async def test_only_our_own_recent_hashes_are_known(source):
    hashes = source.make()
    await hashes.current()
    assert hashes.known("hash-100") == Blockhash("hash-100", 250, 107)
    assert hashes.known("hash-99") is None
    assert hashes.known(None) is None
    source.now += 20
    assert hashes.known("hash-100") is None


async def test_newer_than_waits_for_the_next_one(source):
    hashes = source.make()
    assert (await hashes.newer_than("hash-1")).hash == "hash-100", "unknown: any other will do"
    waiting = asyncio.create_task(hashes.newer_than("hash-100"))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    source.height = 101
    assert (await asyncio.wait_for(waiting, 1)).hash == "hash-101"


async def test_newer_than_does_not_go_back(source):
    hashes = source.make()
    await hashes.newer_than("hash-1")
    source.height = 99
    waiting = asyncio.create_task(hashes.newer_than("hash-100"))
    await asyncio.sleep(0.05)
    assert not waiting.done(), "a lagging node's answer came before, not after"
    source.height = 103
    assert (await asyncio.wait_for(waiting, 1)).hash == "hash-103"


async def test_newer_than_gives_up(source):
    hashes = source.make(patience=0.0)
    await hashes.current()
    with pytest.raises(Unpayable) as refusal:
        await hashes.newer_than("hash-100")
    assert (refusal.value.code, refusal.value.retry_after) == ("rpc_unavailable", 1)


async def test_a_waiter_who_leaves_does_not_disturb_the_others(source):
    hashes = source.make()
    impatient = asyncio.create_task(hashes.current())
    patient = asyncio.create_task(hashes.current())
    await asyncio.sleep(0)
    impatient.cancel()
    assert (await patient).hash == "hash-100"
    assert source.calls == 1
