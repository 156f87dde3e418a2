"""The layers of the book of policies, as they stand in the database.

An agent's own layer is in two places: columns of `agent_policies`, which whoever moves money reads,
and what else it says in `policy_rules`. Limits that it does not name are `inherited`: their columns
follow the defaults, and are not part of the layer.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import asyncpg

from policies import Book, Limit, PolicyError, Rules
from policies.rules import ordered_limits

log = logging.getLogger(__name__)

# One statement, so one snapshot: the version, what is in columns, all else, and the shadow.
BOOK = """
SELECT policy_version() AS version,
       (SELECT s.document FROM policy_shadow s) AS shadow,
       coalesce((SELECT jsonb_object_agg(a.name, to_jsonb(p))
                 FROM agents a JOIN agent_policies p ON p.agent_id = a.id
                 WHERE a.is_active), '{}') AS agents,
       coalesce((SELECT jsonb_agg(jsonb_build_array(a.name, r.provider, r.rules))
                 FROM policy_rules r LEFT JOIN agents a ON a.id = r.agent_id
                 WHERE r.agent_id IS NULL OR a.is_active), '[]') AS layers
"""

_LIMITS = {"daily": "day", "session": "session", "trace": "trace"}
_LISTS = (
    "allowed_endpoints",
    "allowed_pay_to",
    "allowed_assets",
    "allowed_networks",
    "allowed_targets",
    "allowed_ports",
)
_CLOSED = Rules(frozen=True)


def book_of(row: asyncpg.Record) -> Book:
    """The book of the row that `BOOK` gives. A layer that cannot be read (written by hand, or by a
    later version) allows nothing."""
    found: dict[tuple[str | None, str | None], Rules] = {}
    for agent, provider, document in json.loads(row["layers"]):
        found[agent, provider] = _read(document, agent, provider)
    columns = json.loads(row["agents"])
    return Book(
        version=row["version"],
        defaults=found.get((None, None), Rules()),
        providers={p: rules for (a, p), rules in found.items() if a is None and p is not None},
        agents={
            name: _own_layer(columns[name], found.get((name, None), Rules())) for name in columns
        },
        agent_providers={
            (a, p): rules for (a, p), rules in found.items() if a is not None and p is not None
        },
    )


def _own_layer(columns: Mapping[str, Any], beyond: Rules) -> Rules:
    """An agent's own layer, of its row in `agent_policies` and what it says beyond that."""
    inherited = columns["inherited"]
    limits = [
        Limit(window, micros=columns[f"{key}_limit_micros"])
        for key, window in _LIMITS.items()
        if key not in inherited
    ]
    lists: dict[str, Any] = {name: tuple(columns[name]) for name in _LISTS}
    return replace(
        beyond,
        frozen=beyond.frozen or columns["frozen"],
        per_call=None if "per_call" in inherited else columns["per_call_limit_micros"],
        limits=ordered_limits([*beyond.limits, *limits]),
        **lists,
    )


def stored(rules: Rules) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """An agent's own layer as it is stored: its columns, and what it says beyond them."""
    amounts = {key: rules.limit(window).micros for key, window in _LIMITS.items()}
    amounts["per_call"] = rules.per_call
    columns: dict[str, Any] = {
        "frozen": rules.frozen,
        "inherited": [key for key in ("per_call", *_LIMITS) if amounts[key] is None],
        **{f"{key}_limit_micros": micros for key, micros in amounts.items() if micros is not None},
        **{name: list(getattr(rules, name)) for name in _LISTS},
    }
    nothing: dict[str, Any] = dict.fromkeys(_LISTS, ())
    beyond = replace(
        rules,
        frozen=False,
        per_call=None,
        limits=ordered_limits(
            Limit(one.window, None if one.window in _LIMITS.values() else one.micros, one.payments)
            for one in rules.limits
        ),
        **nothing,
    )
    return columns, beyond.to_json() or None


def _read(document: object, agent: str | None, provider: str | None) -> Rules:
    try:
        return Rules.from_json(document)
    except PolicyError as error:
        log.error(
            "a layer of the policies cannot be read and allows nothing (agent %s, provider %s): %s",
            agent or "-",
            provider or "-",
            error,
        )
        return _CLOSED
