"""What the ledger asks of a payment beside its limits, through the listening socket: receivers,
prices, losses, approvals. Each rule is switched off once, and then does not refuse."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from solders.keypair import Keypair

from policies import Policy, Rules
from proxy import consent
from proxy.ledger import agents, approvals, pins, policies
from proxy.ledger.approvals import Approval
from proxy.localnet import Localnet
from proxy.wire.routes import origin_of
from tests.e2e.house import LOOPBACK, Answer, House, until
from tests.e2e.seller import Seen, Seller, challenge, offer, settled
from tests.e2e.test_idempotency import another

PATIENCE = 30.0


@dataclass
class Stall:
    """A seller whose price, receiver and delivery the test changes."""

    home: House
    net: Localnet
    seller: Seller
    pay_to: str
    price: int = 1_000
    status: int = 200

    def answer(self, seen: Seen) -> bytes:
        if seen.payment is None:
            return challenge(offer(self.pay_to, str(self.net.fee_payer.pubkey()), self.price))
        return settled(status=self.status)

    @property
    def origin(self) -> str:
        return origin_of(self.seller.url).key

    async def ask(self, path: str = "/quote", **options: Any) -> Answer:
        return await self.home.ask(self.seller.url + path, **options)

    async def buy(self, path: str = "/quote", **options: Any) -> None:
        answer = await self.ask(path, **options)
        assert answer.status == 200, answer.body

    async def refused(self, code: str, path: str = "/quote", **options: Any) -> Any:
        """The problem that the program is told of; nothing left for it."""
        sent = len(self.seller.payments)
        answer = await self.ask(path, **options)
        assert (answer.status, answer.json["code"]) == (403, code), answer.body
        assert len(self.seller.payments) == sent
        return answer.json

    async def say(
        self, agent: str | None = None, provider: str | None = None, **rules: Any
    ) -> None:
        """One layer says this, and nothing else. Returns when the proxy has heard of it."""
        if agent is not None and provider is None:
            rules["allowed_targets"] = list(LOOPBACK)
        applied = await policies.set_rules(
            self.home.operator, agent, provider, Rules.from_json(rules), by="ann"
        )
        directory = self.home.service.directory
        agent_ = directory.by_token(self.home.token)
        assert agent_ is not None
        await until(lambda: directory.policy(agent_).version >= applied.version, PATIENCE)

    async def pending(self) -> Approval:
        """The one that waits, as soon as it does."""
        async with asyncio.timeout(PATIENCE):
            while not (found := await approvals.list_(self.home.operator, states=["pending"])):
                await asyncio.sleep(0.02)
        (one,) = found
        return one


@pytest.fixture
async def stall(home: House, net: Localnet, seller: Seller) -> AsyncIterator[Stall]:
    stall = Stall(home, net, seller, str(net.seller.pubkey()))
    seller.answer = stall.answer
    yield stall


def another_receiver(net: Localnet) -> str:
    """Somebody else, with a token account."""
    wallet = Keypair()
    net.fund(wallet.pubkey(), usdc=1)
    return str(wallet.pubkey())


async def test_a_changed_receiver_is_refused_until_it_is_accepted(
    stall: Stall, net: Localnet
) -> None:
    await stall.say(pay_to_pinning="first_use")
    await stall.buy()
    first, stall.pay_to = stall.pay_to, another_receiver(net)
    for _ in range(2):
        told = await stall.refused("pay_to_changed")
        assert (told["pay_to"], told["pinned"]) == (stall.pay_to, [first])
        assert told["provider"] == stall.origin
    alarms = await stall.home.rows(
        "SELECT 1 FROM audit_events WHERE details ->> 'code' = 'pay_to_changed'"
    )
    assert len(alarms) == 1
    assert await stall.home.counters() == (1_000, 0)

    await stall.say(pay_to_pinning="off")
    await stall.buy()
    await stall.say(pay_to_pinning="first_use")
    await stall.refused("pay_to_changed")
    (waits,) = await pins.list_(stall.home.operator, waiting=True)
    assert (waits.provider, waits.pay_to, waits.agent) == (stall.origin, stall.pay_to, "shopper")
    assert await pins.accept(stall.home.operator, stall.origin, stall.pay_to, by="ann")
    await stall.buy()


async def test_of_two_first_uses_one_is_pinned(stall: Stall, net: Localnet) -> None:
    await stall.say(pay_to_pinning="first_use")
    other = another_receiver(net)
    paths = [f"/{n}" for n in range(8)]
    one = stall.pay_to

    def answer(seen: Seen) -> bytes:
        stall.pay_to = other if int(seen.line.split()[1][1:]) % 2 else one
        return stall.answer(seen)

    stall.seller.answer = answer
    answers = await asyncio.gather(*(stall.ask(path) for path in paths))
    by_receiver = {frozenset(answers[n].status for n in range(start, 8, 2)) for start in (0, 1)}
    assert by_receiver == {frozenset({200}), frozenset({403})}
    paid = {row["pay_to"] for row in await stall.home.rows("SELECT pay_to FROM payments")}
    assert len(paid) == 1


async def test_a_price_that_jumps_is_refused_with_the_most_that_may_be_paid(stall: Stall) -> None:
    await stall.say(max_price_ratio_last="1.5", max_price_ratio_median="2")
    await stall.buy("/quote?of=a")
    stall.price = 1_501
    told = await stall.refused("price_drift", "/quote?of=b")
    assert {name: told[name] for name in told if "_usd" in name or "ratio" in name} == {
        "asked_usd": "0.001501", "limit_usd": "0.0015",
    }  # fmt: skip
    await stall.buy("/other")  # of another endpoint nothing is known
    await stall.refused("price_drift")
    await stall.say()
    await stall.buy()
    await stall.say(max_price_ratio_last="1.5")
    stall.price = 2_251
    await stall.buy()  # the last price has moved with it: 1501 * 1.5 = 2251.5


async def test_what_was_paid_for_nothing_is_bounded(stall: Stall) -> None:
    await stall.say(provider="127.0.0.1", loss_cap="0.0025")
    stall.status = 500
    for path in ("/1", "/2"):
        assert (await stall.ask(path)).status == 500  # paid, and nothing had for it
    async with asyncio.timeout(PATIENCE):
        while len(await stall.home.rows("SELECT 1 FROM losses")) < 2:
            await asyncio.sleep(0.02)
    told = await stall.refused("over_loss_cap", "/3")
    assert ("lost_usd" in told, told["limit_usd"]) == (False, "0.0025")  # others' losses count
    assert told["possible_again"].endswith("T00:00:00Z")
    stall.price, stall.status = 500, 200
    await stall.buy("/4")  # it fits
    stall.price = 1_000
    await stall.refused("over_loss_cap", "/5")
    await stall.say(provider="127.0.0.1")
    await stall.buy("/6")
    await stall.say(agent=stall.home.agent, loss_cap="0.002999")
    told = await stall.refused("over_loss_cap", "/7")
    assert (told["lost_usd"], told["limit_usd"]) == ("0.002", "0.002999")
    await stall.say(agent=stall.home.agent, loss_cap="0.003")
    await stall.buy("/8")


async def test_what_is_delivered_is_no_loss(stall: Stall) -> None:
    await stall.say(loss_cap="0.001")
    for n in range(3):
        await stall.buy(f"/{n}")
    assert await stall.home.rows("SELECT 1 FROM losses") == []


async def test_above_a_threshold_an_operator_says_yes(stall: Stall) -> None:
    operator = stall.home.operator
    await stall.say(approval_above="0.000999")
    told = await stall.refused("approval_required", data=b"body", method="POST")
    assert told["state"] == "pending"
    assert told["approve"] == f"autopay approval approve {told['approval']}"
    again = await stall.refused("approval_required", data=b"body", method="POST")
    assert again["approval"] == told["approval"]
    assert await stall.home.counters() == (0, 0)
    assert await stall.home.rows("SELECT 1 FROM payments") == []

    await approvals.approve(operator, UUID(told["approval"]), by="ann")
    same = {"data": b"body", "method": "POST"}
    for path, options in (
        ("/quote", {"method": "POST", "data": b"other"}),
        ("/quote?x=1", same),
        ("/other", same),
        ("/quote", {"method": "PUT", "data": b"body"}),
    ):
        other = await stall.refused("approval_required", path, **options)
        assert other["approval"] != told["approval"]
    stall.price = 1_001
    assert (await stall.refused("approval_required", **same))["approval"] != told["approval"]
    stall.price = 999  # below the threshold: nobody is asked
    await stall.buy(**same)
    stall.price = 1_000
    await stall.buy(**same)
    assert (await stall.refused("approval_required", **same))["approval"] != told["approval"]
    (used,) = await approvals.list_(operator, states=["used"])
    assert str(used.id) == told["approval"]
    await stall.say()
    await stall.buy(**same)


async def test_another_receiver_is_not_approved(stall: Stall, net: Localnet) -> None:
    await stall.say(approval_above="0")
    await stall.refused("approval_required")
    approval = await stall.pending()
    await approvals.approve(stall.home.operator, approval.id, by="ann")
    first, stall.pay_to = stall.pay_to, another_receiver(net)
    assert (await stall.refused("approval_required"))["approval"] != str(approval.id)
    stall.pay_to = first
    await stall.buy()


async def test_a_no_and_an_end_are_told(stall: Stall) -> None:
    operator = stall.home.operator
    await stall.say(approval_above="0")
    await stall.refused("approval_required")
    approval = await stall.pending()
    await approvals.reject(operator, approval.id, by="ann")
    told = await stall.refused("approval_required")
    assert (told["state"], told["approval"]) == ("rejected", str(approval.id))
    await approvals.approve(operator, approval.id, by="ann", good_for=timedelta(seconds=1))
    await operator.execute("UPDATE approvals SET expires_at = now() - interval '1 s'")
    told = await stall.refused("approval_required")
    assert (told["state"], told["approval"] == str(approval.id)) == ("pending", False)


async def test_a_program_is_made_to_wait_for_the_yes(stall: Stall) -> None:
    home = stall.home
    await stall.say(approval_above="0", approval_wait_seconds=60)
    asking = asyncio.create_task(stall.ask())
    approval = await stall.pending()
    await until(lambda: len(stall.seller.seen) == 1, PATIENCE)
    assert await home.counters() == (0, 0)  # nothing is held for it
    assert await home.rows("SELECT 1 FROM payments") == []
    assert not asking.done()
    await approvals.approve(home.operator, approval.id, by="ann")
    assert (await asking).status == 200
    assert len(stall.seller.payments) == 1
    row = await home.row("SELECT id FROM payments")
    used = await approvals.find(home.operator, approval.id)
    assert used is not None
    assert (used.state, used.payment_id) == ("used", row["id"])


async def test_a_program_that_waits_is_told_of_the_no(stall: Stall) -> None:
    await stall.say(approval_above="0", approval_wait_seconds=60)
    asking = asyncio.create_task(stall.refused("approval_required"))
    approval = await stall.pending()
    await approvals.reject(stall.home.operator, approval.id, by="ann")
    told = await asking
    assert (told["state"], told["approval"]) == ("rejected", str(approval.id))


async def test_no_agent_takes_all_places_to_wait(
    stall: Stall, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consent, "MOST_OF_AN_AGENT", 2)
    home, operator = stall.home, stall.home.operator
    new = await agents.add(
        operator, home.service.store.vault, "other", Policy("other", allowed_targets=LOOPBACK)
    )
    await until(lambda: home.service.directory.by_token(new.token) is not None, PATIENCE)
    host, port = home.service.proxy_address
    await stall.say(approval_above="0", approval_wait_seconds=600)

    async def waits(asked: int) -> None:
        async with asyncio.timeout(PATIENCE):
            while len(await approvals.list_(operator, states=["pending"])) < asked:
                await asyncio.sleep(0.02)

    waiting = [asyncio.create_task(stall.ask(f"/{n}")) for n in (0, 1)]
    await waits(2)
    async with asyncio.timeout(PATIENCE):
        assert (await stall.refused("approval_required", "/2"))["state"] == "pending"
    proxy = f"http://other:{new.token}@{host}:{port}"
    others = asyncio.create_task(stall.ask("/3", proxy=proxy))
    await waits(4)
    (theirs,) = await approvals.list_(operator, states=["pending"], agent="other")
    assert not any(one.done() for one in (*waiting, others))
    await approvals.approve(operator, theirs.id, by="ann")
    assert (await others).status == 200
    for one in await approvals.list_(operator, states=["pending"]):
        await approvals.reject(operator, one.id, by="ann")
    for task in waiting:
        assert (await task).json["state"] == "rejected"
    asking = asyncio.create_task(stall.refused("approval_required", "/4"))  # places are free again
    approval = await stall.pending()
    await approvals.reject(operator, approval.id, by="ann")
    assert (await asking)["state"] == "rejected"


async def test_all_who_wait_for_one_are_told_by_one_look(stall: Stall) -> None:
    await stall.say(approval_above="0", approval_wait_seconds=600)
    waiting = [asyncio.create_task(stall.refused("approval_required")) for _ in range(5)]
    async with asyncio.timeout(PATIENCE):
        while (approval := await stall.pending()).asks < 5:
            await asyncio.sleep(0.02)
    await until(lambda: len(_lookers()) > 0, PATIENCE)
    assert len(_lookers()) == 1
    await approvals.reject(stall.home.operator, approval.id, by="ann")
    for told in await asyncio.gather(*waiting):
        assert (told["state"], told["approval"]) == ("rejected", str(approval.id))
    assert _lookers() == []


def _lookers() -> list[str]:
    names = [task.get_name() for task in asyncio.all_tasks()]
    return [name for name in names if name.startswith("looks at approval")]


async def test_it_waits_no_longer_than_it_may(stall: Stall) -> None:
    await stall.say(approval_above="0", approval_wait_seconds=1)
    told = await stall.refused("approval_required")
    assert told["state"] == "pending"


@pytest.mark.parametrize("keyed", [False, True])
async def test_ten_at_two_proxies_and_one_pays(stall: Stall, tmp_path: Path, keyed: bool) -> None:
    await stall.say(approval_above="0")
    await stall.refused("approval_required")
    approval = await stall.pending()
    async with another(stall.home, tmp_path) as (_, other):
        await approvals.approve(stall.home.operator, approval.id, by="ann")
        keys = [{"headers": {"Idempotency-Key": f"k{n}"} if keyed else {}} for n in range(10)]
        answers = await asyncio.gather(
            *(stall.ask(proxy=other if n % 2 else stall.home.proxy, **keys[n]) for n in range(10))
        )
    said = Counter(
        answer.status if answer.status == 200 else answer.json["code"] for answer in answers
    )
    assert said[200] == 1, said
    assert set(said) <= {200, "approval_required", "request_in_progress"}
    assert len(stall.seller.payments) == 1
    assert len(await stall.home.rows("SELECT 1 FROM payments WHERE status <> 'FAILED'")) == 1
    assert len(await approvals.list_(stall.home.operator, states=["used"])) == 1
