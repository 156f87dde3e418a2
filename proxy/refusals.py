"""What a program is told when it does not get its paid answer: what happened, what it cost, and
what to do next. Nothing that a seller wrote gets in unless it has the shape of a code, and nothing
of what other agents spent or paid: of a limit that they share, a program learns the limit alone."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from policies import Verdict, format_usd
from proxy.chains import Unpayable
from proxy.ledger import Refused
from proxy.wire.problem import Problem

_CODE = re.compile(r"[a-z0-9][a-z0-9_.-]{0,79}", re.IGNORECASE)

# The limits that agents share: what is used of them tells one agent what others spend.
_SHARED = frozenset({"over_provider_limit", "over_wallet_limit", "over_fleet_limit"})
_USED = "{spent} USD of {limit} USD are spent and {held} USD are held by payments under way"
_USED_TOGETHER = "of {limit} USD, too little is left"

_OVER = {
    "over_daily_limit": "The price of {asked} USD does not fit into today's budget: {used}.",
    "over_session_limit": "The price of {asked} USD does not fit into the session's budget:"
    " {used}.",
    "over_per_call_limit": "The price is {asked} USD; this agent may pay at most {limit} USD per"
    " call.",
    "over_trace_limit": "The price of {asked} USD does not fit into the trace's budget: {used}.",
    "over_agent_provider_limit": "The price of {asked} USD does not fit into what this agent may"
    " spend with this provider today: {used}.",
    "over_provider_limit": "The price of {asked} USD does not fit into what may be spent with this"
    " provider today, by all agents together: {used}.",
    "over_wallet_limit": "The price of {asked} USD does not fit into what this wallet may spend"
    " today: {used}.",
    "over_fleet_limit": "The price of {asked} USD does not fit into what all agents together may"
    " spend today: {used}.",
    "over_hourly_limit": "The price of {asked} USD does not fit into what may be spent in this"
    " hour: {used}.",
    "over_monthly_limit": "The price of {asked} USD does not fit into what may be spent in this"
    " month: {used}.",
    "over_lifetime_limit": "The price of {asked} USD does not fit into what may ever be spent:"
    " {used}.",
    "over_rolling_limit": "The price of {asked} USD does not fit into what may be spent in any such"
    " span of hours: {used}.",
    "too_many_payments": "As many payments as are allowed in this window were made, or are under"
    " way.",
    "frozen": "This agent's spending is frozen.",
    "unknown_agent": "This agent was removed.",
    "spending_halted": "All spending is halted.",
}


def denied(verdict: Verdict, price: int, provider: str) -> Problem:
    """The policy says no. `rule` and `layer` are what said it."""
    extra: dict[str, Any] = {
        "provider": provider,
        "asked_usd": format_usd(price),
        "rule": verdict.rule,
        "layer": verdict.layer,
    }
    if verdict.limit is not None:
        extra["limit_usd"] = format_usd(verdict.limit)
    whose = "this agent's policy" if verdict.layer != "intent" else "what an intent may cost"
    return Problem(
        403,
        verdict.code,
        f"{verdict.detail} Nothing was paid. An operator can change {whose}.",
        extra,
    )


def over_budget(refused: Refused, provider: str) -> Problem:
    """The ledger says no. `possible_again` is when the window ends, null where none does."""
    if refused.detail is not None and refused.code in _HELD_BACK:
        return _HELD_BACK[refused.code](refused, refused.detail, provider)
    numbers = {"asked": format_usd(refused.asked), "limit": format_usd(refused.limit or 0)}
    if refused.code not in _SHARED and not _of_all_agents(refused.detail):
        numbers |= {
            "spent": format_usd(refused.spent or 0),
            "held": format_usd(refused.held or 0),
        }
    text = _sentence(refused.code, numbers) or "The budget does not allow this payment."
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
            **_window(refused.detail),
            "possible_again": when,
        },
    )


def _window(detail: Mapping[str, Any] | None) -> dict[str, Any]:
    """Which limit of a layer it was: its window, of whom, and the number of payments in it, where
    those are the agent's own."""
    if detail is None or "window" not in detail:
        return {}
    named = {"window": "window", "of": "limit_of", "provider": "pattern"}
    numbers: tuple[str, ...] = ()
    if "limit_payments" in detail:
        numbers = ("limit_payments",)
        if not _of_all_agents(detail):
            numbers = ("payments", "limit_payments")
    return {said: detail[name] for name, said in named.items() if name in detail} | {
        name: detail[name] for name in numbers
    }


def _of_all_agents(detail: Mapping[str, Any] | None) -> bool:
    """Whether a limit of a layer counts what all agents do."""
    return detail is not None and detail.get("of") == "provider"


def _sentence(code: str, numbers: Mapping[str, str]) -> str:
    """`numbers` has no `spent` and `held` where they are not the agent's own."""
    used = (_USED if "spent" in numbers else _USED_TOGETHER).format(**numbers)
    return _OVER.get(code, "").format(used=used, **numbers)


