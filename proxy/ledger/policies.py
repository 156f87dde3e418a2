"""The book of policies as operators change it: whole changes or none, numbered, and undone.

Every change is one statement and one version; every running proxy hears of it at once
(`directory.py`), and no payment is decided under half of it (0028_policy_book.sql).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from policies import Book, LayerKey, Rules, parse_provider
from proxy.ledger.agents import UnknownAgent, named
from proxy.ledger.database import Database
from proxy.ledger.errors import LedgerError
from proxy.ledger.ids import new_id
from proxy.ledger.layers import BOOK, book_of, stored

_CHANGE = "SELECT version, problem FROM change_book($1, $2, $3, $4, $5)"
_FREEZE = "SELECT version, problem FROM freeze_layer($1, $2, $3, $4, $5, $6)"
_ROLL_BACK = "SELECT version, problem FROM roll_back_book($1, $2, $3, $4, $5)"
_HISTORY = """
SELECT c.id, c.version, c.changed_at, c.changed_by, c.origin, c.note, c.part, a.name AS agent,
       c.provider, c.layer, c.before, c.after
FROM policy_changes c LEFT JOIN agents a ON a.id = c.agent_id
WHERE ($2::bigint IS NULL OR c.id < $2) AND ($3::text IS NULL OR a.name = $3)
ORDER BY c.id DESC LIMIT $1
"""
_SHADOW = """
UPDATE policy_shadow SET document = $1, note = $2, updated_by = $3
"""
_SHADOWED = "SELECT document, note, updated_by, updated_at FROM policy_shadow"
_TRIES = 20


class PolicyConflict(LedgerError):
    """The book is not at the version that was expected: somebody has changed it since."""

    def __init__(self, version: int) -> None:
        super().__init__(f"the policies were changed meanwhile: they are at version {version} now")
        self.version = version


class UnknownVersion(LedgerError):
    """There was no such version, or it is from before changes were written down."""


@dataclass(frozen=True, slots=True)
class LayerChange:
    """What a layer said, and says now; None: there was none, or is none."""

    key: LayerKey
    before: Rules | None
    after: Rules | None


@dataclass(frozen=True, slots=True)
class Applied:
    """The version that holds now, and what was changed to get there: nothing, maybe."""

    version: int
    changes: tuple[LayerChange, ...] = ()


@dataclass(frozen=True, slots=True)
class Change:
    """A line of history. `before` and `after` are as stored: the rules of a layer, the columns of
    an agent's, or a ceiling; None where there was none."""

    id: int
    version: int
    changed_at: datetime
    changed_by: str
    origin: str
    note: str
    part: str  # agent_policies, policy_rules or spend_limits
    agent: str | None
    provider: str | None
    layer: str
    before: Mapping[str, Any] | None
    after: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class Shadow:
    """The book that decides beside the real one, if there is one."""

    book: Book | None
    note: str
    updated_by: str | None
    updated_at: datetime


async def load(database: Database) -> Book:
    """The book as it is now, in one snapshot."""
    row = await database.fetchrow(BOOK)
    assert row is not None
    return book_of(row)


async def apply(
    database: Database,
    book: Book,
    *,
    by: str = "",
    origin: str = "",
    note: str = "",
    expected: int | None = None,
    prune: bool = False,
    create: bool = False,
) -> Applied:
    """Puts every layer of `book` into the running one, in one transaction; with `prune`, takes away
    what is not in it. `expected`: only if the running one is at this version. `create`: agents that
    are missing are made, without a token.

    Raises PolicyConflict, UnknownAgent (naming all that are unknown), LedgerError.
    """
    wanted: dict[LayerKey, Rules | None] = dict(book.layers())
    for name in book.agents:  # one that says nothing is meant, too
        wanted.setdefault(LayerKey(name), Rules())
    return await _change(
        database, wanted, by, origin, note, expected=expected, prune=prune, create=create
    )


async def set_rules(
    database: Database,
    agent: str | None,
    provider: str | None,
    rules: Rules | None,
    *,
    by: str = "",
    origin: str = "",
    note: str = "",
    expected: int | None = None,
) -> Applied:
    """Replaces one layer; None takes it away. Neither agent nor provider: the defaults.

    Raises PolicyError for rules that cannot be said of it, PolicyConflict, UnknownAgent.
    """
    key = _key(agent, provider)
    said = rules or Rules()
    checked = Book.from_json(Book.of({key: said}).to_json())
    wanted = {key: dict(checked.layers()).get(key, Rules())}
    return await _change(database, wanted, by, origin, note, expected=expected)


async def freeze(
    database: Database,
    agent: str | None,
    provider: str | None,
    frozen: bool,
    *,
    by: str = "",
    origin: str = "",
    note: str = "",
) -> int:
    """Freezes or thaws one layer: an agent, a provider, an agent at a provider; or the defaults,
    which is everything. Once it has returned the version that holds now, nothing is granted.
    Raises UnknownAgent, PolicyError for what is no
    provider."""
    key = _key(agent, provider)
    row = await database.fetchrow(_FREEZE, *key, frozen, by, origin, note)
    assert row is not None
    if row["problem"] is not None:
        raise UnknownAgent(f"there is no agent {(agent or '')[:100]!r}")
    return int(row["version"])


