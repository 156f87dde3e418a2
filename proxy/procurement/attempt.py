"""One candidate asked: what came of it, and what it cost."""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from policies import format_usd
from proxy.expectation import Expectation
from proxy.intents import Candidate
from proxy.procurement.earlier import Earlier
from proxy.wire.aside import Cut, Fetched, Passed
from proxy.wire.gate import Came, Errand, Tab
from proxy.wire.problem import Problem

NO_ANSWER = 599
_ANYTHING = Expectation()


@dataclass(frozen=True, slots=True)
class Attempt:
    """`fault` is one line, None if it answered as expected; `code` that of autopay's own problem,
    "" where the provider answered. `status` is 599 where nobody did. `cost` in micro-USD, of the
    payment; `paid`: the provider has it, else it is in doubt. `earlier`: the payment was made by a
    run before, under the same key."""

    number: int
    candidate: str
    provider: str
    url: str
    status: int
    fault: str | None
    code: str
    payment: UUID | None
    cost: int
    paid: bool
    seconds: float
    earlier: bool = False

    @property
    def in_doubt(self) -> bool:
        return self.payment is not None and not self.paid

    @property
    def outcome(self) -> str:
        """One word: "served", "lost" (paid for nothing), "in_doubt", or "failed" at no cost."""
        if self.fault is None:
            return "served"
        if self.payment is None:
            return "failed"
        return "lost" if self.paid else "in_doubt"

    @property
    def told(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "attempt": self.number,
            "candidate": self.candidate,
            "provider": self.provider,
            "url": self.url,
            "status": self.status,
            "served": self.fault is None,
            "fault": self.fault,
            "code": self.code or None,
            "payment": None if self.payment is None else str(self.payment),
            "cost_usd": format_usd(self.cost),
            "money": "none" if self.payment is None else "paid" if self.paid else "in_doubt",
            "earlier": self.earlier,
            "seconds": round(self.seconds, 3),
        }


def judged(
    candidate: Candidate,
    method: str,
    errand: Errand,
    fetched: Fetched,
    seconds: float,
    earlier: Earlier | None,
) -> Attempt:
    """What is to be said of an attempt that has ended. `earlier`: the payment that it went on
    with."""
    status, fault, code = NO_ANSWER, None, ""
    if isinstance(fetched, Problem):
        fault, code = fetched.detail, fetched.code
    elif isinstance(fetched, Cut):
        status = fetched.status or NO_ANSWER
        fault = None if fetched.large and status < 400 else fetched.why
    elif isinstance(fetched, Passed):
        status = fetched.status
        fault = None if fetched.complete else "the answer broke off, when it was on its way"
    else:
        status = fetched.status
        expects = candidate.expect or _ANYTHING
        body = None if method == "HEAD" else fetched.body
        came = Came.at_hand(status, fetched.headers, body, seconds)
        fault = errand.tab.fault or expects.judge(came).fault
        if status == 402:
            fault = "it asks for a payment that cannot be made"
    tab = errand.tab
    if earlier is not None and tab.payment_id in (None, earlier.id):
        paid = says(fetched, b"Autopay-Replayed") or tab.paid or code == "already_paid"
        tab = Tab(earlier.id, earlier.price, paid)
    return Attempt(
        errand.attempt,
        candidate.id,
        candidate.origin.key,
        candidate.endpoint,
        status,
        fault,
        code,
        tab.payment_id,
        tab.price,
        tab.paid,
        seconds,
        earlier=earlier is not None,
    )


def gone_before(number: int, candidate: Candidate, earlier: Earlier) -> Attempt:
    """An attempt of a run before, which that run went on from."""
    return Attempt(
        number,
        candidate.id,
        candidate.origin.key,
        candidate.endpoint,
        NO_ANSWER,
        "it was paid before, under the same key, and did not serve",
        "",
        earlier.id,
        earlier.price,
        True,
        0.0,
        earlier=True,
    )


def says(fetched: Fetched, name: bytes) -> bool:
    """Whether autopay says this of the answer's payment."""
    return not isinstance(fetched, Problem) and any(said == name for said, _ in fetched.ours)
