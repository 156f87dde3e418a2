"""A seller whose every byte the test decides."""

import asyncio
import base64
import json
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

DEVNET = "solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1"
USDC = "4zMMC9srt5Ri5X14GAgXhaHii3GnPAEERYPJgZJDncDU"

Headers = list[tuple[bytes, bytes]]


@dataclass
class Seen:
    """One request as it arrived."""

    line: str
    headers: dict[str, str]
    body: bytes

    @property
    def payment(self) -> str | None:
        return self.headers.get("payment-signature") or self.headers.get("x-payment")


async def received(reader: asyncio.StreamReader) -> Seen:
    """The next request. Raises IncompleteReadError: there is none."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    line, *fields = head[:-4].split("\r\n")
    headers = {k.lower(): v.strip() for k, _, v in (f.partition(":") for f in fields)}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return Seen(line, headers, body)


class Hang(Exception):
    """Say nothing, and keep the connection."""


class Last(bytes):
    """An answer behind which the connection ends."""


class HangUp(Exception):
    """Close without a word."""


@dataclass
class Seller:
    """`answer` maps a request to the bytes of an answer, or raises Hang or HangUp. With `hold` set,
    answers to payments wait for it; with `hold_all`, every answer."""

    url: str = ""
    hold: asyncio.Event | None = None
    hold_all: asyncio.Event | None = None
    answer: Callable[[Seen], bytes] = lambda seen: reply(200, body=b"free")
    seen: list[Seen] = field(default_factory=list)

    @property
    def payments(self) -> list[str]:
        return [seen.payment for seen in self.seen if seen.payment is not None]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                seen = await received(reader)
                self.seen.append(seen)
                if self.hold_all is not None:
                    await self.hold_all.wait()
                if self.hold is not None and seen.payment is not None:
                    await self.hold.wait()
                try:
                    answer = self.answer(seen)
                    writer.write(answer)
                    if isinstance(answer, Last):
                        return
                except Hang:
                    await reader.read()
                    return
                except HangUp:
                    return
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            return
        finally:
            writer.close()


@asynccontextmanager
async def selling(tls: ssl.SSLContext | None = None) -> AsyncIterator[Seller]:
    """With `tls`, an https seller named localhost."""
    seller = Seller()
    server = await asyncio.start_server(seller.serve, "127.0.0.1", 0, ssl=tls)
    where = "https://localhost" if tls else "http://127.0.0.1"
    seller.url = f"{where}:{server.sockets[0].getsockname()[1]}"
    yield seller
    server.close()


async def vanishing(first: bytes) -> str:
    """The URL of a seller that says `first`, closes, and is gone when the next request comes."""
    head, end, body = first.partition(b"\r\n\r\n")
    server: list[asyncio.Server] = []

    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        server[0].close()
        writer.write(head + b"\r\nConnection: close" + end + body)
        writer.close()

    server.append(await asyncio.start_server(once, "127.0.0.1", 0))
    return f"http://127.0.0.1:{server[0].sockets[0].getsockname()[1]}/"


def reply(status: int, headers: Headers | None = None, body: bytes = b"") -> bytes:
    lines = [b"HTTP/1.1 %d Whatever" % status]
    lines += [name + b": " + value for name, value in headers or []]
    lines += [b"Content-Length: %d" % len(body), b"\r\n"]
    return b"\r\n".join(lines) + body


def b64(value: Any) -> bytes:
    return base64.b64encode(json.dumps(value).encode())


def offer(pay_to: str, fee_payer: str, amount: int = 1000, **more: Any) -> dict[str, Any]:
    """A version 2 entry of accepts[]."""
    entry = {
        "scheme": "exact",
        "network": DEVNET,
        "amount": str(amount),
        "asset": USDC,
        "payTo": pay_to,
        "maxTimeoutSeconds": 60,
        "extra": {"feePayer": fee_payer, **more.pop("extra", {})},
    }
    return {**entry, **more}


def challenge(*offers: dict[str, Any], error: str = "Payment required", **more: Any) -> bytes:
    """A whole version 2 402 answer."""
    document = {
        "x402Version": 2,
        "error": error,
        "resource": {"url": "http://anywhere/"},
        "accepts": list(offers),
        **more,
    }
    return reply(402, [(b"PAYMENT-REQUIRED", b64(document))], b"{}")


def settled(transaction: str = "5" * 88, status: int = 200, body: bytes = b"goods") -> bytes:
    """A paid answer."""
    document = {"success": True, "transaction": transaction, "network": DEVNET, "payer": "p"}
    return reply(status, [(b"PAYMENT-RESPONSE", b64(document))], body)


def pays_once(first: bytes, then: Callable[[Seen], bytes]) -> Callable[[Seen], bytes]:
    """402 without a payment, `then` with one."""
    return lambda seen: first if seen.payment is None else then(seen)


def raises(error: type[Exception]) -> Callable[[Seen], bytes]:
    def answer(_: Seen) -> bytes:
        raise error

    return answer
