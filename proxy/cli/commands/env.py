"""Print what a shell has to set so that its programs go through a running `autopay serve`.

    eval "$(autopay env --agent bot)"
    autopay env --shell fish | source
    autopay env --shell powershell | Out-String | Invoke-Expression

Each call gives out a new token; `autopay agent rotate NAME` ends all of an agent's. Java is left
out: its clients send no credential, `autopay run` gives them a way of their own.
"""

import argparse
import asyncio
import logging
import os
from pathlib import Path

from proxy.cli.books import existing_store
from proxy.cli.handout import proxy_url, reachable
from proxy.cli.render import note, say
from proxy.launch import trust
from proxy.launch.engine import takes
from proxy.launch.environment import variables
from proxy.launch.lease import DEFAULT_AGENT, granted
from proxy.launch.shells import SHELLS, exports
from proxy.settings import Settings


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--agent",
        metavar="NAME",
        default=DEFAULT_AGENT,
        help="whose money; made if there is none of that name (default: %(default)s)",
    )
    parser.add_argument("--session", metavar="NAME", help="count it all against this session")
    parser.add_argument("--shell", choices=SHELLS, default="sh", help="default: sh")


def run(options: argparse.Namespace) -> int:
    settings = Settings.load(options.config)
    logging.basicConfig(level=logging.WARNING, format="autopay: %(message)s")
    asyncio.run(_run(options, settings))
    return 0


async def _run(options: argparse.Namespace, settings: Settings) -> None:
    trusted = trust.prepare(settings.data_dir, os.environ, Path.home())
    async with existing_store(settings, new=True) as store:
        new = await granted(store, settings, options.agent, options.session)
    told = variables(
        os.environ,
        proxy_url=proxy_url(settings, new.agent.name, new.token),
        trust=trusted,
        lender_port=None,
    )
    say(exports(told, options.shell))
    listener = reachable(settings.listen.proxy)
    if not await takes(listener, new.agent.name, new.token):
        note(f"autopay: no proxy answers at {listener} yet; run: autopay serve")
