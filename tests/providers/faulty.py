"""Providers that fail, each in a way of its own: real servers on loopback.

What a provider does is an `Act`: it is handed the request, and writes an answer, part of one, or
something else. Acts are put together: `flaps(status(503), good())`,
`priced(entry, bursts(2, settles(500), then=settles()))`.

    async with faulty(resets()) as provider:
        ... provider.url, provider.seen, provider.act = good()
"""

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from itertools import chain, cycle, repeat
from pathlib import Path
from typing import Any

from tests.e2e.seller import (
    DEVNET,
    Hang,
    HangUp,
    Headers,
    Seen,
    b64,
    challenge,
    received,
    reply,
)
from tests.wire.wire_tls import Authority

Act = Callable[[Seen, asyncio.StreamWriter], Awaitable[None]]
"""Writes an answer. Raises Hang to say nothing more, HangUp to close the connection."""

GOODS = b'{"goods": true}'
JSON = b"application/json"


@dataclass
class Faulty:
    """A provider whose every request is answered by `act`, which may be changed at any time."""

    act: Act
    url: str = ""
    seen: list[Seen] = field(default_factory=list)

    @property
    def payments(self) -> list[str]:
        return [seen.payment for seen in self.seen if seen.payment is not None]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                seen = await received(reader)
                self.seen.append(seen)
                try:
                    await self.act(seen, writer)
                    await writer.drain()
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
async def faulty(act: Act, tls: ssl.SSLContext | None = None) -> AsyncIterator[Faulty]:
    """With `tls`, an https provider named localhost."""
    provider = Faulty(act)
    server = await asyncio.start_server(provider.serve, "127.0.0.1", 0, ssl=tls)
    where = "https://localhost" if tls else "http://127.0.0.1"
    provider.url = f"{where}:{server.sockets[0].getsockname()[1]}"
    yield provider
    server.close()


# --- those that are not there


@contextmanager
def refusing() -> Iterator[str]:
    """The URL of a port that is taken, and where nobody listens: connections are refused."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{sock.getsockname()[1]}"


@contextmanager
def down() -> Iterator[str]:
    """The URL of a host that does not answer at all: connections are never made."""
    with contextlib.ExitStack() as stack:
        sock = stack.enter_context(socket.socket())
        sock.bind(("127.0.0.1", 0))
        sock.listen(0)
        for _ in range(4):  # whatever the queue holds; then the system drops who knocks
            knocking = stack.enter_context(socket.socket())
            knocking.setblocking(False)
            knocking.connect_ex(sock.getsockname())
        yield f"http://127.0.0.1:{sock.getsockname()[1]}"


def bad_tls(issuer: Authority, folder: Path, fault: str) -> ssl.SSLContext:
    """A certificate that is "expired", for "another host", or "of nobody" that is trusted; of
    `issuer`, but for the last. `folder` is written to."""
    if fault == "of nobody":
        return Authority(folder).context("localhost")
    if fault == "another host":
        return issuer.context("other.example")
    return issuer.context("localhost", days=-1)


# --- what comes back


def good(body: bytes = GOODS, kind: bytes = JSON) -> Act:
    return answers(reply(200, [(b"Content-Type", kind)], body))


def status(code: int, headers: Headers | None = None) -> Act:
    return answers(reply(code, headers, b"no"))


def wrong() -> Act:
    """An answer, and not the one that was asked for."""
    return good(b"<h1>Welcome!</h1>", b"text/html")


def empty() -> Act:
    return good(b"")


def garbage() -> Act:
    """No HTTP at all."""
    return answers(b"\x16\x03\x01 what?\r\n\r\n")


def answers(data: bytes) -> Act:
    async def act(_: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(data)

    return act


# --- what does not come, or not whole


def hangs() -> Act:
    async def act(_: Seen, __: asyncio.StreamWriter) -> None:
        raise Hang

    return act


def hangs_up() -> Act:
    """Closes without a word."""

    async def act(_: Seen, __: asyncio.StreamWriter) -> None:
        raise HangUp

    return act


def drips(bytes_each: int = 1, every: float = 0.02, body: bytes = GOODS) -> Act:
    """The head at once, then the body little by little."""

    async def act(_: Seen, writer: asyncio.StreamWriter) -> None:
        head, _, _ = reply(200, [(b"Content-Type", JSON)], body).partition(b"\r\n\r\n")
        writer.write(head + b"\r\n\r\n")
        for start in range(0, len(body), bytes_each):
            await asyncio.sleep(every)
            writer.write(body[start : start + bytes_each])
            await writer.drain()

    return act


def stalls(body: bytes = GOODS) -> Act:
    """Half of an answer, and then nothing."""
    return _half(body, _stall)


def breaks_off(body: bytes = GOODS) -> Act:
    """Half of an answer, and then the connection's end, in order."""
    return _half(body, _hang_up)


def resets(body: bytes = GOODS) -> Act:
    """Half of an answer, and then a reset of the connection."""
    return _half(body, _reset)


def _half(body: bytes, then: Callable[[asyncio.StreamWriter], None]) -> Act:
    async def act(_: Seen, writer: asyncio.StreamWriter) -> None:
        whole = reply(200, [(b"Content-Type", JSON)], body)
        writer.write(whole[: -len(body) // 2])
        await writer.drain()
        await asyncio.sleep(0.05)  # that half is there before anything else happens
        then(writer)

    return act


def _stall(_: asyncio.StreamWriter) -> None:
    raise Hang


def _hang_up(_: asyncio.StreamWriter) -> None:
    raise HangUp


def _reset(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
    raise HangUp


# --- now this, now that


def flaps(*acts: Act) -> Act:
    """One after another, and again from the first."""
    return _in_turn(cycle(acts))


def bursts(times: int, of: Act, then: Act) -> Act:
    """`times` of one, and the other from then on."""
    return _in_turn(chain(repeat(of, times), repeat(then)))


def _in_turn(acts: Iterator[Act]) -> Act:
    async def act(seen: Seen, writer: asyncio.StreamWriter) -> None:
        await next(acts)(seen, writer)

    return act


# --- for money


def priced(entry: dict[str, Any], then: Act) -> Act:
    """402 with this offer (`tests.e2e.seller.offer`), and `then` for who brings a payment."""
    asks = answers(challenge(entry))

    async def act(seen: Seen, writer: asyncio.StreamWriter) -> None:
        await (asks if seen.payment is None else then)(seen, writer)

    return act


def settles(code: int = 200, body: bytes = GOODS, *, whole: bool = True, kind: bytes = JSON) -> Act:
    """It says that it took the payment, and answers so; not `whole`: half of that, then a reset.

    It never hands the payment in: nothing moves on the chain.
    """
    settlement = {"success": True, "transaction": "5" * 88, "network": DEVNET, "payer": "p"}
    headers = [(b"PAYMENT-RESPONSE", b64(settlement)), (b"Content-Type", kind)]

    async def act(_: Seen, writer: asyncio.StreamWriter) -> None:
        data = reply(code, headers, body)
        if whole:
            writer.write(data)
            return
        writer.write(data[: -len(body) // 2])
        await writer.drain()
        await asyncio.sleep(0.05)
        _reset(writer)

    return act
