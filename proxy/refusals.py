"""What a program is told when it does not get its paid answer: what happened, what it cost, and
what to do next. Nothing that a seller wrote gets in unless it has the shape of a code."""

import re
from datetime import datetime
from typing import Any
from uuid import UUID

from policies import Ask, Verdict, format_usd
from proxy.chains import Unpayable
from proxy.ledger import Refused
from proxy.wire.problem import Problem

_CODE = re.compile(r"[a-z0-9][a-z0-9_.-]{0,79}", re.IGNORECASE)

_OVER = {
    "over_daily_limit": "The price of {asked} USD does not fit into today's budget: {spent} USD"
    " of {limit} USD are spent and {held} USD are held by payments under way.",
    "over_session_limit": "The price of {asked} USD does not fit into the session's budget: {spent}"
    " USD of {limit} USD are spent and {held} USD are held by payments under way.",
    "over_per_call_limit": "The price is {asked} USD; this agent may pay at most {limit} USD per"
    " call.",
    "over_trace_limit": "The price of {asked} USD does not fit into the trace's budget: {spent} USD"
    " of {limit} USD are spent and {held} USD are held by payments under way.",
    "over_agent_provider_limit": "The price of {asked} USD does not fit into what this agent may"
    " spend with this provider today: {spent} USD of {limit} USD are spent and {held} USD are"
    " held.",
    "over_provider_limit": "The price of {asked} USD does not fit into what may be spent with this"
    " provider today, by all agents together: {spent} USD of {limit} USD are spent and {held} USD"
    " are held.",
    "over_wallet_limit": "The price of {asked} USD does not fit into what this wallet may spend"
    " today: {spent} USD of {limit} USD are spent and {held} USD are held.",
    "over_fleet_limit": "The price of {asked} USD does not fit into what all agents together may"
    " spend today: {spent} USD of {limit} USD are spent and {held} USD are held.",
    "frozen": "This agent's spending is frozen.",
    "unknown_agent": "This agent was removed.",
    "spending_halted": "All spending is halted.",
}


def denied(verdict: Verdict, ask: Ask, provider: str) -> Problem:
    """The agent's policy says no."""
    extra: dict[str, Any] = {"provider": provider, "asked_usd": format_usd(ask.price)}
    if verdict.limit is not None:
        extra["limit_usd"] = format_usd(verdict.limit)
    return Problem(
        403,
        verdict.code,
        f"{verdict.detail} Nothing was paid. An operator can change this agent's policy.",
        extra,
    )


def over_budget(refused: Refused, provider: str) -> Problem:
    """The ledger says no. `possible_again` is when the window ends, null where none does."""
    numbers = {
        "asked": format_usd(refused.asked),
        "limit": format_usd(refused.limit or 0),
        "spent": format_usd(refused.spent or 0),
        "held": format_usd(refused.held or 0),
    }
    text = _OVER.get(refused.code, "The budget does not allow this payment.").format(**numbers)
    when = _iso(refused.resets_at)
    return Problem(
        403,
        refused.code,
        f"{text} Nothing was paid."
        + (f" It is possible again from {when}." if when else "")
        + " An operator can change this agent's policy.",
        {
            "provider": provider,
            **{f"{name}_usd": value for name, value in numbers.items()},
            "possible_again": when,
        },
    )


def unpayable(error: Unpayable, provider: str) -> Problem:
    """The chain side says no: no funds, no route to the RPC, an offer that is unsafe to sign."""
    headers: tuple[tuple[bytes, bytes], ...] = ()
    if error.retry_after is not None:
        headers = ((b"Retry-After", b"%d" % error.retry_after),)
    return Problem(
        503 if error.retry_after is not None else 403,
        error.code,
        f"{error.detail} Nothing was paid.",
        {"provider": provider},
        headers,
    )


def ledger_unavailable(provider: str) -> Problem:
    """No ledger, no payment. Requests that need none still flow."""
    return Problem(
        503,
        "ledger_unavailable",
        "The ledger can't be reached, so nothing is paid for now. Nothing was paid for this"
        " request; requests that need no payment still go through.",
        {"provider": provider},
        ((b"Retry-After", b"5"),),
    )


