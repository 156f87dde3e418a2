"""The breaker's tickets, on a clock of the test's own."""

import asyncio
import gc
import time

import pytest

from proxy.providers import BreakerOpen, Guards

KEY = "https://api.example:443"


class World:
    """Guards with 3 failures and 180 s, and everything they told."""

    def __init__(self, limit: int = 10_000) -> None:
        self.now = 1000.0
        self.told: list[tuple[str, float, str]] = []
        self.guards = Guards(
            3,
            180.0,
            lambda _key, state, seconds, error: self.told.append((state, seconds, error)),
            clock=lambda: self.now,
            limit=limit,
        )

    def fail(self, key: str = KEY, times: int = 1) -> None:
        for _ in range(times):
            self.guards.admit(key).failure("answered 500")

    def refused(self, key: str = KEY) -> BreakerOpen:
        with pytest.raises(BreakerOpen) as caught:
            self.guards.admit(key)
        return caught.value


@pytest.fixture
def world() -> World:
    return World()


def test_it_opens_after_failures_in_a_row_and_says_for_how_long(world: World) -> None:
    world.fail(times=2)
    world.guards.admit(KEY).success()
    world.fail(times=2)
    world.guards.admit(KEY).neutral()
    assert world.told == []
    world.fail()
    assert world.told == [("open", 180.0, "answered 500")]
    world.now += 0.5
    refusal = world.refused()
    assert (refusal.key, refusal.retry_after, refusal.last_error) == (KEY, 180, "answered 500")
    world.now += 179.4
    assert world.refused().retry_after == 1
    world.guards.admit("https://other.example:443")


def test_a_hundred_at_once_in_half_open_give_one_probe(world: World) -> None:
    world.fail(times=3)
    world.now += 180

    async def caller() -> bool:
        try:
            ticket = world.guards.admit(KEY)
        except BreakerOpen:
            return False
        await asyncio.sleep(0.01)
        ticket.success()
        return True

    async def crowd() -> list[bool]:
        return await asyncio.gather(*(caller() for _ in range(100)))

    assert asyncio.run(crowd()).count(True) == 1
    assert [state for state, _, _ in world.told] == ["open", "half-open", "closed"]
    assert asyncio.run(crowd()).count(True) == 100


def test_a_failing_probe_opens_for_the_whole_time_again(world: World) -> None:
    world.fail(times=3)
    world.now += 181
    world.guards.admit(KEY).failure("reset")
    assert world.told[-1] == ("open", 180.0, "reset")
    assert world.refused().retry_after == 180


def test_after_closing_it_takes_all_failures_again(world: World) -> None:
    world.fail(times=3)
    world.now += 180
    world.guards.admit(KEY).success()
    world.fail(times=2)
    world.guards.admit(KEY).success()
    assert world.told[-1][0] == "closed"


def test_a_neutral_probe_gives_its_place_back_and_changes_nothing(world: World) -> None:
    world.fail(times=3)
    world.now += 180
    for _ in range(5):
        probe = world.guards.admit(KEY)
        assert world.refused().retry_after == 1
        probe.neutral()
    assert world.told[-1][0] == "half-open"
    world.guards.admit(KEY).success()
    assert world.told[-1][0] == "closed"


def test_a_dropped_probe_gives_its_place_back(world: World) -> None:
    world.fail(times=3)
    world.now += 180
    probe = world.guards.admit(KEY)
    world.refused()
    del probe
    gc.collect()
    world.guards.admit(KEY).success()
    assert world.told[-1][0] == "closed"


def test_the_first_word_on_a_ticket_counts(world: World) -> None:
    ticket = world.guards.admit(KEY)
    for _ in range(5):
        ticket.failure("again and again")
    assert world.told == []
    ticket = world.guards.admit(KEY)
    ticket.failure("second")
    ticket.success()
    world.fail()
    assert world.told[-1][0] == "open", "the late success did not reset the count"

    world.now += 180
    probe = world.guards.admit(KEY)
    probe.neutral()
    second = world.guards.admit(KEY)
    probe.neutral()
    world.refused()
    second.success()


def test_late_results_of_an_earlier_generation_are_ignored(world: World) -> None:
    early = [world.guards.admit(KEY) for _ in range(5)]
    world.fail(times=3)
    early[0].success()
    assert world.refused(), "a late success does not close"
    world.now += 180
    probe = world.guards.admit(KEY)
    early[1].success()
    early[2].failure("late")
    early[3].neutral()
    assert world.told[-1][0] == "half-open"
    assert world.refused(), "nor does any late word free the probe's place"
    probe.success()
    early[4].failure("late")
    world.fail(times=2)
    assert world.told[-1][0] == "closed"


def test_a_probe_that_outlives_its_generation_is_ignored(world: World) -> None:
    world.fail(times=3)
    world.now += 180
    probe = world.guards.admit(KEY)
    probe.failure("x")
    world.now += 180
    second = world.guards.admit(KEY)
    probe.success()
    assert world.told[-1][0] == "half-open"
    second.success()


def test_the_least_recently_used_is_forgotten_but_never_an_open_one() -> None:
    world = World(limit=3)
    world.fail("open", 3)
    world.fail("a", 2)
    for other in ("b", "c", "a", "d"):
        world.guards.admit(other)
    world.fail("a")
    world.refused("a")
    for n in range(10):
        world.guards.admit(f"x{n}")
    assert world.refused("open")

    world.fail("forgotten", 2)
    for n in range(10):
        world.guards.admit(f"y{n}")
    world.fail("forgotten")
    world.guards.admit("forgotten")


def test_dead_hosts_without_end_do_not_fill_the_memory() -> None:
    world = World(limit=10)
    for n in range(100):
        world.fail(f"dead{n}", 3)
        world.now += 60
    assert len(world.guards._tripped) <= 11
    assert world.refused("dead99")


def test_a_ticket_of_a_forgotten_guard_harms_nobody() -> None:
    world = World(limit=1)
    tickets = [world.guards.admit("a") for _ in range(3)]
    world.guards.admit("b")
    world.guards.admit("a")
    for ticket in tickets:
        ticket.failure("x")
    world.guards.admit("a")
    assert world.told == []


def test_what_an_earlier_process_knew_is_taken_up(world: World) -> None:
    world.guards.restore("open", 3, 60.0, "was down")
    refusal = world.refused("open")
    assert (refusal.retry_after, refusal.last_error) == (60, "was down")
    world.guards.restore("too long", 3, 1e9, "")
    assert world.refused("too long").retry_after == 180, "never longer than the settings say"
    world.guards.restore("elapsed", 3, -5.0, "")
    world.guards.restore("two of three", 2, None, "")
    assert world.told == []
    world.guards.admit("elapsed").failure("still down")
    assert world.told[-1] == ("open", 180.0, "still down")
    world.fail("two of three")
    assert world.refused("two of three")


def test_a_ticket_costs_microseconds(world: World) -> None:
    rounds = 20_000
    began = time.perf_counter()
    for _ in range(rounds):
        world.guards.admit(KEY).success()
    assert (time.perf_counter() - began) / rounds < 50e-6
