"""What becomes of a request that goes to its provider: its answer is kept, or freshens one that is,
or makes others out of date; and whoever waits for it is told."""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from urllib.parse import urljoin

from proxy.cache import rules
from proxy.cache.directives import values
from proxy.cache.flight import Flight, Outcome
from proxy.cache.inquiry import Inquiry
from proxy.cache.rules import Life, Scope
from proxy.cache.shelves import Shelves, Stored
from proxy.cache.told import served, status
from proxy.ledger import Agent
from proxy.wire.caching import Arrived
from proxy.wire.call import Call
from proxy.wire.gate import Replayed
from proxy.wire.headers import header
from proxy.wire.parsers import RawHeaders

log = logging.getLogger(__name__)

Saved = Callable[[Agent, Stored], None]


class Visit:
    """See `wire.caching.Visit`. `flight` is None for a request that nobody may wait for."""

    def __init__(
        self, inquiry: Inquiry, flight: Flight | None, shelves: Shelves, saved: Saved
    ) -> None:
        self._inquiry = inquiry
        self._flight = flight
        self._shelves = shelves
        self._saved = saved
        self._answer: Arrived | None = None  # the one that is to be kept
        self._key = inquiry.own
        self._life: Life | None = None
        self._chunks: list[bytes] = []
        self._size = 0
        stale = inquiry.stale
        self.conditions: Sequence[tuple[bytes, bytes]] = ()
        if stale is not None and not inquiry.asked.conditional:
            self.conditions = rules.conditions(stale.headers)

    def arrived(self, answer: Arrived) -> Sequence[bytes] | Replayed:
        try:
            return self._arrived(answer)
        except Exception:  # of ours: the program gets its answer all the same
            log.exception("an answer of %s was not understood", self._inquiry.call.origin.key)
            self._drop()
            self._land(Outcome.ALONE)
            return ()

    def whole(self) -> None:
        try:
            self._whole()
        except Exception:
            log.exception("an answer of %s was not kept", self._inquiry.call.origin.key)
            self._land(Outcome.ALONE)

    def add(self, data: bytes) -> None:
        if self._answer is None:
            return
        self._size += len(data)
        if self._size <= self._inquiry.terms.max_bytes and self._shelves.take(len(data)):
            self._chunks.append(data)
        else:
            self._size -= len(data)
            self._drop()
            self._land(Outcome.ALONE)

    def over(self) -> None:
        self._drop()
        self._land(Outcome.NEXT)
        call = self._inquiry.call
        call.visit = call.reply.on_over = None  # or they would hold one another, until collected

    # ---

    def _arrived(self, answer: Arrived) -> Sequence[bytes] | Replayed:
        if answer.status == 304 and self.conditions:
            return self._unchanged(answer)
        inquiry = self._inquiry
        words = [b"fwd=" + inquiry.why]
        if inquiry.why == b"stale":
            words.append(b"fwd-status=%d" % answer.status)
        if self._keeps(answer):
            words.append(b"stored")
        elif not _failed(answer):
            self._land(Outcome.ALONE)
        if inquiry.stale is not None and answer.status < 400:
            stale = inquiry.stale  # this is what it is now
            self._shelves.remove(stale.key, lambda one: one is stale)
        return [b": ".join(status(*words))]

    def _whole(self) -> None:
        answer, life, inquiry = self._answer, self._life, self._inquiry
        if answer is None or life is None:
            return
        body = b"".join(self._chunks)
        self._drop()
        assert answer.bought is not None
        headers = rules.kept_fields(answer.headers)
        if inquiry.call.method == "GET":
            headers = (*headers, (b"Content-Length", b"%d" % len(body)))
        elif (length := header(answer.headers, b"content-length")) is not None:
            headers = (*headers, (b"Content-Length", length))
        self._put(
            Stored(
                self._key,
                inquiry.call.method,
                answer.status,
                answer.reason,
                headers,
                body,
                life,
                answer.came_at,
                rules.varied(answer.headers, inquiry.fields),
                answer.bought,
                answer.place,
            )
        )

    def _keeps(self, answer: Arrived) -> bool:
        """Whether it is to be kept, and for whom: then it is collected from here on."""
        inquiry = self._inquiry
        length = header(answer.headers, b"content-length")
        if answer.bought is None or not answer.ends:
            return False
        if length is not None and int(length) > inquiry.terms.max_bytes:
            return False
        scope, life = self._judged(answer.status, answer.headers, answer)
        if life is None:
            return False
        if scope is Scope.ALL:
            self._key = inquiry.everybodys
        elif not inquiry.apart:
            inquiry.apart = True
            if self._flight is not None:
                self._flight = self._flight.apart(inquiry.route)
        self._answer, self._life = answer, life
        return True

    def _judged(self, code: int, headers: RawHeaders, answer: Arrived) -> tuple[Scope, Life | None]:
        """Life None: it is not worth keeping, or may not be kept."""
        inquiry = self._inquiry
        scope = rules.scope(inquiry.call.method, inquiry.asked, code, headers, inquiry.terms)
        life = rules.life(
            code,
            headers,
            inquiry.terms,
            scope=scope,
            wall=time.time(),
            delay=answer.came_at - answer.sent_at,
        )
        worth = life.validated or life.seconds > life.age
        return scope, life if worth and scope is not Scope.NOBODY else None

    def _put(self, one: Stored) -> None:
        kept = self._shelves.put(one)
        usable = kept and one.life.unchecked and one.life.seconds > one.life.age
        self._land(Outcome.NEXT if usable else Outcome.ALONE)

    def _unchanged(self, answer: Arrived) -> Replayed:
        """The provider says that what we have is what there is."""
        inquiry, one = self._inquiry, self._inquiry.stale
        assert one is not None
        if not answer.told or answer.bought is not None:  # a payment in doubt freshens nothing
            one = self._freshened(one, answer)
        if not answer.told:
            self._saved(inquiry.agent, one)
        now = asyncio.get_running_loop().time()
        words = (b"fwd=" + inquiry.why, b"fwd-status=304")
        return served(one, inquiry.asked, one.age(now), words, answer.told)

    def _freshened(self, one: Stored, answer: Arrived) -> Stored:
        agrees = rules.agrees(one.headers, answer.headers)
        headers = rules.freshened(one.headers, answer.headers) if agrees else one.headers
        _, life = self._judged(one.status, headers, answer) if agrees else (None, None)
        if life is None:
            self._shelves.remove(one.key, lambda other: other is one)
            self._land(Outcome.ALONE)
            return one
        fresh = replace(one, headers=headers, life=life, came_at=answer.came_at)
        self._put(fresh)
        return fresh

    def _drop(self) -> None:
        self._shelves.give(self._size)
        self._size = 0
        self._chunks.clear()
        self._answer = None

    def _land(self, outcome: Outcome) -> None:
        if self._flight is not None:
            self._flight.land(outcome)


