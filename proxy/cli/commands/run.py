"""Start a program so that what it asks for over HTTP is paid for, and tell what it bought.

    autopay run -- curl https://api.example.com/v1/quote
    autopay run --agent bot --budget 0.50 -- python agent.py

Everything that its runtime needs is set in its environment. It goes through the `autopay serve`
that runs already, or through one of its own that ends with it. Its input, output, signals and exit
status are its own; autopay adds one line on stderr at the end.
"""

import argparse
import asyncio
import logging
import os
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

from proxy.cli.books import existing_store
from proxy.cli.handout import reachable
from proxy.cli.questions import usd
from proxy.cli.render import note
from proxy.launch import lender, trust
from proxy.launch.child import NOT_EXECUTABLE, NOT_FOUND, Child, Interrupted
from proxy.launch.engine import running
from proxy.launch.environment import Trust, variables
from proxy.launch.lease import DEFAULT_AGENT, Lease, lease, told
from proxy.ledger import Database, LedgerError, sessions
from proxy.ledger.sessions import Spending
from proxy.settings import Settings
from proxy.vault.sources import ENVIRONMENT

# How long its last calls may take to be in the books, in seconds, before they are told as in doubt.
_BOOKED_WITHIN = 2.0
_LOOK_AGAIN = 0.05


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = "autopay run [--agent NAME] [--budget USD] [--session NAME] -- COMMAND …"
    parser.add_argument(
        "--agent",
        metavar="NAME",
        default=DEFAULT_AGENT,
        help="whose money; made if there is none of that name (default: %(default)s)",
    )
    parser.add_argument(
        "--budget",
        metavar="USD",
        type=usd,
        help="the most that the session may spend, besides what the agent's policy says",
    )
    parser.add_argument(
        "--session",
        metavar="NAME",
        type=_session,
        help="a session to go on with (default: a new one)",
    )
    parser.add_argument("words", nargs=argparse.REMAINDER, metavar="COMMAND …")


def run(options: argparse.Namespace) -> int:
    words = options.words[1:] if options.words[:1] == ["--"] else options.words
    if not words:
        note("usage: autopay run [OPTIONS] -- COMMAND …")
        return 2
    settings = Settings.load(options.config)
    # The program's stderr is ours: nothing but what somebody must know.
    logging.basicConfig(level=logging.WARNING, format="autopay: %(message)s")
    try:
        return asyncio.run(_run(options, settings, words))
    except Interrupted as interrupted:
        return interrupted.status


async def _run(options: argparse.Namespace, settings: Settings, words: Sequence[str]) -> int:
    with Child() as child:
        trusted = trust.prepare(settings.data_dir, os.environ, Path.home())
        async with existing_store(settings, new=True) as store:
            leasing = lease(
                store, settings, options.agent, session=options.session, budget=options.budget
            )
            async with leasing as leased:
                status = await _started(child, words, settings, leased, trusted)
            await _tell(store.database, leased)
            return status


async def _started(
    child: Child, words: Sequence[str], settings: Settings, leased: Lease, trusted: Trust
) -> int:
    """The program's exit status. Whatever was started for it has ended by then."""
    name, token = leased.agent.name, leased.token
    async with AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(
            running(settings, reachable(settings.listen.proxy), name, token)
        )
        port = None
        if lender.possible():
            port = await stack.enter_async_context(lender.lending(proxy, name, token))
        set_for_it = variables(
            os.environ,
            proxy_url=f"http://{name}:{token}@{proxy}",
            trust=trusted,
            lender_port=port,
        )
        # Who has the database and this too could make tokens of their own.
        ours = {name: value for name, value in os.environ.items() if name.upper() != ENVIRONMENT}
        return await _status_of(child, words, {**ours, **set_for_it})


async def _tell(database: Database, leased: Lease) -> None:
    try:
        spent = await _spending(database, leased)
    except LedgerError as error:
        # The program's status is what counts now.
        note(f"autopay: what was bought is not known just now: {error}")
    else:
        note(f"autopay: {told(spent)}")


async def _spending(database: Database, leased: Lease) -> Spending:
    """A proxy that runs by itself books a call beside the answer's last bytes: wait for that."""
    until = time.monotonic() + _BOOKED_WITHIN
    while True:
        spent = await sessions.spending(database, leased.agent, leased.session, leased.since)
        if not spent.open_calls or time.monotonic() > until:
            return spent
        await asyncio.sleep(_LOOK_AGAIN)


async def _status_of(child: Child, words: Sequence[str], env: dict[str, str]) -> int:
    try:
        return await child.run(words, env)
    except FileNotFoundError:
        note(f"autopay: {words[0]}: not found")
        return NOT_FOUND
    except OSError as error:
        note(f"autopay: {words[0]}: {error.strerror}")
        return NOT_EXECUTABLE


def _session(text: str) -> str:
    if not 0 < len(text) <= 200 or not text.isprintable():
        raise argparse.ArgumentTypeError("a session's name has 1 to 200 printable characters")
    return text
