"""What was allowed and denied, and why, newest first. Times are UTC."""

import argparse
import asyncio

from proxy.cli.books import open_books
from proxy.cli.questions import add_question
from proxy.cli.render import dollars, json_line, moment, say, shortened, table
from proxy.ledger import history
from proxy.ledger.history import Decision
from proxy.settings import Settings


def arguments(parser: argparse.ArgumentParser) -> None:
    add_question(parser)


def run(options: argparse.Namespace) -> int:
    asyncio.run(_run(options))
    return 0


async def _run(options: argparse.Namespace) -> None:
    async with open_books(Settings.load(options.config)) as database:
        found = await history.decisions(database, options.agent, options.limit)
    if options.json:
        for decision in found:
            say(json_line(decision, money=decision.MONEY))
    elif found:
        headings = (
            "TIME (UTC)", "AGENT", "DECISION", "REASON", "METHOD", "ENDPOINT", ">PRICE", ">LIMIT",
            ">LEFT TODAY",
        )  # fmt: skip
        say(table(headings, [_row(decision) for decision in found]))
    else:
        say("Nothing was decided yet.")


def _row(decision: Decision) -> list[str]:
    not_payable = decision.reason == "not_payable"
    return [
        moment(decision.created_at),
        decision.agent,
        decision.decision,
        f"not_payable: {decision.detail}" if not_payable else decision.reason,
        decision.method,
        shortened(decision.endpoint, 60),
        "" if not_payable else dollars(decision.price),
        "" if decision.limit is None else dollars(decision.limit),
        dollars(decision.remaining_today),
    ]
