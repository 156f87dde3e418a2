"""The same thing asked for by many at once: one payment, whatever becomes of the one that pays."""

import asyncio
from collections import Counter
from typing import Any

import pytest

from proxy.gatekeeper import Gatekeeper
from proxy.wire.caching import Arrived
from proxy.wire.delivering import Delivering
from proxy.wire.endpoint import reset
from proxy.wire.gate import PaymentRequired, Purchase, Reply
from tests.cache.stall import FRESH, PRICE, Stall, another, by_hand, paid, state
from tests.e2e.house import Answer, House, until
from tests.e2e.seller import HangUp, reply

MANY = 20
PAYMENTS = "SELECT status FROM payments"


async def ask_all(home: House, url: str, many: int = MANY, **options: Any) -> list[Answer]:
    return list(await asyncio.gather(*(home.ask(url, **options) for _ in range(many))))


def states(answers: list[Answer]) -> Counter[tuple[int, str | None]]:
    return Counter(state(answer) for answer in answers)


async def begun(home: House, url: str, stall: Stall, **options: Any) -> "asyncio.Task[Answer]":
    """One request whose payment has come to the seller, who holds its answer."""
    stall.seller.hold = asyncio.Event()
    sold = stall.sold
    leader = asyncio.create_task(home.ask(url, **options))
    await until(lambda: stall.sold > sold)
    return leader


async def waiting(home: House, url: str, many: int, **options: Any) -> "asyncio.Future[Any]":
    """So many more, of which autopay has heard."""
    cache = home.service.cache
    assert cache is not None
    followers = asyncio.gather(*(home.ask(url, **options) for _ in range(many)))
    await until(lambda: cache.waiting >= many)
    return followers


def let_go(stall: Stall) -> None:
    assert stall.seller.hold is not None
    stall.seller.hold.set()


async def test_a_hundred_at_once_are_one_payment(home: House, stall: Stall) -> None:
    body = bytes(range(256)) * 800
    stall.goods = lambda seen: paid(body=body)
    answers = await ask_all(home, f"{stall.url}/a", 100)
    assert all(answer.body == body for answer in answers)
    assert states(answers) == {(200, "paid"): 1, (200, "cached"): 99}
    assert len({answer.headers["Autopay-Payment"] for answer in answers}) == 1
    assert (stall.sold, len(stall.asked)) == (1, 2)
    assert await home.counters() == (PRICE, 0)
    assert len(await home.rows(PAYMENTS)) == 1
    collapsed = [a for a in answers if "collapsed" in a.headers["Cache-Status"]]
    assert len(collapsed) > 0


@pytest.mark.parametrize("cache", [{"shared": True}])
async def test_agents_wait_for_one_another_where_it_is_shared(home: House, stall: Stall) -> None:
    other = await another(home, "other")
    leader = await begun(home, f"{stall.url}/a", stall)
    followers = await waiting(home, f"{stall.url}/a", MANY, proxy=other)
    let_go(stall)
    assert state(await leader) == (200, "paid")
    assert states(await followers) == {(200, "cached"): MANY}
    assert stall.sold == 1


@pytest.mark.parametrize("cache", [{"shared": True}])
async def test_a_private_answer_sends_each_agent_its_own_way(home: House, stall: Stall) -> None:
    stall.goods = lambda seen: paid([(b"Cache-Control", b"private, max-age=60")])
    other = await another(home, "other")
    leader = await begun(home, f"{stall.url}/a", stall)
    own = await waiting(home, f"{stall.url}/a", 5)
    others = await waiting(home, f"{stall.url}/a", 5, proxy=other)
    let_go(stall)
    assert state(await leader) == (200, "paid")
    assert states(await own) == {(200, "cached"): 5}
    assert states(await others) == {(200, "paid"): 1, (200, "cached"): 4}
    assert stall.sold == 2


async def test_the_first_hangs_up_and_what_it_paid_for_is_not_lost(
    home: House, stall: Stall
) -> None:
    leader = await begun(home, f"{stall.url}/a", stall)
    followers = await waiting(home, f"{stall.url}/a", MANY)
    leader.cancel()
    await asyncio.gather(leader, return_exceptions=True)
    let_go(stall)
    assert states(await followers) == {(200, "cached"): MANY}
    assert stall.sold == 1


