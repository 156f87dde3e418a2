"""Paying once for the same thing: the paid answers of this process, and who waits for one.

Asked before a request goes to its provider (`meets`), it serves what it has, within RFC 9111 and
the agent's policy; or has the request wait for the same one that is under way; or lets it go on,
and looks on (`visit.py`). Only an answer whose payment our own books call paid is ever kept. What
goes on is an ordinary request: budgets, doubts and signatures are none of the cache's business.
"""

import asyncio
import logging
from collections.abc import Callable, Container, Coroutine, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Protocol
from uuid import UUID

from policies import Ask, Policy, decide
from proxy.cache.flight import Flight, Outcome, Route
from proxy.cache.inquiry import Inquiry
from proxy.cache.rules import SAFE, Terms, Use, suits, use, wish
from proxy.cache.savings import Savings
from proxy.cache.shelves import Shelves, Stored
from proxy.cache.told import only_if_cached, served
from proxy.cache.visit import Unsafe, Visit
from proxy.ledger import Agent
from proxy.wire.call import Call
from proxy.wire.delivering import pour, replay
from proxy.wire.egress import EVERYWHERE, Leave
from proxy.wire.gate import Replayed
from proxy.wire.origin import Origin
from proxy.wire.parsers import MAX_READ

log = logging.getLogger(__name__)

_MOST_ALLOWED = 10_000
_ORDER = (Use.FRESH, Use.STALE, Use.CHECK)


class Policies(Protocol):
    """Who may have what (`proxy.ledger.Directory`)."""

    def policy_at(self, agent: Agent, place: Origin) -> Policy: ...
    @property
    def active(self) -> Container[UUID]: ...


