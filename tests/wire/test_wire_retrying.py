"""What did no harm is tried again, and nothing else: not what may have been carried out, not what a
payment went with, not more than the provider can bear, and not for a program that has gone."""

import asyncio
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from types import SimpleNamespace

import pytest
from aiohappyeyeballs import AddrInfoType
from wire_rig import (
    PAYMENT,
    Connection,
    Request,
    Rig,
    Scene,
    demand,
    ok,
    rig,
    sold,
    until,
)
from wire_tls import Authority

from proxy.wire.aside import Request as Question
from proxy.wire.aside import fetch
from proxy.wire.egress import Leave
from proxy.wire.gate import Errand
from proxy.wire.limits import Limits
from proxy.wire.origin import Origin
from proxy.wire.problem import Problem
from proxy.wire.retrying import Budgets, RetryRules, retry_after

QUICK = RetryRules(backoff=0.01)
RESET = (None, b"HTTP/1.1 2", b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n")


def dialled(it: Rig) -> list[float]:
    """When a connection was asked for, from now on."""
    dial, when = it.plane.pool.dial, []

    async def counting(*args, **kwargs):  # type: ignore[no-untyped-def]
        when.append(time.monotonic())
        return await dial(*args, **kwargs)

    it.plane.pool.dial = counting  # type: ignore[method-assign]
    return when


async def down(it: Rig) -> None:
    assert it.provider.server is not None
    it.provider.server.close()
    await it.provider.server.wait_closed()


async def up(it: Rig) -> None:
    it.provider.server = await asyncio.start_server(
        it.provider.serve, "127.0.0.1", it.provider.port, limit=1 << 20
    )


def dies(times: int, said: bytes | None = None) -> Scene:
    """Reads each request whole, and breaks off so often before an answer's head has ended."""
    left = times

    async def scene(connection: Connection, request: Request) -> None:
        nonlocal left
        await connection.read_body(request)
        if left:
            left -= 1
            if said is not None:
                await connection.send(said)
            connection.close()
        else:
            await connection.send(ok(request.body or b"goods"))

    return scene


def notes(it: Rig) -> list[tuple[int, str, str]]:
    return [(note.number, note.cause, note.error_class) for note in it.gate.retries]


# --- what is tried again


@pytest.mark.parametrize("method", [b"GET", b"POST"])
async def test_refused_then_up(method: bytes) -> None:
    """No byte has left, so it may be any method."""
    async with rig(retries=RetryRules(backoff=0.1)) as it:
        await down(it)
        body = b"x" * 100_000 if method == b"POST" else b""
        asking = asyncio.create_task(it.ask(b"/a", method=method, body=body))
        await until(lambda: len(it.gate.retries) == 1)
        await up(it)
        assert (await asking).status == 200
        assert notes(it)[0] == (1, "connect_failed", "connect_failed")
        assert notes(it)[-1] == (len(notes(it)), "connect_failed", "")
        assert [request.body for request in it.provider.requests] == [body]
        assert it.gate.tickets[0].said == ["success 200"]
        it.provider.server.close()  # type: ignore[union-attr]


@pytest.mark.parametrize("said", RESET)
async def test_a_get_whose_connection_breaks_before_the_head(rig: Rig, said: bytes | None) -> None:
    rig.at(b"/a", dies(2, said))
    assert (await rig.ask(b"/a")).body == b"goods"
    assert notes(rig) == [
        (1, "connection_broke", "connection_broke"),
        (2, "connection_broke", ""),
    ]
    assert rig.gate.tickets[0].said == ["success 200"]


@pytest.mark.parametrize("size", [10, 300_000])
async def test_a_put_is_sent_again_whole(rig: Rig, size: int) -> None:
    rig.at(b"/a", dies(1))
    answer = await rig.ask(b"/a", method=b"PUT", body=b"y" * size)
    assert (answer.status, answer.body) == (200, b"y" * size)
    assert len(rig.provider.requests) == 2


async def test_a_put_that_was_only_half_sent(rig: Rig) -> None:
    async def scene(connection: Connection, request: Request) -> None:
        if len(rig.provider.requests) == 1:
            connection.reset()
        else:
            await connection.read_body(request)
            await connection.send(ok(request.body))

    rig.at(b"/a", scene)
    client = await rig.client()
    head = rig.request(b"/a", b"Content-Length: 10", method=b"PUT")
    await client.send(head + b"01234")
    await until(lambda: len(rig.provider.requests) == 2)
    await client.send(b"56789")
    assert (await client.answer()).body == b"0123456789"


async def test_a_100_continue_is_asked_for_once(rig: Rig) -> None:
    """The body is here by the second attempt: there is nobody left to tell."""

    async def scene(connection: Connection, request: Request) -> None:
        if len(rig.provider.requests) == 1:
            await connection.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        await connection.read_body(request)
        if len(rig.provider.requests) == 1:
            connection.reset()
        else:
            await connection.send(ok(request.body))

    rig.at(b"/a", scene)
    lines = (b"Expect: 100-continue", b"Content-Length: 5")
    client = await rig.client()
    await client.send(rig.request(b"/a", *lines, method=b"PUT"))
    assert (await client.head()).status == 100
    await client.send(b"goods")
    assert (await client.answer()).body == b"goods"
    assert [len(request.all(b"expect")) for request in rig.provider.requests] == [1, 0]


async def test_it_hangs_and_then_answers(quick_watch: None) -> None:
    async with rig(Limits(response=0.2), retries=QUICK) as it:

        async def scene(connection: Connection, request: Request) -> None:
            if len(it.provider.requests) == 1:
                await connection.reader.read(-1)
            else:
                await connection.send(ok(b"goods"))

        it.at(b"/a", scene)
        assert (await it.ask(b"/a")).body == b"goods"
        assert notes(it) == [(1, "response_timeout", "")]


async def test_a_provider_that_flaps(rig: Rig) -> None:
    """Every other attempt breaks: each request is served all the same."""
    number = 0

    async def scene(connection: Connection, request: Request) -> None:
        nonlocal number
        number += 1
        if number % 2:
            connection.reset()
        else:
            await connection.send(ok(b"goods"))
            connection.close()

    rig.at(b"/a", scene)
    assert [(await rig.ask(b"/a")).status for _ in range(8)] == [200] * 8
    assert notes(rig) == [(1, "connection_broke", "")] * 8


async def test_three_times_and_no_more_each_later(rig: Rig) -> None:
    rig.plane.retries.usual = RetryRules(backoff=0.05, jitter=0.0)
    rig.at(b"/a", dies(99))
    answer = await rig.ask(b"/a")
    assert (answer.status, b"It was tried 4 times" in answer.body) == (502, True)
    assert [note.delay_seconds for note in rig.gate.retries] == [0.05, 0.1, 0.2]
    assert len(rig.provider.requests) == 4
    assert len(rig.gate.tickets[0].said) == 1
    assert rig.gate.tickets[0].said[0].startswith("failure")


async def test_the_jitter_is_a_share_of_the_wait(rig: Rig) -> None:
    rig.plane.retries.usual = RetryRules(backoff=0.05, jitter=0.5)
    rig.at(b"/a", dies(99))
    await rig.ask(b"/a")
    waited = [note.delay_seconds for note in rig.gate.retries]
    for delay, base in zip(waited, (0.05, 0.1, 0.2), strict=True):
        assert 0.5 * base <= delay <= 1.5 * base
    assert waited != [0.05, 0.1, 0.2]


# --- what is not


@pytest.mark.parametrize("said", RESET)
async def test_a_post_is_never_repeated_once_a_byte_has_left(rig: Rig, said: bytes | None) -> None:
    rig.at(b"/a", dies(99, said))
    assert (await rig.ask(b"/a", method=b"POST", body=b"order")).status == 502
    assert len(rig.provider.requests) == 1
    assert not rig.gate.retries


async def test_what_begins_to_arrive_is_not_asked_for_again(rig: Rig) -> None:
    async def scene(connection: Connection, _: Request) -> None:
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf of it")
        connection.reset()

    rig.at(b"/a", scene)
    client = await rig.client()
    await client.send(rig.request(b"/a"))
    got, end = await client.rest()
    assert (got.endswith(b"half of it"), end) == (True, "reset")
    assert len(rig.provider.requests) == 1
    assert not rig.gate.retries
    # The breaker hears of it, though it has heard of a success.
    first, second = rig.gate.tickets[0].said[:2]
    assert (first, second[:8]) == ("success 200", "failure ")


async def test_a_paid_request_is_not_tried_again(rig: Rig) -> None:
    async def scene(connection: Connection, _: Request) -> None:
        connection.reset()

    rig.plane.retries.usual = RetryRules(
        backoff=0.01, statuses=frozenset((502, 503)), budget=1.0, floor=100
    )
    rig.gate.answering = rig.gate.buy
    rig.at(b"/a", sold(scene))
    assert (await rig.ask(b"/a")).status == 502
    rig.at(b"/a", sold(ok(b"", status=b"503 No")))
    assert (await rig.ask(b"/a")).status == 503
    assert [len(request.all(PAYMENT[0])) for request in rig.provider.requests] == [0, 1, 0, 1]
    assert not rig.gate.retries


@pytest.mark.parametrize("name", [b"PAYMENT-SIGNATURE", b"x-payment"])
async def test_a_payment_of_the_programs_own_is_its_own_to_repeat(rig: Rig, name: bytes) -> None:
    rig.at(b"/a", dies(99))
    assert (await rig.ask(b"/a", name + b": c2lnbmVk")).status == 502
    assert len(rig.provider.requests) == 1


async def test_a_402_that_breaks_off_is_not_asked_for_again(rig: Rig) -> None:
    async def scene(connection: Connection, _: Request) -> None:
        await connection.send(demand()[:-3])
        connection.reset()

    rig.at(b"/a", scene)
    assert (await rig.ask(b"/a")).status == 502
    assert len(rig.provider.requests) == 1


def unknown(error: socket.gaierror) -> Callable[..., object]:
    async def resolver(host: str, port: int) -> Sequence[AddrInfoType]:
        raise error

    return resolver


@pytest.mark.parametrize(
    ("error", "attempts", "said"),
    [
        (socket.gaierror(socket.EAI_NONAME, "no such name"), 1, "failure"),
        (socket.gaierror(socket.EAI_AGAIN, "try again"), 4, "neutral"),
    ],
)
async def test_a_name_that_does_not_exist(error: socket.gaierror, attempts: int, said: str) -> None:
    async with rig(resolver=unknown(error), host="shop.example", retries=QUICK) as it:  # type: ignore[arg-type]
        when = dialled(it)
        assert (await it.ask(b"/a")).status == 502
        assert len(when) == attempts
        assert it.gate.tickets[0].said[0].startswith(said)


async def test_a_certificate_that_is_not_good(tmp_path_factory: pytest.TempPathFactory) -> None:
    authority = Authority(tmp_path_factory.mktemp("ca"))
    wrong: ssl.SSLContext = authority.context("other.example")
    async with rig(tls=wrong, ca_file=authority.ca_file, retries=QUICK) as it:
        when = dialled(it)
        assert (await it.ask(b"/a")).status == 502
        assert len(when) == 1


async def test_a_forbidden_address(rig: Rig) -> None:
    rig.gate.ann.leave = Leave((), frozenset())
    when = dialled(rig)
    assert (await rig.ask(b"/a")).status == 403
    assert len(when) == 1


async def test_an_attempt_at_an_intent_goes_to_the_next_provider(rig: Rig) -> None:
    rig.at(b"/a", dies(99))
    question = Question("GET", Origin("http", "127.0.0.1", rig.provider.port), b"/a")
    fetched = await fetch(
        rig.plane, rig.gate.ann, question, Errand("weather", 1), limit=100, seconds=10.0
    )
    assert isinstance(fetched, Problem)
    assert fetched.code == "upstream_unreachable"
    assert len(rig.provider.requests) == 1


# --- deadlines


async def test_nothing_begins_past_the_bound(rig: Rig) -> None:
    rig.plane.retries.usual = RetryRules(backoff=0.1, jitter=0.0, total=0.35)
    rig.at(b"/a", dies(99))
    assert (await rig.ask(b"/a")).status == 502
    assert len(rig.provider.requests) <= 3  # at 0, 0.1 and 0.3; the next would be at 0.7


@pytest.mark.parametrize("said", [b"wait=0", b"respond-async, wait=0", b'foo; wait="0"'])
async def test_a_program_that_says_how_long_it_waits(rig: Rig, said: bytes) -> None:
    rig.at(b"/a", dies(99))
    assert (await rig.ask(b"/a", b"Prefer: " + said)).status == 502
    assert len(rig.provider.requests) == 1
    assert rig.seen.all(b"prefer") == [said]  # the provider's to read, too


async def test_a_retry_is_not_waited_for_longer_than_the_program_waits(quick_watch: None) -> None:
    async with rig(retries=QUICK) as it:

        async def scene(connection: Connection, _: Request) -> None:
            if len(it.provider.requests) == 1:
                connection.reset()
            else:
                await connection.reader.read(-1)

        it.at(b"/a", scene)
        client = await it.client()
        await client.send(it.request(b"/a", b"Prefer: wait=1"))
        assert (await client.answer()).status == 504  # and not after 300 s


async def test_what_bounds_the_retries_does_not_bound_their_answers(quick_watch: None) -> None:
    """A program that says it is patient gets the answer of a slow provider."""
    rules = RetryRules(backoff=0.01, total=0.5)
    async with rig(retries=rules) as it:

        async def scene(connection: Connection, _: Request) -> None:
            if len(it.provider.requests) == 1:
                connection.reset()
            else:
                await asyncio.sleep(2)
                await connection.send(ok(b"late"))

        it.at(b"/a", scene)
        client = await it.client()
        await client.send(it.request(b"/a", b"Prefer: wait=60"))
        assert (await client.answer()).status == 200


@pytest.mark.parametrize("said", [b"9" * 20, b"Mon, 1 Jan 2024 " + b"9" * 20 + b":0:0 GMT"])
def test_a_retry_after_that_is_no_time(said: bytes) -> None:
    assert retry_after([(b"Retry-After", said)]) >= 0


def test_a_small_floor_keeps_what_was_earned() -> None:
    now = 0.0
    budgets = Budgets(SimpleNamespace(time=lambda: now))  # type: ignore[arg-type]
    rules, origin = RetryRules(budget=0.2, floor=0), Origin("http", "a.test", 80)
    assert not budgets.take(origin, rules)
    for _ in range(10):
        budgets.asked(origin)
    now += 1000
    assert budgets.take(origin, rules)


@pytest.mark.parametrize("how", ["half", "close", "reset"])
async def test_a_program_that_hangs_up_ends_it(rig: Rig, how: str) -> None:
    rig.plane.retries.usual = RetryRules(backoff=5.0, total=100.0)
    rig.at(b"/a", dies(99))
    client = await rig.client()
    await client.send(rig.request(b"/a"))
    await until(lambda: len(rig.provider.requests) == 1 and not rig.provider.open)
    began = time.monotonic()
    {"half": client.half_close, "close": client.close, "reset": client.reset}[how]()
    await until(lambda: bool(rig.gate.tickets[0].said))
    assert time.monotonic() - began < 4  # not after what it would have waited
    if how == "half":  # it may still listen
        assert (await client.answer()).status == 502
    assert len(rig.provider.requests) == 1
    assert not rig.gate.retries


async def test_a_program_that_hangs_up_in_mid_retry(rig: Rig) -> None:
    async def scene(connection: Connection, _: Request) -> None:
        if len(rig.provider.requests) == 1:
            connection.reset()
        else:
            await connection.reader.read(-1)

    rig.at(b"/a", scene)
    client = await rig.client()
    await client.send(rig.request(b"/a"))
    await until(lambda: len(rig.provider.requests) == 2)
    client.reset()
    await until(lambda: bool(rig.gate.retries))
    assert notes(rig) == [(1, "connection_broke", "client_gone")]
    assert rig.gate.tickets[0].said == ["neutral"]


# --- statuses


async def test_a_status_is_the_programs_business(rig: Rig) -> None:
    rig.at(b"/a", ok(b"later", status=b"503 No"))
    assert (await rig.ask(b"/a")).body == b"later"
    assert len(rig.provider.requests) == 1


def busy(times: int, *lines: bytes) -> Scene:
    left = times

    async def scene(connection: Connection, request: Request) -> None:
        nonlocal left
        await connection.read_body(request)
        left -= 1
        await connection.send(ok(b"later", *lines, status=b"503 No") if left >= 0 else ok(b"goods"))

    return scene


async def test_unless_the_settings_say_so(rig: Rig) -> None:
    rig.plane.retries.usual = RetryRules(backoff=0.01, statuses=frozenset((503,)))
    rig.at(b"/a", busy(2))
    assert (await rig.ask(b"/a")).body == b"goods"
    assert notes(rig) == [
        (1, "provider_unavailable", "provider_unavailable"),
        (2, "provider_unavailable", ""),
    ]
    rig.at(b"/a", busy(99))
    assert (await rig.ask(b"/a")).body == b"later"  # the last one, as it came
    rig.at(b"/a", busy(99))
    seen = len(rig.provider.requests)
    assert (await rig.ask(b"/a", method=b"POST", body=b"x")).body == b"later"
    assert len(rig.provider.requests) == seen + 1


async def test_for_one_provider_alone(rig: Rig) -> None:
    rig.at(b"/a", busy(1))
    here = Origin("http", "127.0.0.1", rig.provider.port)
    rig.plane.retries.by_origin = {here: RetryRules(backoff=0.01, statuses=frozenset((503,)))}
    assert (await rig.ask(b"/a")).body == b"goods"


async def test_retry_after_is_kept_to(rig: Rig) -> None:
    rig.plane.retries.usual = RetryRules(backoff=0.01, statuses=frozenset((503,)))
    rig.at(b"/a", busy(1, b"Retry-After: 1"))
    assert (await rig.ask(b"/a")).body == b"goods"
    assert rig.gate.retries[0].delay_seconds == 1.0
    for said in b"31", b"Fri, 31 Dec 2999 23:59:59 GMT":  # past what may be waited
        rig.at(b"/a", busy(1, b"Retry-After: " + said))
        assert (await rig.ask(b"/a")).body == b"later"


# --- what a provider can bear


async def test_an_outage_is_not_multiplied(rig: Rig) -> None:
    rules = rig.plane.retries.usual = RetryRules(backoff=0.001, budget=0.2, floor=5)
    await down(rig)
    when = dialled(rig)
    requests = 42
    for _ in range(requests // 6):
        answers = await asyncio.gather(*[rig.ask(b"/a") for _ in range(6)])
        assert {answer.status for answer in answers} == {502}
    most = (1 + rules.budget) * requests + rules.floor
    assert requests < len(when) <= most < 4 * requests
    assert rig.gate.withheld > 0


class Clock:
    """A loop's time alone."""

    now = 1000.0

    def time(self) -> float:
        return self.now


def test_a_budget_is_whole_again_after_a_minute_of_peace() -> None:
    clock, here, rules = Clock(), Origin("http", "a.example", 80), RetryRules(floor=2, budget=0.5)
    budgets = Budgets(clock)  # type: ignore[arg-type]
    took = [budgets.take(here, rules) for _ in range(3)]
    assert took == [True, True, False]
    clock.now += 59
    assert not budgets.take(here, rules)
    budgets.asked(here)
    assert not budgets.take(here, rules)  # half a retry
    budgets.asked(here)
    assert budgets.take(here, rules)
    clock.now += 61
    assert [budgets.take(here, rules) for _ in range(3)] == [True, True, False]
    for _ in range(100):
        budgets.asked(here)
    assert [budgets.take(here, rules) for _ in range(3)] == [True, True, False]  # no hoard
    assert budgets.take(Origin("http", "b.example", 80), rules)


async def test_a_tripped_breaker_ends_it_at_once(rig: Rig) -> None:
    rig.plane.retries.usual = RetryRules(backoff=20.0)
    rig.gate.tripped = True
    rig.at(b"/a", dies(99))
    assert (await rig.ask(b"/a")).status == 502
    assert len(rig.provider.requests) == 1


async def test_a_breaker_that_trips_meanwhile_ends_it(rig: Rig) -> None:
    rig.plane.retries.usual = RetryRules(backoff=0.3)
    rig.at(b"/a", dies(99))
    asking = asyncio.create_task(rig.ask(b"/a"))
    await until(lambda: len(rig.provider.requests) == 1)
    rig.gate.tripped = True
    assert (await asking).status == 502
    assert len(rig.provider.requests) == 1
    assert not rig.gate.retries
