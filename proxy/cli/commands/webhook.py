"""Be told of what happens: a denial, a payment in doubt, a budget nearly used, an alarm.

  autopay webhook add https://example.com/hooks/autopay
  autopay webhook add http://127.0.0.1:9000/ --private --type alarm --type budget.alert
  autopay webhook set ID --url https://example.com/hooks/new     its secret stays
  autopay webhook test ID          sends one message from here, now
  autopay webhook deliveries       what was sent, and what became of it

A running autopay posts each message, signed as https://www.standardwebhooks.com says, and again for
up to a day until it is answered by 2xx. docs/webhooks.md tells what is in them.
"""

import argparse
import asyncio
from collections.abc import Callable, Coroutine
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

from proxy.cli.actions import Actions, for_machines
from proxy.cli.books import existing_store
from proxy.cli.errors import CommandError
from proxy.cli.questions import positive
from proxy.cli.render import json_line, moment, say, table
from proxy.notices import webhooks
from proxy.notices.messages import TYPES, USUAL
from proxy.notices.post import Poster
from proxy.settings import Settings
from proxy.store import Store

Action = Callable[[argparse.Namespace, Settings, Store], Coroutine[Any, Any, int]]

_BY = "autopay webhook"


def arguments(parser: argparse.ArgumentParser) -> None:
    action = Actions[Action](parser).add
    which = argparse.ArgumentParser(add_help=False)
    which.add_argument("id", metavar="ID", help="of autopay webhook list; its beginning will do")
    machine = for_machines()

    types = argparse.ArgumentParser(add_help=False)
    types.add_argument(
        "--type",
        action="append",
        choices=list(TYPES),
        metavar="TYPE",
        help=f"only this; may be repeated: {', '.join(TYPES)}; `add` without it: all but"
        " payment.settled",
    )

    add = action("add", "send messages to a URL; prints its secret once", _add, types, machine)
    add.add_argument("url", metavar="URL")
    add.add_argument(
        "--private",
        action="store_true",
        help="it may lead to this machine or into a private network, by plain http too",
    )
    change = action("set", "change where it leads, or what it is told", _set, which, types)
    change.add_argument("--url", metavar="URL", help="what waits goes there too; the secret stays")
    change.add_argument(
        "--private",
        action=argparse.BooleanOptionalAction,
        help="whether it may lead to this machine or into a private network",
    )
    action("list", "show the webhooks", _list, machine)
    action("remove", "end one, and forget what waits for it", _remove, which)
    action("pause", "send it nothing; what happens meanwhile is never sent", _pause, which)
    action("resume", "send it what happens from now on", _resume, which)
    action("test", "send it a message from here, now", _test, which)
    deliveries = action("deliveries", "what was sent, the newest first", _deliveries, machine)
    deliveries.add_argument("id", nargs="?", metavar="ID", help="of this webhook only")
    deliveries.add_argument("--state", choices=webhooks.STATES)
    deliveries.add_argument("--limit", type=positive, default=20, metavar="N")


def run(options: argparse.Namespace) -> int:
    return asyncio.run(_run(options))


async def _run(options: argparse.Namespace) -> int:
    settings = Settings.load(options.config)
    async with existing_store(settings) as store:
        act: Action = options.act
        return await act(options, settings, store)


async def _add(options: argparse.Namespace, settings: Settings, store: Store) -> int:
    new = await webhooks.add(
        store.database,
        store.vault,
        options.url,
        options.type or USUAL,
        private=options.private,
        by=_BY,
    )
    if options.json:
        say(json_line(new))
        return 0
    say(new.secret)
    say("It is shown this once: give it to the receiver, which verifies every message with it.")
    say(f"Try it: autopay webhook test {str(new.id)[:8]}")
    return 0


