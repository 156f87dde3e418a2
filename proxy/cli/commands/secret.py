"""The key that agents' tokens are sealed with: what is under it, and a new one.

    autopay secret status
    autopay secret rotate
    autopay secret drop-old

`rotate` makes a new key and puts everything under it; proxies that run take no notice but for
reading the file again. The old keys stay in the file, for whatever a proxy seals in that moment;
`drop-old` takes out those that nothing is under any more. A key from the environment or from a
command is yours to make; `rotate` then puts everything under the first of those that you give.
"""

import argparse
import asyncio
import json

from proxy.cli.books import existing_store
from proxy.cli.errors import CommandError
from proxy.cli.render import say, table
from proxy.ledger import Database, seals
from proxy.settings import Settings
from proxy.store import Store
from proxy.vault import FileKeys, Keyring, new_key

RESEAL_SECONDS = 600.0

_BY_HAND = """\
{source} gives one key, {key}, and everything is to be under a new one:
  1. make it:  openssl rand -base64 32
  2. give it before the old one (NEW,OLD) wherever autopay runs, and start autopay again there;
     where several run, give it as the last one everywhere before that
  3. run again:  autopay secret rotate
  4. take the old one out once `autopay secret status` says that nothing is under it"""


def arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(required=True, metavar="ACTION", dest="action")
    status = actions.add_parser("status", help="the keys by their ids, and how much is under each")
    status.add_argument("--json", action="store_true", help="for machines")
    status.set_defaults(act=_status)
    rotate = actions.add_parser("rotate", help="make a new key, and put everything under it")
    rotate.set_defaults(act=_rotate)
    drop = actions.add_parser("drop-old", help="take out the keys that nothing is under")
    drop.set_defaults(act=_drop_old)


def run(options: argparse.Namespace) -> int:
    asyncio.run(_run(options))
    return 0


async def _run(options: argparse.Namespace) -> None:
    async with existing_store(Settings.load(options.config)) as store:
        await options.act(options, store)


async def _status(options: argparse.Namespace, store: Store) -> None:
    keyring = await store.vault.keyring()
    under = await seals.rows_by_key(store.database)
    ids = [*keyring.key_ids, *(one for one in under if one not in keyring.key_ids)]
    if options.json:
        keys = [
            {"key": one.hex(), "state": _state(keyring, one), "sealed": under.get(one, 0)}
            for one in ids
        ]
        say(json.dumps({"source": store.vault.source.words, "keys": keys}))
        return
    say(f"The secret keys come from {store.vault.source.words}.")
    if ids:
        rows = [[one.hex(), _state(keyring, one), str(under.get(one, 0))] for one in ids]
        say(table(("KEY", "STATE", ">SEALED"), rows))
    else:
        say("None was needed yet: the first is made with the first agent.")


async def _rotate(_options: argparse.Namespace, store: Store) -> None:
    source = store.vault.source
    if isinstance(source, FileKeys):
        await source.put_first(new_key())
    keyring = await store.vault.read_again()
    if len(keyring.key_ids) == 1 and not isinstance(source, FileKeys):
        say(_BY_HAND.format(source=source.words, key=keyring.key_ids[0].hex()))
        return
    patient = await Database.open(
        store.dsn, size=1, timeout=RESEAL_SECONDS, name="autopay cli", role=store.role
    )
    try:
        done = await seals.reseal(patient, keyring)
    finally:
        await patient.close()
    say(f"The current key is {keyring.key_ids[0].hex()}; {done.rows} values were put under it.")
    if done.left:
        say(f"{done.left} were left as they were: they are under a key that is not here, or were")
        say("altered. Tokens among them are not accepted; autopay agent rotate makes new ones.")
    if len(keyring.key_ids) > 1:
        say("The older keys still open what was sealed with them; see: autopay secret status")
    if isinstance(source, FileKeys):
        say(f"Keep a copy of {source.path}, apart from those of the database.")


async def _drop_old(_options: argparse.Namespace, store: Store) -> None:
    source = store.vault.source
    if not isinstance(source, FileKeys):
        raise CommandError(f"the keys are not in a file: take the old ones out of {source.words}")
    keyring = await store.vault.keyring()
    under = await seals.rows_by_key(store.database)
    unused = [one for one in keyring.key_ids[1:] if not under.get(one)]
    if unused:
        await source.drop(unused)
    for one in keyring.key_ids[1:]:
        kept = under.get(one)
        say(f"{one.hex()}  {f'stays: {kept} values are under it' if kept else 'is gone'}")
    if len(keyring.key_ids) < 2:
        say("There is no old key.")


def _state(keyring: Keyring, key_id: bytes) -> str:
    if key_id not in keyring.key_ids:
        return "not here"
    return "current" if key_id == keyring.key_ids[0] else "old"
