"""Who may use the operator's API and read the metrics (listen.admin in autopay.toml).

A key has a name and a role: reader (figures, decisions, payments), auditor (and what was said and
bought), operator (and change what agents may do), admin (and everything else). It is shown once,
and goes into the header  Authorization: Bearer KEY
"""

import argparse
import asyncio
import json
from collections.abc import Callable, Coroutine
from typing import Any

from proxy.admin import Keys, Role
from proxy.cli.actions import Actions, for_machines
from proxy.cli.books import existing_store
from proxy.cli.questions import life
from proxy.cli.render import json_line, moment, say, table
from proxy.settings import Settings

Action = Callable[[argparse.Namespace, Keys], Coroutine[Any, Any, None]]

_BY = "autopay key"


def arguments(parser: argparse.ArgumentParser) -> None:
    action = Actions[Action](parser).add
    name = argparse.ArgumentParser(add_help=False)
    name.add_argument("name", metavar="NAME")
    machine = for_machines()

    create = action("create", "make a key; prints it once", _create, name, machine)
    create.add_argument(
        "--role", required=True, choices=[role.value for role in Role], help="what it may do"
    )
    create.add_argument(
        "--expires", type=life, metavar="TIME", help="ends by itself, like 30d, 12h or 45m"
    )
    action("list", "show the keys", _list, machine)
    action("revoke", "end a key, at once", _revoke, name)


def run(options: argparse.Namespace) -> int:
    asyncio.run(_run(options))
    return 0


async def _run(options: argparse.Namespace) -> None:
    new = options.act is _create
    async with existing_store(Settings.load(options.config), new=new) as store:
        await options.act(options, Keys(store.database))


async def _create(options: argparse.Namespace, keys: Keys) -> None:
    role = Role(options.role)
    key = await keys.create(options.name, role, lives=options.expires, by=_BY)
    if options.json:
        say(json.dumps({"name": options.name, "role": role, "key": key}))
        return
    say(key)
    say("It is shown this once; only a hash of it is kept. Send it like this:")
    say(f"  Authorization: Bearer {key}")


async def _list(options: argparse.Namespace, keys: Keys) -> None:
    found = await keys.list_all()
    if options.json:
        for key in found:
            say(json_line(key))
    elif found:
        rows = [
            [
                key.name,
                key.role.value,
                moment(key.created_at),
                "never" if key.expires_at is None else moment(key.expires_at),
                "expired" if key.expired else "good",
            ]
            for key in found
        ]
        say(table(("KEY", "ROLE", "SINCE (UTC)", "ENDS (UTC)", "STATE"), rows))
    else:
        say("No keys yet; run: autopay key create NAME --role reader")


async def _revoke(options: argparse.Namespace, keys: Keys) -> None:
    await keys.revoke(options.name)
    say(f"Key {options.name} is worth nothing any more.")
