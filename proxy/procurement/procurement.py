"""One thing wanted, and whoever can be had for it: candidates in the order of their rank, each an
ordinary call with a payment of its own, until one has answered as expected.

All attempts share one cap. What an earlier one cost is taken from what the next may cost, whether
its provider has the money or it is in doubt: money that may be gone is gone, for this purpose. So
what a run can cost is its `total` at most, however it ends, and what was paid for nothing is told
with every answer.

Under an Idempotency-Key no second provider is paid while the first may have delivered:

- The n-th payment of a run has a key made of the run's, the intent's name and n. That is one
  payment at most, whoever is asked, in whichever process (the ledger holds it).
- The same key again begins with the last payment that there is: its answer if it was kept, the
  same bytes again or a 409 if its fate is unknown. Only an answer that is at hand, and is not what
  was asked for, lets the run go on to another provider.
- A payment in doubt ends the run, and so does one whose answer is not here whole: late, broken off.

Without a key a run is a wish of its own, and a payment in doubt does not keep it from the next
provider as long as its cap covers both.
"""

import asyncio
import contextlib
import hashlib
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from policies import Ask, Layer, Verdict, foresee, format_usd
from proxy.entries import request_key
from proxy.expectation import Expectation
from proxy.ledger import Agent, Database, Delivery, Directory, Ledger, LedgerError
from proxy.procurement.intents import Candidate, Intent
from proxy.procurement.ranking import Prospect, Ranked, rank
from proxy.procurement.wish import Wish
from proxy.providers import Providers
from proxy.wire.aside import Cut, Fetched, Onward, Passed, Request, fetch
from proxy.wire.gate import Errand, Tab, Whole
from proxy.wire.parsers import RawHeaders
from proxy.wire.plane import DataPlane
from proxy.wire.problem import Problem

log = logging.getLogger(__name__)

