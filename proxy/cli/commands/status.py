"""Is everything well? Exit status 0 if the proxy answers, can reach its database and has its
wallets; 1 if not. A proxy has the wallet that it found when it was started."""

import argparse
import asyncio
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from policies import format_usd
from proxy import __version__, paths
from proxy.chains import DEFAULT_WALLET
from proxy.chains.solana import Wallet
from proxy.chains.solana.wallet import WalletError
from proxy.cli.books import existing_store
from proxy.cli.errors import CommandError, lines_for
from proxy.cli.handout import reachable
from proxy.cli.render import dollars, moment, say, table
from proxy.cli.running import Running, running
from proxy.ledger import LedgerError, audit, circuits, history, seals
from proxy.ledger.circuits import Circuit
from proxy.ledger.history import OpenPayment, Rejection, Today
from proxy.ledger.seals import Unaccepted
from proxy.ledger.wallets import Held, held
from proxy.paths import PathError, ca_directory
from proxy.postgres import PostgresError
from proxy.reconciler.standing import standing
from proxy.settings import Address, Settings
from proxy.store import Store
from proxy.vault import VaultError
from proxy.wallets import load_wallets, wallet_files

ANSWER_SECONDS = 3.0
MOST_IN_DOUBT = 1000


@dataclass(slots=True)
class Finding:
    """One thing that was looked at."""

    what: str
    well: bool
    words: str


@dataclass(slots=True)
class Books:
    """What the database said, if it did."""

    today: list[Today] = field(default_factory=list)
    in_doubt: list[OpenPayment] = field(default_factory=list)
    rejections: list[Rejection] = field(default_factory=list)
    unaccepted: tuple[Unaccepted, ...] = ()
    held: list[Held] = field(default_factory=list)
    breakers: list[Circuit] = field(default_factory=list)


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument("--quiet", action="store_true", help="nothing but the exit status")


def run(options: argparse.Namespace) -> int:
    settings = Settings.load(options.config)
    return asyncio.run(_run(options, settings))


async def _run(options: argparse.Namespace, settings: Settings) -> int:
    findings = [
        await _listener("proxy", settings.listen.proxy),
        await _listener("mounts", settings.listen.mounts),
        *_wallets(settings),
    ]
    if settings.listen.admin is not None:
        findings.append(await _listener("admin", settings.listen.admin))
        findings += _running(settings, await running(reachable(settings.listen.admin)))
    if options.quiet and not all(finding.well for finding in findings):
        return 1  # and no database is started to say so
    books = Books()
    findings += await _database(settings, books)
    well = all(finding.well for finding in findings)
    if options.json:
        say(json.dumps(_as_record(options, settings, findings, books, well)))
    elif not options.quiet:
        _show(options, settings, findings, books)
    return 0 if well else 1


async def _listener(what: str, address: Address) -> Finding:
    """Whether somebody listens there, and whether it is autopay."""
    at = reachable(address)
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            reader, writer = await asyncio.open_connection(at.host, at.port)
            try:
                writer.write(b"GET / HTTP/1.1\r\nHost: autopay\r\nConnection: close\r\n\r\n")
                # Not one read: head and body may come apart.
                await reader.readuntil(b"urn:autopay:problem:")
            except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionResetError):
                return Finding(what, False, f"{address} is another program, not autopay")
            finally:
                writer.close()
    except OSError:
        return Finding(what, False, f"{address} does not answer; run: autopay serve")
    return Finding(what, True, f"{address} answers")


def _wallets(settings: Settings) -> list[Finding]:
    return [
        _wallet("wallet" if name == DEFAULT_WALLET else f"wallet-{name}", path)
        for name, path in wallet_files(settings).items()
    ]


def _wallet(what: str, path: Path) -> Finding:
    if not path.exists():
        return Finding(what, False, f"there is none at {path}; run: autopay init")
    try:
        return Finding(what, True, Wallet.load(path).address)
    except WalletError as error:
        return Finding(what, False, str(error))


