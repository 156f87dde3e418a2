"""What became of a wish, and how it is told: in header fields, as JSON, as one problem."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from policies import format_usd
from proxy.intents import Candidate, Intent
from proxy.procurement.attempt import Attempt
from proxy.procurement.ranking import Ranked
from proxy.wire.aside import Fetched
from proxy.wire.problem import Problem

_NOTHING_PAID = re.compile(r"\b([Nn])othing was (?:sent or )?paid\b")


@dataclass(slots=True)
class Run:
    """`answer` is what the program gets: the one that served, or a problem that names every
    attempt."""

    intent: Intent
    attempts: list[Attempt] = field(default_factory=list)
    ranked: Sequence[Ranked] = ()
    answer: Fetched | None = None

    @property
    def served(self) -> Attempt | None:
        """The last attempt, if it is the one that served."""
        last = self.attempts[-1] if self.attempts else None
        return last if last is not None and last.fault is None else None

    @property
    def outcome(self) -> str:
        """One word: "served", "unserved" by all who were asked, or "refused": nobody was."""
        if self.served is not None:
            return "served"
        return "unserved" if self.attempts else "refused"

    @property
    def cost(self) -> int:
        """Micro-USD that have left or may have left, for all attempts."""
        return sum(one.cost for one in self.attempts)

    @property
    def lost(self) -> int:
        """Micro-USD that were paid for nothing."""
        return sum(one.cost for one in self.attempts if one.fault is not None and one.paid)

    @property
    def doubtful(self) -> int:
        """Micro-USD of payments whose fate is unknown, and that have brought nothing."""
        return sum(one.cost for one in self.attempts if one.fault is not None and one.in_doubt)

    @property
    def skipped(self) -> list[dict[str, str]]:
        """Those that were not asked, and why, as JSON."""
        return [
            {"candidate": one.candidate.id, "code": one.code, "why": one.why}
            for one in self.ranked
            if one.place is None
        ]

    def headers(self, serving: Candidate | None = None) -> list[tuple[bytes, bytes]]:
        """What is said with the answer; `serving`: of one that is still on its way."""
        attempts, served = len(self.attempts) + (serving is not None), self.served
        told = [
            (b"Autopay-Intent", self.intent.name.encode()),
            (b"Autopay-Attempts", b"%d" % attempts),
            (b"Autopay-Lost", f"{format_usd(self.lost)} USD".encode()),
        ]
        if self.doubtful:
            told.append((b"Autopay-In-Doubt", f"{format_usd(self.doubtful)} USD".encode()))
        if serving is not None:
            told += _who(serving.id, serving.origin.key)
        elif served is not None:
            told += _who(served.candidate, served.provider)
        return told

    def failed(self) -> Problem:
        """Nobody served: one answer that names every attempt and what it cost."""
        tried = "; ".join(
            f"{one.candidate}: {one.fault}" + (f" ({_cost(one)})" if one.cost else "")
            for one in self.attempts
        )
        left = "; ".join(f"{one['candidate']}: {one['why']}" for one in self.skipped)
        text = f"Nobody served the intent {self.intent.name}."
        text += f" Tried: {tried}." if tried else ""
        text += f" Not asked: {left}." if left else ""
        if not self.cost:
            text += " Nothing was paid."
        return self.accounted(Problem(502 if self.attempts else 503, "intent_failed", text))

    def accounted(self, problem: Problem) -> Problem:
        """The same, with every attempt and what it cost. Words of the last one are not of all."""
        text = problem.detail
        if self.cost:
            text = _NOTHING_PAID.sub(r"\1o more was paid", text)
        if self.lost:
            text += f" {format_usd(self.lost)} USD were paid for nothing."
        if self.doubtful:
            text += (
                f" {format_usd(self.doubtful)} USD are in doubt, and held until the chain tells."
            )
        account = {
            "intent": self.intent.name,
            "lost_usd": format_usd(self.lost),
            "in_doubt_usd": format_usd(self.doubtful),
            "attempts": [one.told for one in self.attempts],
            "skipped": self.skipped,
        }
        return replace(problem, detail=text, extra={**problem.extra, **account})


def _who(candidate: str, provider: str) -> list[tuple[bytes, bytes]]:
    return [
        (b"Autopay-Provider", provider.encode()),
        (b"Autopay-Candidate", candidate.encode()),
    ]


def _cost(one: Attempt) -> str:
    state = "paid" if one.paid else "in doubt"
    return f"{format_usd(one.cost)} USD {state}, payment {one.payment}"
