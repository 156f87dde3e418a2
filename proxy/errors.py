"""What can go wrong, each kind once: whose fault it is, whether asking again may help, whether it
counts against the provider, and what the agent is told.

The one place that classifies. The database's `error_classifications` holds the same rows for
whoever asks there (api_requests and retry_attempts name them), docs/providers.md shows them to
people; tests hold all three against each other. A new kind is a row in each of them.
"""

import errno
import socket
import ssl
from dataclasses import dataclass
from typing import Literal

Party = Literal["ours", "theirs", "caller"]


@dataclass(frozen=True, slots=True)
class ErrorClass:
    """`group`: where it lies. `retryable`: the same request may well succeed a moment later.
    `told`: status and problem code of the answer that the agent gets, and what is in it."""

    code: str
    group: str
    party: Party
    retryable: bool
    counts_for_breaker: bool
    description: str
    told: str


_UNREACHABLE = "502 upstream_unreachable; nothing was paid"
_TIMEOUT = "504 upstream_timeout; nothing was paid"
_DOUBT = "502 payment_in_doubt; the money stays held until the chain tells"
_AS_IT_CAME = "the answer as it came"
_CANNOT_PAY = "403 with this code; nothing was paid"

# fmt: off
_ROWS = (
    # --- no connection: nothing was sent
    ErrorClass("connect_failed", "network", "theirs", True, True,
               "no connection to the provider; nothing was sent", _UNREACHABLE),
    ErrorClass("connect_timeout", "network", "theirs", True, True,
               "no connection to the provider in time; nothing was sent", _TIMEOUT),
    ErrorClass("tls_failed", "network", "theirs", False, True,
               "the provider's certificate or handshake was not good", _UNREACHABLE),
    ErrorClass("name_unknown", "network", "theirs", False, True,
               "there is no host of this name; nothing was sent", _UNREACHABLE),
    ErrorClass("name_unresolved", "network", "ours", True, False,
               "the resolver does not answer for this name; nothing was sent", _UNREACHABLE),
    ErrorClass("local_network", "network", "ours", True, False,
               "this machine has no route, port or descriptor left; nothing was sent",
               _UNREACHABLE),
    ErrorClass("upstream_proxy_failed", "network", "ours", True, False,
               "the operator's own proxy can't be reached; nothing was sent",
               "502 upstream_proxy_failed; nothing was paid"),
    ErrorClass("upstream_proxy_refused", "network", "ours", False, False,
               "the operator's own proxy refuses to go there",
               "502 upstream_proxy_failed, with its status; nothing was paid"),
    ErrorClass("address_forbidden", "policy", "caller", False, False,
               "the name leads where this agent may not be taken; nothing was sent",
               "403 egress_…; nothing was sent or paid"),
    # --- sent, without a payment
    ErrorClass("connection_broke", "network", "theirs", True, True,
               "the connection broke before an answer came; no payment had left", _UNREACHABLE),
    ErrorClass("response_timeout", "network", "theirs", True, True,
               "no answer in time; no payment had left", _TIMEOUT),
    ErrorClass("answer_invalid", "network", "theirs", False, True,
               "what came is no HTTP answer, or one too large to be read", _UNREACHABLE),
    ErrorClass("answer_broke_off", "network", "theirs", False, True,
               "an answer that was not paid for broke off, or stalled, before its end",
               "what had come of it, then a reset"),
    ErrorClass("provider_unavailable", "answer", "theirs", True, True,
               "the provider answered 502, 503 or 504", _AS_IT_CAME),
    ErrorClass("server_error", "answer", "theirs", True, True,
               "the provider answered with another 5xx", _AS_IT_CAME),
    ErrorClass("too_many_requests", "answer", "caller", True, False,
               "the provider answered 429", _AS_IT_CAME),
    ErrorClass("caller_error", "answer", "caller", False, False,
               "the provider answered with another 4xx: the request is at fault", _AS_IT_CAME),
    ErrorClass("payment_required", "answer", "theirs", False, False,
               "the provider answered 402, and it was not paid", "the 402 as it came"),
    # --- sent with a payment
    ErrorClass("answer_lost", "network", "theirs", False, True,
               "the connection broke after the payment had left", _DOUBT),
    ErrorClass("answer_timeout", "network", "theirs", False, True,
               "no answer in time after the payment had left", _DOUBT),
    ErrorClass("body_broken", "network", "theirs", False, True,
               "the paid answer broke off before its end", "what had come of it, then a reset"),
    ErrorClass("asked_again", "payment", "theirs", False, True,
               "the provider answered 402 to a payment", _DOUBT),
    ErrorClass("memo_refused", "payment", "theirs", False, True,
               "the provider's facilitator takes no memo", _DOUBT),
    ErrorClass("not_settled", "payment", "theirs", False, True,
               "the provider answered a payment without settling it",
               "the answer, with Autopay-State: in_doubt"),
    ErrorClass("paid_failed", "payment", "theirs", False, True,
               "the provider took the money and delivered an error", _AS_IT_CAME),
    ErrorClass("claimed_not_landed", "payment", "theirs", False, True,
               "the provider named a transaction that does not exist",
               "nothing more; the budget gets it back"),
    ErrorClass("proved_dead", "chain", "theirs", False, True,
               "the payment never landed and no longer can",
               "nothing more; the budget gets it back"),
    ErrorClass("in_doubt", "payment", "theirs", True, True,
               "a payment left, and what became of it is not known", _DOUBT),
    # --- the same request again
    ErrorClass("in_progress", "payment", "caller", True, False,
               "the same request is being paid for", "409 request_in_progress, with Retry-After"),
    ErrorClass("already_paid", "payment", "caller", False, False,
               "the same request was paid for, and its answer is not here any more",
               "409 already_paid; nothing was paid this time"),
    ErrorClass("key_reused", "payment", "caller", False, False,
               "the Idempotency-Key is another request's", "422 idempotency_key_reused"),
    # --- it can't be paid, or must not be
    ErrorClass("insufficient_funds", "funds", "ours", False, False,
               "the wallet holds too little", _CANNOT_PAY),
    ErrorClass("no_wallet", "funds", "ours", False, False,
               "there is no wallet to pay from", _CANNOT_PAY),
    ErrorClass("wallet_not_configured", "funds", "ours", False, False,
               "the policy names a wallet that this proxy has not got", _CANNOT_PAY),
    ErrorClass("no_destination_account", "funds", "theirs", False, False,
               "the receiver has no account for this token", _CANNOT_PAY),
    ErrorClass("rpc_unavailable", "chain", "ours", True, False,
               "our own view of the chain is not available",
               "503 rpc_unavailable, with Retry-After"),
    ErrorClass("network_not_configured", "chain", "ours", False, False,
               "the provider wants a chain that is not configured", _CANNOT_PAY),
    ErrorClass("blockhash_in_use", "chain", "ours", True, False,
               "equal payments are under way", "503 blockhash_in_use, with Retry-After"),
    ErrorClass("unsafe_offer", "policy", "theirs", False, False,
               "the offer could not be signed as it was decided on", _CANNOT_PAY),
    ErrorClass("ledger_unavailable", "database", "ours", True, False,
               "the books could not be written, so nothing was paid",
               "503 ledger_unavailable, with Retry-After"),
    ErrorClass("policy_changing", "policy", "ours", True, False,
               "the policies went on changing while a payment was decided",
               "503 policy_changed, with Retry-After"),
    ErrorClass("denied", "policy", "caller", False, False,
               "the agent's policy or a budget said no",
               "403 with the rule's code; nothing was paid"),
    ErrorClass("not_payable", "policy", "theirs", False, False,
               "the 402 named nothing that can be paid", "the 402 as it came"),
    # --- between the program and us
    ErrorClass("client_gone", "network", "caller", False, False,
               "the program hung up", "408 program_hung_up, if it still listens"),
    ErrorClass("request_stalled", "program", "caller", False, False,
               "the program's request did not come whole in time",
               "408 request_timeout; nothing was paid"),
    ErrorClass("bad_request", "program", "caller", False, False,
               "not a request that is understood here", "4xx, 501 or 505 with its code"),
    ErrorClass("not_authenticated", "program", "caller", False, False,
               "no agent's token, or a wrong one",
               "401 authentication_required or 407 proxy_authentication_required"),
    ErrorClass("not_cached", "program", "caller", False, False,
               "the program wanted a cached answer or none, and there is none",
               "504 not_cached; nothing was sent"),
    ErrorClass("certificate_rejected", "program", "caller", False, False,
               "the program does not trust autopay's certificate", "403 certificate_rejected"),
    ErrorClass("breaker_open", "provider", "theirs", True, False,
               "the provider failed too often and is left alone",
               "503 breaker_open, with Retry-After and the last error; nothing was sent"),
    ErrorClass("intent_failed", "provider", "theirs", True, False,
               "no candidate of an intent gave what was wanted",
               "502 or 503 intent_failed, with each attempt and what it cost"),
    ErrorClass("overloaded", "autopay", "ours", True, False,
               "too many programs are connected", "503 too_many_connections"),
    ErrorClass("stopping", "autopay", "ours", False, False,
               "autopay is being stopped", _UNREACHABLE),
    ErrorClass("internal_error", "autopay", "ours", False, False,
               "a fault of autopay's own", "500 internal_error; see its log"),
)
# fmt: on

