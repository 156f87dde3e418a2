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
from collections.abc import Mapping
from dataclasses import replace

from proxy.intents import Candidate, Intent
from proxy.ledger import Database, Delivery, Directory, Ledger
from proxy.metrics import Counts
from proxy.procurement.attempt import Attempt, gone_before, judged, says
from proxy.procurement.candidates import Candidates
from proxy.procurement.earlier import Earlier, paid_before
from proxy.procurement.run import Run
from proxy.procurement.wish import Wish
from proxy.providers import Providers
from proxy.wire.aside import Fetched, Onward, Passed, fetch
from proxy.wire.gate import Errand, Whole
from proxy.wire.parsers import RawHeaders
from proxy.wire.plane import DataPlane
from proxy.wire.problem import Problem

ROW_SECONDS = 1.0


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
        counts: Counts,
        *,
        key_seconds: float,
        wait: float,
    ) -> None:
        """`intents` are those of the settings. `key_seconds`: for how long a key stands for its
        request; `wait`: for how long the answer to the same request is waited for."""
        self.intents = intents
        self.candidates = Candidates(directory, providers)
        self._plane = plane
        self._providers = providers
        self._ledger = ledger
        self._database = database
        self._counts = counts
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

    async def run(self, wish: Wish, onward: Onward | None = None) -> Run:
        """Ask until one answers as expected, or there is nobody left, or no attempt, or no money.

        Raises Problem where nothing may be asked at all.
        """
        run = Run(wish.intent)
        try:
            answer = await self._ask(run, wish, onward)
        except Problem as problem:
            if not run.attempts:
                self._count(run, run.outcome)
                raise
            answer = problem
        except asyncio.CancelledError:
            self._count(run, "abandoned")
            raise
        self._count(run, run.outcome)
        if isinstance(answer, Problem):
            answer = run.accounted(answer)
        run.answer = answer or run.failed()
        return run

    def _count(self, run: Run, outcome: str) -> None:
        # Agents choose the names of their own intents, so those would fill the metrics.
        name = run.intent.name if run.intent.trusted else ""
        self._counts.wishes.add(name, outcome)
        for one in run.attempts:
            if not one.earlier:  # the run that made it has counted it
                self._counts.attempts.add(name, one.outcome)
                if one.outcome == "lost":
                    self._counts.intent_lost_micros.add(name, by=one.cost)

    async def _ask(self, run: Run, wish: Wish, onward: Onward | None) -> Fetched | None:
        """The answer that serves, or a problem that ends the run; None: all have failed."""
        earlier = await paid_before(self._database, wish, self._key_seconds)
        run.ranked = self.candidates.rank(wish)
        waiting = [one.candidate for one in run.ranked if one.place is not None]
        while len(run.attempts) < wish.intent.max_attempts:
            if earlier:
                candidate, number = earlier[-1].candidate(wish), earlier[-1].number
                for one in earlier[:-1]:
                    before = gone_before(len(run.attempts) + 1, one.candidate(wish), one)
                    run.attempts.append(before)
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
                paid = await paid_before(self._database, wish, self._key_seconds)
                earlier = [one for one in paid if one.number >= number]
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
        earlier: Earlier | None,
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
        attempt = judged(candidate, request.method, errand, fetched, seconds, earlier)
        if not says(fetched, b"Autopay-Payment"):  # the payment's own delivery tells of it
            await self._note(wish, request.method, fetched, attempt)
        return fetched, attempt

    async def _note(self, wish: Wish, method: str, fetched: Fetched, attempt: Attempt) -> None:
        """The row of an attempt that no payment's delivery tells of. It must not name one: that of
        a payment in doubt may come yet."""
        body = fetched.body if isinstance(fetched, Whole) else b""
        row = Delivery(
            provider=attempt.provider,
            url=attempt.url,
            method=method,
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
