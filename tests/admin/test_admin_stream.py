"""What happens, as server-sent events through the listening socket."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from proxy.admin import Role
from proxy.admin import stream as stream_module
from proxy.localnet import Localnet
from tests.admin.desk import Desk, refused
from tests.admin.test_admin_limits import buys, until_buys
from tests.e2e.seller import Seller

PATH = "/v1/events/stream"
PATIENCE = 90  # another test of this server may hold a transaction open, which events wait for


class Stream:
    """The events of one client, as its browser would have them."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.response = response
        self.comments: list[str] = []

    async def next(self) -> dict[str, Any]:
        """Raises StopAsyncIteration at the end."""
        fields: dict[str, str] = {}
        async with asyncio.timeout(PATIENCE):
            while line := (await self.response.content.readline()).decode():
                name, _, value = line.rstrip("\n").partition(": ")
                if line == "\n" and "data" in fields:
                    event: dict[str, Any] = json.loads(fields["data"])
                    assert (event["id"], event["type"]) == (fields["id"], fields["event"])
                    return event
                if line.startswith(":"):
                    self.comments.append(line)
                elif line != "\n":
                    fields[name] = value
        raise StopAsyncIteration

    async def of(self, kind: str) -> dict[str, Any]:
        """The next one of this type."""
        while (event := await self.next())["type"] != kind:
            pass
        return event


@asynccontextmanager
async def listening(desk: Desk, query: str = "", **headers: str) -> AsyncIterator[Stream]:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    names["Authorization"] = f"Bearer {await desk.key(Role.AUDITOR)}"
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None)) as session,
        session.get(f"{desk.url}{PATH}{query}", headers=names) as response,
    ):
        assert response.status == 200, await response.read()
        assert response.headers["Content-Type"] == "text/event-stream"
        assert response.headers["Cache-Control"] == "no-store"
        yield Stream(response)


async def test_as_it_happens_and_what_was_missed(desk: Desk, net: Localnet, seller: Seller) -> None:
    async with listening(desk) as stream:
        await desk.does("PUT", "/v1/agents/shopper/freeze", status=204)
        frozen = await stream.of("OPERATOR_ACTION")
        assert (frozen["agent"], frozen["details"]["by"]) == ("shopper", "operator")
        assert await buys(desk, net, seller, 1_000) == "frozen"
        denied = await stream.of("PAYMENT_DENIED")
        assert (denied["agent"], denied["details"]["code"]) == ("shopper", "frozen")
    # While nobody listens, it goes on; who comes back misses nothing, and gets nothing twice.
    await desk.does("DELETE", "/v1/agents/shopper/freeze", status=204)
    await until_buys(desk, net, seller, 1_000, "paid")
    async with listening(desk, Last_Event_ID=denied["id"]) as stream:
        thawed = await stream.of("OPERATOR_ACTION")
        assert thawed["details"]["action"] == "DELETE /v1/agents/{agent}/freeze"
        assert (await stream.of("PAYMENT_SUCCESS"))["severity"] == "INFO"
    query = f"?after={frozen['id']}&type=PAYMENT_DENIED"
    async with listening(desk, query) as stream:
        assert (await stream.next())["id"] == denied["id"]
    for bad in ("?after=x", "?type=PARTY", "?agent=a:b", "?bogus=1"):
        refused(await desk.ask(PATH + bad, Role.AUDITOR), 400, "bad_query")
    refused(await desk.ask(PATH, Role.READER), 403, "role_not_allowed")


async def test_it_is_kept_alive_and_ends_with_its_key(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_module, "HEARTBEAT_SECONDS", 0.1)
    async with listening(desk) as stream:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(stream.next(), 1)
        assert len(stream.comments) > 2
        await desk.book.revoke("auditor")
        with pytest.raises(StopAsyncIteration):
            while True:
                await stream.next()


async def test_they_are_bounded_and_end_with_the_listener(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_module, "MOST_STREAMS", 1)
    async with listening(desk) as stream:
        refused(await desk.ask(PATH, Role.AUDITOR), 503, "too_many_streams")
        loop = asyncio.get_running_loop()
        stopping = asyncio.create_task(desk.home.service.stop())
        begin = loop.time()
        with pytest.raises(StopAsyncIteration):
            while True:
                await stream.next()
        assert loop.time() - begin < PATIENCE
        await stopping
