"""`autopay policy` where it looks at policies: show, diff, lint, test."""

import argparse
import json
from dataclasses import replace

from policies import Book
from policies import diff as compared
from policies.files import FilesError, Loaded, load
from policies.files import read as read_files
from policies.written import as_toml
from proxy.cli.books import open_books
from proxy.cli.errors import unknown_agent
from proxy.cli.policy_changing import change_line
from proxy.cli.policy_files import failures, findings, joined, known_here
from proxy.cli.render import say
from proxy.ledger import policies
from proxy.settings import Settings


async def show(options: argparse.Namespace, settings: Settings) -> int:
    async with open_books(settings) as database:
        book = await policies.load(database)
    if options.agent is not None:
        book = _of_agent(book, options.agent)
    if options.json:
        say(json.dumps(book.to_json()))
    else:
        say(f"# The policies at version {book.version}.\n\n{as_toml(book)}".rstrip())
    return 0


async def diff(options: argparse.Namespace, settings: Settings) -> int:
    loaded = load(options.files)
    async with open_books(settings) as database:
        running = await policies.load(database)
    changes = compared(running, joined(running, loaded, prune=options.prune))
    if options.json:
        for change in changes:
            say(json.dumps(change.to_json()))
    else:
        for change in changes:
            say(change_line(change))
        if not changes:
            say(f"No difference to version {running.version}.")
    return int(bool(changes) and options.exit_code)


async def lint(options: argparse.Namespace, settings: Settings) -> int:
    """Of files, or of what holds if none are given. Needs a database only for the latter."""
    try:
        loaded = load(options.files) if options.files else await _running(settings)
    except FilesError as error:
        for problem in error.problems:
            _say_found(options, "error", problem.file, problem.line, problem.key, problem.why)
        return 1
    agents = None if options.files else loaded.book.agents
    found = findings(loaded.book, loaded, known_here(settings, agents))
    for one, problem in found:
        _say_found(options, one.level, problem.file, problem.line, problem.key, problem.why)
    if not found and not options.json:
        say("Nothing is said in vain.")
    return int(any(one.level == "error" or options.strict for one, _ in found))


async def test(options: argparse.Namespace, settings: Settings) -> int:
    loaded = load(options.files)
    book = loaded.book
    if options.running:
        async with open_books(settings) as database:
            book = joined(await policies.load(database), loaded, prune=options.prune)
    failed = failures(book, loaded.cases)
    if options.json:
        for problem in failed:
            say(json.dumps({"file": problem.file, "line": problem.line, "why": problem.why}))
        return int(bool(failed))
    for problem in failed:
        say(str(problem))
    say(f"{len(loaded.cases) - len(failed)} of {len(loaded.cases)} tests came out as expected.")
    return int(bool(failed))


async def _running(settings: Settings) -> Loaded:
    async with open_books(settings) as database:
        book = await policies.load(database)
    return read_files({f"version {book.version}": as_toml(book)})


def _of_agent(book: Book, agent: str) -> Book:
    if agent not in book.agents:
        raise unknown_agent(agent, book.agents)
    return replace(
        book,
        agents={name: rules for name, rules in book.agents.items() if name == agent},
        agent_providers={
            key: rules for key, rules in book.agent_providers.items() if key[0] == agent
        },
    )


def _say_found(
    options: argparse.Namespace, level: str, file: str, line: int, key: str, why: str
) -> None:
    if options.json:
        record = {"level": level, "file": file, "line": line, "key": key, "why": why}
        say(json.dumps(record))
    else:
        say(f"{file}:{line}: {level}: {f'{key}: ' if key else ''}{why}")