ERRORS = {row.code: row for row in _ROWS}

_OVER = (
    "over_per_call_limit over_hourly_limit over_daily_limit over_monthly_limit over_lifetime_limit"
    " over_rolling_limit too_many_payments over_session_limit over_trace_limit"
    " over_agent_provider_limit over_provider_limit over_wallet_limit over_fleet_limit"
)
_POLICY = (
    "asset_not_allowed endpoint_denied endpoint_not_allowed flow_not_allowed hours_closed"
    " network_not_allowed pay_to_not_allowed pay_to_not_listed provider_frozen scheme_not_allowed"
    " timeout_too_long frozen unknown_agent spending_halted over_intent_cap"
)
_HELD_BACK = "approval_required over_loss_cap pay_to_changed price_drift"
_EGRESS = (
    "egress_loopback egress_private egress_link_local egress_metadata egress_multicast"
    " egress_unspecified egress_reserved egress_port egress_own_listener"
)
_NOT_UNDERSTOOD = (
    "bad_connect coding_not_supported content_too_large header_too_large"
    " method_not_allowed misdirected_request no_such_intent no_such_provider not_a_proxy_request"
    " not_an_origin_form_request not_found scheme_not_supported version_not_supported"
)

PROBLEMS = {
    **dict.fromkeys(f"{_OVER} {_POLICY} {_HELD_BACK}".split(), "denied"),
    **dict.fromkeys(_EGRESS.split(), "address_forbidden"),
    **dict.fromkeys(_NOT_UNDERSTOOD.split(), "bad_request"),
    "authentication_required": "not_authenticated",
    "proxy_authentication_required": "not_authenticated",
    "idempotency_key_reused": "key_reused",
    "payment_in_doubt": "in_doubt",
    "policy_changed": "policy_changing",
    "program_hung_up": "client_gone",
    "request_in_progress": "in_progress",
    "request_timeout": "request_stalled",
    "too_many_connections": "overloaded",
    "upstream_timeout": "response_timeout",
    "upstream_unreachable": "connect_failed",
}


