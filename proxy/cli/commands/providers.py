"""How good each provider is, what it was paid, and why its score is what it is; and breakers that
are turned by hand.

  autopay providers list
  autopay providers show api.example --why
  autopay providers show api.example --endpoint "GET https://api.example/v1/quote" --why
  autopay providers close api.example          (it is well again: call it, in every proxy)
  autopay providers open api.example --for 600 (nobody calls it for ten minutes)

A score is between 0 and 1, and its shares add up to it. It rests on what all proxies of this
database have seen; a running one writes it every second. docs/providers.md says how it is made.
"""

import argparse
import asyncio
import json
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from proxy.cli.actions import Actions, for_machines
from proxy.cli.books import existing_store, open_books
from proxy.cli.errors import CommandError
from proxy.cli.questions import positive
from proxy.cli.render import dollars, json_line, moment, say, shortened, table
from proxy.cli.who import login
from proxy.ledger import provider_stats
from proxy.providers.by_hand import MOST_SECONDS, turn
from proxy.providers.names import named
from proxy.providers.score_book import ScoreBook
from proxy.providers.scores import Scores, Why
from proxy.records import as_fields, plain
from proxy.service import score_terms
from proxy.settings import Settings

Action = Callable[[argparse.Namespace, Settings], Coroutine[Any, Any, None]]


def arguments(parser: argparse.ArgumentParser) -> None:
    action = Actions[Action](parser).add
    machine = for_machines()
    list_ = action("list", "every provider with its score, the best first", _list, machine)
    list_.add_argument(
        "--limit", type=positive, default=50, metavar="N", help="at most so many (default: 50)"
    )
    show = action("show", "one provider", _show, machine)
    show.add_argument("provider", metavar="X", help="its host, origin or URL")
    show.add_argument(
        "--endpoint", metavar="E", help='one that it offers: "GET https://api.example/v1/quote"'
    )
    show.add_argument("--why", action="store_true", help="the shares that add up to its score")
    close = action("close", "close a provider's breaker: it is called again", _turn)
    open_ = action("open", "open a provider's breaker: nobody calls it for a while", _turn)
    open_.add_argument(
        "--for", type=_seconds, required=True, dest="seconds", metavar="SECONDS", help="how long"
    )
    close.set_defaults(seconds=None)
    for one in (close, open_):
        one.add_argument("provider", metavar="X", help="its host, origin or URL")
        one.add_argument(
            "--by", default="", metavar="WHO", help="for the audit trail (default: your login)"
        )


def run(options: argparse.Namespace) -> int:
    asyncio.run(options.act(options, Settings.load(options.config)))
    return 0


def _seconds(text: str) -> int:
    """Raises ArgumentTypeError, which argparse shows."""
    if not text.isdecimal() or not 0 < int(text) <= MOST_SECONDS:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds, 1 to {MOST_SECONDS}")
    return int(text)


@dataclass(frozen=True, slots=True)
class _Known:
    scores: Scores
    opened: Mapping[str, datetime]
    """Until when each breaker that is not closed is open."""

    def why(self, key: str, endpoint: str = "") -> Why:
        return self.scores.why(key, endpoint, state=self.state(key))

    def state(self, key: str) -> str:
        until = self.opened.get(key)
        if until is None:
            return "closed"
        return "open" if until > datetime.now(UTC) else "half-open"


async def _read(settings: Settings) -> _Known:
    async with open_books(settings) as database:
        book = ScoreBook(database, score_terms(settings.score))
        await book.read()
        stats = (await provider_stats.load(database)).values()
    return _Known(
        book.scores,
        {one.id: one.circuit_open_until for one in stats if one.circuit_open_until is not None},
    )


async def _list(options: argparse.Namespace, settings: Settings) -> None:
    known = await _read(settings)
    found = [known.why(key) for key in known.scores.providers()]
    found.sort(key=lambda why: (-why.score, why.provider))
    found = found[: options.limit]
    if options.json:
        for why in found:
            say(json_line(why, money=Why.MONEY))
    elif found:
        headings = ["PROVIDER", ">SCORE", "BREAKER", ">CALLS", ">FAILED", ">PAID", ">LOST"]
        say(table([*headings, "SEEN (UTC)"], [_row(why) for why in found]))
    else:
        say("No provider was called yet.")