async def test_a_follower_that_hangs_up_takes_nobody_with_it(home: House, stall: Stall) -> None:
    leader = await begun(home, f"{stall.url}/a", stall)
    cache = home.service.cache
    assert cache is not None
    host, port = home.service.proxy_address
    _, program = await asyncio.open_connection(host, port)
    program.write(by_hand(home, f"{stall.url}/a"))
    await until(lambda: cache.waiting == 1)
    reset(program.transport)
    await until(lambda: cache.waiting == 0)
    followers = await waiting(home, f"{stall.url}/a", 3)
    let_go(stall)
    assert state(await leader) == (200, "paid")
    assert states(await followers) == {(200, "cached"): 3}


async def test_the_first_in_doubt_is_not_signed_for_again(home: House, stall: Stall) -> None:
    def lost(_: object) -> bytes:
        raise HangUp

    stall.goods = lost
    answers = await ask_all(home, f"{stall.url}/a")
    assert {answer.status for answer in answers} <= {409, 502}
    assert "payment_in_doubt" in {answer.json["code"] for answer in answers}
    assert len(await home.rows(PAYMENTS)) == 1
    assert len(set(stall.seller.payments)) == 1  # the very same bytes, however often
    assert await home.counters() == (0, PRICE)


async def test_a_doubt_that_ends_well_serves_all(home: House, stall: Stall) -> None:
    def lost_once(_: object) -> bytes:
        if stall.sold == 1:
            raise HangUp
        return paid()

    stall.goods = lost_once
    answers = await ask_all(home, f"{stall.url}/a")
    assert states(answers) == {(502, None): 1, (200, "paid"): 1, (200, "cached"): MANY - 2}
    assert len(await home.rows(PAYMENTS)) == 1
    assert len(set(stall.seller.payments)) == 1


async def test_after_a_failure_the_next_one_asks(home: House, stall: Stall) -> None:
    stall.goods = lambda seen: paid(status=500) if stall.sold == 1 else paid()
    answers = await ask_all(home, f"{stall.url}/a")
    assert states(answers) == {(500, "paid"): 1, (200, "paid"): 1, (200, "cached"): MANY - 2}
    assert stall.sold == 2


async def test_what_is_refused_is_refused_for_each(home: House, stall: Stall) -> None:
    await home.set_policy(per_call_limit=PRICE - 1)
    answers = await ask_all(home, f"{stall.url}/a")
    assert {answer.json["code"] for answer in answers} == {"over_per_call_limit"}
    assert len(await home.rows("SELECT id FROM policy_decision_logs")) == MANY


async def test_what_serves_nobody_else_is_waited_for_by_nobody(home: House, stall: Stall) -> None:
    stall.goods = lambda seen: paid([(b"Cache-Control", b"no-store")])
    leader = await begun(home, f"{stall.url}/a", stall)
    followers = await waiting(home, f"{stall.url}/a", 5)
    let_go(stall)
    assert state(await leader) == (200, "paid")
    assert states(await followers) == {(200, "paid"): 5}
    assert stall.sold == 6


async def test_variants_are_bought_once_each(home: House, stall: Stall) -> None:
    stall.goods = lambda seen: paid(
        [FRESH, (b"Vary", b"Accept-Language")], seen.headers["accept-language"].encode()
    )
    languages = ["de", "en", "fr"] * 5
    answers = await asyncio.gather(
        *(home.ask(f"{stall.url}/a", headers={"Accept-Language": one}) for one in languages)
    )
    assert [answer.body.decode() for answer in answers] == languages
    assert stall.sold == 3


async def test_checks_that_cost_nothing_are_all_the_others_need(home: House, stall: Stall) -> None:
    stall.goods = lambda seen: paid([(b"Cache-Control", b"no-cache"), (b"ETag", b'"1"')])
    stall.free = lambda seen: reply(304) if "if-none-match" in seen.headers else None
    leader = await begun(home, f"{stall.url}/a", stall)
    followers = await waiting(home, f"{stall.url}/a", 5)
    stall.seller.hold_all = asyncio.Event()
    let_go(stall)
    assert state(await leader) == (200, "paid")
    await until(lambda: len(stall.asked) == 2 + 5)  # side by side
    stall.seller.hold_all.set()
    assert states(await followers) == {(200, "cached"): 5}
    assert stall.sold == 1