def of_problem(code: str) -> ErrorClass | None:
    """The class of an answer of ours, by its code; None for those to the operator alone."""
    return ERRORS.get(PROBLEMS.get(code, code))


def retryable(code: str) -> bool:
    """Whether the same may well succeed a moment later; False for a code that is not known."""
    return code in ERRORS and ERRORS[code].retryable


def counts_for_breaker(code: str) -> bool:
    """Whether it speaks against the provider; True for a code that is not known."""
    return code not in ERRORS or ERRORS[code].counts_for_breaker


def of_status(status: int) -> str | None:
    """The class of a provider's answer to a request without a payment; None: there is no error."""
    if status < 400:
        return None
    if status in (502, 503, 504):
        return "provider_unavailable"
    if status >= 500:
        return "server_error"
    return {402: "payment_required", 429: "too_many_requests"}.get(status, "caller_error")


_OURS = frozenset(
    (
        errno.EADDRNOTAVAIL,
        errno.EMFILE,
        errno.ENETDOWN,
        errno.ENETUNREACH,
        errno.ENFILE,
        errno.ENOBUFS,
        errno.ENOMEM,
    )
)


def of_connecting(error: OSError | ValueError) -> str:
    """The class of what kept a connection from being made."""
    if isinstance(error, socket.gaierror):
        known = error.errno in (socket.EAI_NONAME, socket.EAI_NODATA)
        return "name_unknown" if known else "name_unresolved"
    if isinstance(error, ssl.SSLError):
        # Hung up on in mid-handshake: as if it had not been there.
        gone = isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError)
        return "connect_failed" if gone else "tls_failed"
    if isinstance(error, OSError):
        return "local_network" if error.errno in _OURS else "connect_failed"
    return "name_unknown"  # ValueError: what can't be a host's name
