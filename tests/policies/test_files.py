"""Policies in files: read whole, or refused with file, line, key and why."""

import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import Book, LayerKey
from policies.files import FilesError, load, read
from policies.lines import lines_of
from tests.policies.drawn import books, toml

GOOD = """
# what holds for all
[defaults]
per_call = "0.05"

[provider."*.example.com"]
hourly = "2.00"  # of all agents

[agent.bot]
daily = "5.00"
rolling = { "7d" = "20" }

[agent.bot.provider."api.example.com"]
per_call = "0.01"

[[test]]
agent = "bot"
url = "https://api.example.com/v1/quote"
price = "0.01"
expect = "ok"
"""


def problems(**texts: str | bytes) -> list[str]:
    with pytest.raises(FilesError) as refused:
        read({f"{name}.toml": text for name, text in texts.items()})
    return [str(problem) for problem in refused.value.problems]


def test_a_book_of_files() -> None:
    loaded = read(
        {
            "a.toml": GOOD,
            "b.toml": '[agent.ant]\nfrozen = true\n[[test]]\nagent = "ant"\n'
            'url = "http://x.example"\nprice = 1\nexpect = "frozen"\n'.replace("= 1\n", '= "1"\n'),
        }
    )
    assert [str(key) for key, _ in loaded.book.layers()] == [
        "defaults",
        'provider "*.example.com"',
        "agent ant",
        "agent bot",
        'agent bot provider "api.example.com"',
    ]
    assert [(case.file, case.line, case.expect) for case in loaded.cases] == [
        ("a.toml", 16, "ok"),
        ("b.toml", 3, "frozen"),
    ]
    assert [case.code(loaded.book)[0] for case in loaded.cases] == ["ok", "frozen"]
    source = loaded.sources[LayerKey("bot")]
    assert (source.file, source.line(), source.line("daily"), source.line("rolling", "7d")) == (
        "a.toml",
        9,
        10,
        11,
    )
    assert source.line("per_call") == 9  # what is not there is at its table


def test_files_and_directories(tmp_path: Path) -> None:
    (tmp_path / "b.toml").write_text("[agent.b]\nfrozen = true\n")
    (tmp_path / "a.toml").write_text("[agent.a]\nfrozen = true\n")
    (tmp_path / "note.txt").write_text("not read")
    assert set(load([tmp_path]).book.agents) == {"a", "b"}
    assert set(load([tmp_path / "a.toml"]).book.agents) == {"a"}
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(FilesError, match=r"no \*.toml"):
        load([empty])
    with pytest.raises(OSError, match="No such file"):
        load([tmp_path / "c.toml"])


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("x = [\n", "a.toml:2: this is not TOML: "),
        ("[defaults]\nper_call = 0,05\n", "a.toml:2: this is not TOML: Expected newline"),
        (b"[defaults]\n# \xff\n", "a.toml:2: this is not UTF-8"),
        ('[default]\nper_call = "1"\n', "a.toml:1: default: a policy has the tables"),
        ('[defaults]\n\nper_cal = "1"\n', "a.toml:3: defaults.per_cal: there is no such rule"),
        ("[defaults]\nper_call = 0.05\n", "a.toml:2: defaults.per_call: write the amount as text"),
        (
            '[agent."a b".provider."*.example.com"]\ntrace = "1"\n',
            "a.toml:2: agent.'a b'.provider.'*.example.com'.trace: this cannot be said here",
        ),
        (
            '[agent.bot]\nallowed_endpoints = [\n  "https://a.example/*",\n  "nonsense",\n]\n',
            "a.toml:4: agent.bot.allowed_endpoints[2]: endpoint pattern 'nonsense'",
        ),
        (
            '[agent.bot]\nrolling = { "24h" = "1",\n "40d" = "2" }\n'.replace(",\n", ", "),
            "a.toml:2: agent.bot.rolling.40d: a window is",
        ),
        (
            '[agent.bot]\npayments.day = "5"\n',
            "a.toml:2: agent.bot.payments.day: '5' is not a whole number",
        ),
        ('[provider."a b"]\nfrozen = true\n', "a.toml:1: provider.'a b': provider 'a b': write"),
        ("[[test]]\nagent = 'bot'\n", "a.toml:1: test[1]: it has no url"),
        (
            "[[test]]\nagent='a'\nurl='x'\nprice='1'\nexpect='ok'\n",
            "a.toml:3: test[1].url: 'x' is no URL",
        ),
        (
            "[[test]]\nagent='a'\nurl='http://x.example/'\nprice='1'\nexpect='ok'\nat=2026-01-01\n",
            "a.toml:6: test[1].at: write a moment with its time zone",
        ),
        (
            "[[test]]\nagent='a'\nurl='http://x.example/'\nprice='1'\nexpect='ok'\nnetwork='devnet'\n",
            "a.toml:6: test[1].network: network 'devnet': write solana, solana-devnet",
        ),
        ("test = 1\n", "a.toml:1: test: write each test as [[test]]"),
    ],
)
def test_what_is_wrong_and_where(text: str | bytes, problem: str) -> None:
    (found,) = problems(a=text)
    assert found.startswith(problem)


