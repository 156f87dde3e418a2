"""Try what each runtime on this machine needs to buy through autopay, by doing it.

A network, a shop that sells over http and https, and an autopay with play money run for the time of
the check; nothing of yours is touched, and nothing is left behind. The last column is what `autopay
run` sets for that runtime. Exit status 0 if everything that is installed works.
"""

import argparse
import asyncio
import json
import logging
from dataclasses import asdict

from proxy.cli.render import note, say, table
from proxy.launch.doctor import Row, checkup
from proxy.launch.doctor.checkup import SCHEMES
from proxy.launch.doctor.ground import Loop


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="one JSON object a line")


def run(options: argparse.Namespace) -> int:
    logging.basicConfig(level=logging.ERROR, format="autopay: %(message)s")
    with asyncio.Runner(loop_factory=Loop) as runner:
        rows = runner.run(_rows(options))
    if not options.json:
        _show(rows)
    return 0 if all(row.well for row in rows) else 1


async def _rows(options: argparse.Namespace) -> list[Row]:
    if not options.json:
        note("Trying every runtime, which takes about half a minute …")
    rows = []
    async for row in checkup():
        rows.append(row)
        if options.json:
            say(json.dumps(asdict(row)))
    return rows


def _show(rows: list[Row]) -> None:
    say(
        table(
            ("RUNTIME", "VERSION", "HTTP", "HTTPS", "WHAT IT NEEDS"), [_cells(row) for row in rows]
        )
    )
    failures = [
        f"{row.name}, {scheme}: {check.why}"
        for row in rows
        for scheme, check in row.checks.items()
        if check.why
    ]
    if failures:
        say("\n" + "\n".join(failures))


def _cells(row: Row) -> list[str]:
    if not row.version:
        return [row.name, "not installed", "", "", ""]
    return [row.name, row.version, *(row.checks[scheme].words for scheme in SCHEMES), row.needs]