def words(code: str, numbers: Mapping[str, str]) -> str:
    """What the ledger's denial of this code means, with its `price`, `limit`, `spent` and `held`
    in USD, the last two only where they are the agent's own; "" for one that needs no more words
    than its name."""
    return _sentence(code, {"asked": numbers.get("price", "0"), "limit": "0"} | dict(numbers))


def _pay_to_changed(refused: Refused, detail: Mapping[str, Any], provider: str) -> Problem:
    return Problem(
        403,
        "pay_to_changed",
        f"{provider} wants to be paid to another receiver than before, so nothing was paid. An"
        " operator can let it be paid: autopay pin list --waiting.",
        {
            "provider": provider,
            "asked_usd": format_usd(refused.asked),
            "network": detail["network"],
            "pay_to": detail["pay_to"],
            "pinned": detail["pinned"],
        },
    )


def _price_drift(refused: Refused, _: Mapping[str, Any], provider: str) -> Problem:
    """What was paid before was paid by others too: neither it nor a ratio that it follows from."""
    asked, most = format_usd(refused.asked), format_usd(refused.limit)
    return Problem(
        403,
        "price_drift",
        f"The price is {asked} USD, which is too much beside what was paid here before. At most"
        f" {most} USD may be paid. Nothing was paid. An operator can change this agent's policy.",
        {"provider": provider, "asked_usd": asked, "limit_usd": most},
    )


def _over_loss_cap(refused: Refused, detail: Mapping[str, Any], provider: str) -> Problem:
    asked, limit = format_usd(refused.asked), format_usd(refused.limit)
    own = {} if _of_all_agents(detail) else {"lost_usd": format_usd(detail["lost_micros"])}
    lost = f"{own['lost_usd']} USD were" if own else "Too much was"
    when = _iso(datetime.fromisoformat(detail["resets_at"]))
    return Problem(
        403,
        "over_loss_cap",
        f"{lost} paid today for what was not delivered, and the price of {asked} USD could be lost"
        f" too: at most {limit} USD may be. Nothing was paid. It is possible again from {when}. An"
        " operator can change this agent's policy.",
        {
            "provider": provider,
            "asked_usd": asked,
            "limit_usd": limit,
            **own,
            "possible_again": when,
        },
    )


def _approval_required(refused: Refused, detail: Mapping[str, Any], provider: str) -> Problem:
    """`state`: pending, rejected; or too_many or body_unknown, where it was not even asked for."""
    state, approval = detail["state"], detail.get("approval")
    asked = format_usd(refused.asked)
    extra = {"provider": provider, "asked_usd": asked, "state": state}
    if state == "body_unknown":
        text = (
            f"The price of {asked} USD needs an operator's approval, and the provider asked for it"
            " before it had the whole body, so that the request could not be known again. Nothing"
            " was paid or asked for. Send it without Expect: 100-continue, or with a shorter body."
        )
    elif approval is None:
        text = (
            f"The price of {asked} USD needs an operator's approval, and too many payments of this"
            " agent wait for one already. Nothing was paid or asked for. Ask again when some are"
            " decided."
        )
    else:
        when = _iso(datetime.fromisoformat(detail["expires_at"]))
        extra |= {"approval": approval, "expires_at": when}
        if state == "rejected":
            text = (
                f"An operator has rejected this payment of {asked} USD (approval {approval})."
                f" Nothing was paid. It is not asked for again before {when}."
            )
        else:
            extra["approve"] = f"autopay approval approve {approval}"
            text = (
                f"The price of {asked} USD needs an operator's approval, which is asked for:"
                f" {approval}, until {when}. Nothing was paid. Once it is approved, the same"
                " request pays."
            )
    return Problem(403, "approval_required", text, extra)


_HELD_BACK = {
    "pay_to_changed": _pay_to_changed,
    "price_drift": _price_drift,
    "over_loss_cap": _over_loss_cap,
    "approval_required": _approval_required,
}


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


def policies_changing(provider: str) -> Problem:
    """They were changed each time that it was decided, or are not known here as they are."""
    return Problem(
        503,
        "policy_changed",
        "The policies were changed while this payment was decided, and go on changing. Nothing was"
        " paid for this request: ask again.",
        {"provider": provider},
        ((b"Retry-After", b"1"),),
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


def kept_for_another(payment_id: UUID, provider: str) -> Problem:
    """Paid for, and the answer waits for somebody else, or for this one's credential of before."""
    return Problem(
        409,
        "already_paid",
        f"This request was paid for before, and the answer of {provider} is kept for whoever sends"
        " the credential (Authorization, Cookie, an API key …) that it was bought with: this one is"
        " another. Nothing was paid. Send that credential, or an Idempotency-Key of its own to buy"
        " it anew.",
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
        f"{provider} failed too often (last: {last_error}), so it is left alone for now. It will be"
        f" tried again in {retry_after} s. Nothing was sent or paid.",
        {
            "provider": provider,
            "last_error": last_error,
            "retry_after": retry_after,
            "retry_at": _iso(datetime.now(UTC) + timedelta(seconds=retry_after)),
        },
        ((b"Retry-After", b"%d" % retry_after),),
    )


def _iso(moment: datetime | None) -> str | None:
    if moment is None:
        return None
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
