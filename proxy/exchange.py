"""The story of one payment, top to bottom.

A program asked, the provider said 402. What does it want; may this agent; sign; reserve; send;
what came of it; write it down. Everything before the send (`proxy/agreement.py`) can be taken back.
Nothing after it can: from then on money is freed by proof alone, and there is no second signature,
whatever the answer.
"""

import asyncio
import logging
import time
from datetime import UTC, datetime
from functools import partial

from policies import format_usd
from proxy import refusals
from proxy.again import Again
from proxy.agreement import Agreement, asked_for
from proxy.crashpoints import reached
from proxy.deal import Commitment, Deal, Encore, Payment
from proxy.entries import Meeting, receipt, shortfall
from proxy.expectation import NOTHING_EXPECTED, Expectations, together
from proxy.ledger import (
    Agent,
    Ledger,
)
from proxy.ledger import Delivery as DeliveryRow
from proxy.ledger.history import MEMO_REFUSED
from proxy.metrics import Counts
from proxy.providers import Providers
from proxy.wire.content import decoded
from proxy.wire.gate import (
    Bought,
    Delivery,
    Expects,
    Keep,
    Lost,
    NotSent,
    Paid,
    PaidAnswer,
    PassThrough,
    PaymentRequired,
    Purchase,
    Replayed,
    Reply,
)
from proxy.wire.problem import Problem
from proxy.x402 import (
    PAYMENT_HEADERS,
    Challenge,
    Fate,
    NotPayable,
    Offer,
    Outcome,
    read_challenge,
    read_outcome,
)

log = logging.getLogger(__name__)

BODY_BYTES = 64 * 1024


