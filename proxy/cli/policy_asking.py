"""`autopay policy` where it asks what would be decided: explain, simulate."""

import argparse
import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from policies import Step, format_usd
from policies import explain as explained
from policies.cases import ask_for
from policies.explanation import conclusion
from policies.files import load
from policies.simulation import DayLimit, Replayed
from policies.simulation import simulate as replayed
from proxy.cli.books import open_books
from proxy.cli.errors import CommandError, unknown_agent
from proxy.cli.policy_files import joined
from proxy.cli.render import dollars, moment, note, say, shortened, table
from proxy.ledger import ceilings, decided, policies
from proxy.ledger.facts import facts
from proxy.settings import Settings
from proxy.supposed import completed, supposed_key

# As far as any window of a policy reaches back, but for those of a whole life.
_LONGEST = timedelta(days=31)
_OUTCOMES = {"allows": "yes", "denies": "NO", "silent": "-", "unknown": "?"}


async def explain(options: argparse.Namespace, settings: Settings) -> int:
    """0 if it would be paid, 1 if not, or if that cannot be known."""
    url, body = options.url, _body(options.body)
    ask = completed(
        ask_for(
            url,
            options.price,
            method=options.method,
            pay_to=options.pay_to,
            asset=options.asset,
            network=options.network,
            scheme=options.scheme,
            flow=options.flow,
            max_timeout_seconds=options.timeout,
            at=options.at or datetime.now(UTC),
        )
    )
    async with open_books(settings) as database:
        book = await policies.load(database)
        if options.agent not in book.agents:
            raise unknown_agent(options.agent, book.agents)
        policy = book.policy(options.agent, ask.scheme, ask.host, ask.port)
        known = await facts(
            database,
            policy,
            ask,
            session=options.session,
            trace=options.trace,
            request_key=supposed_key(ask.method, url, body),
        )
    steps = explained(policy, ask, known)
    code, allowed, decisive = conclusion(steps)
    if options.json:
        record = {
            "agent": options.agent,
            "url": url,
            "price_usd": format_usd(ask.price),
            "policy_version": book.version,
            "allowed": allowed,
            "code": code,
            "rule": decisive.rule if decisive is not None else None,
            "layer": decisive.layer if decisive is not None else None,
            "steps": [_step_record(step) for step in steps],
        }
        say(json.dumps(record))
        return int(not allowed)
    rows = [
        (
            "deny"
            if step is decisive and allowed is False
            else {"silent": "-", "unknown": "?"}.get(step.outcome, step.outcome),
            step.rule,
            step.layer,
            "" if step.value is None else json.dumps(step.value, ensure_ascii=False),
            " ".join(filter(None, (step.code, step.detail, _numbers(step)))),
        )
        for step in steps
    ]
    say(table(("", "RULE", "LAYER", "SAYS", "AND"), rows))
    verdict = "It would be paid."
    if decisive is not None:
        by = f"by {decisive.layer or 'the ledger'}: {decisive.rule}"
        verdict = (
            f"Whether it would be paid is not known, {by}. {decisive.detail}"
            if allowed is None
            else f"It would be denied: {code}, {by}."
        )
    say(f"\n{verdict} (policy version {book.version})")
    return int(not allowed)


async def simulate(options: argparse.Namespace, settings: Settings) -> int:
    loaded = load(options.files)
    since = datetime.now(UTC) - options.since
    async with open_books(settings) as database:
        running = await policies.load(database)
        book = joined(running, loaded, prune=options.prune)
        log = await decided.decisions(database, since, _LONGEST)
        limits = [
            DayLimit(one.kind, one.agent, one.subject, one.limit)
            for one in await ceilings.ceilings(database)
        ]
    if options.agent is not None and options.agent not in book.agents:
        raise unknown_agent(options.agent, book.agents)
    results = [
        # Others fill the windows and ceilings that agents share.
        one
        for one in replayed(book, log.decisions, since, ceilings=limits, running=running)
        if options.agent in (None, one.logged.agent)
    ]
    unreadable = log.unreadable if options.agent is None else 0
    if options.json:
        for one in results:
            say(json.dumps(_replayed_record(one)))
        if unreadable:
            note(_not_known(unreadable, "their endpoints"))
        return 0
    changed = [one for one in results if one.effect != "same"]
    if changed:
        headings = ("TIME (UTC)", "AGENT", "ENDPOINT", ">PRICE", "WAS", "WOULD BE", "BY")
        say(table(headings, [_replayed_row(one) for one in changed]) + "\n")
    _say_totals(results, unreadable)
    return 0


