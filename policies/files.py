"""Policies as files: `*.toml`, kept in git, read as a whole or not at all.

`[defaults]`, `[provider."*.example.com"]`, `[agent.bot]`, `[agent.bot.provider."api.example.com"]`
hold layers, `[[test]]` what they are expected to decide. Several files make one book; no layer may
be in two of them.
"""

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from policies.book import Book, LayerKey, read_layers
from policies.cases import Case, read_cases
from policies.errors import PolicyError, RuleError, shown_path
from policies.lines import Path as KeyPath
from policies.lines import lines_of
from policies.rules import Rules

_AT = re.compile(
    r"(?P<why>.*) \(at (?:line (?P<line>[0-9]+), column [0-9]+|end of document)\)", re.S
)


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """Something wrong, and where: the key's path as people write it, empty of a whole file."""

    file: str
    line: int
    key: str
    why: str

    def __str__(self) -> str:
        key = f"{self.key}: " if self.key else ""
        return f"{self.file}:{self.line}: {key}{self.why}"


class FilesError(PolicyError):
    """The files cannot be meant. `problems`: all that is wrong with them; `str()` is the first."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(sorted(set(problems)))
        more = len(self.problems) - 1
        super().__init__(f"{self.problems[0]}" + (f" (and {more} more)" if more else ""))


@dataclass(frozen=True, slots=True)
class Source:
    """Where a layer was read from: its file, what is written there, and on which lines."""

    file: str
    path: tuple[str, ...]
    written: Mapping[str, Any]
    lines: Mapping[KeyPath, int] = field(repr=False)

    def line(self, *path: str | int) -> int:
        """The line of a key of the layer, or of what is nearest to it."""
        return _line(self.lines, (*self.path, *path))


@dataclass(frozen=True, slots=True)
class Loaded:
    """What files say: the book, what they expect of it, and where each layer was read."""

    book: Book
    cases: tuple[Case, ...]
    sources: Mapping[LayerKey, Source]


def load(paths: Iterable[Path]) -> Loaded:
    """Reads files, and the `*.toml` of directories. Raises FilesError, OSError."""
    files = [file for path in paths for file in _files(path)]
    return read({str(file): file.read_bytes() for file in files})


def read(texts: Mapping[str, bytes | str]) -> Loaded:
    """Reads texts by the names of their files. Raises FilesError, which tells all that is wrong."""
    problems: list[Problem] = []
    layers: dict[LayerKey, Rules] = {}
    sources: dict[LayerKey, Source] = {}
    cases: list[Case] = []
    for name, text in texts.items():
        try:
            document, lines = _parsed(name, text)
        except FilesError as error:
            problems += error.problems
            continue
        written = dict(document)
        problems += [_located(name, lines, wrong) for wrong in _taken_apart(written)]
        try:
            cases += read_cases(name, lines, written.pop("test", []))
        except RuleError as error:
            problems.append(_located(name, lines, error))
        for key, path, rules in read_layers(written):
            if key in layers:
                first = sources[key]
                why = f"{key} is in {first.file}:{first.line()} already"
                problems.append(Problem(name, _line(lines, path), shown_path(path), why))
                continue
            layers[key] = rules
            sources[key] = Source(name, path, _at(document, path), lines)
    if problems:
        raise FilesError(problems)
    return Loaded(Book.of(layers), tuple(cases), sources)


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = sorted(path.glob("*.toml"))
    if not found:
        raise FilesError([Problem(str(path), 0, "", "there is no *.toml in this directory")])
    return found


def _parsed(name: str, text: bytes | str) -> tuple[dict[str, Any], dict[KeyPath, int]]:
    try:
        # As tomllib reads a file: UTF-8, and whatever ends its lines.
        plain = (text if isinstance(text, str) else text.decode()).replace("\r\n", "\n")
        return tomllib.loads(plain), lines_of(plain)
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise FilesError([Problem(name, line, "", "this is not UTF-8")]) from None
    except tomllib.TOMLDecodeError as error:
        match = _AT.fullmatch(str(error))
        line = int(match["line"]) if match and match["line"] else plain.count("\n") + 1
        why = match["why"] if match else str(error)
        raise FilesError([Problem(name, line, "", f"this is not TOML: {why}")]) from None


def _taken_apart(document: dict[str, Any]) -> list[RuleError]:
    """All that is wrong with the layers of a document, which is left without it."""
    wrong: list[RuleError] = []
    while True:
        try:
            for _ in read_layers({key: table for key, table in document.items() if key != "test"}):
                pass
        except RuleError as error:
            wrong.append(error)
            _remove(document, error.path)
        else:
            return wrong


def _remove(document: dict[str, Any], path: KeyPath) -> None:
    """Takes out what a path leads to, or the list that it leads into, in copies of the tables that
    hold it."""
    table = document
    for i, step in enumerate(path):
        inner = table.get(str(step))
        if i + 1 == len(path) or not isinstance(inner, dict):
            del table[str(step)]
            return
        table[str(step)] = inner = dict(inner)
        table = inner


def _located(name: str, lines: Mapping[KeyPath, int], error: RuleError) -> Problem:
    return Problem(name, _line(lines, error.path), shown_path(error.path), error.why)


def _line(lines: Mapping[KeyPath, int], path: KeyPath) -> int:
    for length in range(len(path), 0, -1):
        if path[:length] in lines:
            return lines[path[:length]]
    return 1


def _at(document: Mapping[str, Any], path: Iterable[str]) -> Mapping[str, Any]:
    found = document
    for step in path:
        found = found[step]
    return found