class Exchange:
    """Pays, one request at a time; any number of them at once."""

    def __init__(
        self,
        agreement: Agreement,
        providers: Providers,
        ledger: Ledger,
        counts: Counts,
        again: Again,
        *,
        expectations: Expectations = NOTHING_EXPECTED,
    ) -> None:
        self._agreement = agreement
        self._providers = providers
        self._ledger = ledger
        self._counts = counts
        self._again = again
        self._expectations = expectations

    async def pay(self, purchase: Purchase, challenge: PaymentRequired) -> Reply:
        """What the program gets for its 402: the paid answer, a refusal, or the 402 itself."""
        # What is asked?
        agent = purchase.agent
        assert isinstance(agent, Agent), "the directory hands out the agents"
        meeting = Meeting.of(purchase, agent, challenge)
        try:
            asked = self._read(purchase, challenge)
        except NotPayable as error:
            return await self._not_payable(meeting, error)

        # May this agent? Then sign, and hold the money; or know the payment that the same request
        # has made before.
        committed = await self._agreement.reach(meeting, asked)
        if isinstance(committed, Replayed | Problem):
            return committed

        # Send. What the program is told of it, it may act upon: from then on nobody waits for it.
        try:
            reply = await self._buy(committed)
        except BaseException:
            self._again.awaited.end(committed.id)
            raise
        if not isinstance(reply, Paid):
            self._again.awaited.end(committed.id)
        return reply

    async def _buy(self, committed: Payment) -> Paid | Problem:
        """Send, and see what comes of it. This is where money can move."""
        committed.deal.put_down(committed.id)
        sent_at = time.monotonic()
        try:
            answer = await self._send(committed)
        except NotSent as error:
            if isinstance(committed, Encore):
                return await self._in_vain(committed, "connect_failed", str(error))
            return await self._take_back(committed, error)
        except Lost as error:
            return await self._doubt(committed, "answer_lost", str(error))

        # What came of it?
        reached("answer.head")
        latency_ms = round((time.monotonic() - sent_at) * 1000)
        said = await answer.read(BODY_BYTES) if answer.status == 402 else b""
        outcome = read_outcome(
            answer.status, answer.headers, decoded(answer.headers, said, BODY_BYTES)
        )
        if outcome.fate is Fate.PAID:
            return self._paid(committed, answer, outcome, latency_ms)
        if answer.status == 402:
            # A bare 402 would make the program pay again.
            return await self._asked_again(committed, answer, outcome)
        return await self._unsettled(committed, answer, outcome)

    # --- before the send

    def _read(self, purchase: Purchase, challenge: PaymentRequired) -> Challenge:
        if any(name.lower() in PAYMENT_HEADERS for name, _ in purchase.raw_headers):
            raise NotPayable("own_payment", "the program brought a payment of its own")
        body = decoded(challenge.headers, challenge.body, BODY_BYTES)
        asked = read_challenge(challenge.headers, body)
        if not purchase.replayable:
            raise NotPayable("body_too_large", "the request's body was too large to be kept")
        return asked

    async def _not_payable(self, meeting: Meeting, error: NotPayable) -> PassThrough:
        meeting.purchase.ticket.neutral()
        self._counts.decisions.add("deny", "not_payable")
        await self._ledger.note_decision(
            meeting.denial("not_payable", error.code, met=meeting.met())
        )
        if error.code == "body_too_large":
            return PassThrough([(b"Autopay-Unpaid", b"body_too_large")])
        return PassThrough()

    # --- the send, and after it

    async def _send(self, committed: Payment) -> PaidAnswer:
        reached("reserve.after")
        deal = committed.deal
        deal.purchase.payment_id = committed.id
        if isinstance(committed, Commitment):  # any other payment has left, and was counted, before
            deal.purchase.ticket.costs(deal.offer.price)
        if deal.purchase.gone:
            raise NotSent("the program hung up")
        return await deal.purchase.attempt(committed.header)

    async def _take_back(self, committed: Commitment, error: NotSent) -> Problem:
        """No byte left: the one case in which money is freed without asking the chain."""
        deal = committed.deal
        self._agreement.discard(committed)
        self._counts.payments.add("released", "never_sent")
        deal.put_down(None)
        if not await self._ledger.release(committed.id, "never_sent"):
            self._again.awaited.unsent(committed.id)
        if deal.purchase.gone:
            deal.purchase.ticket.neutral()
            return refusals.nobody_waits(committed.id, deal.provider)
        if error.theirs:
            deal.purchase.ticket.failure(str(error))
        else:
            deal.purchase.ticket.neutral()
        return refusals.not_sent(committed.id, deal.provider, str(error))

    async def _in_vain(self, encore: Encore, code: str, why: str, reason: str = "") -> Problem:
        """The same bytes were sent again, and nothing is known that was not known before."""
        deal = encore.deal
        # A provider that refuses what it has settled already is no worse for it.
        deal.purchase.ticket.neutral()
        self._counts.payments.add("in_doubt", code)
        last = encore.landed and code == "asked_again"
        await self._again.ended(encore, success=False, code=code, why=reason or why, last=last)
        if encore.landed:
            return refusals.already_paid(encore.id, deal.provider)
        return refusals.asked_again_in_vain(encore.id, deal.provider, why, reason)

    async def _doubt(self, committed: Payment, code: str, why: str, reason: str = "") -> Problem:
        """`code` is ours, `reason` the seller's."""
        deal = committed.deal
        if isinstance(committed, Encore):
            return await self._in_vain(committed, code, why, reason)
        deal.purchase.ticket.failure(why)
        self._counts.payments.add("in_doubt", code)
        if not await self._ledger.doubt(committed.id, code, detail=reason or why):
            await self._again.unwritten(deal.meeting, committed.id)
        return refusals.in_doubt(committed.id, deal.provider, deal.offer.price, why, reason)

    async def _asked_again(
        self, committed: Payment, answer: PaidAnswer, outcome: Outcome
    ) -> Problem:
        answer.close()
        provider = committed.deal.provider
        if isinstance(committed, Encore):
            return await self._in_vain(
                committed, "asked_again", "it answered 402 again", outcome.reason
            )
        if outcome.wants_no_memo:
            self._agreement.no_memo(provider)
        code = MEMO_REFUSED if outcome.wants_no_memo else "asked_again"
        return await self._doubt(committed, code, "it answered 402 again", outcome.reason)

    async def _unsettled(self, committed: Payment, answer: PaidAnswer, outcome: Outcome) -> Paid:
        """An answer that is no 402 and claims no settlement, mostly an error of the provider. The
        program gets it, and is told that the money is held."""
        ticket = committed.deal.purchase.ticket
        if answer.status >= 500:
            ticket.failure(f"answered {answer.status} to a paid request", status=answer.status)
        else:
            ticket.neutral()
        self._counts.payments.add("in_doubt", "not_settled")
        state = b"in_doubt"
        if isinstance(committed, Encore):
            await self._again.ended(
                committed, success=False, code="not_settled", why=outcome.reason
            )
            state = b"paid" if committed.landed else state
        else:
            written = await self._ledger.doubt(
                committed.id, "not_settled", detail=outcome.reason, http_status=answer.status
            )
            if not written:
                await self._again.unwritten(committed.deal.meeting, committed.id)
        headers = [*_payment_headers(committed, outcome), (b"Autopay-State", state)]
        self._again.awaited.end(committed.id)

        async def finish(delivery: Delivery) -> None:
            await self._ledger.deliver(self._delivered(committed, outcome, delivery))

        return Paid(answer, headers, finish)

    def _paid(
        self, committed: Payment, answer: PaidAnswer, outcome: Outcome, latency_ms: int
    ) -> Paid:
        """Settled, or served: booked at once, while the body is still on its way. What is settled
        is said, whatever the status code."""
        ticket = committed.deal.purchase.ticket
        good = answer.status < 400
        if good:
            ticket.success(latency_ms=latency_ms, status=answer.status)
        else:
            error = f"took a payment and answered {answer.status}"
            ticket.failure(error, status=answer.status, paid=True)
        deal = committed.deal
        deal.put_down(committed.id, paid=True)
        self._counts.paid(
            deal.meeting.agent.name, deal.provider, deal.offer.asset.symbol, deal.offer.price
        )
        booked = receipt(answer.status, outcome, latency_ms)

        async def book() -> bool:
            # If its program has gone by then, others must not find it booked and nothing else.
            written = await self._ledger.settle(
                committed.id, booked, coming=partial(self._again.promised, deal.meeting)
            )
            if isinstance(committed, Encore):  # not before: others would find it in doubt
                await self._again.ended(committed, success=True)
            return written

        settled = asyncio.ensure_future(book())

        async def finish(delivery: Delivery) -> None:
            self._weigh(deal, delivery)
            if await settled:
                self._again.awaited.end(committed.id)
            elif delivery.complete and not deal.purchase.gone:
                self._again.awaited.delivered(committed.id)
            else:
                await self._again.unwritten(deal.meeting, committed.id)
                self._again.awaited.end(committed.id)
            reached("settle.after")
            await self._ledger.deliver(self._delivered(committed, outcome, delivery))

        headers = [*_payment_headers(committed, outcome), (b"Autopay-State", b"paid")]
        terms, meeting = self._again.terms, deal.meeting
        keep = Keep(
            terms.keep_bytes,
            terms.keep_seconds,
            always=deal.purchase.idempotency_key is not None or deal.share,
            promise=partial(self._again.promise, meeting, committed.id),
            save=partial(self._again.keep, meeting, committed.id),
        )
        bought = Bought(
            committed.id,
            deal.offer.price,
            _amount(deal.offer),
            asked_for(deal.purchase, deal.offer, datetime.now(UTC)),
        )
        return Paid(answer, headers, finish, keep, bought, self._expected(deal.purchase))

    def _expected(self, purchase: Purchase) -> Expects | None:
        errand = purchase.errand
        return together(
            self._expectations.of(purchase.origin.key, purchase.path),
            None if errand is None else errand.expectation,
        )

    def _weigh(self, deal: Deal, delivery: Delivery) -> None:
        """Whether what came is what was paid for, as breaker and metrics hear of it; the books do
        from its row."""
        short = shortfall(delivery)
        if short is None:
            return
        self._counts.lost(deal.meeting.agent.name, deal.provider, deal.offer.price, reason=short)
        words = "broke off" if short == "cut_off" else "what came is not what was paid for"
        deal.purchase.ticket.failure(
            f"took a payment, and {words}: {delivery.error}", status=delivery.status, paid=True
        )

    def _delivered(self, committed: Payment, outcome: Outcome, delivery: Delivery) -> DeliveryRow:
        deal = committed.deal
        score = self._providers.score(deal.provider, deal.meeting.offered)
        return deal.meeting.delivery(committed.id, deal.offer, outcome, delivery, score)


def _amount(offer: Offer) -> bytes:
    return f"{offer.asset.format(offer.amount)} {offer.asset.symbol}".encode()


def _payment_headers(committed: Payment, outcome: Outcome) -> list[tuple[bytes, bytes]]:
    """What the program may read about the payment: our own words, or a transaction's shape."""
    offer = committed.deal.offer
    headers = [
        (b"Autopay-Payment", str(committed.id).encode()),
        (b"Autopay-Amount", _amount(offer)),
    ]
    if isinstance(committed, Commitment):
        remaining = format_usd(committed.reserved.remaining)
        headers.append((b"Autopay-Remaining", f"{remaining} USD".encode()))
    transaction = outcome.settlement.transaction if outcome.settlement else ""
    if transaction.isalnum() and transaction.isascii():
        headers.append((b"Autopay-Transaction", transaction.encode()))
    return headers
