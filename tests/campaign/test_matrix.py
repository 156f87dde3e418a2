"""The failure matrix in docs/reliability.md: all of its rows, and no test that is not there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROWS = 36


def matrix() -> dict[int, str]:
    text = (ROOT / "docs/reliability.md").read_text()
    _, _, table = text.partition("## The failure matrix")
    return {
        int(number): line
        for line in table.splitlines()
        if (number := line.partition("|")[2].partition("|")[0].strip()).isdigit()
    }


def names() -> set[str]:
    return {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"def (test_\w+)\(", path.read_text())
    }


def test_every_row_is_there() -> None:
    assert sorted(matrix()) == list(range(1, ROWS + 1))


@pytest.mark.parametrize("row", range(1, ROWS + 1))
def test_a_row_names_tests_that_are_there_or_says_why_not(row: int) -> None:
    line = matrix()[row]
    named = set(re.findall(r"`(test_\w+)`", line))
    assert named <= names(), named - names()
    assert named or len(line.split("|")[4]) > 50, line
