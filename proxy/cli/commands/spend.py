"""Where the money went, by provider, by agent or by day. Days are UTC; a payment counts on the day
on which it was reserved. SAVED: what answers from the cache would have cost."""

import argparse
import asyncio
from datetime import timedelta

from proxy.cli.books import open_books
from proxy.cli.questions import add_question, ago
from proxy.cli.render import dollars, json_line, say, table
from proxy.ledger.questions.spend import Spend, spend
from proxy.settings import Settings


def arguments(parser: argparse.ArgumentParser) -> None:
    add_question(parser)
    parser.add_argument("--by", choices=("provider", "agent", "day"), default="provider")
    parser.add_argument("--daily", action="store_true", help="each day for itself")
    parser.add_argument(
        "--since",
        type=ago,
        default=timedelta(days=30),
        metavar="TIME",
        help="from the day on that was so long ago: 7d, 24h (default: 30d)",
    )


def run(options: argparse.Namespace) -> int:
    asyncio.run(_run(options))
    return 0


async def _run(options: argparse.Namespace) -> None:
    async with open_books(Settings.load(options.config)) as database:
        found = await spend(
            database,
            options.by,
            agent=options.agent,
            since=options.since,
            daily=options.daily,
            limit=options.limit,
        )
    if options.json:
        for one in found:
            say(json_line(one, money=one.MONEY))
    elif found:
        days = ("DAY",) if options.daily and options.by != "day" else ()
        cached = any(one.saved for one in found)
        saved = (">SAVED",) if cached else ()
        headings = (*days, options.by.upper(), ">PAID", ">HELD", ">PAYMENTS", *saved)
        say(table(headings, [_row(one, dated=bool(days), cached=cached) for one in found]))
    else:
        say("Nothing was spent.")


def _row(one: Spend, *, dated: bool, cached: bool) -> list[str]:
    return [
        *([str(one.day)] if dated else []),
        one.name,
        dollars(one.spent),
        dollars(one.held),
        str(one.paid_calls),
        *([dollars(one.saved)] if cached else []),
    ]
