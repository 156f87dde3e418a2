"""The breaker's tickets, on a clock of the test's own."""

import asyncio
import gc
import time
from collections.abc import Callable
from dataclasses import replace
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.providers import BreakerOpen, BreakerRules, Guards
from proxy.providers.guard import BUSY_SECONDS
from proxy.providers.ticket import Ticket
from proxy.providers.window import Window

KEY = "https://api.example:443"
# In a row only: the rate has tests of its own.
RULES = BreakerRules(failures=3, failure_rate=1.0, min_calls=1000, open_seconds=180, successes=1)


class World:
    """Guards with 3 failures, 180 s and 1 success, and everything they told."""

    def __init__(self, rules: BreakerRules = RULES, limit: int = 10_000) -> None:
        self.now = 1000.0
        self.told: list[str] = []
        self.rules = rules
        self.guards = Guards(lambda key: self.rules, self, clock=lambda: self.now, limit=limit)

    def opened(self, key: str, failures: int, last_error: str) -> None:
        self.told.append(f"open after {failures}: {last_error}")

    def closed(self, key: str) -> None:
        self.told.append("closed")

    def probe_over(self, key: str, lease: UUID, successes: int) -> None:
        self.told.append(f"over, {successes} well")

    def fail(self, key: str = KEY, times: int = 1) -> None:
        for _ in range(times):
            self.guards.admit(key).failure("answered 500")

    def succeed(self, key: str = KEY, times: int = 1) -> None:
        for _ in range(times):
            self.guards.admit(key).success()

    def refused(self, key: str = KEY) -> BreakerOpen:
        with pytest.raises(BreakerOpen) as caught:
            self.guards.admit(key)
        return caught.value

    @property
    def state(self) -> str:
        state = self.guards.state(KEY)
        assert state == dict(self.guards.states()).get(KEY, "closed")
        return state


@pytest.fixture
def world() -> World:
    return World()


def test_it_opens_after_failures_in_a_row_and_says_for_how_long(world: World) -> None:
    world.fail(times=2)
    world.succeed()
    world.fail(times=2)
    world.guards.admit(KEY).neutral()
    assert world.told == []
    world.fail()
    assert world.told == ["open after 3: answered 500"]
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
    assert world.told == ["open after 3: answered 500", "closed"]
    assert asyncio.run(crowd()).count(True) == 100


def test_a_failing_probe_opens_for_the_whole_time_again(world: World) -> None:
    world.fail(times=3)
    world.now += 181
    world.guards.admit(KEY).failure("reset")
    assert world.told[-1].endswith(": reset")
    assert world.refused().retry_after == 180


def test_after_closing_it_takes_all_failures_again(world: World) -> None:
    world.fail(times=3)
    world.now += 180
    world.succeed()
    world.fail(times=2)
    world.succeed()
    assert world.told[-1] == "closed"


def test_a_neutral_probe_gives_its_place_back_and_changes_nothing(world: World) -> None:
    world.fail(times=3)
    world.now += 180
    for _ in range(5):
        probe = world.guards.admit(KEY)
        assert world.refused().retry_after == 1
        probe.neutral()
        assert world.told[-1] == "over, 0 well"
    assert world.state == "half-open"
    world.succeed()
    assert world.told[-1] == "closed"


def test_a_dropped_probe_gives_its_place_back(world: World) -> None:
    world.fail(times=3)
    world.now += 180
    probe = world.guards.admit(KEY)
    world.refused()
    del probe
    gc.collect()
    world.succeed()
    assert world.told[1:] == ["over, 0 well", "closed"]


def test_enough_successes_close_it_one_after_another(world: World) -> None:
    world.rules = replace(RULES, successes=3)
    world.fail(times=3)
    world.now += 180
    world.succeed()
    world.guards.admit(KEY).neutral()
    world.succeed()
    assert world.told[1:] == ["over, 1 well", "over, 1 well", "over, 2 well"]
    world.succeed()
    assert world.told[-1] == "closed"

    world.fail(times=3)
    world.now += 180
    world.succeed(times=2)
    world.fail()
    world.now += 180
    world.succeed(times=2)
    assert world.state == "half-open", "those before the failure do not count"


def test_the_first_word_on_a_ticket_counts(world: World) -> None:
    ticket = world.guards.admit(KEY)
    for _ in range(5):
        ticket.failure("again and again")
    assert world.told == []
    ticket = world.guards.admit(KEY)
    ticket.failure("second")
    ticket.success()
    world.fail()
    assert world.state == "open", "the late success did not reset the count"

    world.now += 180
    probe = world.guards.admit(KEY)
    probe.neutral()
    second = world.guards.admit(KEY)
    probe.neutral()
    world.refused()
    second.success()


