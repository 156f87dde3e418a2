"""`autopay policy` where it changes something: apply, rollback, shadow; and the history of that."""

import argparse
import json
import platform

from policies import Book, diff
from policies.diff import Change
from policies.files import Loaded, Problem, load
from proxy.cli.books import existing_store, open_books
from proxy.cli.errors import CommandError, unknown_agent
from proxy.cli.policy_files import failures, findings, joined, known_here
from proxy.cli.render import json_line, moment, note, say, table
from proxy.cli.who import login
from proxy.ledger import agents, policies
from proxy.settings import Settings


async def apply(options: argparse.Namespace, settings: Settings) -> int:
    loaded = load(options.files)
    async with existing_store(settings) as store:
        running = await policies.load(store.database)
        _look_over(options, settings, running, loaded)
        applied = await policies.apply(
            store.database,
            loaded.book,
            by=login("autopay policy"),
            origin=_where("apply"),
            note=options.note,
            # Lint and the tests have looked at this very version.
            expected=running.version if options.expect is None else options.expect,
            prune=options.prune,
            create=options.create,
        )
        after = await policies.load(store.database)
    return _say_applied(options, applied.version, diff(running, after))


async def rollback(options: argparse.Namespace, settings: Settings) -> int:
    async with existing_store(settings) as store:
        running = await policies.load(store.database)
        applied = await policies.roll_back(
            store.database,
            options.version,
            by=login("autopay policy"),
            origin=_where("rollback"),
            note=options.note,
            expected=options.expect,
        )
        after = await policies.load(store.database)
    return _say_applied(options, applied.version, diff(running, after))


async def shadow(options: argparse.Namespace, settings: Settings) -> int:
    if options.off and options.files:
        raise CommandError("give files, or --off, not both")
    if not options.off and not options.files:
        return await _say_shadow(options, settings)
    async with existing_store(settings) as store:
        book = None
        if options.files:
            loaded = load(options.files)
            book = joined(await policies.load(store.database), loaded, prune=options.prune)
        await policies.shadow(store.database, book, by=login("autopay policy"), note=options.note)
    say(
        "No other policy decides any more."
        if book is None
        else "The files decide beside what holds, from now on. Nothing is paid or denied by them:"
        " what they would have said is in the log of decisions (shadow_reason)."
    )
    return 0


async def history(options: argparse.Namespace, settings: Settings) -> int:
    async with open_books(settings) as database:
        if options.agent is not None:
            known = {info.agent.name for info in await agents.list_all(database)}
            if options.agent not in known:
                raise unknown_agent(options.agent, known)
        found = await policies.history(database, options.limit, agent=options.agent)
    if options.json:
        for one in found:
            say(json_line(one))
        return 0
    headings = (">VERSION", "TIME (UTC)", "BY", "FROM", "LAYER", "CHANGE", "NOTE")
    rows = [
        (
            str(one.version),
            moment(one.changed_at),
            one.changed_by,
            one.origin,
            one.layer.replace("agent", f"agent {one.agent}", 1) if one.agent else one.layer,
            _briefly(one),
            one.note,
        )
        for one in found
    ]
    say(table(headings, rows) if rows else "Nothing was changed yet.")
    return 0


def change_line(change: Change) -> str:
    """One change as people read it."""
    before, after = (
        "(nothing)" if value is None else json.dumps(value, ensure_ascii=False)
        for value in (change.before, change.after)
    )
    sign = {"tighter": "-", "looser": "+", "other": "~"}[change.direction]
    return f"{sign} {change.layer}: {change.rule}: {before} -> {after} ({change.direction})"


def _look_over(
    options: argparse.Namespace, settings: Settings, running: Book, loaded: Loaded
) -> None:
    """Raises CommandError if the files hold what cannot be meant, unless that is forced."""
    book = joined(running, loaded, prune=options.prune)
    known = known_here(settings, None if options.create else running.agents)
    errors: list[Problem] = []
    for one, problem in findings(book, loaded, known):
        note(f"{problem.file}:{problem.line}: {one.level}: {problem.key}: {problem.why}")
        errors += [problem] if one.level == "error" else []
    failed = failures(book, loaded.cases)
    for problem in failed:
        note(str(problem))
    if (errors or failed) and not options.force:
        raise CommandError(
            f"nothing was changed: {len(errors)} error(s) of lint and {len(failed)} failed test(s);"
            " --force applies it all the same"
        )


def _say_applied(options: argparse.Namespace, version: int, changes: list[Change]) -> int:
    if options.json:
        record = {"version": version, "changes": [one.to_json() for one in changes]}
        say(json.dumps(record))
        return 0
    for change in changes:
        say(change_line(change))
    say(
        f"The policies are at version {version}."
        if changes
        else f"Nothing to change: the policies are at version {version} as they are."
    )
    return 0


async def _say_shadow(options: argparse.Namespace, settings: Settings) -> int:
    async with open_books(settings) as database:
        running = await policies.load(database)
        found = await policies.shadowed(database)
    changes = [] if found.book is None else diff(running, found.book)
    if options.json:
        record = {
            "shadow": None if found.book is None else found.book.to_json(),
            "note": found.note,
            "by": found.updated_by,
            "since": found.updated_at.isoformat(),
            "changes": [one.to_json() for one in changes],
        }
        say(json.dumps(record))
    elif found.book is None:
        say("No other policy decides beside the one that holds.")
    else:
        say(f"Since {moment(found.updated_at)}, by {found.updated_by}: {found.note or 'no note'}")
        for change in changes:
            say(change_line(change))
    return 0


def _briefly(one: policies.Change) -> str:
    if one.before is None:
        return "new"
    if one.after is None:
        return "taken away"
    keys = {*one.before, *one.after}
    changed = {key for key in keys if one.before.get(key) != one.after.get(key)}
    # The oldest rules are columns of their own, which have longer names than the rules.
    return ", ".join(sorted(key.removesuffix("_limit_micros") for key in changed))


def _where(action: str) -> str:
    return f"autopay policy {action} on {platform.node()}"
