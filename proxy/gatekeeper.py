"""The answers to the data plane's questions (`proxy.wire.gate.Gate`)."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from functools import lru_cache, partial
from typing import Any

from policies import PolicyError, parse_target
from proxy import refusals
from proxy.capture import Capture
from proxy.exchange import Exchange
from proxy.ledger import Agent, Database, DecisionRow, Directory, Ledger, Retry
from proxy.ledger.agents import token_hash
from proxy.metrics import Counts
from proxy.providers import BreakerOpen, Providers
from proxy.standing import standing, unavailable
from proxy.urls import shown_url
from proxy.wire.agent import Agent as Asker
from proxy.wire.egress import Leave
from proxy.wire.gate import PaymentRequired, Purchase, Reply, RetryNote, Ticket, TurnedAway
from proxy.wire.origin import Origin
from proxy.wire.tap import Tap

log = logging.getLogger(__name__)

MOST_ROWS_UNDER_WAY = 1_000
MOST_ASKING = 2  # questions of agents about themselves; the other connections are for payments
ASKING_SECONDS = 2.0  # that such a question waits for its turn


class Gatekeeper:
    """Who is this, may they go there now, and what of this 402."""

    def __init__(
        self,
        directory: Directory,
        providers: Providers,
        ledger: Ledger,
        exchange: Exchange,
        counts: Counts,
        capture: Capture,
        database: Database,
    ) -> None:
        """`database` is asked what an agent may know of itself."""
        self._directory = directory
        self._providers = providers
        self._ledger = ledger
        self._exchange = exchange
        self._counts = counts
        self._capture = capture
        self._database = database
        self._asking = asyncio.Semaphore(MOST_ASKING)
        self._rows: set[asyncio.Task[bool]] = set()

    def by_credentials(self, name: str, token: str) -> Agent | None:
        return self._directory.authenticate(name, token)

    def by_token(self, token: str) -> Agent | None:
        return self._directory.by_token(token)

    def holder(self, token: str) -> Callable[[], Agent | None]:
        return partial(self._directory.by_hash, token_hash(token))

    def admit(self, origin: Origin) -> Ticket | Awaitable[Ticket]:
        try:
            admitted = self._providers.admit(origin.key)
        except BreakerOpen as error:
            raise refusals.breaker_open(error.key, error.retry_after, error.last_error) from None
        return self._admitted(admitted) if isinstance(admitted, Awaitable) else admitted

    async def _admitted(self, admission: Awaitable[Ticket]) -> Ticket:
        try:
            return await admission
        except BreakerOpen as error:
            raise refusals.breaker_open(error.key, error.retry_after, error.last_error) from None

    def leave(self, agent: Asker) -> Leave:
        assert isinstance(agent, Agent), "the directory hands out the agents"
        policy = self._directory.policy(agent)
        return _leave(policy.allowed_targets, policy.allowed_ports)

    def turned_away(self, what: TurnedAway) -> None:
        assert isinstance(what.agent, Agent)
        self._counts.decisions.add("deny", what.code)
        if len(self._rows) >= MOST_ROWS_UNDER_WAY:
            # A program that is refused in a loop is faster than the database.
            log.error("%s was turned away from %s: %s", what.agent.name, what.url[:200], what.code)
            return
        row = DecisionRow(
            agent_id=what.agent.id,
            method=what.method,
            endpoint=shown_url(what.url),
            reason=what.code,
            detail=f"it leads to {what.address}",
            policy_version=self._directory.policy(what.agent).version,
            session_id=what.session,
            trace_id=what.trace,
        )
        self._note(self._ledger.record_decision(row))

    def certificate_rejected(self, agent: Asker, origin: Origin, why: str, seconds: float) -> None:
        assert isinstance(agent, Agent)
        self._counts.rejections.add(agent.name, origin.host)
        self._note(self._ledger.note_rejection(agent.id, origin.host, why, seconds))

    def _note(self, write: Coroutine[Any, Any, bool]) -> None:
        task = asyncio.get_running_loop().create_task(write)
        self._rows.add(task)
        task.add_done_callback(self._rows.discard)

    def tap(
        self, agent: Asker, method: str, origin: Origin, target: bytes, mount: str | None
    ) -> Tap | None:
        assert isinstance(agent, Agent)
        return self._capture.tap(agent, method, origin, target, mount)

    def breaker_closed(self, origin: Origin) -> bool:
        return not self._providers.is_tripped(origin.key)

    def retried(self, note: RetryNote) -> None:
        assert isinstance(note.agent, Agent)
        provider = note.origin.key
        self._counts.retries.add("succeeded" if note.ok else "failed", provider)
        log.log(
            logging.INFO if note.payment_id is None else logging.WARNING,
            "retry %d of a request to %s, after %.2f s: %s",
            note.number,
            provider,
            note.delay_seconds,
            "went well" if note.ok else note.error,
        )
        if note.payment_id is None and len(self._rows) >= MOST_ROWS_UNDER_WAY:
            return
        self._note(
            self._ledger.note_retry(
                Retry(
                    payment_id=note.payment_id,
                    attempt=note.number,
                    delay=note.delay_seconds,
                    success=note.ok,
                    error_class=note.error_class,
                    error=note.error,
                    cause=note.cause,
                    agent_id=note.agent.id,
                    provider=provider,
                    method=note.method,
                    endpoint=shown_url(note.url.partition("?")[0]),
                )
            )
        )

    def retry_withheld(self, origin: Origin) -> None:
        self._counts.retries.add("withheld", origin.key)

    async def standing(
        self, agent: Asker, session: str | None, trace: str | None
    ) -> Mapping[str, Any]:
        assert isinstance(agent, Agent)
        try:
            async with asyncio.timeout(ASKING_SECONDS):
                await self._asking.acquire()
        except TimeoutError as error:
            raise unavailable() from error
        # Who hangs up leaves the queue, but what was asked of the database is heard to its end:
        # statements that are cut off go on there, and would be more than MOST_ASKING.
        answer = asyncio.create_task(standing(self._database, agent, session, trace))
        answer.add_done_callback(lambda _: self._asking.release())
        return await asyncio.shield(answer)

    async def pay(self, purchase: Purchase, challenge: PaymentRequired) -> Reply:
        # Who is bound to a session has its budget, and cannot leave it by naming another.
        if isinstance(purchase.agent, Agent) and purchase.agent.session is not None:
            purchase.session = purchase.agent.session
        return await self._exchange.pay(purchase, challenge)


@lru_cache(maxsize=4096)
def _leave(targets: tuple[str, ...], ports: tuple[int, ...]) -> Leave:
    """A policy's lists as the data plane reads them. An entry that can't be read (stored by another
    version, or by hand) allows nothing."""
    readable = []
    for text in targets:
        try:
            readable.append(parse_target(text))
        except PolicyError as error:
            log.error("an allowed target counts for nothing: %s", error)
    return Leave(tuple(readable), frozenset(ports))
