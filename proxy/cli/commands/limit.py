"""Ceilings per UTC day above the agents' own policies: for everything that is paid (fleet), for one
wallet, for one provider, or for one agent with one provider.

  autopay limit set 20.00                                        all agents together
  autopay limit set 5.00 --provider https://api.example.com      all agents, this provider
  autopay limit set 1.00 --provider '*'                          each provider by itself
  autopay limit set 0.50 --agent bot --provider https://api.example.com
  autopay limit set 10.00 --wallet ADDRESS

They hold from the next payment on, in every proxy. What names its provider or wallet goes before
what is for each of them.
"""

import argparse
import asyncio
import json
from typing import Any

from policies import format_usd
from proxy.cli.books import existing_store, open_books
from proxy.cli.errors import CommandError
from proxy.cli.origins import origin_key
from proxy.cli.questions import usd
from proxy.cli.render import dollars, moment, say, table
from proxy.ledger import ceilings
from proxy.ledger.ceilings import ALL, Ceiling, Kind
from proxy.settings import Settings

_WORDS: dict[Kind, str] = {
    "fleet_day": "everything",
    "wallet_day": "wallet",
    "provider_day": "provider",
    "agent_provider_day": "agent and provider",
}


def arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(required=True, metavar="ACTION", dest="action")
    what = argparse.ArgumentParser(add_help=False)
    what.add_argument("--provider", metavar="URL", help="its URL, or * for each by itself")
    what.add_argument("--wallet", metavar="ADDRESS", help="its address, or * for each by itself")
    what.add_argument("--agent", metavar="NAME", help="with --provider: only what this agent pays")
    set_ = actions.add_parser("set", parents=[what], help="set or change one")
    set_.add_argument("limit", type=usd, metavar="USD")
    set_.set_defaults(act=_set)
    clear = actions.add_parser("clear", parents=[what], help="take one away")
    clear.set_defaults(act=_clear)
    list_ = actions.add_parser("list", help="all, with what of them is used today")
    list_.add_argument("--json", action="store_true", help="for machines")
    list_.set_defaults(act=_list)


def run(options: argparse.Namespace) -> int:
    asyncio.run(options.act(options, Settings.load(options.config)))
    return 0


async def _set(options: argparse.Namespace, settings: Settings) -> None:
    kind, subject = _subject(options)
    async with existing_store(settings) as store:
        await ceilings.set_ceiling(
            store.database, kind, subject, options.limit, agent=options.agent, by="autopay limit"
        )
    say(f"At most {dollars(options.limit)} per day: {_said(kind, subject, options.agent)}.")


async def _clear(options: argparse.Namespace, settings: Settings) -> None:
    kind, subject = _subject(options)
    async with existing_store(settings) as store:
        found = await ceilings.clear_ceiling(store.database, kind, subject, agent=options.agent)
    if not found:
        raise CommandError(f"there is no such limit: {_said(kind, subject, options.agent)}")
    say(f"No limit any more: {_said(kind, subject, options.agent)}.")


async def _list(options: argparse.Namespace, settings: Settings) -> None:
    async with open_books(settings) as database:
        found = await ceilings.ceilings(database)
    if options.json:
        for one in found:
            say(json.dumps(_record(one)))
        return
    rows = [
        (
            _said(one.kind, one.subject, one.agent),
            dollars(one.limit),
            dollars(one.spent),
            dollars(one.held),
            moment(one.updated_at),
        )
        for one in found
    ]
    say(table(("LIMIT PER DAY", ">USD", ">SPENT", ">HELD", "SINCE"), rows))


def _subject(options: argparse.Namespace) -> tuple[Kind, str]:
    if options.wallet is not None and (options.provider is not None or options.agent is not None):
        raise CommandError("a limit is for a wallet or for a provider, not for both")
    if options.wallet is not None:
        return "wallet_day", options.wallet
    if options.provider is None:
        if options.agent is not None:
            raise CommandError(
                "an agent's own daily limit is in its policy: autopay agent set NAME --daily USD"
            )
        return "fleet_day", ALL
    given = options.provider
    subject = given if given == ALL else origin_key(given, f"--provider {given}", ", or *")
    return ("provider_day" if options.agent is None else "agent_provider_day"), subject


def _said(kind: Kind, subject: str, agent: str | None) -> str:
    if kind == "fleet_day":
        return "everything together"
    whose = f"{agent} with " if agent is not None else ""
    return whose + (f"each {_WORDS[kind].split()[-1]}" if subject == ALL else subject)


def _record(one: Ceiling) -> dict[str, Any]:
    return {
        "kind": one.kind,
        "agent": one.agent,
        "subject": one.subject,
        "limit_usd": format_usd(one.limit),
        "spent_today_usd": format_usd(one.spent),
        "held_today_usd": format_usd(one.held),
        "updated_by": one.updated_by,
        "updated_at": one.updated_at.isoformat(),
    }
