"""What an agent may learn of itself: its limits, what is left of them, why it was refused last.

Read from the ledger at the moment of asking, so it is what the next payment would meet. Only its
own: nothing of other agents, nor of what they spend together.
"""

import json
from collections.abc import Mapping
from typing import Any

from policies import format_usd
from proxy import refusals
from proxy.ledger import Agent, Database, LedgerError
from proxy.wire.problem import Problem

_ASK = "SELECT agent_standing($1, $2, $3, $4)"
_MORE = (
    "Only an operator can change limits, by `autopay agent set NAME` or `autopay policy`; nothing"
    " that an agent sends can. Tell the operator which limit stopped you, and what you need."
)


async def standing(
    database: Database, agent: Agent, session: str | None, trace: str | None
) -> Mapping[str, Any]:
    """As JSON. `session` and `trace`: those of this request, whose budgets are told too. Raises
    Problem."""
    bound = agent.session is not None
    session = agent.session or session
    try:
        text = await database.fetchval(_ASK, agent.id, session, trace, bound)
    except LedgerError as error:
        raise unavailable() from error
    if text is None:
        raise Problem(403, "unknown_agent", "This agent was removed. Nothing is paid for it.")
    found: dict[str, Any] = json.loads(text)
    limits = [{"window": "call", "limit_usd": format_usd(found["per_call_micros"])}]
    limits += [_window(one) for one in found["windows"]]
    return {
        "agent": agent.name,
        "session": session,
        "trace": trace,
        "frozen": found["frozen"],
        "halted": found["halted"],
        "may_pay": not (found["frozen"] or found["halted"]),
        "policy_version": found["version"],
        "limits": limits,
        "last_denial": None if found["denial"] is None else _denial(found["denial"]),
        "to_get_more": _MORE,
    }


def unavailable() -> Problem:
    """The ledger does not answer, or not in time."""
    return Problem(
        503,
        "ledger_unavailable",
        "The ledger can't be reached, so what is left can't be told, and nothing is paid for"
        " now. Requests that need no payment still go through.",
        headers=((b"Retry-After", b"5"),),
    )


def _window(one: Mapping[str, Any]) -> dict[str, Any]:
    told: dict[str, Any] = {"window": one["window"], "resets_at": one["resets_at"]}
    if one["provider"] is not None:
        told["provider"] = one["provider"]
    limit, spent, held = one["limit_micros"], one["spent_micros"], one["held_micros"]
    if limit is not None:
        told |= {
            "limit_usd": format_usd(limit),
            "spent_usd": format_usd(spent),
            "held_usd": format_usd(held),
            "left_usd": format_usd(max(0, limit - spent - held)),
        }
    if one["limit_payments"] is not None:
        most, made = one["limit_payments"], one["payments"]
        told |= {"limit_payments": most, "payments": made, "left_payments": max(0, most - made)}
    return told


def _denial(one: Mapping[str, Any]) -> dict[str, Any]:
    numbers = {
        name: format_usd(one[f"{name}_micros"])
        for name in ("price", "limit", "spent", "held")
        if one[f"{name}_micros"] is not None
    }
    return {
        "code": one["code"],
        "detail": one["detail"] or refusals.words(one["code"], numbers),
        "at": one["at"],
        "method": one["method"],
        "endpoint": one["endpoint"],
        **{f"{name}_usd": value for name, value in numbers.items()},
        "possible_again": one["possible_again"],
        **(one["facts"] or {}),
    }
