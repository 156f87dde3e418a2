"""docs/policies.md tells the order and the keys as the code has them."""

import re
import tomllib
from pathlib import Path

from policies.decision import RULES
from policies.explanation import LEDGER_RULES
from policies.files import read
from policies.rules import KEYS

TEXT = (Path(__file__).parents[2] / "docs/policies.md").read_text()


def test_the_order() -> None:
    rows = re.findall(r"^\| (\d+) \| `(\w+)` \| (.+) \| the (\w+) \|$", TEXT, re.M)
    documented = [(name, tuple(re.findall(r"`(\w+)`", codes)), who) for _, name, codes, who in rows]
    assert documented == [
        *((rule.key, rule.codes, "proxy") for rule in RULES),
        *((name, codes, "ledger") for name, codes in LEDGER_RULES),
    ]
    assert [int(number) for number, *_ in rows] == list(range(1, len(rows) + 1))


def test_every_key() -> None:
    table = TEXT.partition("## Rules")[2].partition("## The order")[0]
    keys = [key for cell in re.findall(r"^\| (`.+?) \|", table, re.M) for key in cell.split(", ")]
    assert sorted(key.strip("`") for key in keys) == sorted(KEYS)


def test_the_examples_are_policies() -> None:
    examples = re.findall(r"```toml\n(.+?)```", TEXT, re.S)
    assert len(examples) == 2
    loaded = read({f"{i}.toml": text for i, text in enumerate(examples)})
    assert {str(key) for key in loaded.sources} == {
        "defaults",
        "agent bot",
        'provider "*.example.com"',
        'agent bot provider "https://api.example.com:443"',
    }
    assert [case.code(loaded.book)[0] for case in loaded.cases] == [loaded.cases[0].expect]
    assert tomllib.loads(examples[0])["agent"]["bot"]["daily"] == "5.00"
