"""What of an exchange goes into the books: rows made of what the data plane, the challenge and the
answer said. Pure, but for the reading of a body's hash."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any
from uuid import UUID

from proxy.capture.headers import kept_headers
from proxy.chains import Authorization
from proxy.chat.endpoint import endpoint_at
from proxy.ledger import Agent, DecisionRow, Delivery, Met402, Reservation, SettledReceipt
from proxy.ledger.ids import new_id
from proxy.urls import shown_url
from proxy.wire.gate import Delivery as Delivered
from proxy.wire.gate import PaymentRequired, Purchase
from proxy.x402 import Challenge, Fate, Offer, Outcome

INSTANCE = new_id()
"""This process. A payment names the one that sent it, so that others know whom not to wait for."""

_URL = re.compile(r"https?://[!-~]{1,240}")


@dataclass(frozen=True, slots=True)
class Meeting:
    """A request that met a 402, as the books know it."""

    purchase: Purchase
    agent: Agent
    headers: Mapping[str, str]  # of the 402: those that may be kept
    id: UUID = field(default_factory=new_id)

    @classmethod
    def of(cls, purchase: Purchase, agent: Agent, challenge: PaymentRequired) -> "Meeting":
        return cls(purchase, agent, kept_headers(challenge.headers))

    @property
    def endpoint(self) -> str:
        """Without the query, which may say who asks: that is kept sealed, beside the payment."""
        return shown_url(self.purchase.url.partition("?")[0])

    @property
    def offered(self) -> str:
        """What is bought, as the provider's scores name it."""
        return f"{self.purchase.method} {self.endpoint}"

    def met(
        self,
        asked: Challenge | None = None,
        chosen: int | None = None,
        left: Mapping[int, str] = MappingProxyType({}),
    ) -> Met402:
        """`left`: why each other offer was not chosen."""
        purchase = self.purchase
        return Met402(
            provider=purchase.origin.key,
            api_type="KNOWLEDGE_DATA" if endpoint_at(purchase.path.encode()) else "MARKET_DATA",
            instructions=None if asked is None else _instructions(asked, chosen, left),
            response_headers=self.headers,
            tool_name=purchase.tool,
            id=self.id,
        )

    def denial(
        self,
        reason: str,
        detail: str,
        *,
        met: Met402,
        price: int = 0,
        limit: int | None = None,
        policy_version: int | None = None,
        shadow_reason: str | None = None,
    ) -> DecisionRow:
        purchase = self.purchase
        return DecisionRow(
            agent_id=self.agent.id,
            method=purchase.method,
            endpoint=self.endpoint,
            reason=reason,
            detail=detail,
            price=price,
            limit=limit,
            policy_version=policy_version,
            shadow_reason=shadow_reason,
            session_id=purchase.session,
            trace_id=purchase.trace,
            met=met,
        )

    def reservation(
        self,
        payment_id: UUID,
        offer: Offer,
        authorization: Authorization,
        met: Met402,
        body_sha256: bytes | None,
        url_sealed: bytes | None,
        *,
        header: tuple[bytes, bytes],
        identified: bool,
        key_seconds: float,
        share: bool,
        beside: bool,
        policy_version: int,
        rules: Mapping[str, Any],
        shadow_reason: str | None,
    ) -> Reservation:
        purchase = self.purchase
        return Reservation(
            payment_id=payment_id,
            agent_id=self.agent.id,
            price=offer.price,
            session_id=purchase.session,
            trace_id=purchase.trace,
            provider=purchase.origin.key,
            method=purchase.method,
            endpoint=self.endpoint,
            request_body_sha256=body_sha256,
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
            decimals=offer.asset.decimals,
            facilitator_url=_facilitator(offer.raw),
            url_sealed=url_sealed,
            request_key=request_key(purchase.method, purchase.url, body_sha256),
            idempotency_key=idempotency_key(purchase),
            key_seconds=key_seconds,
            share=share,
            beside=beside,
            policy_version=policy_version,
            rules=rules,
            shadow_reason=shadow_reason,
            header=": ".join(part.decode() for part in header),
            identified=identified,
            instance=INSTANCE,
            met=met,
        )

    def delivery(
        self, payment_id: UUID, offer: Offer, outcome: Outcome, delivered: Delivered, score: float
    ) -> Delivery:
        purchase = self.purchase
        paid = outcome.fate is Fate.PAID
        good = paid and delivered.complete and shortfall(delivered) is None
        verdict = delivered.verdict
        errand = purchase.errand
        return Delivery(
            provider=purchase.origin.key,
            url=self.endpoint,
            method=purchase.method,
            status=delivered.status,
            response_hash=delivered.sha256,
            latency_ms=delivered.first_byte_ms,
            success=good,
            schema_ok=paid
            and delivered.status < 400
            and delivered.whole
            and (verdict is None or verdict.misfit is None),
            score=score,
            attempt=1 if errand is None else errand.attempt,
            intent="" if errand is None else errand.intent,
            payment_id=payment_id,
            agent_id=self.agent.id,
            amount=offer.amount if paid else 0,
            transaction=outcome.settlement.transaction if outcome.settlement else "",
            pay_to=offer.pay_to,
            error=delivered.error
            or ("" if good else outcome.reason or f"status {delivered.status}"),
            total_ms=delivered.total_ms,
            size=delivered.size,
            content_type=delivered.content_type,
            whole=delivered.whole,
            expected=verdict is not None,
            unread="" if verdict is None else verdict.unread or "",
        )


