"""Waiting for an operator's yes, bounded: nothing is reserved meanwhile, nothing signed is kept.

A program whose policy has approval_wait_seconds need not repeat its request: it is made to wait.
What comes after a yes is an attempt of its own, signed anew under a fresh blockhash; whether there
is an approval is for the ledger to say, here as ever.
"""

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from uuid import UUID

from proxy.ledger import Database, LedgerError, Refused, approvals
from proxy.ledger.approvals import Approval
from proxy.wire.gate import Purchase

log = logging.getLogger(__name__)

MOST_WAITING = 100
"""Requests that wait at the same time; those past it are refused at once."""
_FIRST_LOOK = 0.1
_LONGEST_PAUSE = 1.0
_EXPIRE_SECONDS = 60.0


class Consent:
    """One per process. `start()` it first; `close()` it when nobody asks any more."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._expirer: asyncio.Task[None] | None = None
        self.waiting = 0

    def start(self) -> None:
        self._expirer = asyncio.create_task(self._expire(), name="ends approvals")

    async def close(self) -> None:
        if self._expirer is not None:
            self._expirer.cancel()
            await asyncio.gather(self._expirer, return_exceptions=True)

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
            or self.waiting >= MOST_WAITING
        ):
            return refused
        purchase.ticket.neutral()  # whoever probes a provider must not wait for a person
        self.waiting += 1
        try:
            found = await self._decided(UUID(detail["approval"]), seconds, purchase)
        finally:
            self.waiting -= 1
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
        end, pause = loop.time() + seconds, _FIRST_LOOK
        while not purchase.gone:
            try:
                found = await approvals.find(self._database, approval_id)
            except LedgerError as error:
                log.warning("whether a payment is approved is not known: %s", error)
            else:
                if found is None or found.state != "pending":
                    return found
            left = end - loop.time()
            if left <= 0:
                return None
            await asyncio.sleep(min(pause, left))
            pause = min(pause * 1.5, _LONGEST_PAUSE)
        return None

    async def _expire(self) -> None:
        while True:
            await asyncio.sleep(_EXPIRE_SECONDS)
            try:
                await approvals.expire(self._database)
            except LedgerError as error:
                log.warning("approvals are not ended: %s", error)
