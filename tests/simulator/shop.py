"""Providers with their facilitators, and what a request looks like to the exchange.

A provider draws anew what it does with each payment it is given: what it brings on chain and when,
and what it says, which need not have to do with each other. All of them keep what they were given,
and try it once more when the storm is over.
"""

import asyncio
import base64
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from random import Random
from typing import Any
from uuid import UUID

from solders.keypair import Keypair

from proxy.ledger import Agent
from proxy.wire.gate import Lost, NotSent, PaymentRequired
from proxy.wire.origin import Origin
from proxy.x402.networks import SOLANA_DEVNET
from tests.simulator.chain import MINT, OWNERS, TOKEN, Chain, Tx, token_account
from tests.simulator.loop import LIFE, VirtualLoop

EMPTY = sha256(b"").digest()


class NoTicket:
    """There is no breaker here: it holds no money."""

    def about(self, *_: object) -> None: ...
    def costs(self, *_: object) -> None: ...
    def success(self, **_: object) -> None: ...
    def failure(self, *_: object, **__: object) -> None: ...
    def neutral(self) -> None: ...


@dataclass
class Shop:
    """One provider. `told` hears what it does."""

    name: str
    price: int
    chain: Chain
    random: Random
    told: Callable[..., None]
    memo: str | None = None
    identifier: bool = False
    edge: bool = False
    """Whether it likes the very last block."""
    honest: bool = False
    seen: list[Tx] = field(default_factory=list)

    def __post_init__(self) -> None:
        seed = sha256(self.name.encode()).digest()
        self.fee_payer = Keypair.from_seed(seed)
        self.pay_to = Keypair.from_seed(sha256(seed).digest()).pubkey()
        OWNERS[str(token_account(self.pay_to, MINT, TOKEN))] = self.pay_to
        self.served: dict[str, tuple[int, Any]] = {}

    @property
    def origin(self) -> Origin:
        return Origin("https", self.name, 443)

    def challenge(self) -> PaymentRequired:
        extra = {"feePayer": str(self.fee_payer.pubkey())}
        if self.memo is not None:
            extra["memo"] = self.memo
        entry = {
            "scheme": "exact",
            "network": SOLANA_DEVNET,
            "amount": str(self.price),
            "asset": str(MINT),
            "payTo": str(self.pay_to),
            "maxTimeoutSeconds": 60,
            "extra": extra,
        }
        document: dict[str, Any] = {"x402Version": 2, "error": "pay", "accepts": [entry]}
        if self.identifier:
            document["extensions"] = {"payment-identifier": {"info": {"required": False}}}
        return PaymentRequired([(b"payment-required", _b64(document))], b"")

    async def paid(self, header: tuple[bytes, bytes]) -> "Answer":
        """What it does with a payment. Raises Lost, as the connection would end."""
        sent = json.loads(base64.b64decode(header[1]))
        tx = self.chain.take(sent["payload"]["transaction"], self.fee_payer)
        if tx not in self.seen:
            self.seen.append(tx)
        if self.identifier and tx.client_signature in self.served:
            return Answer(*self.served[tx.client_signature])
        does, says = self._mood()
        self.told("shop", self.name, tx.client_signature[:8], does, says)
        self._bring(tx, does)
        await asyncio.sleep(self.random.choice([0.1, 1.0, 1.0, 20.0]))
        return self._say(tx, says)

    def _mood(self) -> tuple[str, str]:
        draw = self.random.choice
        if self.honest:
            return "now", "settled"
        does = draw(["now", "now", "now", "soon", "never", "last", "twice"])
        if self.edge:
            does = draw(["last", "last", "last", "after"])
        says = draw(
            ["settled"] * 6
            + ["served", "foreign", "nonsense", "asks again", "fails", "fails paid", "hangs up"]
            + (["hangs up", "asks again"] * 4 if does in ("last", "after", "soon") else [])
        )
        return does, says

    def _bring(self, tx: Tx, does: str) -> None:
        height, last = self.chain.height, self.chain.last_height(tx)
        if does in ("now", "twice"):
            self.chain.submit(tx)
        if does == "twice":
            self.chain.submit(tx, height + self.random.randint(1, 200))
        if does == "soon":
            self.chain.submit(tx, self.random.randint(height, max(height, last + 2)))
        if does == "last":
            self.chain.submit(tx, last)
        if does == "after":
            self.chain.submit(tx, last + 1)

    def bring_all(self) -> None:
        """Whatever it was ever given."""
        for tx in self.seen:
            self.chain.submit(tx)

    def _say(self, tx: Tx, says: str) -> "Answer":
        named = {"settled": tx.signature, "fails paid": tx.signature, "nonsense": "9" * 88}
        if says == "foreign":
            others = [other.signature for other in self.chain.ever.values() if other is not tx]
            named["foreign"] = self.random.choice(others) if others else "8" * 88
        settlement = None
        if says in named:
            settlement = {
                "success": True,
                "transaction": named[says],
                "network": SOLANA_DEVNET,
                "payer": str(self.chain.wallet),
            }
        if says == "hangs up":
            raise Lost("it hung up")
        status = {"asks again": 402, "fails": 500, "fails paid": 500}.get(says, 200)
        if says == "asks again":
            fresh = self.challenge()
            return Answer(402, None, list(fresh.headers))
        if says == "settled":
            self.served[tx.client_signature] = (status, settlement)
        return Answer(status, settlement)