def test_all_that_is_wrong_is_told_at_once() -> None:
    assert [
        found.partition(": ")[0]
        for found in problems(
            a='[defaults]\nper_call = "x"\ndaily = "y"\n[agent.bot]\nhours = ["z"]\nhourly = "1"\n',
            b="frozen\n",
        )
    ] == ["a.toml:2", "a.toml:3", "a.toml:5", "b.toml:1"]


def test_a_layer_is_in_one_file() -> None:
    (found,) = problems(
        a='[provider."a.example"]\nper_call = "1"\n',
        b='\n[provider."A.example"]\nper_call = "1"\n',
    )
    assert found == (
        "b.toml:2: provider.'A.example': provider \"a.example\" is in a.toml:1 already"
    )


def test_an_error_shows_the_first_and_counts_the_rest() -> None:
    with pytest.raises(FilesError) as refused:
        read({"a.toml": "[x]\n[y]\n"})
    assert str(refused.value).endswith("(and 1 more)")


TRICKY = '''
a = 1 # b = 2
"quoted \\u00e9 key" = """
not = a
key"""
lit = \'\'\'
[no.table]
\'\'\'
many = [ 1, # one
  { x = "}", y = [ "]" ] },
  2026-01-01 10:00:00, ]
[ t . "u.v" ]
d.e.f = "x"
[[t.list]]
k = 1
[[t.list]]
k = 2
[t.list.sub]
z = -1.5e3
'''


def test_lines_of_tricky_toml() -> None:
    lines = lines_of(TRICKY)
    assert tomllib.loads(TRICKY)["quoted é key"] == "not = a\nkey"
    expected = {
        ("a",): 2,
        ("quoted é key",): 3,
        ("lit",): 6,
        ("many",): 9,
        ("many", 0): 9,
        ("many", 1): 10,
        ("many", 1, "x"): 10,
        ("many", 1, "y", 0): 10,
        ("many", 2): 11,
        ("t",): 12,
        ("t", "u.v"): 12,
        ("t", "u.v", "d", "e", "f"): 13,
        ("t", "list", 0): 14,
        ("t", "list", 0, "k"): 15,
        ("t", "list", 1): 16,
        ("t", "list", 1, "k"): 17,
        ("t", "list", 1, "sub"): 18,
        ("t", "list", 1, "sub", "z"): 19,
    }
    assert {path: lines.get(path) for path in expected} == expected


def every_path(value: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    inner: list[tuple[str | int, Any]] = []
    if isinstance(value, dict):
        inner = list(value.items())
    elif isinstance(value, list):
        inner = list(enumerate(value))
    found = [path] if path else []
    for step, one in inner:
        found += every_path(one, (*path, step))
    return found


@given(books())
def test_a_book_survives_its_files_and_every_key_has_its_line(book: Book) -> None:
    text = written(book)
    loaded = read({"a.toml": text})
    assert dict(loaded.book.layers()) == dict(book.layers())
    lines = lines_of(text)
    rows = text.split("\n")
    for path in every_path(tomllib.loads(text)):
        assert path in lines
        if isinstance(path[-1], str):
            assert path[-1] in rows[lines[path] - 1]


def written(book: Book) -> str:
    text = ""
    for key, said in book.layers():
        words = [] if key != LayerKey() else ["defaults"]
        words += ["agent", key.agent] if key.agent else []
        words += ["provider", f'"{key.provider}"'] if key.provider else []
        text += f"\n[{'.'.join(words)}]\n"
        for rule, value in said.to_json().items():
            text += f"{rule} = {toml(value)}\n"
    return text


@given(st.text(alphabet="[]{}=\"'.,#ab1 \n\\-:", max_size=60))
def test_reading_any_text_is_total(text: str) -> None:
    try:
        read({"a.toml": text})
    except FilesError as error:
        assert all(problem.line >= 1 for problem in error.problems)
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return
    lines = lines_of(text)
    assert all(path in lines for path in every_path(document))
