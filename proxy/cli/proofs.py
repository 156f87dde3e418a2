"""`autopay receipts export`, `verify` and `keys`: receipts taken out, and proved."""

import argparse
import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO
from uuid import UUID

from proxy.chains.solana.rpc import Rpc
from proxy.cli.books import audited_store
from proxy.cli.errors import CommandError
from proxy.cli.questions import since
from proxy.cli.render import note, say, table
from proxy.receipts import export, on_chain
from proxy.receipts.keys import KEY_NAME, ReceiptKey
from proxy.receipts.spreadsheet import csv_lines
from proxy.receipts.verify import Head, Verdict, heads_of, verify
from proxy.settings import Settings


def add_actions(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(metavar="ACTION", dest="action")
    out = actions.add_parser("export", help="write them to a file that proves itself")
    out.add_argument("file", metavar="FILE", help="where to; - for stdout")
    out.add_argument("--format", choices=("json", "csv"), default="json", dest="kind")
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
    check.add_argument("--rpc", metavar="URL", help="look each transaction up on the chain")
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
    return asyncio.run(_exported(options))


async def _exported(options: argparse.Namespace) -> int:
    settings = Settings.load(options.config)
    key = ReceiptKey.load(settings.data_dir / KEY_NAME)
    question = export.Question(options.agent, options.since, options.until)
    async with (
        audited_store(settings) as store,
        export.extract(store.dsn, store.role, question) as found,
    ):
        if options.kind == "csv":
            names = {chain["agent_id"]: chain["agent"] for chain in found.chains}
            lines = csv_lines(found.links, names)
        else:
            lines = export.json_lines(found, key, datetime.now(UTC))
        with written(options.file) as out:
            count = await _copy(lines, out)
    if options.file != "-":
        note(f"{count - 1} links of {len(found.chains)} agents are in {options.file}")
        if options.kind == "json" and key is None:
            note("There is no receipts.key on this machine, so the header is not signed.")
    return 0


async def _copy(lines: AsyncIterator[str], out: TextIO) -> int:
    count = 0
    async for line in lines:
        out.write(line)
        count += 1
    return count


@contextmanager
def written(name: str) -> Iterator[TextIO]:
    """The file appears when it is whole; what was there before goes then."""
    if name == "-":
        sys.stdout.reconfigure(newline="")  # type: ignore[union-attr]  # CSV has its own line ends
        yield sys.stdout
        return
    beside = Path(f"{name}.part")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
            yield file
        beside.replace(name)
    finally:
        beside.unlink(missing_ok=True)


def _verify(options: argparse.Namespace) -> int:
    known = _known(options.after) if options.after else {}
    if options.file == "-":
        verdict = verify(sys.stdin.buffer, trusted=options.key, known=known)
    else:
        with Path(options.file).open("rb") as lines:
            verdict = verify(lines, trusted=options.key, known=known)
    seen = asyncio.run(_looked_up(options.rpc, verdict)) if options.rpc else []
    refuted = [one for one in seen if one["good"] is False]
    if options.json:
        say(json.dumps(_fields(verdict) | ({"chain": seen} if options.rpc else {})))
    else:
        _tell(verdict)
        if options.rpc:
            _tell_chain(seen)
    return 0 if verdict.proved and not refuted else 1


def _known(file: Path) -> dict[UUID, Head]:
    try:
        with file.open("rb") as lines:
            return heads_of(lines.readline())
    except ValueError as error:
        raise CommandError(f"{file}: {error}") from None


async def _looked_up(url: str, verdict: Verdict) -> list[dict[str, Any]]:
    try:
        rpc = Rpc(url)
    except ValueError as error:
        raise CommandError(str(error)) from None
    try:
        return [
            {
                "receipt_id": str(one.receipt_id),
                "line": one.line,
                "transaction": one.transaction,
                "verdict": one.verdict,
                "detail": one.detail,
                "words": on_chain.words(one.verdict),
                "good": on_chain.is_good(one.verdict),
            }
            async for one in on_chain.check(rpc, verdict.paid)
        ]
    finally:
        await rpc.close()


def _tell(verdict: Verdict) -> None:
    for problem in verdict.problems:
        say(f"WRONG  {_harmless(str(problem))}")
    if verdict.problem_count > len(verdict.problems):
        say(f"WRONG  and {verdict.problem_count - len(verdict.problems)} more")
    for chain in verdict.chains.values():
        whole = chain.from_the_start and chain.to_the_head
        part = "whole" if whole else f"links {chain.said_first} to {chain.said_last}"
        say(
            f"chain  {_harmless(chain.agent)}: {part}, of {chain.length};"
            f" head {chain.said_head.hex()[:16]}…"
        )
    if verdict.totals:
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
        say("export them again")
    if verdict.signed and not verdict.pinned:
        say("These keys are the file's own word: name those that you know with --key.")
    if verdict.header_signed_by is None:
        say("The header is not signed: that nothing newer was left out is the file's own word.")
    say("PROVED" if verdict.proved else "NOT PROVED")


def _tell_chain(seen: list[dict[str, Any]]) -> None:
    for one in seen:
        if one["verdict"] != "landed":
            mark = {True: "good ", False: "WRONG", None: "open "}[one["good"]]
            detail = f" ({one['detail']})" if one["detail"] else ""
            say(
                _harmless(
                    f"{mark}  receipt {one['receipt_id']}, {one['transaction'] or '(none named)'}:"
                    f" {one['words']}{detail}"
                )
            )
    landed = sum(one["verdict"] == "landed" for one in seen)
    say(f"ON THE CHAIN: {landed} of {len(seen)} receipts, as they say")


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
        "chains": [
            {
                "agent_id": str(chain.agent_id),
                "agent": chain.agent,
                "first": chain.said_first,
                "last": chain.said_last,
                "length": chain.length,
                "head": chain.said_head.hex(),
            }
            for chain in verdict.chains.values()
        ],
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


def _harmless(text: str) -> str:
    """A file that is to be proved may have been written by anyone."""
    return "".join(char if char.isprintable() else "�" for char in text)
