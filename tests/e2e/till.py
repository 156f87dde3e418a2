"""A seller that takes money as the official servers do: a payment that has landed is refused."""

import base64
import json
import uuid
from dataclasses import dataclass, field
from typing import Any

from solders.transaction import VersionedTransaction

from proxy.localnet import USDC_DEVNET, Localnet
from tests.e2e.seller import HangUp, Seen, Seller, challenge, offer, reply, settled

IDENTIFIER = {"payment-identifier": {"info": {"required": False}, "schema": {}}}


def signed(net: Localnet, payment: str) -> VersionedTransaction:
    """What a payment header carries, with its fee payer's signature."""
    payload = json.loads(base64.b64decode(payment))["payload"]
    ours = VersionedTransaction.from_bytes(base64.b64decode(payload["transaction"]))
    theirs = net.fee_payer.sign_message(bytes([0x80]) + bytes(ours.message))
    return VersionedTransaction.populate(ours.message, [theirs, ours.signatures[1]])


@dataclass
class Till:
    """`plan` says what becomes of each payment that comes, in turn, then it is "serve".

    "serve" settles and answers, "lose" settles and hangs up, "ignore" hangs up, "refuse" answers
    402, "fail" 503.
    """

    net: Localnet
    plan: list[str] = field(default_factory=list)
    goods: bytes = b"goods"
    extensions: dict[str, Any] = field(default_factory=dict)
    remembers: bool = False
    """Whether it answers a payment that it knows by its identifier from memory."""
    served: dict[str, bytes] = field(default_factory=dict)

    def answer(self, seen: Seen) -> bytes:
        entry = offer(str(self.net.seller.pubkey()), str(self.net.fee_payer.pubkey()))
        first = challenge(entry, **({"extensions": self.extensions} if self.extensions else {}))
        if seen.payment is None:
            return first
        if self.remembers and seen.payment in self.served:
            return self.served[seen.payment]
        act = self.plan.pop(0) if self.plan else "serve"
        if act == "ignore":
            raise HangUp
        if act == "refuse":
            return challenge(entry, error="transaction_simulation_failed")
        if act == "fail":
            return reply(503, body=b"later")
        before = self.net.chain.balance(self.net.seller.pubkey(), USDC_DEVNET) or 0
        tx = signed(self.net, seen.payment)
        self.net.chain.submit(tx)
        if self.net.chain.balance(self.net.seller.pubkey(), USDC_DEVNET) != before + 1000:
            return challenge(entry, error="transaction_simulation_failed")
        answer = settled(str(tx.signatures[0]), body=self.goods + b" " + uuid.uuid4().bytes)
        self.served[seen.payment] = answer
        if act == "lose":
            raise HangUp
        return answer


def till(net: Localnet, seller: Seller, *plan: str, **more: Any) -> Till:
    it = Till(net, list(plan), **more)
    seller.answer = it.answer
    return it