def _running(settings: Settings, found: Running | None) -> list[Finding]:
    """What came after the running proxy was started, so that it has none of it."""
    if found is None:
        return []
    findings = []
    if not found.wallet and settings.wallet_path.exists():
        words = "has no wallet and cannot pay: it was started before there was one; restart it"
        findings.append(Finding("running", False, f"the proxy {words}"))
    if not found.ca:
        words = "keeps no certificate authority, so https through it is tunnelled and not paid"
        there = ca_directory(settings.data_dir).exists()
        cure = "it was started before there was one; restart it" if there else "run: autopay init"
        findings.append(Finding("running-ca", True, f"the proxy {words}: {cure}"))
    return findings


async def _database(settings: Settings, books: Books) -> list[Finding]:
    try:
        async with existing_store(settings) as store:
            database = store.database
            books.today = await history.today(database)
            books.in_doubt = await history.in_doubt(database, limit=MOST_IN_DOUBT)
            books.rejections = await history.rejections(database)
            books.held = await held(database, [one.address for one in _keys(settings).values()])
            books.breakers = await circuits.read(database)
            tokens = await _tokens(store, books)
            proofs = await standing(database)
            switch = await audit.spending(database)
    except (CommandError, LedgerError, PathError, PostgresError, VaultError) as error:
        return [Finding("database", False, " ".join(lines_for(error)))]
    words = "your own, by database_url" if settings.database_url else "embedded PostgreSQL"
    return [
        Finding("database", True, f"{words}; answers"),
        tokens,
        Finding("proofs", proofs.well, proofs.words),
        *_halted(switch),
    ]


def _halted(switch: audit.Spending) -> list[Finding]:
    """Said, and no fault: somebody wants it so, and a restart would not help."""
    if not switch.halted:
        return []
    when = moment(switch.since)
    return [Finding("spending", True, f"halted since {when}: {switch.reason}; autopay resume")]


def _keys(settings: Settings) -> dict[str, Wallet]:
    """The wallets that can be read; of the others the findings tell."""
    try:
        return load_wallets(settings)
    except WalletError:
        return {}


async def _tokens(store: Store, books: Books) -> Finding:
    """Whether a proxy with our secret key accepts every token that is in the database."""
    try:
        books.unaccepted = await seals.unaccepted(store.database, store.vault)
    except VaultError as error:
        return Finding("tokens", False, str(error))
    if not books.unaccepted:
        return Finding("tokens", True, "each is sealed with your secret key")
    refused = sum(one.tokens for one in books.unaccepted)
    return Finding("tokens", False, f"{refused} in the database are not accepted (see below)")


def _show(
    options: argparse.Namespace, settings: Settings, findings: list[Finding], books: Books
) -> None:
    say(f"autopay   {__version__}")
    say(f"settings  {_settings_in_use(options)}")
    say(f"data      {settings.data_dir}")
    say(f"networks  {', '.join(settings.networks)}")
    for finding in findings:
        say(f"{finding.what:<9} {finding.words}")
    if books.today:
        say(f"\nToday ({books.today[0].day}, UTC):")
        cached = any(today.saved for today in books.today)
        headings = ("AGENT", "STATE", ">SPENT", ">HELD", ">LEFT", ">DAILY LIMIT", ">PAID CALLS")
        rows = [_today_row(today, cached=cached) for today in books.today]
        say(table((*headings, *((">SAVED",) if cached else ())), rows))
    if settings.wallets and books.held:
        names = {wallet.address: name for name, wallet in _keys(settings).items()}
        say("\nIn the wallets, as the running proxy saw it last:")
        say(
            table(
                ("WALLET", "NETWORK", ">USDC", ">CASH", "", "SEEN (UTC)"),
                [_held_row(names[one.address], one) for one in books.held],
            )
        )
    if books.unaccepted:
        say("\nTokens that are in the database and are not accepted:")
        rows = [[one.agent, str(one.tokens), one.why] for one in books.unaccepted]
        say(table(("AGENT", ">TOKENS", "WHY"), rows))
        say("see: autopay secret status; autopay agent rotate NAME ends an agent's tokens")
    if books.in_doubt:
        held = dollars(sum(payment.price for payment in books.in_doubt))
        say(f"\nPayments in doubt: {len(books.in_doubt)}, which hold {held};")
        say("see: autopay receipts --in-doubt")
    if books.breakers:
        say("\nProviders that are left alone, since they failed (503 breaker_open):")
        rows = [[one.id, one.state, _retry(one), one.last_error] for one in books.breakers]
        say(table(("PROVIDER", "STATE", "TRIED AGAIN", "WHY"), rows))
    if books.rejections:
        say("\nHosts that are tunnelled and not paid, since a program rejected autopay's CA:")
        rows = [
            [one.agent, one.host, one.reason, moment(one.left_until)] for one in books.rejections
        ]
        say(table(("AGENT", "HOST", "WHY", "UNTIL (UTC)"), rows))
        say("see: autopay ca install-hint")


