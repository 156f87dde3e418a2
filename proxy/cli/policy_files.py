"""Policy files as the commands take them: read, joined with what holds, looked over, tried out."""

import argparse
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from policies import Book, LayerKey, Rules
from policies.cases import Case
from policies.files import Loaded, Problem
from policies.lint import Finding, Known, lint
from proxy.settings import Settings
from proxy.supposed import completed
from proxy.x402.assets import ASSETS
from proxy.x402.networks import SUPPORTED


def add_files(parser: argparse.ArgumentParser, *, some: bool = True) -> None:
    """The files of a command; `some`: at least one."""
    parser.add_argument(
        "files",
        nargs="+" if some else "*",
        type=Path,
        metavar="FILE",
        help="*.toml, or a directory of them; all together are one policy",
    )


def joined(running: Book, loaded: Loaded, *, prune: bool) -> Book:
    """The book once the files are applied to the running one: each layer of theirs in place of the
    one of before; with `prune`, theirs alone, and agents that are in none say nothing."""
    layers = {} if prune else dict(running.layers())
    silent = {LayerKey(name): Rules() for name in running.agents}
    return Book.of({**silent, **layers, **dict(loaded.book.layers())}, running.version)


def findings(book: Book, loaded: Loaded, known: Known) -> list[tuple[Finding, Problem]]:
    """What lint has to say of the files' layers as a part of `book`, with file and line."""
    written = {key: source.written for key, source in loaded.sources.items()}
    return [
        (one, _placed(one, loaded)) for one in lint(book, known, written) if one.layer in written
    ]


def failures(book: Book, cases: Iterable[Case]) -> list[Problem]:
    """The tests of the files that do not come out as expected."""
    problems = []
    for case in cases:
        code, verdict = replace(case, ask=completed(case.ask)).code(book)
        if code != case.expect:
            by = f" (by {verdict.layer}: {verdict.rule})" if verdict.rule else ""
            why = f"{code}{by}, not {case.expect}: {verdict.detail}"
            key = f"test {case.agent} {case.ask.method} {case.ask.host}{case.ask.path}"
            problems.append(Problem(case.file, case.line, key, why))
    return problems


def known_here(settings: Settings, agents: Iterable[str] | None = None) -> Known:
    """What this program knows of the world: its own tables of assets and networks, the wallets of
    its settings; agents, where they are given."""
    symbols = {asset.symbol for asset in ASSETS}
    return Known(
        assets=symbols | {f"{asset.network}/{asset.address}" for asset in ASSETS},
        networks=SUPPORTED,
        wallets={"default", *settings.wallets},
        agents=None if agents is None else set(agents),
    )


def _placed(one: Finding, loaded: Loaded) -> Problem:
    source = loaded.sources[one.layer]
    step = () if one.entry is None else (one.entry,)
    line = source.line(one.rule, *step) if one.rule else source.line()
    key = " ".join(filter(None, (str(one.layer), one.rule)))
    return Problem(source.file, line, key, one.why)