async def _show(options: argparse.Namespace, settings: Settings) -> None:
    known = await _read(settings)
    key = named(options.provider, known.scores.providers())
    if key is None:
        raise CommandError(f"nothing is known of {options.provider}; see: autopay providers list")
    endpoints = known.scores.endpoints(key)
    endpoint = "" if options.endpoint is None else _endpoint(options.endpoint, endpoints)
    why = known.why(key, endpoint)
    parts = [] if endpoint else [known.why(key, one) for one in endpoints]
    if options.json:
        fields = as_fields(why, money=Why.MONEY)
        fields["endpoints"] = [as_fields(part, money=Why.MONEY) for part in parts]
        say(json.dumps(fields, default=plain))
        return
    say(table(("PROVIDER", key), [list(fact) for fact in _facts(why, known)]))
    if options.why:
        say()
        say(table(("SHARE", ">WEIGHT", ">OF IT", ">POINTS", "WHY"), _shares(why)))
    if parts:
        say()
        rows = [
            [part.endpoint, f"{part.score:.3f}", str(part.calls), str(part.failures)]
            for part in parts
        ]
        say(table(("ENDPOINT", ">SCORE", ">CALLS", ">FAILED"), rows))


async def _turn(options: argparse.Namespace, settings: Settings) -> None:
    by = options.by.strip() or login("autopay providers")
    async with existing_store(settings) as store:
        key, done = await turn(store.database, options.provider, options.seconds, by=by)
    if done.open_until is not None:
        say(f"{key} is left alone until {moment(done.open_until)} UTC.")
    elif done.turned:
        say(f"{key} is called again.")
    else:
        say(f"{key} was not left alone; its breaker is closed.")


def _endpoint(text: str, known: list[str]) -> str:
    """As it was written, or without the method or the host where that is enough."""
    method, _, place = text.rpartition(" ")
    meant = [one for one in known if one == text] or [
        one for one in known if one.startswith(method) and one.endswith(place)
    ]
    if len(meant) != 1:
        many = "more than one endpoint is" if meant else "no endpoint is known that is"
        raise CommandError(f"{many} {text!r}; known: {'; '.join(known) or 'none'}")
    return meant[0]


def _facts(why: Why, known: _Known) -> list[tuple[str, str]]:
    state, until = why.state, known.opened.get(why.provider)
    if until is not None:
        state += f", {'until' if state == 'open' else 'since'} {moment(until)} UTC"
    facts = [("endpoint", why.endpoint)] if why.endpoint else []
    facts += [
        ("score", f"{why.score:.3f}"),
        ("breaker", state),
        ("calls", f"{why.calls}: {why.successes} answered, {why.failures} failed"),
        ("paid", f"{dollars(why.paid)}, of which {dollars(why.delivered)} were delivered for"),
        ("lost", f"{dollars(why.lost)}; calls that took money for nothing: {why.paid_failures}"),
        ("last status", "" if why.last_status is None else str(why.last_status)),
        ("last error", why.last_error or "none since it answered last"),
    ]
    if why.last_seen_at is not None:
        facts.append(("last seen", f"{moment(why.last_seen_at)} UTC"))
    return facts


def _shares(why: Why) -> list[list[str]]:
    rows = [
        [one.name, f"{one.weight:.2f}", f"{one.value:.3f}", f"{one.points:+.4f}", one.why]
        for one in why.shares
    ]
    return [*rows, ["score", "", "", f"{why.score:+.4f}", f"of {why.known:.1f} recent calls"]]


def _row(why: Why) -> list[str]:
    return [
        shortened(why.provider, 60),
        f"{why.score:.3f}",
        why.state,
        str(why.calls),
        str(why.failures),
        dollars(why.paid),
        dollars(why.lost),
        "" if why.last_seen_at is None else moment(why.last_seen_at),
    ]
