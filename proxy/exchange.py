"""The story of one payment, top to bottom.

A program asked, the provider said 402. What does it want; may this agent; sign; reserve; send;
what came of it; write it down. Everything before the send can be taken back. Nothing after it can:
from then on money is freed by proof alone, and there is no second signature, whatever the answer.
"""

import asyncio
import contextlib
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from uuid import UUID

from cachetools import TTLCache

from policies import Ask, choose, format_usd
from proxy import refusals
from proxy.chains import Authorization, Chain, Unpayable
from proxy.ledger import (
    Agent,
    DecisionRow,
    Directory,
    Ledger,
    LedgerError,
    Refused,
    Reservation,
    Reserved,
    SettledReceipt,
    new_id,
)
from proxy.ledger import Delivery as DeliveryRow
from proxy.ledger.history import MEMO_REFUSED
from proxy.providers import Providers
from proxy.urls import shown_url
from proxy.wire.content import decoded
from proxy.wire.gate import (
    Delivery,
    Lost,
    NotSent,
    Paid,
    PaidAnswer,
    PassThrough,
    PaymentRequired,
    Purchase,
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
)

BODY_BYTES = 64 * 1024
MEMO_LESS_SECONDS = 30 * 24 * 3600
FRESH_BLOCKHASHES = 4
ROW_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Deal:
    """What is to be bought: one offer of one challenge, met by one request of one agent."""

    purchase: Purchase
    agent: Agent
    policy_version: int
    challenge: Challenge
    offer: Offer

    @property
    def provider(self) -> str:
        return self.purchase.origin.key


@dataclass(frozen=True, slots=True)
class Commitment:
    """A deal with its money held and its authorization signed: the payment may leave."""

    deal: Deal
    id: UUID
    authorization: Authorization
    reserved: Reserved


