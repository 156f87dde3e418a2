"""Whether a payment may leave for what a program asked: decided, signed, and its money held.

May this agent? Then sign, here in the process, and take the money from the budgets, on disk. Not if
the same request was paid for before: then its payment is all there is, as it left or as it ended.
Nothing has left when this is done; what came of what left is told in `proxy/exchange.py`.
"""

import logging
import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from uuid import UUID

from cachetools import TTLCache

from policies import Ask, Verdict, ledger_rules
from proxy import refusals
from proxy.again import Again
from proxy.chains import Authorization, Chain, Unpayable
from proxy.choosing import SIGNED_SCHEME, choice_of
from proxy.consent import Consent
from proxy.crashpoints import reached
from proxy.deal import Commitment, Deal, Payment
from proxy.entries import Meeting
from proxy.ledger import Directory, Ledger, LedgerError, Prior, Refused, Reserved, new_id
from proxy.ledger.agent_keys import AgentCipher
from proxy.metrics import Counts
from proxy.providers import Providers
from proxy.urls import shown_url
from proxy.vault import VaultError
from proxy.wire.gate import Purchase, Replayed
from proxy.wire.problem import Problem
from proxy.x402 import Challenge, Offer, payment_header, takes_identifier

log = logging.getLogger(__name__)

MEMO_LESS_SECONDS = 30 * 24 * 3600
FRESH_BLOCKHASHES = 4
POLICY_SECONDS = 5.0  # for policies that are changed while they are asked
ROUNDS = 4  # with payments from before that come to nothing


class Agreement:
    """Any number of requests at once."""

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
        self._memo_less: TTLCache[str, bool] = TTLCache(10_000, MEMO_LESS_SECONDS)
        for provider in memo_less:
            self.no_memo(provider)

    def no_memo(self, provider: str) -> None:
        """It has said that its facilitator refuses memos."""
        self._memo_less[provider] = True

    def discard(self, committed: Commitment) -> None:
        """It never left: what it was signed with is free for another one."""
        self._chains[committed.deal.offer.network].discard(committed.authorization)

    async def reach(  # noqa: PLR0911 - each way out of the story is told where it leaves
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
        asks = [asked_for(purchase, offer, now) for offer in asked.offers]
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
            share=policy.share_identical,
            shadow_reason=None if shadow is None else _reason(choice_of(shadow, asks).verdict),
        )
        return deal, choice.verdict

    async def _enter(self, deal: Deal) -> Payment | Refused | Replayed | Problem:
        """A payment that may leave: a new one, or one that had left before for the same request.
        Raises Unpayable, LedgerError."""
        share = deal.share
        for _ in range(ROUNDS):
            entered = await self._commit_once(deal, share)
            if not isinstance(entered, Prior):
                return entered
            met = await self._again.meet(deal, entered)
            if met is not None:
                return met
            last = entered.payment_id
            share = False  # it has waited for an answer that is not for it: never again
        return refusals.request_in_progress(last, deal.provider)

    async def _commit_once(self, deal: Deal, share: bool) -> Commitment | Refused | Prior:
        """What was committed or refused; or what the same request did before."""
        meeting = deal.meeting
        async with self._again.turn(meeting):
            waiting = await self._again.waits(meeting)
            if waiting is not None:
                return waiting
            if deal.purchase.idempotency_key is not None:
                # Before anything is signed: it may well be the wallet's last money that it cost.
                prior = await self._again.prior(meeting, share=share)
                if prior is not None:
                    return prior
            try:
                committed = await self._commit(deal, share)
                if isinstance(committed, Refused) and committed.code == "request_elsewhere":
                    assert committed.joined is not None, "it says which one"
                    sent_before = await self._again.elsewhere(meeting, committed.joined)
                    if sent_before is not None:
                        return sent_before
                    committed = await self._commit(deal, share, beside=True)
            except Unpayable:
                prior = await self._again.prior(meeting, share=share)
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

    async def _deny(self, deal: Deal, code: str, detail: str, limit: int | None) -> None:
        deal.purchase.ticket.neutral()
        self._counts.denied(code)
        await self._ledger.note_decision(
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

    async def _commit(
        self, deal: Deal, share: bool, *, beside: bool = False
    ) -> Commitment | Refused:
        """Sign and reserve. Two equal payments without a memo under one blockhash would be one
        transaction: the ledger refuses the second, which is then signed under a newer hash.
        `share`: whether it may have the answer of an equal one that is under way instead; `beside`:
        whether open payments for the same are known to be others' purchases."""
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
                reserved = await self._reserve(
                    deal, payment_id, authorization, header, share=share, beside=beside
                )
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
        *,
        share: bool,
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
                share=share,
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


def asked_for(purchase: Purchase, offer: Offer, now: datetime) -> Ask:
    """What the policy is asked."""
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


def _reason(verdict: Verdict) -> str:
    return "approval_required" if verdict.approval else verdict.code
