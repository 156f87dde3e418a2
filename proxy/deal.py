"""What is being bought, and what leaves for it: the values of the story of one payment."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from proxy.chains import Authorization
from proxy.entries import Meeting
from proxy.ledger import Left, Met402, Reserved
from proxy.wire.gate import Purchase
from proxy.x402 import Challenge, Offer


@dataclass(frozen=True, slots=True)
class Deal:
    """What is to be bought: one offer of one challenge, met by one request of one agent."""

    meeting: Meeting
    policy_version: int
    challenge: Challenge
    chosen: int
    wallet: str | None = None
    """The one that policy has it paid from, by its name; None: the default one."""
    rules: Mapping[str, Any] = field(default_factory=dict)
    """What the ledger is to ask besides (`policies.ledger_rules`)."""
    left: Mapping[int, str] = field(default_factory=dict)
    """Why each other offer was not chosen."""
    share: bool = False
    """Whether an equal request side by side may have this one's answer."""
    shadow_reason: str | None = None
    """What the policies that only look on would have said."""

    @property
    def purchase(self) -> Purchase:
        return self.meeting.purchase

    @property
    def offer(self) -> Offer:
        return self.challenge.offers[self.chosen]

    def met(self) -> Met402:
        """The row of the 402, with what was made of its offers."""
        return self.meeting.met(self.challenge, self.chosen, self.left)

    @property
    def provider(self) -> str:
        return self.purchase.origin.key

    def put_down(self, payment_id: UUID | None, *, paid: bool = False) -> None:
        """For whoever sent the request as an errand: what it costs. None: nothing after all."""
        errand = self.purchase.errand
        if errand is not None:
            tab = errand.tab
            tab.payment_id, tab.paid = payment_id, paid
            tab.price = 0 if payment_id is None else self.offer.price


@dataclass(frozen=True, slots=True)
class Commitment:
    """A deal with its money held and its authorization signed: the payment may leave."""

    deal: Deal
    id: UUID
    header: tuple[bytes, bytes]
    authorization: Authorization
    reserved: Reserved


@dataclass(frozen=True, slots=True)
class Encore:
    """A payment that has left before, and may leave once more as the very same bytes: nothing is
    signed or reserved for it, and nothing of it can be taken back."""

    deal: Deal
    left: Left
    header: tuple[bytes, bytes]

    @property
    def id(self) -> UUID:
        return self.left.id

    @property
    def landed(self) -> bool:
        """Whether the chain has shown that its money is gone."""
        return self.left.status != "SIGNED"


Payment = Commitment | Encore