class Exchange:
    """Pays, one request at a time; any number of them at once."""

    def __init__(
        self,
        directory: Directory,
        providers: Providers,
        ledger: Ledger,
        chains: Mapping[str, Chain],
        *,
        memo_less: Iterable[str] = (),
    ) -> None:
        """`chains` by CAIP-2 id. `memo_less`: keys of providers whose facilitators refuse memos."""
        self._directory = directory
        self._providers = providers
        self._ledger = ledger
        self._chains = chains
        self._memo_less: TTLCache[str, bool] = TTLCache(10_000, MEMO_LESS_SECONDS)
        for provider in memo_less:
            self._memo_less[provider] = True

    async def pay(  # noqa: PLR0911 - each way out of the story is told where it leaves
        self, purchase: Purchase, challenge: PaymentRequired
    ) -> Reply:
        """What the program gets for its 402: the paid answer, a refusal, or the 402 itself."""
        # What is asked?
        agent = purchase.agent
        assert isinstance(agent, Agent), "the directory hands out the agents"
        try:
            asked = self._read(purchase, challenge)
        except NotPayable as error:
            return await self._not_payable(purchase, agent, error)

        # May this agent? The very offer that is decided on is the one that is signed.
        policy = self._directory.policy(agent)
        asks = [_ask(purchase, offer) for offer in asked.offers]
        index, verdict = choose(policy, asks)
        self._providers.quoted(purchase.origin.key, asks[index].price)
        deal = Deal(purchase, agent, policy.version, asked, asked.offers[index])
        if not verdict.allowed:
            await self._deny(deal, verdict.code, verdict.detail, verdict.limit)
            return refusals.denied(verdict, asks[index], deal.provider)

        # Sign, here in the process, and take the money from the budgets, on disk.
        try:
            committed = await self._commit(deal)
        except Unpayable as error:
            await self._deny(deal, error.code, error.detail, None)
            return refusals.unpayable(error, deal.provider)
        except LedgerError:
            purchase.ticket.neutral()
            return refusals.ledger_unavailable(deal.provider)
        if isinstance(committed, Refused):
            purchase.ticket.neutral()
            return refusals.over_budget(committed, deal.provider)

        # Send. This is where money can move.
        sent_at = time.monotonic()
        try:
            answer = await self._send(committed)
        except NotSent as error:
            return await self._take_back(committed, str(error))
        except Lost as error:
            return await self._doubt(committed, "answer_lost", str(error))

        # What came of it?
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

    async def _not_payable(
        self, purchase: Purchase, agent: Agent, error: NotPayable
    ) -> PassThrough:
        purchase.ticket.neutral()
        await self._recorded(
            DecisionRow(
                agent_id=agent.id,
                method=purchase.method,
                endpoint=shown_url(purchase.url),
                reason="not_payable",
                detail=error.code,
                session_id=purchase.session,
                trace_id=purchase.trace,
            )
        )
        if error.code == "body_too_large":
            return PassThrough([(b"Autopay-Unpaid", b"body_too_large")])
        return PassThrough()

    async def _deny(self, deal: Deal, code: str, detail: str, limit: int | None) -> None:
        purchase = deal.purchase
        purchase.ticket.neutral()
        await self._recorded(
            DecisionRow(
                agent_id=deal.agent.id,
                method=purchase.method,
                endpoint=shown_url(purchase.url),
                reason=code,
                detail=detail,
                price=deal.offer.price,
                limit=limit,
                policy_version=deal.policy_version,
                session_id=purchase.session,
                trace_id=purchase.trace,
            )
        )

    async def _recorded(self, row: DecisionRow) -> None:
        """Write a row, waiting a moment at most: traffic that is not paid for does not depend on
        the database, and the ledger goes on trying by itself."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ROW_SECONDS):
                await self._ledger.record_decision(row)

    async def _commit(self, deal: Deal) -> Commitment | Refused:
        """Sign and reserve. Two equal payments without a memo under one blockhash would be one
        transaction: the ledger refuses the second, which is then signed under a newer hash."""
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
                deal.offer, with_memo=with_memo, fresh_after=fresh_after
            )
            payment_id = new_id()
            reserved: Reserved | Refused | None = None
            try:
                reserved = await self._reserve(deal, payment_id, authorization)
            finally:
                if not isinstance(reserved, Reserved):
                    chain.discard(authorization)
            if isinstance(reserved, Reserved):
                return Commitment(deal, payment_id, authorization, reserved)
            if reserved.code != "duplicate_message":
                return reserved
            fresh_after = authorization.blockhash
        raise Unpayable(
            "blockhash_in_use", "Other payments of the same amount are under way.", retry_after=1
        )

    async def _reserve(
        self, deal: Deal, payment_id: UUID, authorization: Authorization
    ) -> Reserved | Refused:
        purchase, offer = deal.purchase, deal.offer
        return await self._ledger.reserve(
            Reservation(
                payment_id=payment_id,
                agent_id=deal.agent.id,
                price=offer.price,
                session_id=purchase.session,
                trace_id=purchase.trace,
                provider=deal.provider,
                method=purchase.method,
                endpoint=shown_url(purchase.url),
                request_body_sha256=None,
                x402_version=offer.version,
                network=authorization.network,
                asset=authorization.asset,
                symbol=offer.asset.symbol,
                amount=authorization.amount,
                pay_to=authorization.pay_to,
                payer=authorization.payer,
                fee_payer=authorization.fee_payer,
                source_account=authorization.source_account,
                destination_account=authorization.destination_account,
                memo=authorization.memo,
                blockhash=authorization.blockhash,
                last_valid_block_height=authorization.last_valid_block_height,
                blockhash_slot=authorization.blockhash_slot,
                client_signature=authorization.client_signature,
                message_sha256=authorization.message_sha256,
                payload=authorization.payload,
            )
        )

    # --- the send, and after it

    async def _send(self, committed: Commitment) -> PaidAnswer:
        deal = committed.deal
        if deal.purchase.gone:
            raise NotSent("the program hung up")
        return await deal.purchase.attempt(
            payment_header(
                deal.challenge,
                deal.offer,
                committed.authorization.payload,
                payment_id=f"pay_{committed.id.hex}",
            )
        )

    async def _take_back(self, committed: Commitment, why: str) -> Problem:
        """No byte left: the one case in which money is freed without asking the chain."""
        deal = committed.deal
        self._chains[deal.offer.network].discard(committed.authorization)
        await self._ledger.release(committed.id, "never_sent")
        if deal.purchase.gone:
            deal.purchase.ticket.neutral()
            return refusals.nobody_waits(committed.id, deal.provider)
        deal.purchase.ticket.failure(why)
        return refusals.not_sent(committed.id, deal.provider, why)

    async def _doubt(self, committed: Commitment, code: str, why: str, reason: str = "") -> Problem:
        """`code` is ours, `reason` the seller's."""
        deal = committed.deal
        deal.purchase.ticket.failure(why)
        await self._ledger.doubt(committed.id, code, detail=reason or why)
        return refusals.in_doubt(committed.id, deal.provider, deal.offer.price, why, reason)

    async def _asked_again(
        self, committed: Commitment, answer: PaidAnswer, outcome: Outcome
    ) -> Problem:
        answer.close()
        provider = committed.deal.provider
        if outcome.wants_no_memo:
            self._memo_less[provider] = True
        code = MEMO_REFUSED if outcome.wants_no_memo else "asked_again"
        return await self._doubt(committed, code, "it answered 402 again", outcome.reason)

    async def _unsettled(self, committed: Commitment, answer: PaidAnswer, outcome: Outcome) -> Paid:
        """An answer that is no 402 and claims no settlement, mostly an error of the provider. The
        program gets it, and is told that the money is held."""
        ticket = committed.deal.purchase.ticket
        if answer.status >= 500:
            ticket.failure(f"answered {answer.status} to a paid request", status=answer.status)
        else:
            ticket.neutral()
        await self._ledger.doubt(
            committed.id, "not_settled", detail=outcome.reason, http_status=answer.status
        )
        headers = [*_payment_headers(committed, outcome), (b"Autopay-State", b"in_doubt")]

        async def finish(delivery: Delivery) -> None:
            await self._ledger.deliver(self._row(committed, outcome, delivery))

        return Paid(answer, headers, finish)

    def _paid(
        self, committed: Commitment, answer: PaidAnswer, outcome: Outcome, latency_ms: int
    ) -> Paid:
        """Settled, or served: booked at once, while the body is still on its way. What is settled
        is said, whatever the status code."""
        ticket = committed.deal.purchase.ticket
        good = answer.status < 400
        if good:
            ticket.success(latency_ms=latency_ms, status=answer.status)
        else:
            ticket.failure(f"took a payment and answered {answer.status}", status=answer.status)
        receipt = _receipt(answer.status, outcome, latency_ms)
        settled = asyncio.ensure_future(self._ledger.settle(committed.id, receipt))

        async def finish(delivery: Delivery) -> None:
            await settled
            await self._ledger.deliver(self._row(committed, outcome, delivery))

        headers = [*_payment_headers(committed, outcome), (b"Autopay-State", b"paid")]
        return Paid(answer, headers, finish)

    def _row(self, committed: Commitment, outcome: Outcome, delivery: Delivery) -> DeliveryRow:
        deal = committed.deal
        paid = outcome.fate is Fate.PAID
        good = paid and delivery.status < 400 and delivery.complete
        return DeliveryRow(
            provider=deal.provider,
            url=shown_url(deal.purchase.url),
            method=deal.purchase.method,
            status=delivery.status,
            response_hash=delivery.sha256,
            latency_ms=delivery.first_byte_ms,
            success=good,
            schema_ok=good,  # no expectation is configured yet: what arrived whole passes
            score=self._providers.score(deal.provider),
            payment_id=committed.id,
            agent_id=deal.agent.id,
            amount=deal.offer.amount if paid else 0,
            transaction=outcome.settlement.transaction if outcome.settlement else "",
            pay_to=deal.offer.pay_to,
            error=delivery.error or ("" if good else outcome.reason or f"status {delivery.status}"),
        )


