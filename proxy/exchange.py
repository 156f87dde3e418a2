"""The story of one payment, top to bottom.

A program asked, the provider said 402. What does it want; may this agent; sign; reserve; send;
what came of it; write it down. Everything before the send can be taken back. Nothing after it can:
from then on money is freed by proof alone, and there is no second signature, whatever the answer.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import partial
from uuid import UUID

from cachetools import TTLCache

from policies import Ask, Verdict, format_usd, ledger_rules
from proxy import refusals
from proxy.again import Again
from proxy.chains import Authorization, Chain, Unpayable
from proxy.choosing import SIGNED_SCHEME, choice_of
from proxy.consent import Consent
from proxy.crashpoints import reached
from proxy.deal import Commitment, Deal, Encore, Payment
from proxy.entries import Meeting, receipt, shortfall
from proxy.expectation import NOTHING_EXPECTED, Expectations, together
from proxy.ledger import (
    Agent,
    DecisionRow,
    Directory,
    Ledger,
    LedgerError,
    Prior,
    Refused,
    Reserved,
    new_id,
)
from proxy.ledger import Delivery as DeliveryRow
from proxy.ledger.agent_keys import AgentCipher
from proxy.ledger.history import MEMO_REFUSED
from proxy.metrics import Counts
from proxy.providers import Providers
from proxy.urls import shown_url
from proxy.vault import VaultError
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
    payment_header,
    read_challenge,
    read_outcome,
    takes_identifier,
)

log = logging.getLogger(__name__)

BODY_BYTES = 64 * 1024
MEMO_LESS_SECONDS = 30 * 24 * 3600
FRESH_BLOCKHASHES = 4
ROW_SECONDS = 1.0
POLICY_SECONDS = 5.0  # for policies that are changed while they are asked
ROUNDS = 4  # with payments from before that come to nothing


class Exchange:
    """Pays, one request at a time; any number of them at once."""

    def __init__(
        self,
        directory: Directory,
        providers: Providers,
        ledger: Ledger,
        chains: Mapping[str, Chain],
        counts: Counts,
        cipher: AgentCipher,
        again: Again,
        consent: Consent,
        *,
        memo_less: Iterable[str] = (),
        expectations: Expectations = NOTHING_EXPECTED,
    ) -> None:
        """`chains` by CAIP-2 id. `memo_less`: keys of providers whose facilitators refuse memos."""
        self._directory = directory
        self._providers = providers
        self._ledger = ledger
        self._chains = chains
        self._counts = counts
        self._cipher = cipher
        self._again = again
        self._consent = consent
        self._expectations = expectations
        self._memo_less: TTLCache[str, bool] = TTLCache(10_000, MEMO_LESS_SECONDS)
        for provider in memo_less:
            self._memo_less[provider] = True

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

        # May this agent? Then sign, here in the process, and take the money from the budgets, on
        # disk. Not if the same request was paid for before: then its payment is all there is, as
        # it left or as it ended.
        committed = await self._agree(meeting, asked)
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

    async def _agree(  # noqa: PLR0911 - each way out of the story is told where it leaves
        self, meeting: Meeting, asked: Challenge
    ) -> Payment | Replayed | Problem:
        """A payment that may leave, or what the program gets instead. The very offer that is
        decided on is the one that is signed, and the money is held under the very version of the
        policies that it was decided by: if they were changed in between, it is decided again."""
        until, waited = time.monotonic() + POLICY_SECONDS, False
        while True:
            deal, verdict = self._decide(meeting, asked)
            if not verdict.allowed:
                await self._deny(deal, verdict.code, verdict.detail, verdict.limit)
                return refusals.denied(verdict, deal.offer.price, deal.provider)
            try:
                entered = await self._enter(deal)
            except Unpayable as error:
                await self._deny(deal, error.code, error.detail, None)
                return refusals.unpayable(error, deal.provider)
            except LedgerError as error:
                # Its row is written as soon as there is a ledger again.
                await self._deny(deal, "ledger_unavailable", str(error), None)
                return refusals.ledger_unavailable(deal.provider)
            if isinstance(entered, Replayed | Problem):
                return self._stayed(deal, entered)
            if not isinstance(entered, Refused):
                return entered
            if entered.code == "policy_changed":
                if await self._directory.fresh(deal.policy_version + 1, until - time.monotonic()):
                    continue
                await self._deny(deal, entered.code, "the policies go on changing", None)
                return refusals.policies_changing(deal.provider)
            refused: Refused | None = entered
            if not waited:
                refused = await self._consent.refusal(entered, deal.rules, deal.purchase)
            if refused is not None:
                return self._stayed(deal, refused)
            waited = True
            until = time.monotonic() + POLICY_SECONDS

    def _decide(self, meeting: Meeting, asked: Challenge) -> tuple[Deal, Verdict]:
        purchase, agent = meeting.purchase, meeting.agent
        policy = self._directory.policy_at(agent, purchase.origin)
        now = datetime.now(UTC)
        asks = [_ask(purchase, offer, now) for offer in asked.offers]
        choice = choice_of(policy, asks, purchase.errand)
        self._providers.quoted(purchase.origin.key, asks[choice.index].price, meeting.offered)
        shadow = self._directory.shadow_at(agent, purchase.origin)
        deal = Deal(
            meeting,
            policy.version,
            asked,
            choice.index,
            policy.wallet,
            rules=ledger_rules(policy, choice.verdict),
            left=dict(choice.left),
            shadow_reason=None if shadow is None else _reason(choice_of(shadow, asks).verdict),
        )
        return deal, choice.verdict

    async def _enter(self, deal: Deal) -> Payment | Refused | Replayed | Problem:
        """A payment that may leave: a new one, or one that had left before for the same request.
        Raises Unpayable, LedgerError."""
        for _ in range(ROUNDS):
            entered = await self._commit_once(deal)
            if not isinstance(entered, Prior):
                return entered
            met = await self._again.meet(deal, entered)
            if met is not None:
                return met
            last = entered.payment_id
        return refusals.request_in_progress(last, deal.provider)

    async def _commit_once(self, deal: Deal) -> Commitment | Refused | Prior:
        """What was committed or refused; or what the same request did before."""
        meeting = deal.meeting
        async with self._again.turn(meeting):
            waiting = await self._again.waits(meeting)
            if waiting is not None:
                return waiting
            if deal.purchase.idempotency_key is not None:
                # Before anything is signed: it may well be the wallet's last money that it cost.
                prior = await self._again.prior(meeting)
                if prior is not None:
                    return prior
            try:
                committed = await self._commit(deal)
                if isinstance(committed, Refused) and committed.code == "request_elsewhere":
                    assert committed.joined is not None, "it says which one"
                    sent_before = await self._again.elsewhere(meeting, committed.joined)
                    if sent_before is not None:
                        return sent_before
                    committed = await self._commit(deal, beside=True)
            except Unpayable:
                prior = await self._again.prior(meeting)
                if prior is None:
                    raise
                return prior
        if isinstance(committed, Refused) and committed.joined is not None:
            return Prior(committed.code, committed.joined)
        return committed

    def _stayed(self, deal: Deal, met: Replayed | Problem | Refused) -> Replayed | Problem:
        """Nothing leaves for this request."""
        deal.purchase.ticket.neutral()
        if isinstance(met, Refused):
            self._counts.denied(met.code)
            return refusals.over_budget(met, deal.provider)
        if isinstance(met, Problem):
            self._counts.denied(met.code)
            if met.code in ("payment_in_doubt", "request_in_progress"):
                deal.put_down(UUID(met.extra["payment"]))
        return met

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
        await self._recorded(meeting.denial("not_payable", error.code, met=meeting.met()))
        if error.code == "body_too_large":
            return PassThrough([(b"Autopay-Unpaid", b"body_too_large")])
        return PassThrough()

    async def _deny(self, deal: Deal, code: str, detail: str, limit: int | None) -> None:
        deal.purchase.ticket.neutral()
        self._counts.denied(code)
        await self._recorded(
            deal.meeting.denial(
                code,
                detail,
                met=deal.met(),
                price=deal.offer.price,
                limit=limit,
                policy_version=deal.policy_version,
                shadow_reason=deal.shadow_reason,
            )
        )

    async def _recorded(self, row: DecisionRow) -> None:
        """Write a row, waiting a moment at most: traffic that is not paid for does not depend on
        the database, and the ledger goes on trying by itself."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ROW_SECONDS):
                await self._ledger.record_decision(row)

    async def _commit(self, deal: Deal, *, beside: bool = False) -> Commitment | Refused:
        """Sign and reserve. Two equal payments without a memo under one blockhash would be one
        transaction: the ledger refuses the second, which is then signed under a newer hash.
        `beside`: whether open payments for the same are known to be others' purchases."""
        if deal.offer.scheme != SIGNED_SCHEME:
            raise Unpayable(
                "scheme_not_supported",
                f"The scheme {deal.offer.scheme} is allowed by the policy, and cannot be signed"
                f" here: only {SIGNED_SCHEME} can.",
            )
        chain = self._chains.get(deal.offer.network)
        if chain is None:
            raise Unpayable(
                "network_not_configured",
                f"The provider wants to be paid on {deal.offer.network}, which has no RPC in the"
                " settings ([networks]).",
            )
        with_memo = deal.offer.version != 1 or deal.provider not in self._memo_less
        fresh_after = None
        for _ in range(FRESH_BLOCKHASHES):
            authorization = await chain.prepare(
                deal.offer, wallet=deal.wallet, with_memo=with_memo, fresh_after=fresh_after
            )
            payment_id = new_id()
            header = payment_header(
                deal.challenge,
                deal.offer,
                authorization.payload,
                payment_id=f"pay_{payment_id.hex}",
            )
            reserved: Reserved | Refused | None = None
            await self._again.begin(deal.meeting, payment_id)
            try:
                reserved = await self._reserve(deal, payment_id, authorization, header, beside)
            finally:
                if not isinstance(reserved, Reserved):
                    chain.discard(authorization)
                    self._again.awaited.end(payment_id)
            if isinstance(reserved, Reserved):
                self._counts.decisions.add("allow", "ok")
                return Commitment(deal, payment_id, header, authorization, reserved)
            if reserved.code != "duplicate_message":
                return reserved
            fresh_after = authorization.blockhash
        raise Unpayable(
            "blockhash_in_use", "Other payments of the same amount are under way.", retry_after=1
        )

    async def _reserve(
        self,
        deal: Deal,
        payment_id: UUID,
        authorization: Authorization,
        header: tuple[bytes, bytes],
        beside: bool,
    ) -> Reserved | Refused:
        meeting, terms = deal.meeting, self._again.terms
        reached("reserve.before")
        return await self._ledger.reserve(
            meeting.reservation(
                payment_id,
                deal.offer,
                authorization,
                deal.met(),
                await deal.purchase.body_sha256(),
                await self._sealed_url(meeting),
                header=header,
                identified=takes_identifier(deal.challenge, deal.offer),
                key_seconds=terms.idempotency_seconds,
                share=terms.share_identical,
                beside=beside,
                policy_version=deal.policy_version,
                rules=deal.rules,
                shadow_reason=deal.shadow_reason,
            )
        )

    async def _sealed_url(self, meeting: Meeting) -> bytes | None:
        """The URL where it says more than the endpoint does, so that only the agent's own key can
        show it."""
        url = shown_url(meeting.purchase.url)
        if url == meeting.endpoint:
            return None
        try:
            return await self._cipher.seal_for(meeting.agent.id, url)
        except VaultError as error:
            log.error("a URL is not kept with its payment: %s", error)
            return None

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
        self._chains[deal.offer.network].discard(committed.authorization)
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
            self._memo_less[provider] = True
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
            written = await self._ledger.settle(committed.id, booked)
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
            always=deal.purchase.idempotency_key is not None or terms.share_identical,
            save=partial(self._again.keep, meeting, committed.id),
        )
        bought = Bought(
            committed.id,
            deal.offer.price,
            _amount(deal.offer),
            _ask(deal.purchase, deal.offer, datetime.now(UTC)),
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


def _reason(verdict: Verdict) -> str:
    return "approval_required" if verdict.approval else verdict.code


def _ask(purchase: Purchase, offer: Offer, now: datetime) -> Ask:
    return Ask(
        method=purchase.method,
        scheme=purchase.origin.scheme,
        host=purchase.origin.host,
        port=purchase.origin.port,
        path=purchase.path,
        pay_to=offer.pay_to,
        asset=offer.asset.address,
        symbol=offer.asset.symbol,
        network=offer.network,
        price=offer.price,
        scheme_x402=offer.scheme,
        flow=offer.payment_flow,
        max_timeout_seconds=offer.timeout_asked,
        at=now,
    )


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
