"""Providers that take the money, and then do what they please with the answer."""

import asyncio
import base64
import json
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from solders.transaction import VersionedTransaction

from proxy.localnet import Localnet
from proxy.localnet.blocks import MAX_AGE
from tests.e2e.seller import challenge, offer, reply, settled

SLOW = (0.3, 1.2)  # seconds
NOTHING = "5" * 88


@dataclass(frozen=True, slots=True)
class Presented:
    """A payment as a provider got it, for one request of a program's."""

    request: str
    provider: str
    client_signature: str


class Hangup(Exception):
    """No word more on this connection."""


class Market:
    """`open` some providers, whose names are their origins; every payment that is shown to one of
    them is in `presented`. /REQUEST/PRICE is for sale."""

    def __init__(self, net: Localnet, rng: random.Random) -> None:
        self.providers: list[str] = []
        self.presented: list[Presented] = []
        self.behaved: Counter[str] = Counter()
        self._net = net
        self._rng = rng
        self._servers: list[asyncio.Server] = []
        self._late: set[asyncio.Task[None]] = set()
        self._landed: list[str] = []  # what foreign claims are made of
        kinds: list[tuple[int, Callable[[Till], Awaitable[bytes]]]] = [
            (46, Till.honest),
            (6, Till.settles_and_dies),
            (6, Till.dies_and_settles_later),
            (5, Till.settles_and_asks_again),
            (4, Till.asks_again_and_settles_later),
            (4, Till.asks_again),
            (3, Till.settles_and_fails),
            (3, Till.fails),
            (3, Till.claims_anothers),
            (3, Till.settles_and_claims_anothers),
            (3, Till.claims_nothing),
            (4, Till.settles_and_says_nothing_of_it),
            (2, Till.serves_for_nothing),
            (3, Till.slow),
            (3, Till.settles_and_breaks_off),
            (3, Till.lands_in_the_last_block),
            (2, Till.lands_a_block_too_late),
            (2, Till.settles_twice),
        ]
        self._weights = [weight for weight, _ in kinds]
        self._kinds = [kind for _, kind in kinds]

    def only(self, kind: Callable[["Till"], Awaitable[bytes]]) -> None:
        """They all behave like this from now on."""
        self._kinds, self._weights = [kind], [1]

    async def open(self) -> None:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self._servers.append(server)
        self.providers.append(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")

    async def close(self) -> None:
        for server in self._servers:
            server.close()
        for task in self._late:
            task.cancel()
        await asyncio.gather(*self._late, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        here = f"http://127.0.0.1:{writer.get_extra_info('sockname')[1]}"
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                line, *fields = head[:-4].split("\r\n")
                headers = {k.lower(): v.strip() for k, _, v in (f.partition(":") for f in fields)}
                _, request, price = line.split(" ")[1].split("/")
                payment = headers.get("payment-signature")
                try:
                    await reader.readexactly(int(headers.get("content-length", 0)))
                except asyncio.IncompleteReadError:
                    if payment is not None:  # half a request has the whole payment in it
                        self._till(request, here, payment).perhaps_settle()
                    raise
                if payment is None:
                    writer.write(self._asked(int(price)))
                    continue
                till = self._till(request, here, payment)
                how = self._rng.choices(self._kinds, self._weights)[0]
                self.behaved[how.__name__] += 1
                answer = await how(till)
                writer.write(answer)
                if how is Till.settles_and_breaks_off:
                    await writer.drain()
                    writer.transport.abort()
        except (Hangup, asyncio.IncompleteReadError, OSError, asyncio.CancelledError):
            return
        finally:
            writer.close()

    def _asked(self, price: int) -> bytes:
        net = self._net
        return challenge(offer(str(net.seller.pubkey()), str(net.fee_payer.pubkey()), price))

    def _till(self, request: str, provider: str, payment: str) -> "Till":
        payload = json.loads(base64.b64decode(payment))
        ours = VersionedTransaction.from_bytes(base64.b64decode(payload["payload"]["transaction"]))
        self.presented.append(Presented(request, provider, str(ours.signatures[1])))
        theirs = self._net.fee_payer.sign_message(bytes([0x80]) + bytes(ours.message))
        signed = VersionedTransaction.populate(ours.message, [theirs, ours.signatures[1]])
        price = int(payload["accepted"]["amount"])
        return Till(self, self._net, self._rng, signed, self._asked(price))

    def later(self, work: Awaitable[None]) -> None:
        task: asyncio.Task[None] = asyncio.ensure_future(work)  # type: ignore[arg-type]
        self._late.add(task)
        task.add_done_callback(self._late.discard)

    def note(self, transaction: str) -> None:
        self._landed.append(transaction)

    def anothers(self) -> str:
        return self._rng.choice(self._landed) if self._landed else NOTHING


class Till:
    """One payment in a provider's hands."""

    def __init__(
        self,
        market: Market,
        net: Localnet,
        rng: random.Random,
        signed: VersionedTransaction,
        asked: bytes,
    ) -> None:
        self._market = market
        self._net = net
        self._rng = rng
        self._signed = signed
        self._asked = asked
        self._name = str(signed.signatures[0])

    def perhaps_settle(self) -> None:
        if self._rng.random() < 0.5:
            self._settle()

    async def honest(self) -> bytes:
        return settled(self._name) if self._settle() else self._asked

    async def settles_and_dies(self) -> bytes:
        self._settle()
        raise Hangup

    async def dies_and_settles_later(self) -> bytes:
        self._later()
        raise Hangup

    async def settles_and_asks_again(self) -> bytes:
        self._settle()
        return self._asked

    async def asks_again_and_settles_later(self) -> bytes:
        self._later()
        return self._asked

    async def asks_again(self) -> bytes:
        return self._asked

    async def settles_and_fails(self) -> bytes:
        self._settle()
        return reply(500, body=b"out of order")

    async def fails(self) -> bytes:
        return reply(503, body=b"out of order")

    async def claims_anothers(self) -> bytes:
        return settled(self._market.anothers())

    async def settles_and_claims_anothers(self) -> bytes:
        another = self._market.anothers()
        self._settle()
        return settled(another)

    async def claims_nothing(self) -> bytes:
        return settled(NOTHING)

    async def settles_and_says_nothing_of_it(self) -> bytes:
        self._settle()
        return reply(200, body=b"goods")

    async def serves_for_nothing(self) -> bytes:
        return reply(200, body=b"goods")

    async def slow(self) -> bytes:
        await asyncio.sleep(self._rng.uniform(*SLOW))
        return await self.honest()

    async def settles_and_breaks_off(self) -> bytes:
        answer = settled(self._name) if self._settle() else self._asked
        return answer[: -self._rng.randrange(1, 5)] if self._rng.random() < 0.5 else answer[:40]

    async def lands_in_the_last_block(self) -> bytes:
        self._market.later(self._in_block(MAX_AGE + 1))
        raise Hangup

    async def lands_a_block_too_late(self) -> bytes:
        self._market.later(self._in_block(MAX_AGE + 2))
        raise Hangup

    async def settles_twice(self) -> bytes:
        """Or so it tries: one message lands once."""
        self._settle()
        self._settle()
        return settled(self._name)

    def _settle(self) -> bool:
        """Whether it is on the chain."""
        chain = self._net.chain
        chain.submit(self._signed)
        landed = chain.history.get(self._signed.signatures[0])
        if landed is not None and landed.err is None:
            self._market.note(self._name)
            return True
        return False

    def _later(self) -> None:
        """Somewhere between now and a little past its end."""
        self._market.later(self._in_block(self._rng.randrange(1, MAX_AGE + 20)))

    async def _in_block(self, age: int) -> None:
        """Bring it when the block at hand is that much younger than its blockhash, or at once if
        that is past."""
        blocks = self._net.chain.blocks
        made = blocks.height_of(self._signed.message.recent_blockhash)
        while made is not None and blocks.height < made + age:
            await asyncio.sleep(0.004)
        self._settle()