class PaidCache:
    """The data plane's `Cache`. `mounts` are the providers by name, `origins` by where they are."""

    def __init__(
        self,
        mounts: Mapping[str, Terms],
        origins: Mapping[Origin, Terms],
        shelves: Shelves,
        savings: Savings,
        policies: Policies,
        leave: Callable[[Agent], Leave],
        *,
        wait: float,
    ) -> None:
        """`wait`: seconds that a request waits for the same one."""
        self.shelves = shelves
        self._mounts = mounts
        self._origins = origins
        self._savings = savings
        self._policies = policies
        self._leave = leave
        self._wait = wait
        self._allowed: dict[tuple[int, UUID, str], tuple[Policy, int, bool]] = {}
        self._flights: dict[Route, Flight] = {}
        self.waiting = 0
        """Requests that wait for another one's answer."""
        self._clock = asyncio.get_running_loop().time

    @property
    def used(self) -> int:
        """Bytes, those of answers that are coming in among them."""
        return self.shelves.used

    @property
    def entries(self) -> int:
        return len(self.shelves)

    def meets(self, call: Call, go_on: Callable[[], None]) -> bool | Coroutine[Any, Any, None]:
        """See `wire.caching.Cache`."""
        mount = call.mount
        terms = self._mounts.get(mount) if mount is not None else self._origins.get(call.origin)
        if call.upgrade or (terms is None and call.origin not in self._origins):
            return False
        if terms is None:  # on a mount without a cache; what is changed there is changed for all
            if call.method not in SAFE:
                call.visit = Unsafe(self.shelves, call)
            return False
        try:
            return self._meets(call, terms, go_on)
        except Exception:
            # Without the cache it is an ordinary request, if no answer of ours was begun.
            log.exception("the cache was of no use: %s %s", call.method, call.origin.key)
            if call.reply.started:
                call.reply.broken()
            return call.reply.started

    def _meets(
        self, call: Call, terms: Terms, go_on: Callable[[], None]
    ) -> bool | Coroutine[Any, Any, None]:
        inquiry = self._inquiry(call, terms)
        if inquiry is None:
            return False
        answer = self._answer(inquiry)
        if answer is not None:
            return _given(call, answer)
        if inquiry.asked.asks.only_if_cached:
            call.reply.problem(only_if_cached())
            return True
        if inquiry.alone:
            self._leads(inquiry, None)
            return False
        inquiry.apart = inquiry.apart or (inquiry.own, call.method) in self._flights
        if inquiry.route in self._flights:
            return self._follows(inquiry, go_on)
        self._leads(inquiry, Flight(inquiry.route, self._flights))
        return False

    def _inquiry(self, call: Call, terms: Terms) -> Inquiry | None:
        """None: this request is none that an answer may be kept for, or that one could serve."""
        if call.method not in SAFE:
            call.visit = Unsafe(self.shelves, call)
            return None
        if call.method not in terms.methods or call.body is not None:
            return None
        fields = call.onward
        asked = wish(fields)
        if asked.bypass or call.idempotency_key is not None:
            return None
        return Inquiry(call, terms, fields, asked)

    def tidy(self) -> None:
        """Private answers of agents that are gone, or erased, go too."""
        self.shelves.keep_only(self._policies.active)

    # --- served from here

    def _answer(self, inquiry: Inquiry, *, collapsed: bool = False) -> Replayed | None:
        """From what is kept, if something may be served; else `inquiry` knows what could be asked
        about instead."""
        call, asked, now = inquiry.call, inquiry.asked, self._clock()
        inquiry.stale, inquiry.why = None, b"uri-miss"
        best: tuple[int, Stored] | None = None
        for one in self._kept(inquiry):
            if one.method not in ("GET", call.method):
                continue
            if not suits(one.varies, inquiry.fields):
                inquiry.why = b"vary-miss"
                continue
            found = use(one.life, one.age(now), asked)
            if found is not Use.NOT and (best is None or _ORDER.index(found) < best[0]):
                best = _ORDER.index(found), one
            if found is Use.FRESH:
                break
        if best is None:
            return None
        how, one = _ORDER[best[0]], best[1]
        if not self._may(inquiry.agent, call, one):
            inquiry.why = b"bypass"
            return None
        if how is Use.CHECK:
            fresh = one.life.unchecked and one.age(now) < one.life.seconds
            inquiry.stale, inquiry.why = one, b"request" if fresh else b"stale"
            return None
        words = (b"fwd=uri-miss", b"collapsed") if collapsed else (b"hit",)
        self._saved(inquiry.agent, one)
        return served(one, asked, one.age(now), words)

    def _kept(self, inquiry: Inquiry) -> list[Stored]:
        kept = [*self.shelves.at(inquiry.own)]
        if inquiry.terms.shared:
            kept += [
                one
                for one in self.shelves.at(inquiry.everybodys)
                if one.life.outright or not inquiry.asked.credential
            ]
        return kept

    def _may(self, agent: Agent, call: Call, one: Stored) -> bool:
        """Whether the agent could have bought this itself, now and for nothing, where it came from.
        What it may not have goes on, and is refused where everything is."""
        if not self._allows(self._policies.policy_at(agent, call.origin), one, call.method):
            return False
        leave = EVERYWHERE if call.mount_point is not None else self._leave(agent)
        return one.place is None or leave.refusal(one.place) is None

    def _allows(self, policy: Policy, one: Stored, method: str) -> bool:
        """Asked again when the policy is another, and every second, since it may know hours."""
        key, second = (id(policy), one.bought.payment_id, method), int(self._clock())
        known = self._allowed.get(key)
        if known is not None and known[0] is policy and known[1] == second:
            return known[2]
        assert isinstance(one.bought.asked, Ask)
        ask = replace(one.bought.asked, price=0, at=datetime.now(UTC), method=method)
        if len(self._allowed) >= _MOST_ALLOWED:
            self._allowed.clear()
        allowed = decide(policy, ask).allowed
        self._allowed[key] = (policy, second, allowed)
        return allowed

    def _saved(self, agent: Agent, one: Stored) -> None:
        """One more answer that nobody had to pay for."""
        self._savings.add(agent, one.key.origin.key, one.bought.price)

    # --- the same thing, asked for at the same time

    def _leads(self, inquiry: Inquiry, flight: Flight | None) -> None:
        visit = Visit(inquiry, flight, self.shelves, self._saved)
        inquiry.call.visit = visit
        inquiry.call.reply.on_over = visit.over

    async def _follows(self, inquiry: Inquiry, go_on: Callable[[], None]) -> None:
        self.waiting += 1
        try:
            answer = await self._awaited(inquiry)
        except Exception:
            log.exception("a request waited in vain: %s", inquiry.call.origin.key)
            answer = None
        finally:
            self.waiting -= 1
        if answer is None:
            go_on()
        else:
            await pour(inquiry.call, answer, outcome="cached")

    async def _awaited(self, inquiry: Inquiry) -> Replayed | None:
        """What another one's answer brought; None once this request has to go on."""
        end, outcome = self._clock() + self._wait, Outcome.NEXT
        while (flight := self._flights.get(inquiry.route)) is not None:
            try:
                async with asyncio.timeout_at(end):
                    outcome = await asyncio.shield(flight.landed)
            except TimeoutError:
                outcome = Outcome.ALONE
            inquiry.apart = inquiry.apart or outcome is Outcome.APART
            if (answer := self._answer(inquiry, collapsed=True)) is not None:
                return answer
            if outcome is Outcome.ALONE:
                self._leads(inquiry, None)
                return None
        self._leads(inquiry, Flight(inquiry.route, self._flights))
        return None


def _given(call: Call, answer: Replayed) -> bool | Coroutine[Any, Any, None]:
    """At once, or as fast as the program reads."""
    if len(answer.answer.body) > MAX_READ:
        return pour(call, answer, outcome="cached")
    replay(call, answer, outcome="cached")
    return True