async def roll_back(
    database: Database,
    version: int,
    *,
    by: str = "",
    origin: str = "",
    note: str = "",
    expected: int | None = None,
) -> Applied:
    """Makes the book, ceilings included, what it was at `version`; that is a new version. Agents
    stay: those added since keep their policies. Raises UnknownVersion, PolicyConflict."""
    before = await load(database)
    row = await database.fetchrow(_ROLL_BACK, version, expected, by, origin, note)
    assert row is not None
    if row["problem"] == "conflict":
        raise PolicyConflict(row["version"])
    if row["problem"] is not None:
        raise UnknownVersion(
            f"there is no version {version} to go back to; the policies are at {row['version']}"
        )
    return Applied(row["version"], _changes(before, await load(database)))


async def history(
    database: Database, limit: int = 50, before: int | None = None, agent: str | None = None
) -> list[Change]:
    """The newest changes, of one agent or of all; `before`: those behind the one of this id."""
    return [
        Change(**{**row, "before": _object(row["before"]), "after": _object(row["after"])})
        for row in map(dict, await database.fetch(_HISTORY, limit, before, agent))
    ]


async def shadow(database: Database, book: Book | None, *, by: str = "", note: str = "") -> None:
    """Lets `book` decide beside the real one from now on, for the record alone; None: no more."""
    document = None if book is None else json.dumps(book.to_json())
    await database.execute(_SHADOW, document, note, by)


async def shadowed(database: Database) -> Shadow:
    """What `shadow` has set."""
    row = await database.fetchrow(_SHADOWED)
    assert row is not None
    document = row["document"]
    book = None if document is None else Book.from_json(json.loads(document))
    return Shadow(book, row["note"], row["updated_by"], row["updated_at"])


async def _change(
    database: Database,
    wanted: Mapping[LayerKey, Rules | None],
    by: str,
    origin: str,
    note: str,
    *,
    expected: int | None,
    prune: bool = False,
    create: bool = False,
) -> Applied:
    """Changes the layers to what is wanted. Without an expected version, the change is made to
    whatever the book is by then."""
    for _ in range(_TRIES):
        now = await load(database)
        if expected is not None and expected != now.version:
            raise PolicyConflict(now.version)
        made = _missing(now, wanted)
        if made and not create:
            raise UnknownAgent(
                "there is no agent " + ", ".join(repr(name[:100]) for name in sorted(made))
            )
        ids = {named(name): str(new_id()) for name in made}
        changes = _wanted_changes(now, wanted, prune=prune)
        if not changes and not made:
            return Applied(now.version)
        layers = [_layer(change, ids) for change in changes]
        row = await database.fetchrow(_CHANGE, json.dumps(layers), now.version, by, origin, note)
        assert row is not None
        if row["problem"] == "unknown_agent":
            raise UnknownAgent("an agent was removed meanwhile, or had been before: bring it back")
        if row["problem"] is None:
            return Applied(row["version"], changes)
        conflict = PolicyConflict(row["version"])
    raise conflict


def _missing(now: Book, wanted: Mapping[LayerKey, Rules | None]) -> set[str]:
    return {key.agent for key in wanted if key.agent is not None} - set(now.agents)


def _wanted_changes(
    now: Book, wanted: Mapping[LayerKey, Rules | None], *, prune: bool
) -> tuple[LayerChange, ...]:
    there = dict(now.layers())
    target = dict(wanted)
    if prune:
        for key in there:
            target.setdefault(key, None)
    return tuple(
        LayerChange(key, there.get(key), rules or None)
        for key, rules in target.items()
        if (there.get(key) or Rules()) != (rules or Rules())
        or (key.agent is not None and key.agent not in now.agents)
    )


def _changes(before: Book, after: Book) -> tuple[LayerChange, ...]:
    was, now = dict(before.layers()), dict(after.layers())
    return tuple(
        LayerChange(key, was.get(key), now.get(key))
        for key in {**was, **now}
        if was.get(key) != now.get(key)
    )


def _layer(change: LayerChange, ids: Mapping[str, str]) -> dict[str, Any]:
    key, rules = change.key, change.after or Rules()
    layer: dict[str, Any] = {"agent": key.agent, "provider": key.provider}
    if key.agent is not None and key.agent in ids:
        layer["id"] = ids[key.agent]
    if key.agent is not None and key.provider is None:
        layer["columns"], layer["rules"] = stored(rules)
    else:
        layer["rules"] = rules.to_json() or None
    return layer


def _key(agent: str | None, provider: str | None) -> LayerKey:
    return LayerKey(agent, None if provider is None else parse_provider(provider).text)


def _object(text: str | None) -> Any:
    return None if text is None else json.loads(text)