def _ask(purchase: Purchase, offer: Offer) -> Ask:
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
    )


def _receipt(status: int, outcome: Outcome, latency_ms: int) -> SettledReceipt:
    settlement = outcome.settlement
    if settlement is None:
        return SettledReceipt(
            claimed=False, http_status=status, success=status < 400, latency_ms=latency_ms
        )
    return SettledReceipt(
        claimed=True,
        http_status=status,
        success=status < 400,
        latency_ms=latency_ms,
        transaction=settlement.transaction,
        payer=settlement.payer,
        network=settlement.network,
        amount=settlement.amount,
        response_header=settlement.raw,
        error=settlement.error_reason,
    )


def _payment_headers(committed: Commitment, outcome: Outcome) -> list[tuple[bytes, bytes]]:
    """What the program may read about the payment: our own words, or a transaction's shape."""
    offer = committed.deal.offer
    headers = [
        (b"Autopay-Payment", str(committed.id).encode()),
        (b"Autopay-Amount", f"{offer.asset.format(offer.amount)} {offer.asset.symbol}".encode()),
        (b"Autopay-Remaining", f"{format_usd(committed.reserved.remaining)} USD".encode()),
    ]
    transaction = outcome.settlement.transaction if outcome.settlement else ""
    if transaction.isalnum() and transaction.isascii():
        headers.append((b"Autopay-Transaction", transaction.encode()))
    return headers
