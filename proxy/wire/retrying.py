"""Asking again, where that can do no harm: when, how often, and whether the provider can bear it.

What was never sent may be tried again, and so may a request of which repeating changes nothing
(RFC 9110 section 9.2.2) and whose answer never began. Once a payment has left, nothing here
applies: then there are the rules of money (`proxy.again`).
"""

import asyncio
import contextlib
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from time import time
from uuid import UUID

from proxy.errors import retryable
from proxy.wire.call import Call
from proxy.wire.dial import DialError
from proxy.wire.gate import Gate, RetryNote
from proxy.wire.headers import header
from proxy.wire.origin import Origin
from proxy.wire.parsers import RawHeaders
from proxy.wire.upstream import UpstreamError

MOST_BUDGETS = 4096
WHOLE_AGAIN_SECONDS = 60.0  # without a retry
_SECONDS = re.compile(rb"\d{1,9}")


@dataclass(frozen=True, slots=True)
class RetryRules:
    """`attempts` after the first, 0: never. Before them `backoff` seconds, twice, four times that,
    each give or take the share `jitter`; none begins later than `total` seconds after the request
    did. `statuses`: answers that are asked for again. `budget`: retries for each request to the
    provider, with `floor` besides until it has been left in peace for a while."""

    attempts: int = 3
    backoff: float = 1.0
    jitter: float = 0.2
    total: float = 30.0
    statuses: frozenset[int] = frozenset()
    budget: float = 0.2
    floor: int = 10


class Budgets:
    """What each provider can bear: over any time in which it has no minute of peace, so many
    retries that (attempts ≤ (1 + budget) · requests + floor). A bucket that is not here is full, so
    a provider that answers costs one look-up."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._buckets: dict[Origin, _Bucket] = {}

    def asked(self, origin: Origin) -> None:
        """A request sets out, for the first time."""
        bucket = self._buckets.get(origin)
        if bucket is not None:
            bucket.tokens = min(bucket.tokens + bucket.share, bucket.most)

    def take(self, origin: Origin, rules: RetryRules) -> bool:
        """Whether there is one more retry in it."""
        now = self._loop.time()
        bucket = self._buckets.pop(origin, None)
        if bucket is None or now - bucket.last >= WHOLE_AGAIN_SECONDS:
            earned = 0.0 if bucket is None else bucket.tokens
            most = max(rules.floor, 1.0)
            bucket = _Bucket(max(rules.floor, earned), most, rules.budget, now)
        taken = bucket.tokens >= 1
        if taken:
            bucket.tokens -= 1
            bucket.last = now
        self._buckets[origin] = bucket  # the one used last is the last to go
        if len(self._buckets) > MOST_BUDGETS:
            del self._buckets[next(iter(self._buckets))]
        return taken


@dataclass(slots=True)
class _Bucket:
    tokens: float
    most: float
    share: float
    last: float  # loop time of the last retry


class Retries:
    """The rules of every provider, and what is left of their budgets."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        gate: Gate,
        usual: RetryRules,
        by_origin: Mapping[Origin, RetryRules],
    ) -> None:
        self.loop = loop
        self.gate = gate
        self.usual = usual
        self.by_origin = by_origin
        self.budgets = Budgets(loop)

    def rules(self, origin: Origin) -> RetryRules:
        return self.by_origin.get(origin, self.usual)


class Tries:
    """The attempts at one request. Made when the first of them has failed."""

    def __init__(
        self, retries: Retries, call: Call, since: float, payment_id: UUID | None = None
    ) -> None:
        """`since`: the loop time from which on its program waits. `payment_id`: of the payment that
        it is going to carry."""
        self._retries = retries
        self._call = call
        self._payment_id = payment_id
        self._rules = retries.rules(call.origin)
        self._end = since + self._rules.total
        if call.wait is not None:
            self._end = min(self._end, call.started + call.wait)
        self._delay = 0.0
        self._cause = ""
        self._number = 0  # of the retry that is waited for, is under way, or was the last
        self._under_way = False
        self.made = 1
        """Attempts so far, with the first."""

    def after(
        self, error: DialError | UpstreamError, *, sent: bool, least: float = 0.0
    ) -> float | None:
        """Seconds until the next attempt, now that one has ended in `error`; None: there is none.
        `sent`: some of the request may have reached the provider. `least`: sooner is no use."""
        self.ended(error)
        call, rules, retries = self._call, self._rules, self._retries
        delay = rules.backoff * 2.0**self._number
        delay = max(delay * random.uniform(1 - rules.jitter, 1 + rules.jitter), least)  # noqa: S311
        if (
            self._number >= rules.attempts
            or not retryable(error.error_class)
            or (sent and not call.repeatable)
            or not call.replayable
            or call.leaving
            or call.errand is not None  # its next attempt is at another provider
            or retries.loop.time() + delay > self._end
            or not retries.gate.breaker_closed(call.origin)
        ):
            return None
        if not retries.budgets.take(call.origin, rules):
            retries.gate.retry_withheld(call.origin)
            return None
        self._number += 1
        self._delay, self._cause = delay, error.error_class
        return delay

    async def wait(self, seconds: float) -> bool:
        """Whether to go on, so many seconds later; False as soon as nobody waits for the answer.
        True begins the attempt."""
        call = self._call
        left = asyncio.Event()
        call.on_leaving = left.set
        with contextlib.suppress(TimeoutError):
            if not call.leaving:
                await asyncio.wait_for(left.wait(), seconds)
        call.on_leaving = None
        self._under_way = not call.leaving and self._retries.gate.breaker_closed(call.origin)
        self.made += self._under_way
        return self._under_way

    def patience(self, usual: float) -> float:
        """How long the answer to this attempt is waited for."""
        if self._call.wait is None:
            return usual
        waits_until = self._call.started + self._call.wait
        return max(0.0, min(usual, waits_until - self._retries.loop.time()))

    def ended(self, error: DialError | UpstreamError | None) -> None:
        """How the attempt went, for the record; the first one is none of its business."""
        if not self._under_way:
            return
        self._under_way = False
        call = self._call
        self._retries.gate.retried(
            RetryNote(
                call.agent,
                call.origin,
                call.method,
                call.url,
                self._payment_id,
                self._number,
                self._delay,
                self._cause,
                "" if error is None else error.error_class,
                "" if error is None else str(error),
            )
        )


def retry_after(headers: RawHeaders) -> float:
    """Seconds that the provider wants to be left alone (RFC 9110 section 10.2.3); 0: it does not
    say, or not so that it can be read."""
    said = header(headers, b"retry-after") or b""
    if _SECONDS.fullmatch(said):
        return float(said)
    try:
        return max(0.0, parsedate_to_datetime(said.decode("latin-1")).timestamp() - time())
    except (ValueError, OverflowError):
        return 0.0
