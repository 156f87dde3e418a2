"""The same request again: the same bytes, or wait; and the answer that was paid for, if it is here.

While a payment is open, an equal request of the same agent (method, URL and body, or its key) is
never signed for anew. It waits for the answer that is under way; or it sends the very same signed
bytes once more, which the chain takes once however often they are sent; or it is told to wait for
the chain.

Which of them, and why (heights decide, never clocks):

- In doubt, and the blockhash still lives: the same bytes go out again, three times at most, by one
  process at a time. A provider that never settled them settles them now and answers.
- In doubt, and the blockhash is too old: nothing can come of sending it. 409, until the reconciler
  has booked it or freed its money.
- Landed, and the answer was lost: the official servers refuse a payment that has landed
  (`transaction_simulation_failed`, `duplicate_settlement`), so sending it again fetches nothing
  there. Only with the payment-identifier extension may a server answer the same payload from what
  it remembers: so to those it is sent, at any height, since it can't land twice. If that brings
  nothing, or wasn't offered, the payment is closed: the next request is a new one, with a new
  payment if policy and budgets allow it; but under an Idempotency-Key it is still the same request,
  and is never paid for twice.
"""

import asyncio
import contextlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID
from weakref import WeakValueDictionary

from proxy import refusals
from proxy.awaited import Awaited, Request, Word
from proxy.chains import Chain, Unpayable
from proxy.crashpoints import reached
from proxy.deal import Deal, Encore
from proxy.entries import INSTANCE, Meeting, idempotency_key, request_key
from proxy.ledger import Ledger, LedgerError, LedgerUnavailable, Left, Presented, Prior
from proxy.ledger.kept import KeptAnswer, KeptAnswers
from proxy.metrics import Counts
from proxy.tasks import end
from proxy.vault import VaultError
from proxy.wire.gate import Replayed, Whole
from proxy.wire.problem import Problem

log = logging.getLogger(__name__)

MOST_PRESENTED = 3
_FIRST_LOOK = 0.02
_LONGEST_PAUSE = 0.5
_TRIES_TO_KEEP = 6
_PRUNE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Terms:
    """Bytes, seconds; see `[paid]` in the settings."""

    keep_bytes: int = 1024 * 1024
    keep_seconds: float = 600.0
    keep_answers: int = 1000
    idempotency_seconds: float = 86_400.0
    wait: float = 30.0


class Others(Protocol):
    """The other processes on the same database (`proxy.ledger.presence`)."""

    async def words(self, senders: Mapping[UUID, UUID]) -> Mapping[UUID, str]:
        """What is said of these payments (`awaited.Word`), each by the process that sent it."""