def not_sent(payment_id: UUID, provider: str, why: str) -> Problem:
    """The provider could not be reached for the paid request."""
    return Problem(
        502,
        "upstream_unreachable",
        f"{provider} asked for a payment and then could not be reached: {why}. The payment never"
        " left, and the money it held is free again.",
        {"provider": provider, "payment": str(payment_id)},
    )


def nobody_waits(payment_id: UUID, provider: str) -> Problem:
    """The program closed its side of the connection: it may be gone, and nothing is bought then."""
    return Problem(
        408,
        "program_hung_up",
        "The program closed its side of the connection before the payment was sent. The payment"
        " never left, and the money it held is free again. Keep the connection open until the"
        " answer has come.",
        {"provider": provider, "payment": str(payment_id)},
    )


def in_doubt(payment_id: UUID, provider: str, price: int, why: str, reason: str) -> Problem:
    """The payment left, and nobody said what became of it. `reason`, if it has the shape of a code,
    is the seller's or ours."""
    extra: dict[str, Any] = {
        "provider": provider,
        "payment": str(payment_id),
        "held_usd": format_usd(price),
    }
    if _CODE.fullmatch(reason):
        extra["reason"] = reason
    return Problem(
        502,
        "payment_in_doubt",
        f"A payment of {format_usd(price)} USD left for {provider} and its fate is unknown: {why}."
        " The amount stays held against the budget until the chain tells. The same request"
        " is not paid for again before that.",
        extra,
    )


def still_in_doubt(payment_id: UUID, provider: str) -> Problem:
    """The same request was paid for before, and what became of that is not known."""
    return Problem(
        409,
        "payment_in_doubt",
        f"A payment for this very request left for {provider} before, and its fate is unknown."
        " Nothing was signed or sent this time. Ask again once the chain has told: the money is"
        " then spent with a receipt, or free again.",
        {"provider": provider, "payment": str(payment_id)},
        ((b"Retry-After", b"10"),),
    )


def request_in_progress(payment_id: UUID, provider: str) -> Problem:
    """The same request is being paid for, and its answer has not come in the time we wait."""
    return Problem(
        409,
        "request_in_progress",
        f"The same request is under way to {provider}, with a payment. Nothing was signed or sent"
        " for this one. Ask again: its answer is kept.",
        {"provider": provider, "payment": str(payment_id)},
        ((b"Retry-After", b"5"),),
    )


def idempotency_key_reused(payment_id: UUID) -> Problem:
    """One key, two requests. A body that could not be kept whole is equal to none."""
    return Problem(
        422,
        "idempotency_key_reused",
        "This Idempotency-Key was given to another request (method, URL or body), which was paid"
        " for. Nothing was paid for this one. Give each request a key of its own.",
        {"payment": str(payment_id)},
    )


def already_paid(payment_id: UUID, provider: str) -> Problem:
    """Paid for, and there is no answer to give."""
    return Problem(
        409,
        "already_paid",
        f"This request was paid for before, and the answer of {provider} was lost or could not be"
        " kept. Nothing was paid this time, nor will be under the same Idempotency-Key; as a new"
        " request, it is paid for anew. `autopay show` tells of the payment.",
        {"provider": provider, "payment": str(payment_id)},
    )


def asked_again_in_vain(payment_id: UUID, provider: str, why: str, reason: str) -> Problem:
    """The same payment was sent once more, and its fate is as unknown as before."""
    extra: dict[str, Any] = {"provider": provider, "payment": str(payment_id)}
    if _CODE.fullmatch(reason):
        extra["reason"] = reason
    return Problem(
        502,
        "payment_in_doubt",
        f"The payment for this very request, which had left for {provider} before, was sent once"
        f" more, the same bytes, and its fate is still unknown: {why}. Nothing was signed anew, and"
        " it can move money once at most. It stays held until the chain tells.",
        extra,
        ((b"Retry-After", b"10"),),
    )


def breaker_open(provider: str, retry_after: int, last_error: str) -> Problem:
    """The provider failed too often: it is left alone for a while."""
    return Problem(
        503,
        "breaker_open",
        f"{provider} failed several times in a row (last: {last_error}), so it is left alone for"
        f" now. It will be tried again in {retry_after} s. Nothing was sent or paid.",
        {"provider": provider, "last_error": last_error, "retry_after": retry_after},
        ((b"Retry-After", b"%d" % retry_after),),
    )


def _iso(moment: datetime | None) -> str | None:
    return moment.isoformat().replace("+00:00", "Z") if moment is not None else None