def shortfall(delivered: Delivered) -> str | None:
    """How what came falls short of what it was paid for: error_status, misfit, late or cut_off.
    None if it does not, or if its program is to blame."""
    verdict = delivered.verdict
    if delivered.status >= 400:
        return "error_status"
    if verdict is not None and verdict.fault is not None:
        return "misfit" if verdict.misfit else "late"
    return None if delivered.whole or delivered.abandoned else "cut_off"


def receipt(status: int, outcome: Outcome, latency_ms: int) -> SettledReceipt:
    """What the provider said when it took the money."""
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


def request_key(method: str, url: str, body_sha256: bytes | None) -> bytes | None:
    """SHA-256, equal for equal requests of an agent; None while the body is not known whole."""
    if body_sha256 is None:
        return None
    return hashlib.sha256(f"{method} {url}\n".encode("utf-8", "replace") + body_sha256).digest()


def idempotency_key(purchase: Purchase) -> bytes | None:
    """SHA-256: of any length, and nobody's words."""
    key = purchase.idempotency_key
    return None if key is None else hashlib.sha256(key).digest()


def _instructions(asked: Challenge, chosen: int | None, left: Mapping[int, str]) -> dict[str, Any]:
    return {
        "version": asked.version,
        "chosen": chosen,
        "offers": [
            {
                "scheme": offer.scheme,
                "network": offer.network,
                "asset": offer.asset.address,
                "currency": offer.asset.symbol,
                "amount": str(offer.amount),
                "amount_usd_micros": offer.price,
                "pay_to": offer.pay_to,
                "facilitator": offer.fee_payer,
                "max_timeout_seconds": offer.max_timeout_seconds,
                "timeout_asked": offer.timeout_asked,
                "flow": offer.payment_flow,
                "left": left.get(index),
            }
            for index, offer in enumerate(asked.offers)
        ],
        "dropped": [{"index": entry.index, "reason": entry.reason} for entry in asked.dropped],
    }


def _facilitator(raw: Mapping[str, Any]) -> str | None:
    """Few sellers say who settles for them; none has to."""
    extra = raw.get("extra")
    for name in ("facilitatorUrl", "facilitator"):
        url = extra.get(name) if isinstance(extra, Mapping) else None
        if isinstance(url, str) and _URL.fullmatch(url):
            return url
    return None
