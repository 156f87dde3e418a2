"""Short runs of the whole story under a seed; long ones are in `make soak`."""

import asyncio
import os
import subprocess
import sys

import pytest

from tests.simulator.campaign import campaign
from tests.simulator.loop import Life, VirtualLoop
from tests.simulator.mutants import MUTANTS
from tests.simulator.world import World

SEED, RUNS = 1, 120


def test_every_promise_is_kept() -> None:
    tally = campaign(SEED, RUNS)
    print(tally)
    assert not tally.broken, f"replay with `python -m tests.simulator --trace --seed N`: {tally}"
    # It would prove little if nothing had gone wrong.
    assert tally.kills > 50
    assert tally.landed > 500
    assert tally.recovered > 100


def test_a_seed_is_a_run() -> None:
    """To the last event, in this process and in one whose hashes are others."""

    def digest(seed: int) -> str:
        world = World(seed)
        world.run()
        return world.trace.digest

    assert [digest(seed) for seed in (7, 8, 7)] == [digest(7), digest(8), digest(7)]
    assert digest(7) != digest(8)
    told = subprocess.run(
        [sys.executable, "-m", "tests.simulator", "--trace", "--seed", "7"],
        env={**os.environ, "PYTHONHASHSEED": "11"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert digest(7) in told.stdout


@pytest.mark.parametrize("name", ["release_on_error", "sign_on_a_second_402"])
def test_a_mutant_is_caught(name: str) -> None:
    with MUTANTS[name]():
        assert campaign(SEED, 50, stop=True).broken


@pytest.mark.skipif("SOAK" not in os.environ, reason="make soak catches the others, too")
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", sorted(set(MUTANTS)))
def test_every_mutant_is_caught(name: str) -> None:
    with MUTANTS[name]():
        assert campaign(SEED, 2_000, stop=True).broken


def test_a_killed_process_says_nothing_more() -> None:
    """Not in a `finally`, not when it is cancelled; and whoever waits for it goes on."""
    said: list[str] = []
    loop, life = VirtualLoop(), Life("victim")

    async def victim() -> None:
        try:
            await asyncio.sleep(10.0)
            said.append("woke up")
        finally:
            said.append("cleaned up")

    async def story() -> None:
        work = loop.spawn(life, victim())
        await asyncio.sleep(1.0)
        loop.kill(life)
        await asyncio.sleep(3600.0)
        assert not work.done()
        assert said == []

    loop.run_until_complete(story())
    assert loop.time() >= 3601.0
    loop.bury(life)
    loop.close()
