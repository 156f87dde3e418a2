"""Waiting for an operator's yes, bounded: nothing is reserved meanwhile, nothing signed is kept.

A program whose policy has approval_wait_seconds need not repeat its request: it is made to wait.
What comes after a yes is an attempt of its own, signed anew under a fresh blockhash; whether there
is an approval is for the ledger to say, here as ever.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

from proxy.ledger import Database, LedgerError, Refused, approvals
from proxy.ledger.approvals import Approval
from proxy.tasks import end
from proxy.wire.gate import Purchase

log = logging.getLogger(__name__)

MOST_WAITING = 100
"""Requests that wait at the same time; those past it are refused at once."""
MOST_OF_AN_AGENT = 20
"""Of those, so that no agent takes all places."""
_FIRST_LOOK = 0.1
_LONGEST_PAUSE = 1.0
_EXPIRE_SECONDS = 60.0


@dataclass(slots=True)
class _Question:
    """An approval that is looked at again and again, once for all who wait for it."""

    asking: asyncio.Task[Approval | None] | None = None
    waiting: int = 0


class Consent:
    """One per process. `start()` it first; `close()` it when nobody asks any more."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._expirer: asyncio.Task[None] | None = None
        self._waiting: Counter[str] = Counter()  # by agent; nobody who does not wait
        self._questions: dict[UUID, _Question] = {}

    def start(self) -> None:
        self._expirer = asyncio.create_task(self._expire(), name="ends approvals")

    async def close(self) -> None:
        await end(self._expirer, *(question.asking for question in self._questions.values()))

    async def refusal(
        self, refused: Refused, rules: Mapping[str, Any], purchase: Purchase
    ) -> Refused | None:
        """What remains of a refusal for want of an approval, once the program has waited for it as
        long as `rules` allow. None: an operator has said yes, and another attempt is due."""
        seconds = rules.get("approval_wait", 0)
        detail = refused.detail or {}
        if (
            refused.code != "approval_required"
            or detail.get("state") != "pending"
            or not seconds
            or self._waiting.total() >= MOST_WAITING
            or self._waiting[purchase.agent.name] >= MOST_OF_AN_AGENT
        ):
            return refused
        purchase.ticket.neutral()  # whoever probes a provider must not wait for a person
        self._waiting[purchase.agent.name] += 1
        try:
            found = await self._decided(UUID(detail["approval"]), seconds, purchase)
        finally:
            self._waiting -= Counter((purchase.agent.name,))
        if found is None or found.state not in ("approved", "rejected"):
            return refused
        if found.state == "approved":
            return None
        said = {"state": found.state, "expires_at": found.expires_at.isoformat()}
        return replace(refused, detail={**detail, **said})

    async def _decided(
        self, approval_id: UUID, seconds: float, purchase: Purchase
    ) -> Approval | None:
        """The approval once it is decided, or its time is over; None if nobody waits any more."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        question = self._questions.get(approval_id)
        if question is None:
            question = self._questions[approval_id] = _Question()
            question.asking = asyncio.create_task(
                self._ask(approval_id, question), name=f"looks at approval {approval_id}"
            )
        asking = question.asking
        assert asking is not None
        question.waiting += 1
        try:
            while not purchase.gone and (left := end - loop.time()) > 0:
                await asyncio.wait((asking,), timeout=min(_LONGEST_PAUSE, left))
                if asking.done():
                    return asking.result()
            return None
        finally:
            question.waiting -= 1

    async def _ask(self, approval_id: UUID, question: _Question) -> Approval | None:
        """What is decided, as long as anybody waits for it."""
        pause = _FIRST_LOOK
        try:
            while True:
                try:
                    found = await approvals.find(self._database, approval_id)
                except LedgerError as error:
                    log.warning("whether a payment is approved is not known: %s", error)
                else:
                    if found is None or found.state != "pending":
                        return found
                if not question.waiting:
                    return None
                await asyncio.sleep(pause)
                pause = min(pause * 1.5, _LONGEST_PAUSE)
        finally:
            del self._questions[approval_id]  # who asks from now on asks anew

    async def _expire(self) -> None:
        while True:
            await asyncio.sleep(_EXPIRE_SECONDS)
            try:
                await approvals.expire(self._database)
            except LedgerError as error:
                log.warning("approvals are not ended: %s", error)