@pytest.mark.parametrize("settings", [{"cache": {"wait": 0.5}}])
async def test_nobody_waits_for_ever(home: House, stall: Stall) -> None:
    leader = await begun(home, f"{stall.url}/a", stall)
    follower = asyncio.create_task(home.ask(f"{stall.url}/a"))
    await until(lambda: stall.sold == 2)
    let_go(stall)
    for one in (leader, follower):
        assert state(await one) == (200, "paid")
    assert state(await home.ask(f"{stall.url}/a")) == (200, "cached")


@pytest.mark.parametrize("settings", [{"limits": {"challenge_bytes": 1024}}])
async def test_the_first_hangs_up_over_a_long_402_that_is_not_paid(
    home: House, stall: Stall, monkeypatch: pytest.MonkeyPatch
) -> None:
    endless = reply(402, [], b"p" * 4096).replace(b"Length: 4096", b"Length: 9999")
    stall.free = lambda seen: endless if len(stall.asked) == 1 else reply(200, [], b"free")
    pay, met, decided = Gatekeeper.pay, list[Purchase](), asyncio.Event()

    async def slowly(gate: Gatekeeper, purchase: Purchase, challenge: PaymentRequired) -> Reply:
        met.append(purchase)
        await decided.wait()
        return await pay(gate, purchase, challenge)

    monkeypatch.setattr(Gatekeeper, "pay", slowly)
    host, port = home.service.proxy_address
    _, program = await asyncio.open_connection(host, port)
    program.write(by_hand(home, f"{stall.url}/a"))
    await until(lambda: bool(met))
    followers = await waiting(home, f"{stall.url}/a", 2)
    reset(program.transport)
    await until(lambda: met[0].gone)
    decided.set()
    async with asyncio.timeout(10):  # much less than they would wait
        assert states(await followers) == {(200, None): 2}


async def test_a_fault_of_ours_in_mid_answer_holds_up_nobody(
    home: House, stall: Stall, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_: Delivering) -> Arrived:
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(Delivering, "_arrived", fails)
    cache = home.service.cache
    assert cache is not None
    stall.seller.hold = asyncio.Event()
    host, port = home.service.proxy_address
    answer, program = await asyncio.open_connection(host, port)
    program.write(by_hand(home, f"{stall.url}/a"))
    await until(lambda: stall.sold == 1)
    follower = await waiting(home, f"{stall.url}/a", 1)
    let_go(stall)
    async with asyncio.timeout(10):  # much less than either would wait
        with pytest.raises(ConnectionResetError):
            await answer.read()
        await until(lambda: cache.waiting == 0 and len(stall.asked) > 2)
    program.close()
    follower.cancel()
    await asyncio.gather(follower, return_exceptions=True)


async def test_a_websocket_passes_by(home: House, stall: Stall) -> None:
    upgrade = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Key": "x" * 22 + "==",
        "Sec-WebSocket-Version": "13",
    }
    for _ in range(2):
        assert state(await home.ask(f"{stall.url}/a", headers=upgrade)) == (200, "paid")
    assert state(await home.ask(f"{stall.url}/a")) == (200, "paid")


@pytest.mark.parametrize("cache", [{"shared": True}])
@pytest.mark.parametrize("settings", [{"cache": {"wait": 1000}}])
@pytest.mark.parametrize("said", [b"private, max-age=60", b"no-store"])
async def test_whose_it_is_is_known_before_it_has_ended(
    home: House, stall: Stall, said: bytes
) -> None:
    other = await another(home, "other")
    whole = paid([(b"Cache-Control", said)])
    endless = whole.replace(b"Content-Length: 5", b"Content-Length: 9")
    stall.goods = lambda seen: endless if stall.sold == 1 else whole
    leader = await begun(home, f"{stall.url}/a", stall)
    followers = await waiting(home, f"{stall.url}/a", 2, proxy=other)
    let_go(stall)
    answers = await followers
    assert states(answers)[200, "paid"] == (2 if said == b"no-store" else 1)
    assert not leader.done()
    leader.cancel()
    await asyncio.gather(leader, return_exceptions=True)
