"""docs/scores.svg, and what the documentation says of it."""

import re

from bench.scores import ACTORS, CALLS, JOINS, PICTURE, TURNS, drawn, shop, simulate


def test_the_picture_is_what_the_program_draws() -> None:
    assert PICTURE.read_text() == drawn(simulate()), "python -m bench.scores"


def test_what_it_shows() -> None:
    lines = simulate()
    last = {name: line[-1] for name, line in lines.items()}
    assert (
        last["liar"] < last["flapping"] < last["honest slow"] < last["dear"] < last["honest fast"]
    )
    newcomer = lines["newcomer"]
    assert newcomer[0] == 0.5
    others = [line[JOINS - 1] for name, line in lines.items() if name != "newcomer"]
    assert min(others) < newcomer[0] < max(others)
    liar, slow = lines["liar"], lines["honest slow"]
    assert liar[TURNS - 1] == max(line[TURNS - 1] for line in lines.values() if len(line) == CALLS)
    assert all(liar[n] < slow[n] for n in range(TURNS + 10, CALLS))


def test_a_buyer_who_goes_by_it_finds_the_best_and_leaves_the_liar() -> None:
    chosen = shop()
    text = (PICTURE.parent / "providers.md").read_text()
    told = re.search(r"Of 1,000 calls .*?(\d+) went to .*?, (\d+) to the liar", text, re.DOTALL)
    assert told is not None
    good = chosen["newcomer"] + chosen["honest fast"]
    assert (good, chosen["liar"]) == tuple(int(number) for number in told.groups())
    assert chosen["liar"] < 50
    assert set(chosen) == {actor.name for actor in ACTORS}, "each was tried"
