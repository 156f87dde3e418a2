"""`autopay policy` where it asks what would be decided: explain, simulate."""

import argparse
import json
from collections import defaultdict
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from policies import Step, format_usd
from policies import explain as explained
from policies.cases import ask_for
from policies.explanation import first_no
from policies.files import load
from policies.simulation import Replayed
from policies.simulation import simulate as replayed
from proxy.cli.books import open_books
from proxy.cli.errors import CommandError
from proxy.cli.policy_files import completed, joined
from proxy.cli.render import dollars, moment, say, shortened, table
from proxy.ledger import decided, policies
from proxy.ledger.facts import facts
from proxy.settings import Settings

# As far as any window of a policy reaches back, but for those of a whole life.
_LONGEST = timedelta(days=31)
_OUTCOMES = {"allows": "yes", "denies": "NO", "silent": "-", "unknown": "?"}


async def explain(options: argparse.Namespace, settings: Settings) -> int:
    """0 if it would be paid, 1 if not."""
    ask = completed(
        ask_for(
            options.url,
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
            raise CommandError(f"there is no agent {options.agent!r}; see: autopay agent list")
        policy = book.policy(options.agent, ask.scheme, ask.host, ask.port)
        known = await facts(database, policy, ask, session=options.session, trace=options.trace)
    steps = explained(policy, ask, known)
    no = first_no(steps)
    if options.json:
        record = {
            "agent": options.agent,
            "url": options.url,
            "price_usd": format_usd(ask.price),
            "policy_version": book.version,
            "allowed": no is None,
            "code": "ok" if no is None else no.code,
            "rule": None if no is None else no.rule,
            "layer": None if no is None else no.layer,
            "steps": [_step_record(step) for step in steps],
        }
        say(json.dumps(record))
        return int(no is not None)
    rows = [
        (
            "deny"
            if step is no
            else {"silent": "-", "unknown": "?"}.get(step.outcome, step.outcome),
            step.rule,
            step.layer,
            "" if step.value is None else json.dumps(step.value, ensure_ascii=False),
            " ".join(filter(None, (step.code, step.detail, _numbers(step)))),
        )
        for step in steps
    ]
    say(table(("", "RULE", "LAYER", "SAYS", "AND"), rows))
    verdict = "It would be paid." if no is None else f"It would be denied: {no.code}"
    by = f", by {no.layer or 'the ledger'}: {no.rule}." if no is not None else ""
    say(f"\n{verdict}{by} (policy version {book.version})")
    return int(no is not None)


async def simulate(options: argparse.Namespace, settings: Settings) -> int:
    loaded = load(options.files)
    since = datetime.now(UTC) - options.since
    async with open_books(settings) as database:
        book = joined(await policies.load(database), loaded, prune=options.prune)
        log = [one async for one in decided.decisions(database, since - _LONGEST, options.agent)]
    results = list(replayed(book, log, since))
    if options.json:
        for one in results:
            say(json.dumps(_replayed_record(one)))
        return 0
    changed = [one for one in results if one.effect != "same"]
    if changed:
        headings = ("TIME (UTC)", "AGENT", "ENDPOINT", ">PRICE", "WAS", "WOULD BE", "BY")
        say(table(headings, [_replayed_row(one) for one in changed]) + "\n")
    _say_totals(results)
    return 0


def _say_totals(results: list[Replayed]) -> None:
    paid = [one for one in results if one.logged.code == "ok"]
    saved = [one for one in results if one.effect == "denied"]
    more = [one for one in results if one.effect == "allowed"]
    say(f"{len(results)} decisions, {len(paid)} of them paid: {dollars(_sum(paid))}.")
    say(f"{len(saved)} of those would have been denied: {dollars(_sum(saved))} not spent.")
    by: dict[str, list[Replayed]] = defaultdict(list)
    for one in saved:
        by[f"{one.code}, by {one.layer}: {one.rule}"].append(one)
    for why, those in sorted(by.items(), key=lambda item: -len(item[1])):
        say(f"  {len(those):>6} {why}, {dollars(_sum(those))}")
    say(f"{len(more)} that were denied would have been allowed: {dollars(_sum(more))}.")
    unsure = sum(not one.logged.offer_known for one in more)
    if unsure:
        say(f"  {unsure} of them perhaps: whom they would have paid was not written down.")


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
        f"{one.layer}: {one.rule}" if one.rule else "",
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
        "would_be": one.code,
        "rule": one.rule or None,
        "layer": one.layer or None,
        "effect": one.effect,
        "sure": one.logged.offer_known,
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
