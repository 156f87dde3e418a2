"""What was paid, newest first. Times are UTC.

    autopay receipts
    autopay receipts export FILE
    autopay receipts verify FILE [--payment ID]
    autopay receipts keys

Each receipt is a link of its agent's chain, signed by the proxy. An export can be proved by anyone,
on any machine: `verify` needs no database and, without --rpc, no network. With --rpc each payment
is found on the chain: by the transaction that is named, else by our signature in the history of
the wallet's token account; what an RPC cannot show is said to be "not shown", never "not there".
Exit status 1 if anything is wrong, or not proved, or not shown.
"""

import argparse
import asyncio

from proxy.cli.books import open_books
from proxy.cli.proofs import add_actions
from proxy.cli.questions import add_question
from proxy.cli.render import dollars, json_line, moment, say, shortened, table
from proxy.ledger import history
from proxy.ledger.history import OpenPayment, Receipt
from proxy.settings import Settings


def arguments(parser: argparse.ArgumentParser) -> None:
    add_question(parser)
    parser.add_argument(
        "--in-doubt",
        action="store_true",
        help="payments that left and whose fate is not known: their money is held",
    )
    add_actions(parser)


def run(options: argparse.Namespace) -> int:
    if options.action:
        status: int = options.act(options)
        return status
    if options.in_doubt:
        asyncio.run(_in_doubt(options))
    else:
        asyncio.run(_receipts(options))
    return 0


async def _receipts(options: argparse.Namespace) -> None:
    async with open_books(Settings.load(options.config)) as database:
        found = await history.receipts(database, options.agent, options.limit)
    if options.json:
        for receipt in found:
            say(json_line(receipt, money=receipt.MONEY))
    elif found:
        headings = (
            "TIME (UTC)", "AGENT", "METHOD", "ENDPOINT", ">PAID", "TOKEN", ">STATUS", ">MS",
            "DELIVERED", "TRANSACTION",
        )  # fmt: skip
        say(table(headings, [_receipt_row(receipt) for receipt in found]))
    else:
        say("Nothing was paid yet.")


async def _in_doubt(options: argparse.Namespace) -> None:
    async with open_books(Settings.load(options.config)) as database:
        found = await history.in_doubt(database, options.agent, limit=options.limit)
    if options.json:
        for payment in found:
            say(json_line(payment, money=("price",)))
    elif found:
        headings = ("TIME (UTC)", "AGENT", "METHOD", "ENDPOINT", ">HELD", "WHY", "PAYMENT")
        say(table(headings, [_open_row(payment) for payment in found]))
    else:
        say("No payment is in doubt.")


def _receipt_row(receipt: Receipt) -> list[str]:
    return [
        moment(receipt.created_at),
        receipt.agent,
        receipt.method,
        shortened(receipt.endpoint, 60),
        dollars(receipt.price),
        receipt.symbol,
        str(receipt.http_status or ""),
        str(receipt.latency_ms if receipt.total_ms is None else receipt.total_ms),
        _delivered(receipt),
        shortened(receipt.transaction, 17, tail=8) or "(none named)",
    ]


def _delivered(receipt: Receipt) -> str:
    """Whether what came is what was paid for."""
    if receipt.paid_failed:
        return f"paid_failed: {shortened(receipt.fault or 'no answer came', 50)}"
    if receipt.response_hash is None:
        return ""
    return "yes, unread" if receipt.unread else "yes"


def _open_row(payment: OpenPayment) -> list[str]:
    return [
        moment(payment.created_at),
        payment.agent,
        payment.method,
        shortened(payment.endpoint, 60),
        dollars(payment.price),
        shortened(payment.doubt_reason or "no answer was recorded", 40),
        str(payment.id),
    ]
