"""The program goes away when the payment has left: what it bought is read to its end and kept."""

import asyncio
import base64
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from proxy.localnet import Localnet
from tests.e2e.house import House, house, until
from tests.e2e.seller import Seen, Seller
from tests.e2e.till import Till

Scene = Callable[[asyncio.StreamWriter, bytes], Awaitable[None]]


@asynccontextmanager
async def streaming(it: Till, scene: Scene) -> AsyncIterator[str]:
    """A seller whose paid answers are written by `scene`, piece by piece."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                fields = [line.partition(":") for line in head.split("\r\n")[1:]]
                headers = {name.lower(): value.strip() for name, _, value in fields}
                answer = it.answer(Seen("", headers, b""))
                if "payment-signature" in headers:
                    await scene(writer, answer)
                else:
                    writer.write(answer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/stream"
    server.close()


async def leave(
    home: House, url: str, until_seen: bytes, *, reset: bool = False, by: str = ""
) -> None:
    """A program that asks, reads until it has seen that, and is gone. `by`: another proxy."""
    proxy = urlsplit(by or home.proxy)
    reader, writer = await asyncio.open_connection(proxy.hostname, proxy.port)
    credential = base64.b64encode(f"{home.agent}:{home.token}".encode())
    writer.write(
        f"GET {url} HTTP/1.1\r\nHost: x\r\n".encode()
        + b"Proxy-Authorization: Basic "
        + credential
        + b"\r\n\r\n"
    )
    async with asyncio.timeout(10):
        await reader.readuntil(until_seen)
    if reset:
        writer.transport.abort()
    else:
        writer.close()


async def kept(home: House, count: int = 1) -> None:
    async with asyncio.timeout(10):
        while len(await home.rows("SELECT 1 FROM kept_answers WHERE sealed IS NOT NULL")) != count:
            await asyncio.sleep(0.02)


async def recorded(home: House) -> dict[str, Any]:
    async with asyncio.timeout(10):
        while not (rows := await home.rows("SELECT * FROM x402_procurement_receipts")):
            await asyncio.sleep(0.02)
    return rows[0]


@pytest.fixture
def it(net: Localnet) -> Till:
    return Till(net)


async def test_gone_before_the_head(home: House, seller: Seller, it: Till) -> None:
    seller.answer = it.answer
    seller.hold = asyncio.Event()
    program = asyncio.create_task(home.ask(seller.url))
    await until(lambda: bool(seller.payments))
    program.cancel()
    await asyncio.gather(program, return_exceptions=True)
    await asyncio.sleep(0.1)
    seller.hold.set()
    await kept(home)
    served = it.served[seller.payments[0]].split(b"\r\n\r\n")[1]
    for _ in range(2):
        answer = await home.ask(seller.url)
        assert (answer.status, answer.body) == (200, served)
        assert answer.headers["Autopay-State"] == "paid"
        assert answer.headers["Autopay-Replayed"] == "true"
    assert len(seller.payments) == 1
    assert home.paid_on_chain() == 1000
    assert await home.counters() == (1000, 0)
    # Nobody who has the database alone can read it.
    row = await home.row("SELECT sealed, delivered FROM kept_answers")
    assert b"goods" not in row["sealed"] and row["delivered"] is False
    # Another request has nothing of it.
    assert "Autopay-Replayed" not in (await home.ask(f"{seller.url}/other")).headers
    assert home.paid_on_chain() == 2000


@pytest.mark.parametrize("reset", [False, True])
async def test_gone_in_the_middle(home: House, it: Till, reset: bool) -> None:
    it.goods = b"a" * 300_000
    go_on = asyncio.Event()
    sent: list[bytes] = []

    async def halves(writer: asyncio.StreamWriter, answer: bytes) -> None:
        sent.append(answer)
        writer.write(answer[:1000])
        await go_on.wait()
        for at in range(1000, len(answer), 50_000):
            writer.write(answer[at : at + 50_000])
            await writer.drain()
            await asyncio.sleep(0.01)

    async with streaming(it, halves) as url:
        await leave(home, url, b"aaaa", reset=reset)
        await asyncio.sleep(0.1)
        go_on.set()
        await kept(home)
        answer = await home.ask(url)
        assert answer.headers["Autopay-Replayed"] == "true"
        assert answer.body == sent[0].partition(b"\r\n\r\n")[2]
        assert home.paid_on_chain() == 1000
        delivery = await recorded(home)
        assert (delivery["status"], delivery["success"]) == (200, True)


async def test_an_answer_that_arrived_is_not_kept(home: House, seller: Seller, it: Till) -> None:
    seller.answer = it.answer
    await home.ask(seller.url)
    assert await home.rows("SELECT * FROM kept_answers WHERE sealed IS NOT NULL") == []
    await home.ask(seller.url)
    assert home.paid_on_chain() == 2000


@pytest.mark.parametrize("bound", ["keep_bytes", "keep_seconds"])
async def test_the_bounds(net: Localnet, dsn: str, tmp_path: Path, it: Till, bound: str) -> None:
    """A stream without end is given up, and its record says so."""
    paid = {"keep_bytes": 100_000} if bound == "keep_bytes" else {"keep_seconds": 0.4}
    it.goods = b""
    pieces = 0

    async def forever(writer: asyncio.StreamWriter, answer: bytes) -> None:
        nonlocal pieces
        head = answer.partition(b"\r\n\r\n")[0].replace(b"Content-Length", b"X-Length")
        writer.write(head + b"\r\nTransfer-Encoding: chunked\r\n\r\n")
        piece = b"a" * (20_000 if bound == "keep_bytes" else 10)
        while True:
            writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            await writer.drain()
            pieces += 1
            await asyncio.sleep(0.01)

    async with house(net, dsn, tmp_path, paid=paid) as home, streaming(it, forever) as url:
        await leave(home, url, b"aaaa", reset=True)
        delivery = await recorded(home)
        words = "too large" if bound == "keep_bytes" else "too long"
        assert words in delivery["error"] and delivery["error"].startswith("the program hung up")
        assert delivery["success"] is False
        assert await home.rows("SELECT * FROM kept_answers WHERE sealed IS NOT NULL") == []
        assert await home.counters() == (1000, 0)
        seen = pieces
        await asyncio.sleep(0.1)
        assert pieces <= seen + 3  # the provider was told


async def test_kept_for_its_time(net: Localnet, dsn: str, tmp_path: Path, it: Till) -> None:
    async with house(net, dsn, tmp_path, paid={"keep_seconds": 30, "keep_answers": 2}) as home:
        paid = asyncio.Event()

        async def late(writer: asyncio.StreamWriter, answer: bytes) -> None:
            paid.set()
            await asyncio.sleep(0.2)
            writer.write(answer)

        async with streaming(it, late) as url:
            for number in range(3):
                paid.clear()
                program = asyncio.create_task(home.ask(f"{url}/{number}"))
                await paid.wait()
                program.cancel()
                await asyncio.gather(program, return_exceptions=True)
                await kept(home, min(number + 1, 2))
                await asyncio.sleep(0.3)
            await kept(home, 2)  # of one agent so many: the oldest went
            assert "Autopay-Replayed" not in (await home.ask(f"{url}/0")).headers
            assert (await home.ask(f"{url}/2")).headers["Autopay-Replayed"] == "true"
            before = home.paid_on_chain()
            await home.operator.execute("UPDATE kept_answers SET expires_at = now()")
            assert "Autopay-Replayed" not in (await home.ask(f"{url}/2")).headers
            assert home.paid_on_chain() == before + 1000


async def test_what_has_expired_is_removed_unasked(
    net: Localnet,
    seller: Seller,
    dsn: str,
    tmp_path: Path,
    it: Till,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("proxy.again._PRUNE_SECONDS", 0.05)
    seller.answer = it.answer
    async with house(net, dsn, tmp_path, paid={"idempotency_seconds": 0.3}) as home:
        await home.ask(seller.url, headers={"Idempotency-Key": "k"})
        await kept(home, 1)
        await kept(home, 0)


async def test_an_erased_agents_answers_are_gone(home: House, seller: Seller, it: Till) -> None:
    seller.answer = it.answer
    await home.ask(seller.url, headers={"Idempotency-Key": "k"})
    await kept(home)
    payment = await home.row("SELECT idempotency_key, payment_header FROM payments")
    assert len(payment["idempotency_key"]) == 32
    assert payment["payment_header"].startswith("PAYMENT-SIGNATURE: ")
    await home.operator.execute("SELECT erase_agent('shopper', 'test')")
    assert await home.rows("SELECT * FROM kept_answers WHERE sealed IS NOT NULL") == []
    payment = await home.row("SELECT idempotency_key, payment_header FROM payments")
    assert set(payment.values()) == {None}
    # Nor does one that was on its way come in afterwards.
    said = await home.operator.fetchval(
        "SELECT keep_answer(id, false, '\\x01', 60, 10) FROM payments"
    )
    assert said == "erased"
