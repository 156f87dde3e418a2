"""What the ledger refuses, in the words of the API."""

import asyncpg

from policies import PolicyError, RuleError
from policies.errors import shown_path
from proxy.admin.keys import KeyExists, KeyRefused
from proxy.ledger import LedgerFault, LedgerUnavailable
from proxy.ledger.agents import AgentError, AgentExists, UnknownAgent
from proxy.ledger.approvals import ApprovalError
from proxy.ledger.pins import PinError
from proxy.ledger.policies import PolicyConflict, UnknownVersion
from proxy.ledger.tokens import TokenError, UnknownToken
from proxy.notices.webhooks import TooManyWebhooks, UnknownWebhook, WebhookError
from proxy.providers.by_hand import UnclearProvider
from proxy.vault import VaultError
from proxy.wire.problem import Problem


def of_the_ledger(error: Exception) -> Problem | None:
    """What an error of the rooms behind the routes means to who asked; None: it is a fault."""
    if isinstance(error, ApprovalError):
        if error.state == "absent":
            return Problem(404, "no_such_approval", _sentence(error))
        return Problem(409, "approval_ended", _sentence(error), {"state": error.state})
    if isinstance(error, PolicyConflict):
        return Problem(412, "policy_conflict", _sentence(error), {"version": error.version})
    if isinstance(error, RuleError):
        faults = [{"where": shown_path(error.path), "why": error.why}]
        return Problem(400, "bad_policy", _sentence(error), {"errors": faults})
    for kind, status, code in _REFUSALS:
        if isinstance(error, kind):
            return Problem(status, code, _sentence(error))
    return _outage(error)


def _outage(error: Exception) -> Problem | None:
    if isinstance(error, LedgerUnavailable):
        unsure = " Whether this was done is not known." if error.may_have_happened else ""
        return Problem(
            503,
            "ledger_unavailable",
            f"The ledger can't be reached just now.{unsure}",
            headers=((b"Retry-After", b"5"),),
        )
    if isinstance(error, VaultError):
        return Problem(503, "secret_key_unavailable", _sentence(error))
    if isinstance(error, LedgerFault) and isinstance(
        error.__cause__, asyncpg.InsufficientPrivilegeError
    ):
        return Problem(
            503,
            "database_refuses",
            "The login that autopay has to its database may not do this. Give it the role"
            " autopay_admin (see [database] role).",
        )
    return None


# The narrower before the wider.
_REFUSALS: tuple[tuple[type[Exception], int, str], ...] = (
    (UnknownAgent, 404, "no_such_agent"),
    (AgentExists, 409, "agent_exists"),
    (AgentError, 400, "bad_body"),
    (UnknownToken, 404, "no_such_token"),
    (TokenError, 400, "bad_body"),
    (UnknownVersion, 404, "no_such_version"),
    (PinError, 404, "no_such_pin"),
    (UnclearProvider, 404, "no_such_provider"),
    (UnknownWebhook, 404, "no_such_webhook"),
    (TooManyWebhooks, 409, "too_many_webhooks"),
    (WebhookError, 400, "bad_body"),
    (KeyExists, 409, "key_exists"),
    (KeyRefused, 404, "no_such_key"),
    (PolicyError, 400, "bad_policy"),
)


def _sentence(error: Exception) -> str:
    text = str(error)
    if not isinstance(error, PolicyError):  # those begin with the name of what is wrong
        text = text[:1].upper() + text[1:]
    return text if text.endswith(".") else f"{text}."