class Answer:
    """A `PaidAnswer`."""

    def __init__(
        self, status: int, settlement: Any = None, headers: list[tuple[bytes, bytes]] | None = None
    ) -> None:
        self.status = status
        self.headers = headers or []
        if settlement is not None:
            self.headers = [*self.headers, (b"payment-response", _b64(settlement))]

    async def read(self, limit: int) -> bytes:
        return b""

    def close(self) -> None: ...


class SimPurchase:
    """A `Purchase`: a request of an agent that has met a shop's 402."""

    raw_headers: tuple[tuple[bytes, bytes], ...] = ()
    tool = None
    mount = None
    errand = None
    replayable = True
    credential = b""
    method = "GET"

    def __init__(
        self, loop: VirtualLoop, agent: Agent, shop: Shop, path: str, refuse: float = 0.0
    ) -> None:
        """`refuse`: the chance that no connection comes about."""
        self.agent = agent
        self.origin = shop.origin
        self.path = path
        self.session: str | None = None
        self.trace: str | None = None
        self.idempotency_key: bytes | None = None
        self.payment_id: UUID | None = None
        self.ticket = NoTicket()
        self.gone = False
        self.sent: list[bytes] = []
        """What has left, in order."""
        self._loop = loop
        self._shop = shop
        self._refuse = refuse

    @property
    def url(self) -> str:
        return f"https://{self.origin.host}{self.path}"

    async def body_sha256(self) -> bytes | None:
        return EMPTY

    async def attempt(self, header: tuple[bytes, bytes]) -> Answer:
        await asyncio.sleep(0.01)
        if self._shop.random.random() < self._refuse:
            raise NotSent("nobody listens there")
        life = LIFE.get()
        if life is None or life.alive:
            self.sent.append(header[1])
        # It is on its way now, whatever becomes of its sender.
        work = self._loop.spawn(None, self._outcome(header))
        try:
            async with asyncio.timeout(15.0):
                outcome = await asyncio.shield(work)
        except TimeoutError:
            raise Lost("no answer in time") from None
        if isinstance(outcome, Lost):
            raise outcome
        return outcome

    async def _outcome(self, header: tuple[bytes, bytes]) -> Answer | Lost:
        """A loss as a value: who waits for it may be dead by then."""
        try:
            return await self._shop.paid(header)
        except Lost as lost:
            return lost


def _b64(document: Any) -> bytes:
    return base64.b64encode(json.dumps(document).encode())