NO_ANSWER = 599
ROW_SECONDS = 1.0
_ANYTHING = Expectation()
_NOTHING_PAID = re.compile(r"\b([Nn])othing was (?:sent or )?paid\b")
_EARLIER = """
SELECT id, idempotency_key, request_key, price_micros FROM payments
WHERE agent_id = $1 AND idempotency_key = ANY($2) AND status <> 'FAILED'
  AND (status IN ('INITIATED', 'SIGNED') OR created_at > now() - make_interval(secs => $3))
"""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One candidate asked. `fault` is one line, None if it answered as expected; `code` that of
    autopay's own problem, "" where the provider answered. `status` is 599 where nobody did. `cost`
    in micro-USD, of the payment; `paid`: the provider has it, else it is in doubt. `earlier`: the
    payment was made by a run before, under the same key."""

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


@dataclass(slots=True)
class Run:
    """What became of a wish. `answer` is what the program gets: the one that served, or a problem
    that names every attempt."""

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


@dataclass(frozen=True, slots=True)
class _Earlier:
    """A payment of a run before, under the same key: the `number`-th of it."""

    number: int
    id: UUID
    request_key: bytes | None
    price: int


class Procurement:
    """Ranks and executes, for any number of agents at once."""

    def __init__(
        self,
        plane: DataPlane,
        directory: Directory,
        providers: Providers,
        ledger: Ledger,
        database: Database,
        intents: Mapping[str, Intent],
        *,
        key_seconds: float,
        wait: float,
    ) -> None:
        """`intents` are those of the settings. `key_seconds`: for how long a key stands for its
        request; `wait`: for how long the answer to the same request is waited for."""
        self.intents = intents
        self._plane = plane
        self._directory = directory
        self._providers = providers
        self._ledger = ledger
        self._database = database
        self._key_seconds = key_seconds
        self._wait = wait

    def intent(self, name: str) -> Intent:
        """That of the settings. Raises Problem."""
        found = self.intents.get(name)
        if found is None:
            raise Problem(
                404,
                "no_such_intent",
                "There is no intent of this name. Intents are in the settings, as [intents.NAME]."
                " Nothing was sent or paid.",
            )
        return found

    # --- who

    def rank(self, wish: Wish) -> list[Ranked]:
        """Every candidate, the best first, as `run` would ask them now."""
        return self._ranked(
            [wish.request(one) for one in wish.intent.candidates], wish.intent, wish.agent
        )

    def survey(self, intent: Intent, agent: Agent | None) -> list[Ranked]:
        """The same for nobody in particular, or for one agent: what a wish is that asks for no more
        than is in the settings."""
        return self._ranked([_plain(one) for one in intent.candidates], intent, agent)

    def _ranked(
        self, requests: Sequence[Request], intent: Intent, agent: Agent | None
    ) -> list[Ranked]:
        among = [(one.origin.key, one.endpoint) for one in requests]
        prospects = []
        for candidate, request in zip(intent.candidates, requests, strict=True):
            why = self._providers.why(request.origin.key, request.endpoint, among=among)
            against = self._against(intent, agent, request)
            prospects.append(Prospect(candidate, why.score, why.known, against))
        return rank(prospects)

    def _against(
        self, intent: Intent, agent: Agent | None, request: Request
    ) -> tuple[str, str] | None:
        """Why it may not be asked: what can be known before it has named a price."""
        origin = request.origin
        if intent.require_https and origin.scheme != "https":
            return "https_required", "the intent asks for https"
        verdict = None if agent is None else self._foreseen(intent, agent, request)
        if verdict is not None and not verdict.allowed:
            return verdict.code, f"{verdict.detail.rstrip('.')} ({verdict.layer})"
        seconds = self._providers.left_alone(origin.key)
        if seconds is not None:
            return "breaker_open", f"its breaker is open, for {seconds:.0f} s more"
        return None

    def _foreseen(self, intent: Intent, agent: Agent, request: Request) -> Verdict:
        origin = request.origin
        policy = self._directory.policy_at(agent, origin)
        if intent.rules is not None:
            layer = Layer(f"intent {intent.name}", intent.rules)
            policy = replace(policy, layers=(*policy.layers, layer))
        return foresee(
            policy,
            Ask(
                method=request.method,
                scheme=origin.scheme,
                host=origin.host,
                port=origin.port,
                path=request.target.partition(b"?")[0].decode("utf-8", "replace"),
                pay_to="",
                asset="",
                symbol="",
                network="",
                price=0,
                at=datetime.now(UTC),
            ),
        )

    # --- one after another

    async def run(self, wish: Wish, onward: Onward | None = None) -> Run:
        """Ask until one answers as expected, or there is nobody left, or no attempt, or no money.

        Raises Problem where nothing may be asked at all.
        """
        run = Run(wish.intent)
        try:
            answer = await self._ask(run, wish, onward)
        except Problem as problem:
            if not run.attempts:
                raise
            answer = problem
        if isinstance(answer, Problem):
            answer = _accounted(run, answer)
        run.answer = answer or self._failed(run)
        return run

    async def _ask(self, run: Run, wish: Wish, onward: Onward | None) -> Fetched | None:
        """The answer that serves, or a problem that ends the run; None: all have failed."""
        intent, earlier = wish.intent, await self._earlier(wish)
        run.ranked = self.rank(wish)
        waiting = [one.candidate for one in run.ranked if one.place is not None]
        while len(run.attempts) < intent.max_attempts:
            if earlier:
                candidate, number = self._same(wish, earlier[-1]), earlier[-1].number
                for one in earlier[:-1]:
                    self._gone_before(run, wish, one)
                if candidate in waiting:
                    waiting.remove(candidate)
            elif waiting:
                candidate = waiting.pop(0)
                number = 1 + sum(one.payment is not None for one in run.attempts)
            else:
                return None
            fetched, attempt = await self._attempt(
                run, wish, candidate, number, onward, earlier[-1] if earlier else None
            )
            if attempt.code == "idempotency_key_reused" and not earlier:
                # Another process had the same thought, and was first.
                earlier = [one for one in await self._earlier(wish) if one.number >= number]
                if not earlier:
                    return fetched
                continue
            run.attempts.append(attempt)
            if attempt.fault is None or isinstance(fetched, Passed):  # that is with the program
                return fetched
            if wish.key is not None and (earlier or attempt.payment):
                # Whoever was paid may have delivered: nobody else is, but where the answer is here.
                if isinstance(fetched, Problem):
                    return fetched
                if attempt.in_doubt or not isinstance(fetched, Whole):
                    return None
            earlier = []
        return None

    async def _attempt(
        self,
        run: Run,
        wish: Wish,
        candidate: Candidate,
        number: int,
        onward: Onward | None,
        earlier: _Earlier | None,
    ) -> tuple[Fetched, Attempt]:
        intent, loop = wish.intent, asyncio.get_running_loop()
        ceiling = intent.total - run.cost
        if candidate.max_price is not None:
            ceiling = min(ceiling, candidate.max_price)
        errand = Errand(
            intent.name,
            len(run.attempts) + 1,
            max(0, ceiling),
            candidate.expect if intent.trusted else None,
            intent.rules,
        )
        request = wish.request(candidate, number)

        def begin(status: int, _: RawHeaders) -> list[bytes] | None:
            if status >= 400:  # that can still be another provider's turn
                return None
            return [name + b": " + value for name, value in run.headers(candidate)]

        asked_at = loop.time()
        fetched = await fetch(
            self._plane,
            wish.agent,
            request,
            errand,
            limit=intent.collected,
            seconds=intent.seconds if earlier is None else intent.seconds + self._wait,
            onward=None if onward is None else replace(onward, begin=begin),
            # An agent may ask for anything, a stream without an end, say: no word against anybody.
            blames=intent.trusted,
        )
        seconds = loop.time() - asked_at
        attempt = _attempt(candidate, request.method, errand, fetched, seconds, earlier)
        if not _says(fetched, b"Autopay-Payment"):  # the payment's own delivery tells of it
            await self._note(wish, candidate, request, fetched, attempt)
        return fetched, attempt

    def _gone_before(self, run: Run, wish: Wish, earlier: _Earlier) -> None:
        """An attempt of a run before, which that run went on from."""
        candidate = self._same(wish, earlier)
        run.attempts.append(
            Attempt(
                len(run.attempts) + 1,
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
        )

    # --- the same key

    async def _earlier(self, wish: Wish) -> list[_Earlier]:
        """Payments under this wish's key, the first one first. Raises Problem."""
        if wish.key is None:
            return []
        numbers = {
            hashlib.sha256(wish.payment_key(number)).digest(): number
            for number in range(1, wish.intent.max_attempts + 1)
        }
        try:
            rows = await self._database.fetch(
                _EARLIER, wish.agent.id, list(numbers), self._key_seconds
            )
        except LedgerError as error:
            raise Problem(
                503,
                "ledger_unavailable",
                "The ledger can't be reached, so it can't be told what this key stands for. Nothing"
                " was sent or paid.",
                headers=((b"Retry-After", b"5"),),
            ) from error
        found = [
            _Earlier(
                numbers[row["idempotency_key"]],
                row["id"],
                row["request_key"],
                row["price_micros"],
            )
            for row in rows
        ]
        return sorted(found, key=lambda one: one.number)

    def _same(self, wish: Wish, earlier: _Earlier) -> Candidate:
        """Whom the payment was for. Raises Problem: it was for another request."""
        for candidate in wish.intent.candidates:
            request = wish.request(candidate)
            hashed = hashlib.sha256(request.body).digest()
            if request_key(request.method, request.url, hashed) == earlier.request_key:
                return candidate
        raise Problem(
            422,
            "idempotency_key_reused",
            "This Idempotency-Key was given to another request (method, path, query or body), which"
            " was paid for. Nothing was paid for this one. Give each request a key of its own.",
            {"payment": str(earlier.id)},
        )

    # --- the books

    async def _note(
        self,
        wish: Wish,
        candidate: Candidate,
        request: Request,
        fetched: Fetched,
        attempt: Attempt,
    ) -> None:
        """The row of an attempt that no payment's delivery tells of. It must not name one: that of
        a payment in doubt may come yet."""
        body = fetched.body if isinstance(fetched, Whole) else b""
        row = Delivery(
            provider=attempt.provider,
            url=candidate.endpoint,
            method=request.method,
            status=attempt.status,
            response_hash=hashlib.sha256(body).hexdigest() if body else "",
            latency_ms=round(attempt.seconds * 1000),
            success=attempt.fault is None,
            schema_ok=attempt.fault is None,
            score=self._providers.score(attempt.provider),
            attempt=attempt.number,
            agent_id=wish.agent.id,
            intent=wish.intent.name,
            error=attempt.fault or "",
        )
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ROW_SECONDS):
                await self._ledger.deliver(row)

    # --- nobody served

    def _failed(self, run: Run) -> Problem:
        """One answer that names every attempt and what it cost."""
        tried = "; ".join(
            f"{one.candidate}: {one.fault}" + (f" ({_cost(one)})" if one.cost else "")
            for one in run.attempts
        )
        skipped = [one for one in run.ranked if one.place is None]
        left = "; ".join(f"{one.candidate.id}: {one.why}" for one in skipped)
        text = f"Nobody served the intent {run.intent.name}."
        text += f" Tried: {tried}." if tried else ""
        text += f" Not asked: {left}." if left else ""
        if not run.cost:
            text += " Nothing was paid."
        return _accounted(run, Problem(502 if run.attempts else 503, "intent_failed", text))


