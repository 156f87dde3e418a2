"""What the programs buy from: a running autopay, and a seller on http and on https. All of it in a
thread, so that a test may wait for a program as people do."""

import asyncio
import contextlib
import socket
import ssl
import threading
from collections import defaultdict
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pytest
from wire_tls import Authority as Issuer

from proxy.launch import environment, trust
from proxy.launch.lender import lending
from proxy.localnet import Localnet
from proxy.settings import Address
from proxy.wire.plane import DataPlane
from tests.e2e.house import House, house
from tests.e2e.seller import DEVNET, Seen, b64, challenge, offer, reply, settled

HOST = "shop.autopay.test"  # many clients ask a proxy for any name but localhost
PRICE = 1000
STREAM = b"HTTP/1.1 200 OK\r\nPAYMENT-RESPONSE: %b\r\nTransfer-Encoding: chunked\r\n\r\n"
REFS = b"%b\trefs/heads/main\n" % (b"5" * 40)

T = TypeVar("T")


@dataclass
class Shop:
    """Sells /paid/… for a price, and /stream/… too, whose second half comes when `halfway` says so;
    /free/… and a git repository cost nothing. `seen` is by path."""

    home: House
    environ: dict[str, str]
    loop: asyncio.AbstractEventLoop
    unpaid: bytes
    http: str = ""
    https: str = ""
    seen: dict[str, list[Seen]] = field(default_factory=lambda: defaultdict(list))
    files: dict[str, bytes] = field(default_factory=dict)
    """More of what costs nothing, by path."""
    halfway: asyncio.Event = field(default_factory=asyncio.Event)

    def wait(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of something that belongs to the thread's loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(10)

    def go_on(self) -> None:
        self.loop.call_soon_threadsafe(self.halfway.set)

    @property
    def payments(self) -> int:
        return sum(seen.payment is not None for seens in self.seen.values() for seen in seens)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
            while True:
                seen = await _request(reader)
                path = seen.line.split()[1]
                self.seen[path].append(seen)
                await self._answer(path, seen, writer)
                await writer.drain()
        writer.close()

    async def _answer(self, path: str, seen: Seen, writer: asyncio.StreamWriter) -> None:
        if path.startswith("/repository/info/refs"):
            writer.write(reply(200, [(b"Content-Type", b"text/plain")], REFS))
        elif path.startswith("/repository/HEAD"):
            writer.write(reply(200, [], b"ref: refs/heads/main\n"))
        elif path in self.files:
            writer.write(reply(200, [], self.files[path]))
        elif path.startswith("/free/"):
            writer.write(reply(200, [], b"free"))
        elif seen.payment is None:
            writer.write(self.unpaid)
        elif path.startswith("/stream/"):
            self.halfway.clear()
            told = {"success": True, "transaction": "5" * 88, "network": DEVNET, "payer": "p"}
            writer.write(STREAM % b64(told) + b"6\r\nfirst \r\n")
            await self.halfway.wait()
            writer.write(b"6\r\nsecond\r\n0\r\n\r\n")
        else:
            writer.write(settled(body=b"got " + seen.body))


async def _request(reader: asyncio.StreamReader) -> Seen:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    line, *fields = head[:-4].split("\r\n")
    headers = {k.lower(): v.strip() for k, _, v in (f.partition(":") for f in fields)}
    body = b""
    if headers.get("transfer-encoding") == "chunked":
        while size := int(await reader.readline(), 16):
            body += (await reader.readexactly(size + 2))[:-2]
        await reader.readline()
    else:
        body = await reader.readexactly(int(headers.get("content-length", 0)))
    return Seen(line, headers, body)


@contextlib.contextmanager
def open_shop(dsn: str, folder: Path) -> Iterator[Shop]:
    ready: list[Shop] = []
    failed: list[BaseException] = []
    is_up, done = threading.Event(), threading.Event()

    async def run() -> None:
        async with _shop(dsn, folder) as shop:
            ready.append(shop)
            is_up.set()
            await asyncio.to_thread(done.wait)

    def body() -> None:
        try:
            asyncio.run(run())
        except BaseException as error:
            failed.append(error)
        finally:
            is_up.set()

    thread = threading.Thread(target=body)
    thread.start()
    is_up.wait()
    try:
        if ready:
            yield ready[0]
    finally:
        done.set()
        thread.join()
    if failed:
        raise failed[0]


@contextlib.asynccontextmanager
async def _shop(dsn: str, folder: Path) -> AsyncIterator[Shop]:
    issuer = Issuer(folder)
    trusted = trust.prepare(folder, {}, folder)
    tls = {"ca_file": str(issuer.ca_file)}
    async with Localnet(slot_seconds=0.2) as net:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("proxy.service.DataPlane", partial(DataPlane, resolver=_resolve))
            entry = offer(str(net.seller.pubkey()), str(net.fee_payer.pubkey()), PRICE)
            async with house(net, dsn, folder, tls=tls) as home:
                address = Address(*home.service.proxy_address)
                async with lending(address, home.agent, home.token) as port:
                    told = environment.variables(
                        {}, proxy_url=home.proxy, trust=trusted, lender_port=port
                    )
                    loop = asyncio.get_running_loop()
                    shop = Shop(home, told, loop, challenge(entry))
                    plain = await asyncio.start_server(shop.serve, "127.0.0.1", 0)
                    closed = await asyncio.start_server(
                        shop.serve, "127.0.0.1", 0, ssl=issuer.context(HOST)
                    )
                    shop.http = f"http://{HOST}:{_port(plain)}"
                    shop.https = f"https://{HOST}:{_port(closed)}"
                    yield shop
                    plain.close()
                    closed.close()


async def _resolve(host: str, port: int) -> Sequence[Any]:
    """Our made-up name is this machine; for a program it has no address at all."""
    if host != HOST:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("127.0.0.1", port))]


def _port(server: asyncio.Server) -> int:
    return int(server.sockets[0].getsockname()[1])
