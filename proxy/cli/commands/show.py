"""One payment whole: what was asked for, decided, paid, delivered, seen on the chain, and noted.
Times are UTC."""

import argparse
import asyncio
import json
from collections.abc import Iterator
from datetime import datetime
from uuid import UUID

from proxy.cli.books import open_books
from proxy.cli.commands.events import in_words
from proxy.cli.errors import CommandError
from proxy.cli.questions import payment_name
from proxy.cli.render import dollars, moment, say, table
from proxy.ledger import Database
from proxy.ledger.questions.story import Story, of_signature, story
from proxy.records import as_fields, plain
from proxy.settings import Settings


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "payment",
        type=payment_name,
        metavar="PAYMENT",
        help="its id, as in the answer's Autopay-Payment, or `id` in `autopay receipts --json`;"
        " or the signature of its transaction, or ours",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object, nothing left out")


def run(options: argparse.Namespace) -> int:
    asyncio.run(_run(options))
    return 0


async def _run(options: argparse.Namespace) -> None:
    async with open_books(Settings.load(options.config)) as database:
        payment = options.payment
        told = await story(
            database, payment if isinstance(payment, UUID) else await _named(database, payment)
        )
    if told is None:
        raise CommandError(f"there is no payment {payment}")
    if options.json:
        say(json.dumps(_fields(told), default=plain))
        return
    say(table(("PAYMENT", str(told.payment.id)), [list(fact) for fact in _facts(told)]))
    say()
    moments = sorted(_moments(told), key=lambda one: one[0])
    say(table(("TIME (UTC)", "WHAT", ""), [[moment(when), *rest] for when, *rest in moments]))


async def _named(database: Database, signature: str) -> UUID:
    """Raises CommandError."""
    match await of_signature(database, signature):
        case [payment]:
            return payment
        case []:
            raise CommandError(f"there is no payment of transaction or signature {signature}")
        case several:
            ids = ", ".join(map(str, several[:10]))
            raise CommandError(f"{len(several)} payments claim {signature}; name one: {ids}")


def _facts(told: Story) -> Iterator[tuple[str, str]]:
    payment, request = told.payment, told.request
    yield "agent", payment.agent
    yield "status", f"{payment.status}, in doubt" if payment.in_doubt else payment.status
    yield "price", f"{dollars(payment.price)} ({payment.amount} atomic {payment.symbol})"
    yield "for", f"{payment.method} {payment.endpoint}"
    yield "request", f"{request.status} {request.http_status} {request.error_class or ''}".rstrip()
    yield "to", f"{payment.pay_to} on {payment.network}"
    yield "transaction", payment.transaction or "(none known)"
    if payment.session_id:
        yield "session", payment.session_id
    if payment.trace_id:
        yield "trace", payment.trace_id


def _moments(told: Story) -> Iterator[tuple[datetime, str, str]]:
    yield told.request.created_at, "402", f"{told.request.method} {told.request.endpoint}"
    for decision in told.decisions:
        left = f"{dollars(decision.remaining_today)} left today"
        yield decision.created_at, decision.decision, f"{decision.reason}; {left}"
    for step in told.steps:
        yield step.created_at, "step", f"{step.step_index} of {step.trace_id}: {step.outcome}"
    for retry in told.retries:
        why = retry.error or retry.error_class or ""
        yield retry.created_at, "retry", f"{retry.attempt} {retry.outcome} {why}".rstrip()
    if told.receipt is not None:
        took = f"HTTP {told.receipt.http_status} in {told.receipt.latency_ms} ms"
        yield told.receipt.created_at, "receipt", took
    for delivery in told.deliveries:
        end = "complete" if delivery.success else delivery.error or "not complete"
        yield delivery.created_at, "delivery", f"HTTP {delivery.status}, {end}"
    for seen in told.transactions:
        signature = seen.seen.get("signature", "")
        text = f"{signature} {'a duplicate ' if seen.is_duplicate else ''}{seen.error or ''}"
        yield seen.created_at, seen.level, text.rstrip()
    for event in told.events:
        yield event.created_at, event.type, in_words(event)


def _fields(told: Story) -> dict[str, object]:
    def many(records: list[object]) -> list[dict[str, object]]:
        return [as_fields(one, money=getattr(one, "MONEY", ())) for one in records]

    return {
        "payment": as_fields(told.payment, money=told.payment.MONEY),
        "request": as_fields(told.request),
        "receipt": None
        if told.receipt is None
        else as_fields(told.receipt, money=told.receipt.MONEY),
        **{
            name: many(getattr(told, name))
            for name in ("decisions", "steps", "retries", "deliveries", "transactions", "events")
        },
    }