def test_one_failure_may_follow_a_success(world: World) -> None:
    for _ in range(3):
        assert world.told == []
        ticket = world.guards.admit(KEY)
        ticket.success()
        ticket.failure("reset in mid-body")
        ticket.failure("and again")
        ticket.success()
    assert world.told == ["open after 3: reset in mid-body"], "none of them was a success"

    world.now += 180
    probe = world.guards.admit(KEY)
    probe.success()
    assert world.state == "closed"
    probe.failure("broke off")
    assert world.state == "open", "nor was the probe"

    world.now += 180
    world.succeed()
    ticket = world.guards.admit(KEY)
    world.fail(times=2)
    ticket.success()
    world.succeed()
    ticket.failure("late")
    world.fail()
    assert world.state == "closed", "there was another success since"
    world.fail()
    assert world.state == "open"

    world.now += 180
    probe = world.guards.admit(KEY)
    probe.success()
    world.fail(times=3)
    probe.failure("of a time that is over")
    assert world.told[-1].endswith("answered 500")


def test_a_first_good_probe_that_breaks_off_opens_it_again(world: World) -> None:
    world.rules = replace(RULES, successes=2)
    world.fail(times=3)
    world.now += 180
    probe = world.guards.admit(KEY)
    probe.success()
    second = world.guards.admit(KEY)
    probe.failure("broke off")
    assert world.state == "open"
    second.success()
    assert world.state == "open", "it began before"


def test_a_share_of_the_calls_opens_it_without_a_row() -> None:
    world = World(BreakerRules(failures=1000, failure_rate=0.4, window_seconds=60, min_calls=10))
    for _ in range(3):
        world.succeed(times=2)
        world.fail()
    assert world.told == [], "too few calls to tell"
    world.fail()
    assert world.told == ["open after 2: answered 500"], "4 of 10 are enough"

    world = World(BreakerRules(failures=1000, failure_rate=0.5, window_seconds=60, min_calls=10))
    for _ in range(50):
        world.succeed(times=2)
        world.fail()
        world.now += 1
    assert world.told == []
    world.now += 60
    world.fail(times=9)
    assert world.told == [], "what is older than the window does not count, neither for nor against"
    world.fail()
    assert len(world.told) == 1


def test_a_call_that_went_well_and_then_broke_off_is_one_call_of_the_share() -> None:
    world = World(BreakerRules(failures=1000, failure_rate=0.9, window_seconds=60, min_calls=4))
    for count in range(1, 5):
        ticket = world.guards.admit(KEY)
        ticket.success()
        ticket.failure("broke off")
        assert len(world.told) == (count == 4)


def test_closing_forgets_the_window() -> None:
    rules = BreakerRules(
        failures=1000, failure_rate=0.5, window_seconds=1e6, min_calls=4, successes=1
    )
    world = World(rules)
    world.fail(times=4)
    world.now += 180
    world.succeed()
    world.fail(times=3)
    assert world.told[-1] == "closed"


def test_one_that_is_off_never_opens() -> None:
    world = World(replace(RULES, enabled=False))
    world.fail(times=50)
    world.guards.hear(KEY, 1, 60.0, "of others")
    world.succeed()
    assert (world.told, world.guards.states()) == ([], [])


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
    assert world.state == "half-open"
    assert world.refused(), "nor does any late word free the probe's place"
    probe.success()
    early[4].failure("late")
    world.fail(times=2)
    assert world.told[-1] == "closed"


def test_a_probe_that_outlives_its_generation_is_ignored(world: World) -> None:
    world.fail(times=3)
    world.now += 180
    probe = world.guards.admit(KEY)
    probe.failure("x")
    world.now += 180
    second = world.guards.admit(KEY)
    probe.success()
    assert world.state == "half-open"
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
    assert len(world.guards.tripped()) <= 11
    assert world.refused("dead99")


def test_a_ticket_of_a_forgotten_guard_harms_nobody() -> None:
    world = World(limit=1)
    tickets = [world.guards.admit("a") for _ in range(3)]
    world.guards.admit("b")
    world.guards.admit("a")
    for ticket in tickets:
        ticket.failure("x")
    world.guards.admit("a")
    assert {state for _, state in world.guards.states()} == {"closed"}


# --- what others did


def test_what_others_opened_is_open_here_and_told_to_nobody(world: World) -> None:
    world.guards.hear("open", 1, 60.0, "was down")
    refusal = world.refused("open")
    assert (refusal.retry_after, refusal.last_error) == (60, "was down")
    world.guards.hear("too long", 1, 1e9, "")
    assert world.refused("too long").retry_after == 180, "never longer than the settings say"
    world.guards.hear("elapsed", 1, -5.0, "")
    world.guards.restore("two of three", 2)
    assert world.told == []
    world.guards.admit("elapsed").failure("still down")
    assert world.told[-1].endswith(": still down")
    world.fail("two of three")
    assert world.refused("two of three")
    world.guards.hear("open", 2, None, "")
    world.succeed("open")
    world.guards.hear("never called", 7, None, "")
    assert len(world.told) == 2


