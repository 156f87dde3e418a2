"""What happened, newest first: the audit trail. Times are UTC.

--search finds events in whose details something begins with each of the words: a code, a provider's
host, a transaction. `autopay show` tells one payment whole.
"""

import argparse
import asyncio
import json

from proxy.cli.books import open_books
from proxy.cli.questions import add_question, ago
from proxy.cli.render import json_line, moment, say, shortened, table
from proxy.ledger.questions.events import SEVERITIES, TYPES, Event, events
from proxy.settings import Settings


def arguments(parser: argparse.ArgumentParser) -> None:
    add_question(parser)
    parser.add_argument("--search", default="", metavar="WORDS", help="with all of these words")
    parser.add_argument(
        "--type",
        action="append",
        choices=TYPES,
        type=str.upper,
        default=[],
        metavar="TYPE",
        help=f"of this type; may be repeated: {', '.join(TYPES)}",
    )
    parser.add_argument(
        "--severity",
        action="append",
        choices=SEVERITIES,
        type=str.upper,
        default=[],
        metavar="SEVERITY",
        help=f"of this severity; may be repeated: {', '.join(SEVERITIES)}",
    )
    parser.add_argument(
        "--since", type=ago, metavar="TIME", help="not older than this: 30m, 24h, 7d"
    )


def run(options: argparse.Namespace) -> int:
    asyncio.run(_run(options))
    return 0


async def _run(options: argparse.Namespace) -> None:
    async with open_books(Settings.load(options.config)) as database:
        found = await events(
            database,
            agent=options.agent,
            words=options.search,
            types=options.type,
            severities=options.severity,
            since=options.since,
            limit=options.limit,
        )
    if options.json:
        for event in found:
            say(json_line(event))
    elif found:
        headings = ("TIME (UTC)", "AGENT", "TYPE", "SEVERITY", "DETAILS", "ABOUT")
        say(table(headings, [_row(event) for event in found]))
    else:
        say("There is no such event.")


def _row(event: Event) -> list[str]:
    return [
        moment(event.created_at),
        event.agent,
        event.type,
        event.severity,
        shortened(in_words(event), 100),
        str(event.related_id or ""),
    ]


def in_words(event: Event) -> str:
    """Its details in one line: `reason=settled provider=https://…`."""
    return " ".join(
        f"{name}={value if isinstance(value, str) else json.dumps(value)}"
        for name, value in event.details.items()
    )
