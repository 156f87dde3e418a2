"""Whom providers are paid to, where the policy pins receivers (pay_to_pinning = "first_use").

  autopay pin list --waiting                            changed receivers: nothing is paid to them
  autopay pin accept https://api.example.com ADDRESS    pay this one too, from now on
  autopay pin forget https://api.example.com ADDRESS    never again, unless it comes first

The first receiver of a provider on a network is pinned with its payment, for all agents. Another
one is refused until it is accepted. Where all are forgotten, the next one is pinned.
"""

import argparse
import asyncio

from proxy.cli.books import existing_store, open_books
from proxy.cli.errors import CommandError
from proxy.cli.origins import origin_key
from proxy.cli.render import json_line, moment, say, table
from proxy.ledger import pins
from proxy.ledger.pins import Pin
from proxy.settings import Settings

_BY = "autopay pin"


def arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(required=True, metavar="ACTION", dest="action")
    list_ = actions.add_parser("list", help="who is paid, and who waits")
    list_.add_argument("--provider", metavar="URL", help="of this provider only")
    list_.add_argument("--waiting", action="store_true", help="only those that wait")
    list_.add_argument("--json", action="store_true", help="one JSON object a line")
    list_.set_defaults(act=_list)

    which = argparse.ArgumentParser(add_help=False)
    which.add_argument("provider", metavar="PROVIDER", help="its URL")
    which.add_argument(
        "--network", metavar="NAME", help="on this one only, like solana-devnet (default: any)"
    )
    accept = actions.add_parser("accept", parents=[which], help="let this receiver be paid")
    accept.add_argument("pay_to", metavar="ADDRESS")
    accept.set_defaults(act=_accept)
    forget = actions.add_parser("forget", parents=[which], help="unpin one receiver, or all")
    forget.add_argument("pay_to", metavar="ADDRESS", nargs="?")
    forget.set_defaults(act=_forget)


def run(options: argparse.Namespace) -> int:
    asyncio.run(options.act(options, Settings.load(options.config)))
    return 0


async def _list(options: argparse.Namespace, settings: Settings) -> None:
    provider = None if options.provider is None else _origin(options.provider)
    async with open_books(settings) as database:
        found = await pins.list_(database, provider=provider, waiting=options.waiting)
    if options.json:
        for one in found:
            say(json_line(one))
    elif found:
        headings = ("PROVIDER", "NETWORK", "RECEIVER", "STATE", ">REFUSED", "BY", "SINCE (UTC)")
        say(table(headings, [_row(one) for one in found]))
    else:
        say("No receiver waits." if options.waiting else "No receiver is pinned.")


async def _accept(options: argparse.Namespace, settings: Settings) -> None:
    provider = _origin(options.provider)
    async with existing_store(settings) as store:
        changed = await pins.accept(
            store.database, provider, options.pay_to, network=options.network, by=_BY
        )
    said = "may be paid" if changed else "could be paid already"
    say(f"{options.pay_to} {said} at {provider}.")


async def _forget(options: argparse.Namespace, settings: Settings) -> None:
    provider = _origin(options.provider)
    async with existing_store(settings) as store:
        count = await pins.forget(
            store.database, provider, options.pay_to, network=options.network, by=_BY
        )
    if not count:
        raise CommandError(f"no such receiver is known at {provider}")
    say(f"Forgotten at {provider}: {count} receiver{'s' if count > 1 else ''}.")


def _origin(text: str) -> str:
    return origin_key(text, text)


def _row(one: Pin) -> list[str]:
    return [
        one.provider,
        one.network,
        one.pay_to,
        "pinned" if one.accepted else "waits",
        str(one.refusals),
        one.updated_by or one.agent or "",
        moment(one.created_at),
    ]
