"""Commands that are several: `autopay key create`, `autopay key list`."""

import argparse
from typing import Generic, TypeVar

Act = TypeVar("Act")


class Actions(Generic[Act]):
    """What follows a command's name; which it is, the options carry as `options.act`."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self._all = parser.add_subparsers(required=True, metavar="ACTION", dest="action")

    def add(
        self, word: str, what: str, act: Act, *parents: argparse.ArgumentParser, **also: object
    ) -> argparse.ArgumentParser:
        """`also`: what else the options carry."""
        one = self._all.add_parser(word, help=what, description=what, parents=parents)
        one.set_defaults(act=act, **also)
        return one


def for_machines() -> argparse.ArgumentParser:
    """The parent of what can answer in JSON."""
    parent = argparse.ArgumentParser(add_help=False)
    parent.add_argument("--json", action="store_true", help="for machines")
    return parent