def _today_row(today: Today, *, cached: bool) -> list[str]:
    return [
        today.agent,
        "frozen" if today.frozen else "active",
        dollars(today.spent),
        dollars(today.held),
        dollars(today.remaining),
        dollars(today.limit),
        str(today.paid_calls),
        *([dollars(today.saved)] if cached else []),
    ]


def _retry(breaker: Circuit) -> str:
    if (breaker.open_for or 0) > 0:
        return f"in {math.ceil(breaker.open_for or 0)} s"
    return "now" if breaker.probing else "by the next call"


def _held_row(name: str, held: Held) -> list[str]:
    return [
        name,
        held.network,
        f"{held.usdc:f}",
        f"{held.cash:f}",
        "low" if held.low else "",
        moment(held.seen_at),
    ]


def _as_record(
    options: argparse.Namespace,
    settings: Settings,
    findings: list[Finding],
    books: Books,
    well: bool,
) -> dict[str, Any]:
    return {
        "well": well,
        "version": __version__,
        "settings": _settings_in_use(options),
        "data_dir": str(settings.data_dir),
        "networks": list(settings.networks),
        **{one.what: {"well": one.well, "detail": one.words} for one in findings},
        "wallets": [
            {
                "name": name,
                "address": wallet.address,
                "balances": [
                    {
                        "network": one.network,
                        "usdc": f"{one.usdc:f}",
                        "cash": f"{one.cash:f}",
                        "low": one.low,
                        "seen_at": one.seen_at.isoformat(),
                    }
                    for one in books.held
                    if one.address == wallet.address
                ],
            }
            for name, wallet in _keys(settings).items()
        ],
        "today": [
            {
                "agent": today.agent,
                "day": today.day.isoformat(),
                "frozen": today.frozen,
                "spent_usd": format_usd(today.spent),
                "held_usd": format_usd(today.held),
                "remaining_usd": format_usd(today.remaining),
                "limit_usd": format_usd(today.limit),
                "paid_calls": today.paid_calls,
                "saved_usd": format_usd(today.saved),
            }
            for today in books.today
        ],
        "in_doubt": {
            "payments": len(books.in_doubt),
            "held_usd": format_usd(sum(payment.price for payment in books.in_doubt)),
        },
        "unaccepted_tokens": [
            {"agent": one.agent, "tokens": one.tokens, "why": one.why} for one in books.unaccepted
        ],
        "breakers": [
            {
                "provider": one.id,
                "state": one.state,
                "last_error": one.last_error,
                "retry_after_seconds": max(0, math.ceil(one.open_for or 0)),
                "probing": one.probing,
            }
            for one in books.breakers
        ],
        "certificate_rejections": [
            {
                "agent": one.agent,
                "host": one.host,
                "reason": one.reason,
                "until": one.left_until.isoformat(),
            }
            for one in books.rejections
        ],
    }


def _settings_in_use(options: argparse.Namespace) -> str:
    return str(paths.settings_file(options.config) or "none: the defaults, and the environment")