def _accounted(run: Run, problem: Problem) -> Problem:
    """The same, with every attempt and what it cost. Words of the last one are not of all."""
    text = problem.detail
    if run.cost:
        text = _NOTHING_PAID.sub(r"\1o more was paid", text)
    if run.lost:
        text += f" {format_usd(run.lost)} USD were paid for nothing."
    if run.doubtful:
        text += f" {format_usd(run.doubtful)} USD are in doubt, and held until the chain tells."
    return replace(problem, detail=text, extra={**problem.extra, **_account(run)})


def _account(run: Run) -> dict[str, Any]:
    return {
        "intent": run.intent.name,
        "lost_usd": format_usd(run.lost),
        "in_doubt_usd": format_usd(run.doubtful),
        "attempts": [told(one) for one in run.attempts],
        "skipped": run.skipped,
    }


def told(one: Attempt) -> dict[str, Any]:
    """An attempt as JSON."""
    return {
        "attempt": one.number,
        "candidate": one.candidate,
        "provider": one.provider,
        "url": one.url,
        "status": one.status,
        "served": one.fault is None,
        "fault": one.fault,
        "code": one.code or None,
        "payment": None if one.payment is None else str(one.payment),
        "cost_usd": format_usd(one.cost),
        "money": "none" if one.payment is None else "paid" if one.paid else "in_doubt",
        "earlier": one.earlier,
        "seconds": round(one.seconds, 3),
    }


def _who(candidate: str, provider: str) -> list[tuple[bytes, bytes]]:
    return [
        (b"Autopay-Provider", provider.encode()),
        (b"Autopay-Candidate", candidate.encode()),
    ]


def _plain(candidate: Candidate) -> Request:
    return Request(candidate.method or "GET", candidate.origin, candidate.target)


def _cost(one: Attempt) -> str:
    state = "paid" if one.paid else "in doubt"
    return f"{format_usd(one.cost)} USD {state}, payment {one.payment}"


def _attempt(
    candidate: Candidate,
    method: str,
    errand: Errand,
    fetched: Fetched,
    seconds: float,
    earlier: _Earlier | None,
) -> Attempt:
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
        fault = errand.tab.fault or expects.fault(status, fetched.headers, body, seconds)
        if status == 402:
            fault = "it asks for a payment that cannot be made"
    tab = errand.tab
    if earlier is not None and tab.payment_id in (None, earlier.id):
        paid = _says(fetched, b"Autopay-Replayed") or tab.paid or code == "already_paid"
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


def _says(fetched: Fetched, name: bytes) -> bool:
    """Whether autopay says this of the answer's payment."""
    return not isinstance(fetched, Problem) and any(said == name for said, _ in fetched.ours)