class Unsafe:
    """A request that may change what is behind its URL (section 4.4): then what is kept of it is
    not true any more."""

    conditions: Sequence[tuple[bytes, bytes]] = ()

    def __init__(self, shelves: Shelves, call: Call) -> None:
        assert isinstance(call.agent, Agent)
        self._shelves = shelves
        self._owner = call.agent.id
        self._origin, self._target, self._url = call.origin, call.target, call.url

    def arrived(self, answer: Arrived) -> Sequence[bytes]:
        if 200 <= answer.status < 400:
            base = f"{self._origin.scheme}://{self._origin.authority.decode()}"
            targets = {self._target}
            for name in (b"location", b"content-location"):
                for value in values(answer.headers, name):
                    there = _joined(self._url, value)
                    if there.startswith(base + "/"):
                        targets.add(there[len(base) :].encode("latin-1", "replace"))
            for target in targets:
                self._shelves.changed(self._origin, target, self._owner)
        return ()

    def add(self, data: bytes) -> None: ...
    def whole(self) -> None: ...
    def over(self) -> None: ...


def _joined(url: str, reference: bytes) -> str:
    try:
        return urljoin(url, reference.decode("latin-1")).partition("#")[0]
    except ValueError:
        return ""


def _failed(answer: Arrived) -> bool:
    """Whether the next one may fare better: then they ask one by one."""
    doubtful = bool(answer.told) and answer.bought is None
    return doubtful or answer.status >= (400 if answer.told else 500)
