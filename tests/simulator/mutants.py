"""Faults planted on purpose: each is one that somebody could write, and that must not get by."""

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any
from unittest.mock import patch

from proxy import refusals
from proxy.again import Again
from proxy.chains.solana import fate
from proxy.exchange import Exchange
from proxy.ledger import Ledger, Reserved
from proxy.ledger.states import SETTLED
from proxy.reconciler import watch
from proxy.wire.gate import PaymentRequired
from tests.model import again
from tests.model.memory import Memory
from tests.simulator.world import World


def release_on_error() -> AbstractContextManager[Any]:
    """An answer that was lost is taken for a payment that was not made."""

    async def doubt(self: Any, committed: Any, code: str, why: str, reason: str = "") -> Any:
        await self._ledger.release(committed.id, "never_sent")
        return refusals.not_sent(committed.id, committed.deal.provider, why)

    return patch.object(Exchange, "_doubt", doubt)


def sign_on_a_second_402() -> AbstractContextManager[Any]:
    async def asked_again(self: Any, committed: Any, answer: Any, outcome: Any) -> Any:
        return await self.pay(committed.deal.purchase, PaymentRequired(answer.headers, b""))

    return patch.object(Exchange, "_asked_again", asked_again)


def release_by_timeout() -> AbstractContextManager[Any]:
    """Held for half a minute and not heard of: it will not come any more, will it?"""
    reserve = Ledger.reserve

    async def reserved(self: Any, reservation: Any) -> Any:
        result = await reserve(self, reservation)
        if isinstance(result, Reserved):
            loop = asyncio.get_running_loop()

            def late() -> None:
                self._outbox.later("late", self._release(reservation.payment_id, "proved_dead"))

            loop.call_later(30.0, late)
        return result

    return patch.object(Ledger, "reserve", reserved)


def settle_twice() -> AbstractContextManager[Any]:
    """A settle that is repeated after a lost acknowledgement spends once more."""
    settle = Memory.settle

    def again_and_again(self: Any, p: Mapping[str, Any]) -> str:
        payment = self.state.payments.get(p["payment_id"])
        if payment is not None and payment.status in SETTLED and p["source"] == "provider":
            for scope in payment.scopes:
                self.state.counters[scope].spent += payment.price
        return settle(self, p)

    return patch.object(Memory, "settle", again_and_again)


@contextmanager
def a_block_too_early() -> Iterator[None]:
    """The last block that may hold it is not waited for."""

    def can_land(evidence: Any, height: int) -> bool:
        return bool(height < evidence.last_valid_block_height)

    with patch.object(fate, "can_land", can_land), patch.object(watch, "can_land", can_land):
        yield


def no_second_look() -> AbstractContextManager[Any]:
    """The same request is signed for anew, whatever is open."""
    return patch.object(again, "prior_payment", lambda *_: (None, None))


def forgets_what_is_unwritten() -> AbstractContextManager[Any]:
    """A doubt that is not on disk yet is not known to the process that has it, either."""

    async def waits(_self: Any, _meeting: Any) -> None:
        return None

    return patch.object(Again, "waits", waits)


def takes_everybody_for_another() -> AbstractContextManager[Any]:
    """An equal payment of another process is always somebody else's: nobody is asked."""

    async def words(_self: Any, senders: Mapping[Any, Any]) -> dict[Any, str]:
        return dict.fromkeys(senders, "waits")

    return patch.object(World, "words", words)


MUTANTS = {
    each.__name__: each
    for each in (
        release_on_error,
        sign_on_a_second_402,
        release_by_timeout,
        settle_twice,
        a_block_too_early,
        no_second_look,
        forgets_what_is_unwritten,
        takes_everybody_for_another,
    )
}