def _body(given: str | None) -> bytes | None:
    """SHA-256 of what was given as a body, like curl's: text, or @FILE."""
    if given is None:
        return None
    if not given.startswith("@"):
        return hashlib.sha256(given.encode()).digest()
    try:
        return hashlib.sha256(Path(given[1:]).read_bytes()).digest()
    except OSError as error:
        raise CommandError(f"{given[1:]} cannot be read: {error.strerror}") from None


def _say_totals(results: list[Replayed], unreadable: int) -> None:
    paid = [one for one in results if one.logged.code == "ok"]
    saved = [one for one in results if one.effect == "denied"]
    more = [one for one in results if one.effect == "allowed"]
    say(f"{len(results)} decisions, {len(paid)} of them paid: {dollars(_sum(paid))}.")
    say(f"{len(saved)} of those would have been denied: {dollars(_sum(saved))} not spent.")
    by: dict[str, list[Replayed]] = defaultdict(list)
    for one in saved:
        by[f"{one.code}, by {one.layer or 'the ledger'}: {one.rule}"].append(one)
    for why, those in sorted(by.items(), key=lambda item: -len(item[1])):
        say(f"  {len(those):>6} {why}, {dollars(_sum(those))}")
    say(f"{len(more)} that were denied would have been allowed: {dollars(_sum(more))}.")
    unknown = [one for one in results if one.effect == "unknown"]
    if unknown or unreadable:
        asked = {rule: None for one in unknown for rule in one.not_known}
        lacking = [*asked, *(["their endpoints"] if unreadable else [])]
        say(_not_known(len(unknown) + unreadable, ", ".join(lacking)))


def _not_known(count: int, what: str) -> str:
    return f"not known: {count} decisions, of which the log does not hold: {what}"


def _sum(results: Iterable[Replayed]) -> int:
    return sum(one.logged.ask.price for one in results if one.logged.final)


def _replayed_row(one: Replayed) -> tuple[str, ...]:
    ask = one.logged.ask
    return (
        moment(one.logged.at),
        one.logged.agent,
        shortened(f"{ask.method} {one.logged.provider}{ask.path}", 60),
        dollars(ask.price),
        one.logged.code,
        one.code,
        f"{one.layer or 'the ledger'}: {one.rule}" if one.rule else "",
    )


def _replayed_record(one: Replayed) -> dict[str, Any]:
    ask = one.logged.ask
    return {
        "at": one.logged.at.isoformat(),
        "agent": one.logged.agent,
        "method": ask.method,
        "url": f"{one.logged.provider}{ask.path}",
        "price_usd": format_usd(ask.price),
        "was": one.logged.code,
        "would_be": None if one.not_known else one.code,
        "rule": one.rule or None,
        "layer": one.layer or None,
        "effect": one.effect,
        "sure": not one.not_known,
        "not_known": list(one.not_known),
    }


def _step_record(step: Step) -> dict[str, Any]:
    return {
        "rule": step.rule,
        "layer": step.layer or None,
        "outcome": step.outcome,
        "value": step.value,
        "code": step.code or None,
        "detail": step.detail or None,
        "numbers": dict(step.numbers),
    }


def _numbers(step: Step) -> str:
    named = {name.removesuffix("_usd"): value for name, value in step.numbers.items()}
    return ", ".join(f"{name} {value}" for name, value in named.items() if value is not None)
