"""The same request again, in memory: what 0026 says of payments from before."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from proxy.ledger.states import OPEN, SETTLED, Status

if TYPE_CHECKING:
    from tests.model.memory import PaymentRow, State

MOST = 3

Lives = Callable[[str], bool]
"""Whether a process of this id is there."""


def is_awaited(instance: str | None, me: str | None, lives: Lives) -> bool:
    return instance is None or instance == me or lives(instance)


def answer_state(state: "State", p: "PaymentRow", me: str | None, lives: Lives) -> str:
    key = p.args["payment_id"]
    if p.status is Status.FAILED:
        return "released"
    if p.status in OPEN:
        waited = not p.in_doubt and is_awaited(p.instance, me, lives)
        return "request_in_progress" if waited else "payment_in_doubt"
    if key in state.kept and state.kept[key].sealed is not None:
        return "answer_kept"
    if state.receipts[key].source == "chain":
        return "answer_lost" if _may_be_served(p) else "already_paid"
    if not is_awaited(p.instance, me, lives) or key in state.delivered:
        return "already_paid"
    return "request_in_progress"


def prior_payment(
    state: "State",
    agent: str,
    request: Any,
    key: Any,
    share: bool,
    me: str | None,
    lives: Lives,
) -> tuple[str | None, str | None]:
    """(code, payment); the newest goes before."""
    own = [p for p in reversed(state.payments.values()) if p.args["agent_id"] == agent]
    if key is not None:
        for p in own:
            if p.idempotency_key == key and p.status is not Status.FAILED:
                same = request is not None and p.request_key == request
                code = answer_state(state, p, me, lives) if same else "idempotency_key_reused"
                return code, p.args["payment_id"]
    if request is None:
        return None, None
    same_request = [p for p in own if p.request_key == request]
    for p in same_request:
        if p.status in OPEN and (p.in_doubt or _forsaken(p, me, lives)):
            return "payment_in_doubt", p.args["payment_id"]
    if key is not None:
        return None, None
    coming = None
    for payment_id, kept in reversed(state.kept.items()):
        if (kept.agent, kept.request_key) == (agent, request) and not (
            kept.delivered or kept.idempotency_key
        ):
            if kept.sealed is not None:
                return "answer_kept", payment_id
            under_way = answer_state(state, state.payments[payment_id], me, lives)
            if coming is None and under_way == "request_in_progress":
                coming = payment_id
    if coming is not None:
        return "request_in_progress", coming
    for p in same_request:
        lost = p.status in SETTLED and p.in_doubt and _may_be_served(p)
        if lost and state.receipts[p.args["payment_id"]].source == "chain":
            return "answer_lost", p.args["payment_id"]
    for p in same_request:
        if p.status in OPEN and share:
            return "request_in_progress", p.args["payment_id"]
        if p.status in OPEN and _another(p, me):
            return "request_elsewhere", p.args["payment_id"]
    return None, None


def begin_presenting(state: "State", p: "PaymentRow | None", me: str, lives: Lives) -> str:
    if p is None:
        return "request_in_progress"  # of nothing, nothing is known
    found = answer_state(state, p, me, lives)
    if found not in ("payment_in_doubt", "answer_lost"):
        return found
    if p.presented_by is not None and is_awaited(p.presented_by, me, lives):
        return "busy"
    if p.presented >= MOST or p.header is None:
        return "exhausted"
    p.presented += 1
    p.presented_by = p.instance = me
    if p.status is Status.SIGNED:
        p.in_doubt = True
        p.doubt_reason = p.doubt_reason or "sender_lost"
    return "ok"


def _may_be_served(p: "PaymentRow") -> bool:
    return bool(p.args.get("identified")) and p.presented < MOST


def _forsaken(p: "PaymentRow", me: str | None, lives: Lives) -> bool:
    """Known to be sent by another, who is gone."""
    return _another(p, me) and not lives(str(p.instance))


def _another(p: "PaymentRow", me: str | None) -> bool:
    return p.instance is not None and me is not None and p.instance != me
