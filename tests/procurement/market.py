"""Sellers of one thing, and a house that has an intent for it."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from proxy.localnet import Localnet
from tests.e2e.house import Answer, House, house
from tests.e2e.seller import DEVNET, Seen, b64, offer, reply
from tests.providers.faulty import GOODS, JSON, Act, Faulty, faulty, priced

HOST = "http://quote.intent.autopay"


@dataclass
class Market:
    """`sellers` by the ids of the intent `quote`'s candidates, in that order."""

    home: House
    sellers: dict[str, Faulty]

    async def want(self, path: str = "/", **options: Any) -> Answer:
        """As an unmodified program, through the proxy."""
        return await self.home.ask(HOST + path, **options)

    def payments(self, name: str) -> int:
        return len(self.sellers[name].payments)

    async def rows(self) -> list[dict[str, Any]]:
        """What the books have of the attempts."""
        return await self.home.rows(
            "SELECT attempt, status, success, schema_ok, paid_amount_atomic, payment_id, error"
            " FROM x402_procurement_receipts WHERE intent = 'quote' ORDER BY created_at, attempt"
        )


def asks(net: Localnet, then: Act, micros: int = 1000) -> Act:
    """A seller that wants `micros` of USDC, and does `then` for them."""
    return priced(offer(str(net.seller.pubkey()), str(net.fee_payer.pubkey()), micros), then)


def settles_late(
    more: asyncio.Event, body: bytes = GOODS, kind: bytes = JSON, *, head: bool = True
) -> Act:
    """As `settles`, but when there is `more`; its `head` comes at once, and half of its body."""
    settlement = {"success": True, "transaction": "5" * 88, "network": DEVNET, "payer": "p"}
    data = reply(200, [(b"PAYMENT-RESPONSE", b64(settlement)), (b"Content-Type", kind)], body)
    at = len(data) - len(body) // 2 if head else 0

    async def act(_: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(data[:at])
        await writer.drain()
        await more.wait()
        writer.write(data[at:])

    return act


@asynccontextmanager
async def market(
    net: Localnet,
    dsn: str,
    tmp_path: Path,
    acts: Mapping[str, Act],
    candidates: Mapping[str, Mapping[str, Any]] | None = None,
    intent: Mapping[str, Any] | Callable[[dict[str, Faulty]], dict[str, Any]] | None = None,
    *,
    providers: Callable[[dict[str, Faulty]], dict[str, Any]] | None = None,
    **settings: Any,
) -> AsyncIterator[Market]:
    """`acts` by seller; `candidates` say more of some (`path`: another one), `intent` of all of
    them, if need be when it is known where they are. `providers` makes that section then."""
    async with AsyncExitStack() as stack:
        sellers = {name: await stack.enter_async_context(faulty(act)) for name, act in acts.items()}
        listed = []
        for name, seller in sellers.items():
            more = dict((candidates or {}).get(name, {}))
            path = more.pop("path", "/v1/quote")
            listed.append({"id": name, "url": seller.url + path, **more})
        if providers is not None:
            settings["providers"] = providers(sellers)
        quote = {"candidates": listed, **((intent(sellers) if callable(intent) else intent) or {})}
        home = await stack.enter_async_context(
            house(net, dsn, tmp_path, intents={"quote": quote}, **settings)
        )
        yield Market(home, sellers)
