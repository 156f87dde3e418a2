"""Payments above an agent's threshold (approval_above): each waits for a yes, and then pays once.

  autopay approval list                         what waits
  autopay approval approve ID --good-for 2h     the next such request pays
  autopay approval reject ID --note 'too dear'

An approval is for one request of one agent (method, URL and body), to one receiver, at its price at
most. A program that is refused repeats its request after the yes; one whose policy has
approval_wait_seconds is made to wait for it, that long.
"""

import argparse
import asyncio
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

from proxy.cli.books import existing_store, open_books
from proxy.cli.questions import add_question, ago
from proxy.cli.render import dollars, json_line, moment, say, shortened, table
from proxy.ledger import approvals
from proxy.ledger.approvals import GOOD_FOR, LONGEST, STATES, Approval
from proxy.settings import Settings

_BY = "autopay approval"


def arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(required=True, metavar="ACTION", dest="action")
    list_ = actions.add_parser("list", help="what waits for a yes")
    add_question(list_)
    list_.add_argument("--all", action="store_true", help="those that are decided too")
    list_.set_defaults(act=_list)

    one = argparse.ArgumentParser(add_help=False)
    one.add_argument("id", type=_id, metavar="ID", help="as the program was told, or `list` shows")
    one.add_argument("--note", default="", metavar="WORDS", help="for whoever reads the log")
    approve = actions.add_parser("approve", parents=[one], help="let the next such request pay")
    approve.add_argument(
        "--good-for",
        type=_good_for,
        default=GOOD_FOR,
        metavar="TIME",
        help="30m, 2h, at most 7d (default: 1h)",
    )
    approve.set_defaults(act=_approve)
    reject = actions.add_parser("reject", parents=[one], help="refuse it, and the same for an hour")
    reject.set_defaults(act=_reject)


def run(options: argparse.Namespace) -> int:
    asyncio.run(options.act(options, Settings.load(options.config)))
    return 0


async def _list(options: argparse.Namespace, settings: Settings) -> None:
    async with open_books(settings) as database:
        found = await approvals.list_(
            database,
            states=STATES if options.all else ("pending",),
            agent=options.agent,
            limit=options.limit,
        )
    if options.json:
        for one in found:
            say(json_line(one, money=("price",)))
    elif found:
        headings = ("ID", "STATE", "AGENT", ">USD", "REQUEST", "TO", "UNTIL (UTC)", "ASKED")
        alike = _alike(found)
        say(table(headings, [_row(one, alike=one.id in alike) for one in found]))
        if alike:
            say(
                "(*) These differ in their query or body alone, of which no more than a hash is"
                " kept: whoever was refused was told the ID."
            )
    else:
        say("Nothing was ever asked for." if options.all else "Nothing waits for approval.")


async def _approve(options: argparse.Namespace, settings: Settings) -> None:
    async with existing_store(settings) as store:
        found = await approvals.approve(
            store.database, options.id, by=_BY, good_for=options.good_for, note=options.note
        )
    say(
        f"Approved: the next {found.method} {found.endpoint} of {found.agent} pays up to"
        f" {dollars(found.price)}, once, until {moment(found.expires_at)} UTC."
    )


async def _reject(options: argparse.Namespace, settings: Settings) -> None:
    async with existing_store(settings) as store:
        found = await approvals.reject(store.database, options.id, by=_BY, note=options.note)
    say(
        f"Rejected: {found.method} {found.endpoint} of {found.agent} is not asked for again until"
        f" {moment(found.expires_at)} UTC."
    )


def _alike(found: Sequence[Approval]) -> set[UUID]:
    """Those that wait and look like another one that does: the same request waits only once."""
    waiting = [one for one in found if one.state == "pending"]
    count = Counter(map(_look, waiting))
    return {one.id for one in waiting if count[_look(one)] > 1}


def _look(one: Approval) -> tuple[str, ...]:
    return one.agent, one.method, one.endpoint, one.provider, one.network, one.asset, one.pay_to


def _row(one: Approval, *, alike: bool) -> list[str]:
    return [
        str(one.id),
        one.state,
        one.agent,
        dollars(one.price),
        shortened(f"{one.method} {one.endpoint}", 60, tail=24) + (" (*)" if alike else ""),
        one.pay_to,
        moment(one.expires_at),
        f"{one.asks}x",
    ]


def _id(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not the id of an approval") from None


def _good_for(text: str) -> timedelta:
    given = ago(text)
    if given > LONGEST:
        raise argparse.ArgumentTypeError(f"{text}: an approval is good for 7d at most")
    return given
