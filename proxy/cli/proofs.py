"""`autopay receipts export`, `verify` and `keys`: receipts taken out, and proved."""

import argparse
import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from datetime import UTC, datetime
from io import TextIOWrapper
from pathlib import Path
from typing import Any, TextIO
from uuid import UUID

from proxy import files
from proxy.cli.books import audited_store
from proxy.cli.errors import CommandError
from proxy.cli.proof_of_one import tell_one
from proxy.cli.proof_words import chain_fields, chain_line, harmless, rpc_fields, tell_chain
from proxy.cli.questions import payment_name, since
from proxy.cli.render import note, say, table
from proxy.receipts import export, on_chain, one
from proxy.receipts.keys import KEY_NAME, ReceiptKey
from proxy.receipts.on_chain import Checked
from proxy.receipts.patience import PatientRpc
from proxy.receipts.spreadsheet import csv_lines
from proxy.receipts.verify import Head, NoExport, Paid, Verdict, heads_of, verify
from proxy.settings import Settings


def add_actions(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(metavar="ACTION", dest="action")
    out = actions.add_parser("export", help="write them to a file that proves itself")
    out.add_argument("file", metavar="FILE", help="where to; - for stdout")
    out.add_argument(
        "--format",
        choices=("json", "csv"),
        dest="kind",
        help="default: as the file's name ends, .csv or .jsonl or .json; else json",
    )
    out.add_argument("--force", action="store_true", help="in place of a file that is there")
    out.add_argument("--agent", metavar="NAME", help="of this agent only")
    out.add_argument("--since", type=since, metavar="TIME", help="2026-11-01, or 7d ago")
    out.add_argument("--until", type=since, metavar="TIME", help="before that")
    out.set_defaults(act=_export)
    check = actions.add_parser("verify", help="prove an export, offline")
    check.add_argument("file", metavar="FILE", help="an export; - for stdin")
    check.add_argument(
        "--key",
        action="append",
        default=[],
        type=_fingerprint,
        metavar="FINGERPRINT",
        help="accept this key's signatures only (again for more); see: autopay receipts keys",
    )
    check.add_argument("--after", type=Path, metavar="OLDER", help="it must continue this export")
    check.add_argument(
        "--rpc",
        action="append",
        default=[],
        metavar="URL",
        help="find each payment on the chain (again for another network); not shown: status 1",
    )
    check.add_argument(
        "--payment",
        type=payment_name,
        metavar="PAYMENT",
        help="this one alone, and its chain: its id, its transaction, or our signature",
    )
    check.add_argument("--json", action="store_true", help="for machines")
    check.set_defaults(act=_verify)
    keys = actions.add_parser("keys", help="who has signed, and whether it was this machine")
    keys.set_defaults(act=_keys)


def _fingerprint(text: str) -> bytes:
    """Raises ArgumentTypeError, which argparse shows."""
    try:
        key_id = bytes.fromhex(text.replace(":", ""))
    except ValueError:
        key_id = b""
    if len(key_id) != 32:
        raise argparse.ArgumentTypeError(f"{text!r} is no fingerprint: 64 hex digits")
    return key_id


def _export(options: argparse.Namespace) -> int:
    # Said before the books are opened and read.
    if not options.force and options.file != "-" and os.path.lexists(options.file):
        raise CommandError(f"{options.file} is there already; --force writes in its place")
    return asyncio.run(_exported(options))


async def _exported(options: argparse.Namespace) -> int:
    settings = Settings.load(options.config)
    kind = options.kind or ("csv" if options.file.lower().endswith(".csv") else "json")
    key = ReceiptKey.load(settings.data_dir / KEY_NAME)
    question = export.Question(options.agent, options.since, options.until)
    async with (
        audited_store(settings) as store,
        export.extract(store.dsn, store.role, question) as found,
    ):
        if kind == "csv":
            names = {chain["agent_id"]: chain["agent"] for chain in found.chains}
            lines = csv_lines(found.links, names)
        else:
            lines = export.json_lines(found, key, datetime.now(UTC))
        with written(options.file, over=options.force) as out:
            count = await _copy(lines, out)
    if options.file != "-":
        note(f"{count - 1} links of {len(found.chains)} agents are in {options.file}")
        if kind == "csv":
            note("It is CSV, which proves nothing; verify reads JSON lines (FILE.jsonl).")
        elif key is None:
            note("There is no receipts.key on this machine, so the header is not signed.")
    return 0


async def _copy(lines: AsyncIterator[str], out: TextIO) -> int:
    count = 0
    async for line in lines:
        out.write(line)
        count += 1
    return count


@contextmanager
def written(name: str, *, over: bool) -> Iterator[TextIO]:
    """A file that appears when it is whole, `over`: in place of what was there; "-" is stdout.
    Raises OSError."""
    if name == "-":
        sys.stdout.reconfigure(newline="")  # type: ignore[union-attr]  # CSV has its own line ends
        yield sys.stdout
        return
    with files.written(Path(name), 0o600, over=over) as file:
        text = TextIOWrapper(file, encoding="utf-8", newline="")
        try:
            yield text
        finally:
            text.detach()  # flushed; and it does not close what is not its own


def _verify(options: argparse.Namespace) -> int:
    known = _known(options.after) if options.after else {}
    try:
        if options.file == "-":
            verdict = verify(sys.stdin.buffer, trusted=options.key, known=known)
        else:
            with Path(options.file).open("rb") as lines:
                verdict = verify(lines, trusted=options.key, known=known)
    except NoExport as error:
        raise CommandError(f"{options.file}: {error}") from None
    asked = options.payment
    paid = verdict.paid if asked is None else one.find(verdict, asked)
    seen = asyncio.run(_looked_up(options.rpc, paid)) if options.rpc else None
    if asked is not None:
        proved = tell_one(options.file, verdict, asked, seen, as_json=options.json)
    else:
        proved = verdict.proved
        if options.json:
            say(json.dumps(_fields(verdict) | (rpc_fields(seen) if seen else {})))
        else:
            _tell(verdict)
            if seen:
                tell_chain(seen)
    shown = seen is None or all(on_chain.is_good(each.verdict) for each in seen.receipts)
    return 0 if proved and shown else 1


def _known(file: Path) -> dict[UUID, Head]:
    try:
        with file.open("rb") as lines:
            return heads_of(lines.readline())
    except ValueError as error:
        raise CommandError(f"{file}: {error}") from None


async def _looked_up(urls: Sequence[str], paid: Iterable[Paid]) -> Checked:
    async with AsyncExitStack() as open_:
        try:
            rpcs = [PatientRpc(url) for url in urls]
            for rpc in rpcs:
                open_.push_async_callback(rpc.close)
            nodes = await on_chain.nodes_of(rpcs)
        except ValueError as error:
            raise CommandError(str(error)) from None
        return await on_chain.check(nodes, paid, lambda line: note(harmless(line)))


def _tell(verdict: Verdict) -> None:
    for problem in verdict.problems:
        say(f"WRONG  {harmless(str(problem))}")
    if verdict.problem_count > len(verdict.problems):
        say(f"WRONG  and {verdict.problem_count - len(verdict.problems)} more")
    for chain in verdict.chains.values():
        say(harmless(chain_line(verdict, chain)))
    if verdict.totals:
        part = "" if verdict.proved else ", of the part that is proved, and of no other link"
        say(f"In all{part}:")
        names = {agent: chain.agent for agent, chain in verdict.chains.items()}
        rows = [
            [
                names.get(agent, str(agent)),
                network,
                asset,
                str(total.receipts),
                str(total.amount),
                str(total.reversed),
            ]
            for (agent, network, asset), total in verdict.totals.items()
        ]
        headings = ("AGENT", "NETWORK", "ASSET", ">RECEIPTS", ">ATOMIC UNITS", ">REVERSED")
        say(table(headings, rows))
    for key, count in verdict.signed.items():
        say(f"{count} links are signed by {key.hex()}")
    if verdict.unsigned:
        say(f"{verdict.unsigned} links are not signed: a running proxy signs them within seconds;")
        say("export them again, with --force")
    if verdict.signed and not verdict.pinned:
        say("These keys are the file's own word: name those that you know with --key.")
    if verdict.header_signed_by is None:
        say("The header is not signed: that nothing newer was left out is the file's own word.")
    say("PROVED" if verdict.proved else "NOT PROVED")


def _fields(verdict: Verdict) -> dict[str, Any]:
    return {
        "proved": verdict.proved,
        "problems": [{"line": one.line, "what": one.what} for one in verdict.problems],
        "problem_count": verdict.problem_count,
        "links": verdict.links,
        "unsigned": verdict.unsigned,
        "signed": {key.hex(): count for key, count in verdict.signed.items()},
        "keys_pinned": verdict.pinned,
        "header_signed_by": verdict.header_signed_by.hex() if verdict.header_signed_by else None,
        "chains": [chain_fields(verdict, chain) for chain in verdict.chains.values()],
        "totals": [
            {
                "agent_id": str(agent),
                "network": network,
                "asset": asset,
                "receipts": total.receipts,
                "amount_atomic": str(total.amount),
                "price_micros": str(total.price),
                "reversed": total.reversed,
                "reversed_amount_atomic": str(total.reversed_amount),
            }
            for (agent, network, asset), total in verdict.totals.items()
        ],
    }


def _keys(options: argparse.Namespace) -> int:
    return asyncio.run(_listed(options))


async def _listed(options: argparse.Namespace) -> int:
    settings = Settings.load(options.config)
    own = ReceiptKey.load(settings.data_dir / KEY_NAME)
    async with audited_store(settings) as store:
        found = await export.public_keys(store.database)
    rows = [
        [
            key["key_id"],
            key["created_at"][:19].replace("T", " "),
            "this machine's" if own is not None and own.key_id.hex() == key["key_id"] else "",
        ]
        for key in found
    ]
    if rows:
        say(table(("FINGERPRINT", "FIRST USED (UTC)", ""), rows))
    else:
        say("Nothing was signed yet: the first key is made by autopay init or serve.")
    return 0