async def _set(options: argparse.Namespace, settings: Settings, store: Store) -> int:
    if (options.url, options.private, options.type) == (None, None, None):
        raise CommandError("nothing to change: give --url, --type, --private or --no-private")
    webhook_id = await _found(store, options.id)
    await webhooks.change(
        store.database,
        webhook_id,
        types=options.type,
        url=options.url,
        private=options.private,
        by=_BY,
    )
    now = await webhooks.find(store.database, webhook_id)
    short = str(webhook_id)[:8]
    say(f"Webhook {short} leads to {webhooks.leads_to(now.url)} and is told of: {_told(now)}.")
    if now.waiting:
        say(f"{now.waiting} that wait go there too, signed with the secret that it has.")
    if not now.active:
        say(f"It is still paused; let it go on: autopay webhook resume {short}")
    return 0


async def _list(options: argparse.Namespace, settings: Settings, store: Store) -> int:
    found = await webhooks.all_of(store.database)
    if options.json:
        for one in found:
            say(json_line(one))
    elif found:
        rows = [
            [
                str(one.id)[:8],
                urlsplit(one.url).netloc.rpartition("@")[2],
                "active" if one.active else f"paused{f': {one.reason}' if one.reason else ''}",
                str(one.waiting),
                _told(one),
                one.last_error or "",
            ]
            for one in found
        ]
        say(table(("ID", "HOST", "STATE", ">WAITING", "TYPES", "LAST ERROR"), rows))
    else:
        say("No webhooks yet; run: autopay webhook add URL")
    return 0


async def _remove(options: argparse.Namespace, settings: Settings, store: Store) -> int:
    webhook_id = await _found(store, options.id)
    await webhooks.remove(store.database, webhook_id, by=_BY)
    say(f"Webhook {str(webhook_id)[:8]} gets no more messages.")
    return 0


async def _pause(options: argparse.Namespace, settings: Settings, store: Store) -> int:
    webhook_id = await _found(store, options.id)
    await webhooks.change(store.database, webhook_id, active=False, by=_BY)
    say(f"Webhook {str(webhook_id)[:8]} is paused.")
    return 0


async def _resume(options: argparse.Namespace, settings: Settings, store: Store) -> int:
    webhook_id = await _found(store, options.id)
    await webhooks.change(store.database, webhook_id, active=True, by=_BY)
    say(f"Webhook {str(webhook_id)[:8]} is told of what happens from now on.")
    return 0


async def _test(options: argparse.Namespace, settings: Settings, store: Store) -> int:
    webhook_id = await _found(store, options.id)
    async with Poster(ca_file=settings.tls.ca_file) as poster:
        outcome = await webhooks.test(store.database, store.vault, poster, webhook_id)
    if outcome.error:
        raise CommandError(f"the message was not taken: {outcome.error}")
    say(f"Taken: it answered {outcome.status}.")
    return 0


async def _deliveries(options: argparse.Namespace, settings: Settings, store: Store) -> int:
    webhook_id = None if options.id is None else await _found(store, options.id)
    found = await webhooks.deliveries(
        store.database, webhook_id, state=options.state, limit=options.limit
    )
    if options.json:
        for one in found:
            say(json_line(one))
        return 0
    rows = [
        [
            moment(one.created_at),
            str(one.webhook_id)[:8],
            one.type,
            one.state,
            str(one.attempts),
            one.last_error or "",
        ]
        for one in found
    ]
    say(table(("SINCE (UTC)", "WEBHOOK", "TYPE", "STATE", ">ATTEMPTS", "LAST ERROR"), rows))
    return 0


def _told(webhook: webhooks.Webhook) -> str:
    return "all" if set(webhook.types) >= set(USUAL) else " ".join(webhook.types)


async def _found(store: Store, beginning: str) -> UUID:
    fits = [
        one.id
        for one in await webhooks.all_of(store.database)
        if beginning and str(one.id).startswith(beginning.lower())
    ]
    if len(fits) != 1:
        raise CommandError(
            f"{'several webhooks begin' if fits else 'no webhook begins'} with {beginning!r};"
            " run: autopay webhook list"
        )
    return fits[0]