class Again:
    """One per process. `start()` it first; `close()` it when nobody asks any more."""

    def __init__(
        self,
        ledger: Ledger,
        kept: KeptAnswers,
        chains: Mapping[str, Chain],
        counts: Counts,
        terms: Terms,
        awaited: Awaited,
        others: Others,
    ) -> None:
        self.terms = terms
        self.awaited = awaited
        self._others = others
        self._ledger = ledger
        self._kept = kept
        self._chains = chains
        self._counts = counts
        self._watches: dict[UUID, asyncio.Task[str]] = {}
        self._unwritten: dict[Request, UUID] = {}
        self._pruner: asyncio.Task[None] | None = None
        self._turns: WeakValueDictionary[tuple[UUID, bytes], asyncio.Lock] = WeakValueDictionary()

    def start(self) -> None:
        self._pruner = asyncio.create_task(self._prune(), name="prunes kept answers")

    async def close(self) -> None:
        await end(*self._watches.values(), self._pruner)

    async def _prune(self) -> None:
        while True:
            await asyncio.sleep(_PRUNE_SECONDS)
            try:
                await self._kept.prune()
            except LedgerError as error:
                log.warning("kept answers are not pruned: %s", error)

    def turn(self, meeting: Meeting) -> contextlib.AbstractAsyncContextManager[None]:
        """Requests under one key get as far as a payment one by one: those behind the first find
        its payment, and sign nothing."""
        key = idempotency_key(meeting.purchase)
        if key is None:
            return contextlib.nullcontext()
        return self._turns.setdefault((meeting.agent.id, key), asyncio.Lock())

    async def begin(self, meeting: Meeting, payment_id: UUID) -> None:
        """A payment is about to be reserved: whoever asks is told that its program waits."""
        self.awaited.begin(payment_id, await _request(meeting), meeting.purchase)

    async def unwritten(self, meeting: Meeting, payment_id: UUID) -> None:
        """What became of this payment is not on disk yet. Till then nobody but us knows that the
        same request is not to be signed for anew."""
        request = await _request(meeting)
        if request is not None:
            self._unwritten[request] = payment_id

    async def waits(self, meeting: Meeting) -> Prior | None:
        """The payment of the same request that is `unwritten`, or that is under way for a program
        which has gone: this may well be that one again. Raises LedgerError."""
        if not self._ledger.waiting:  # all is written
            self._unwritten.clear()
            self.awaited.all_written()
        request = await _request(meeting)
        if request is None:
            return None
        payment_id = self._unwritten.get(request)
        if payment_id is None:
            if meeting.purchase.idempotency_key is not None:
                return None  # its payment is known by that
            payment_id = self.awaited.forsaken(request)
            return None if payment_id is None else Prior("request_in_progress", payment_id)
        state = await self._ledger.answer_state(payment_id, INSTANCE)
        # The ledger can say by itself whatever else it is.
        return Prior("payment_in_doubt", payment_id) if state == "request_in_progress" else None

    async def prior(self, meeting: Meeting, *, share: bool) -> Prior | None:
        """What is known of the same request. `share`: it may have the answer of one that is under
        way. Raises LedgerError."""
        purchase = meeting.purchase
        found = await self._ledger.prior(
            meeting.agent.id,
            await _key(meeting),
            idempotency_key(purchase),
            key_seconds=self.terms.idempotency_seconds,
            share=share,
            instance=INSTANCE,
        )
        if found is not None and found.code == "request_elsewhere":
            return await self.elsewhere(meeting, found.payment_id)
        return found

    async def elsewhere(self, meeting: Meeting, payment_id: UUID) -> Prior | None:
        """Whether payments for the same request, which other processes have sent, are purchases of
        their own. Those processes are asked; None if each says that its program still waits, or
        that it has taken its payment back. What they send from now on is no matter: its programs
        did not wait for an answer before. Raises LedgerError."""
        senders = await self._ledger.elsewhere(meeting.agent.id, await _key(meeting), INSTANCE)
        doubtful = set(senders)
        for asked, word in (await self._others.words(senders)).items():
            # What was taken back must be so for everybody, before anything is signed in its stead.
            if word == Word.WAITS or (
                word == Word.UNSENT and await self._ledger.release(asked, "never_sent")
            ):
                doubtful.discard(asked)
        if not doubtful:
            return None
        newest = payment_id if payment_id in doubtful else max(doubtful)
        return Prior("request_in_progress", newest)

    async def meet(self, deal: Deal, prior: Prior) -> Replayed | Problem | Encore | None:
        """What a request gets that has to do with a payment from before; None if that came to
        nothing, so that this one may begin anew. Raises LedgerError."""
        code, payment_id, provider = prior.code, prior.payment_id, deal.provider
        if code == "request_in_progress":
            code = await self._outcome(payment_id)
        met: Replayed | Problem | Encore | None = None
        match code:
            case "answer_kept":
                met = await self._replay(deal, payment_id)
            case "payment_in_doubt" | "answer_lost":
                met = await self._encore(deal, payment_id)
            case "request_in_progress":
                met = refusals.request_in_progress(payment_id, provider)
            case "idempotency_key_reused":
                met = refusals.idempotency_key_reused(payment_id)
            case "already_paid" if deal.purchase.idempotency_key is not None:
                met = refusals.already_paid(payment_id, provider)
            case "already_paid":
                pass  # it was another's, and that one has its answer
            case "released":
                pass
            case _:
                raise AssertionError(code)
        return met

    async def ended(
        self, encore: Encore, *, success: bool, code: str = "", why: str = "", last: bool = False
    ) -> None:
        """What came of sending the same bytes again."""
        await self._ledger.end_presenting(
            Presented(encore.id, INSTANCE, success, last, error_class=code, error=why)
        )
        reached("present.noted")

    def promised(self, meeting: Meeting) -> float | None:
        """For how many seconds its answer is kept if its program has gone; None: it has not, or it
        has a key, under which nobody else signs anyway."""
        purchase = meeting.purchase
        if not purchase.gone or purchase.idempotency_key is not None:
            return None
        return self.terms.keep_seconds

    async def promise(self, meeting: Meeting, payment_id: UUID) -> None:
        """Its program has gone in the middle of its answer."""
        seconds = self.promised(meeting)
        if seconds is not None:
            await self._ledger.promise(payment_id, seconds=seconds)

    async def keep(self, meeting: Meeting, payment_id: UUID, whole: Whole, delivered: bool) -> None:
        """Put an answer by, for the same request to fetch. Tries for a moment if there is no
        database; then it is lost, and said so in the log."""
        keyed = meeting.purchase.idempotency_key is not None
        terms = self.terms
        answer = KeptAnswer(
            whole.status,
            whole.reason.decode("latin-1"),
            whole.headers,
            whole.ours,
            whole.body,
            meeting.purchase.credential,
            delivered,
        )
        pause = 0.1
        reached("keep.before")
        for left in reversed(range(_TRIES_TO_KEEP)):
            try:
                await self._kept.keep(
                    payment_id,
                    meeting.agent.id,
                    answer,
                    seconds=terms.idempotency_seconds if keyed else terms.keep_seconds,
                )
            except (LedgerError, VaultError) as error:
                if not left or not isinstance(error, LedgerUnavailable):
                    log.error("the answer to payment %s is not kept: %s", payment_id, error)
                    return
                await asyncio.sleep(pause)
                pause *= 2
            else:
                reached("keep.after")
                return

    # --- an answer that is under way

    async def _outcome(self, payment_id: UUID) -> str:
        """What came of a payment under way, waited for a while; one look for all who wait."""
        watch = self._watches.get(payment_id)
        if watch is None:
            watch = asyncio.create_task(self._watch(payment_id), name=f"waits for {payment_id}")
            self._watches[payment_id] = watch
            watch.add_done_callback(lambda _: self._watches.pop(payment_id, None))
        return await asyncio.shield(watch)

    async def _watch(self, payment_id: UUID) -> str:
        loop = asyncio.get_running_loop()
        end, pause = loop.time() + self.terms.wait, _FIRST_LOOK
        while True:
            state = await self._ledger.answer_state(payment_id, INSTANCE)
            if state != "request_in_progress" or loop.time() >= end:
                return state
            await asyncio.sleep(min(pause, max(0.0, end - loop.time())))
            pause = min(pause * 1.5, _LONGEST_PAUSE)

    async def _replay(self, deal: Deal, payment_id: UUID) -> Replayed | Problem | None:
        """The kept answer, for whoever bears the credential that it was bought with: an agent may
        speak for many, and what one of them was told is not for the others. None: it is another's,
        who has it, and this request is one of its own."""
        try:
            kept = await self._kept.find(payment_id, deal.meeting.agent.id)
        except VaultError as error:
            log.error("the answer to payment %s cannot be opened: %s", payment_id, error)
            kept = None
        if kept is None:
            return refusals.already_paid(payment_id, deal.provider)
        if kept.credential != deal.purchase.credential:
            if kept.delivered and deal.purchase.idempotency_key is None:
                return None
            return refusals.kept_for_another(payment_id, deal.provider)
        self._counts.payments.add("replayed", "")
        whole = Whole(
            kept.status, kept.reason.encode("latin-1"), kept.headers, kept.ours, kept.body
        )
        ours = [field for field in kept.ours if field[0] != b"Autopay-Remaining"]  # of back then
        return Replayed(whole, [*ours, (b"Autopay-Replayed", b"true")])

    # --- the same bytes once more

    async def _encore(self, deal: Deal, payment_id: UUID) -> Replayed | Problem | Encore | None:
        left = await self._ledger.left(payment_id)
        if left is None or left.status == "FAILED":
            return None
        again = self._as_it_left(deal, left)
        wait = _wait(left, deal.provider)
        if again is None or not (again.landed or await self._can_land(left)):
            return wait
        try:
            begun = await self._ledger.begin_presenting(payment_id, INSTANCE)
        except LedgerUnavailable as error:
            if error.may_have_happened:
                await self.ended(again, success=False, why="not sent: the ledger did not answer")
            raise
        if begun == "ok":
            reached("present.before")
            return again
        if begun in ("busy", "exhausted"):
            return wait
        return await self.meet(deal, Prior(begun, payment_id))  # it has ended meanwhile

    def _as_it_left(self, deal: Deal, left: Left) -> Encore | None:
        """To the same origin only, and only while the provider still asks for that very payment."""
        if left.header is None or left.provider != deal.provider:
            return None
        name, _, value = left.header.partition(": ")
        for index, offer in enumerate(deal.challenge.offers):
            if (offer.version, offer.network, offer.asset.address, offer.amount, offer.pay_to) == (
                left.x402_version,
                left.network,
                left.asset,
                left.amount,
                left.pay_to,
            ):
                same = Deal(
                    deal.meeting, deal.policy_version, deal.challenge, index, share=deal.share
                )
                return Encore(same, left, (name.encode(), value.encode()))
        return None

    async def _can_land(self, left: Left) -> bool:
        chain = self._chains.get(left.network)
        if chain is None or left.last_valid_block_height is None:
            return False
        try:
            return await chain.can_land(left.last_valid_block_height)
        except Unpayable as error:
            log.warning("payment %s is not sent again: %s", left.id, error)
            return False


async def _request(meeting: Meeting) -> Request | None:
    key = await _key(meeting)
    return None if key is None else (meeting.agent.id, key)


async def _key(meeting: Meeting) -> bytes | None:
    purchase = meeting.purchase
    return request_key(purchase.method, purchase.url, await purchase.body_sha256())


def _wait(left: Left, provider: str) -> Problem:
    if left.status == "SIGNED":
        return refusals.still_in_doubt(left.id, provider)
    return refusals.already_paid(left.id, provider)
