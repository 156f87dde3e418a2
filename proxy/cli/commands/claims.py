"""What was paid for and not delivered: it never came, broke off, was an error, or was not what the
settings expect of the provider ([providers.NAME.expect]).

    autopay claims list --provider https://api.example
    autopay claims export claims.json --provider https://api.example --since 30d
    autopay claims export claims.csv --csv

An export is for the provider: transaction, amount, receiver, the request, what came back, and the
signed receipt (JSON only). No token, no query, no agent's name unless --agents. What is delivered
after all, or proved never to have been paid, is on the list no more.
"""

import argparse
import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import fields
from datetime import UTC, datetime
from uuid import UUID

from proxy.cli.actions import Actions
from proxy.cli.books import audited_store
from proxy.cli.origins import origin_key
from proxy.cli.proofs import written
from proxy.cli.questions import MOST, positive, since
from proxy.cli.render import dollars, json_line, moment, note, say, shortened, table
from proxy.ledger import Database
from proxy.ledger.claims import Claim, claims
from proxy.receipts.export import proofs_of
from proxy.receipts.spreadsheet import csv_line
from proxy.records import as_fields, plain
from proxy.settings import Settings

FORMAT = "autopay-claims/1"
Act = Callable[[argparse.Namespace, Settings], Awaitable[None]]
_HEADINGS = ("FOUND OUT (UTC)", "PROVIDER", "REQUEST", ">PAID", ">STATUS", "FAULT", "TRANSACTION")


def arguments(parser: argparse.ArgumentParser) -> None:
    which = argparse.ArgumentParser(add_help=False)
    which.add_argument("--provider", metavar="URL", help="on this provider only")
    which.add_argument("--since", type=since, metavar="TIME", help="2026-11-01, or 7d ago")
    which.add_argument("--agents", action="store_true", help="with the agents' names")
    actions: Actions[Act] = Actions(parser)
    list_ = actions.add("list", "what was lost, the newest first", _list, which)
    list_.add_argument("--limit", type=positive, default=20, metavar="N", help="(default: 20)")
    list_.add_argument("--json", action="store_true", help="one JSON object a line")
    out = actions.add("export", "write them to a file for the provider", _export, which)
    out.add_argument("file", metavar="FILE", help="where to; - for stdout")
    kind = out.add_mutually_exclusive_group()
    kind.add_argument("--json", action="store_true", help="with signed receipts (default)")
    kind.add_argument("--csv", action="store_true", help="for spreadsheets")


def run(options: argparse.Namespace) -> int:
    asyncio.run(options.act(options, Settings.load(options.config)))
    return 0


async def _list(options: argparse.Namespace, settings: Settings) -> None:
    async with audited_store(settings) as store:
        found = await _found(options, store.database, options.limit)
    if options.json:
        for claim in found:
            say(json_line(claim, money=Claim.MONEY))
    elif found:
        say(table(_HEADINGS, [_row(claim) for claim in found]))
    else:
        say("Nothing was paid in vain.")


async def _export(options: argparse.Namespace, settings: Settings) -> None:
    async with audited_store(settings) as store:
        found = await _found(options, store.database, MOST)
        proofs = await proofs_of(store.database, [claim.id for claim in found])
    with written(options.file, over=True) as out:
        out.writelines(_csv(found) if options.csv else [_document(found, proofs)])
    if options.file != "-":
        note(f"{len(found)} claims are in {options.file}")


async def _found(options: argparse.Namespace, database: Database, limit: int) -> list[Claim]:
    given = options.provider
    return await claims(
        database,
        limit,
        provider=None if given is None else origin_key(given, given),
        since=options.since,
        named=options.agents,
    )


def _document(found: list[Claim], proofs: Mapping[UUID, object]) -> str:
    document = {
        "format": FORMAT,
        "exported_at": datetime.now(UTC),
        "claims": [
            as_fields(claim, money=Claim.MONEY) | {"receipt": proofs.get(claim.id)}
            for claim in found
        ],
    }
    return json.dumps(document, default=plain, indent=2) + "\n"


def _csv(found: list[Claim]) -> Iterator[str]:
    names = [one.name for one in fields(Claim)]
    yield csv_line([f"{name}_usd" if name in Claim.MONEY else name for name in names])
    for claim in found:
        cells = as_fields(claim, money=Claim.MONEY).values()
        yield csv_line([plain(cell) if isinstance(cell, datetime) else cell for cell in cells])


def _row(claim: Claim) -> list[str]:
    return [
        moment(claim.created_at),
        claim.provider,
        shortened(f"{claim.method} {claim.endpoint.removeprefix(claim.provider)}", 50),
        dollars(claim.price),
        str(claim.status or ""),
        shortened(claim.fault, 60),
        shortened(claim.transaction, 17, tail=8) or "(none named)",
    ]