def test_what_is_older_than_what_is_known_is_passed_over(world: World) -> None:
    world.fail(times=3)
    world.guards.written(KEY, 5)
    world.guards.hear(KEY, 4, None, "")
    assert world.refused().retry_after == 180
    world.guards.hear(KEY, 5, 100.0, "answered 500")
    assert world.refused().retry_after == 100, "the database's clock says until when"
    world.guards.hear(KEY, 6, None, "")
    world.guards.hear(KEY, 5, 100.0, "answered 500")
    world.succeed()


def test_a_probe_is_stale_when_others_opened_it_meanwhile(world: World) -> None:
    world.guards.hear(KEY, 1, -1.0, "down")
    probe = world.guards.admit(KEY)
    world.guards.hear(KEY, 1, -1.5, "down")
    assert world.guards.leases() == [(KEY, probe.lease)], "a look changes nothing"
    world.guards.hear(KEY, 2, 180.0, "down again")
    assert world.guards.leases() == []
    probe.success()
    assert world.refused().last_error == "down again"
    assert world.told == []


def test_who_gives_way_waits_and_tries_again(world: World) -> None:
    world.guards.hear(KEY, 1, -1.0, "down")
    world.guards.admit(KEY).withdraw(10.0)
    assert world.refused().retry_after == 1
    world.now += BUSY_SECONDS
    world.guards.admit(KEY).withdraw(-3.0)
    world.refused()
    assert world.told == []
    world.now += BUSY_SECONDS
    world.guards.leased(KEY, 1, 0)
    world.succeed()
    assert world.told == ["closed"]


def test_the_successes_of_others_count(world: World) -> None:
    world.rules = replace(RULES, successes=3)
    world.guards.hear(KEY, 1, -1.0, "down")
    ticket = world.guards.admit(KEY)
    world.guards.leased(KEY, 1, 2)
    ticket.success()
    assert world.told == ["closed"]


WORDS: dict[str, Callable[[Ticket], None]] = {
    "success": Ticket.success,
    "failure": lambda ticket: ticket.failure("x"),
    "neutral": Ticket.neutral,
    "withdraw": lambda ticket: ticket.withdraw(0.2),
}


@given(
    steps=st.lists(
        st.one_of(
            st.just(("admit", 0)),
            st.tuples(st.sampled_from(sorted(WORDS)), st.integers(0, 5)),
            st.tuples(st.just("wait"), st.integers(0, 200)),
            st.tuples(st.just("heard open"), st.integers(-5, 200)),
            st.just(("heard closed", 0)),
        ),
        max_size=60,
    ),
    successes=st.integers(1, 3),
)
def test_whatever_happens_there_is_one_probe_and_no_call_while_open(
    steps: list[tuple[str, int]], successes: int
) -> None:
    world = World(replace(RULES, successes=successes))
    tickets: list[Ticket] = []
    version = 0
    for what, number in steps:
        if what == "admit":
            left_alone, probing = world.guards.left_alone(KEY), world.guards.leases()
            try:
                tickets.append(world.guards.admit(KEY))
            except BreakerOpen as refusal:
                assert left_alone is not None or probing
                assert refusal.retry_after >= 1
            else:
                assert left_alone is None and not probing
        elif what in WORDS:
            if number < len(tickets) and (what != "withdraw" or tickets[number].lease):
                WORDS[what](tickets[number])
        elif what == "wait":
            world.now += number
        else:
            version += 1
            world.guards.hear(KEY, version, number if what == "heard open" else None, "")
        assert len(world.guards.leases()) <= 1
    tickets.clear()
    world.now += 200
    for _ in range(successes):
        world.succeed()
    assert world.state == "closed", "it always finds back"


@given(
    calls=st.lists(st.tuples(st.floats(0, 30), st.booleans()), max_size=60),
    seconds=st.floats(0.1, 100),
)
def test_the_window_holds_what_is_younger_than_it(
    calls: list[tuple[float, bool]], seconds: float
) -> None:
    window, now = Window(seconds), 0.0
    seen: list[tuple[float, bool]] = []
    for pause, failed in calls:
        now += pause
        seen.append((now, failed))
        window.add(now, 1, int(failed))
        surely = [bad for at, bad in seen if at > now - 0.9 * seconds]
        perhaps = [bad for at, bad in seen if at > now - seconds]
        assert len(surely) <= window.calls <= len(perhaps) + 1
        assert sum(surely) <= window.failures <= sum(perhaps) + 1


def test_a_ticket_costs_microseconds(world: World) -> None:
    rounds = 20_000
    began = time.perf_counter()
    for _ in range(rounds):
        world.guards.admit(KEY).success()
    assert (time.perf_counter() - began) / rounds < 50e-6
