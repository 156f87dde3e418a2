"""The frame around the routes: refusals, faults, bounds."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

import aiohttp
import pytest
from aiohttp import web
from pydantic import BaseModel, Field

from proxy.admin import (
    Hosts,
    Keys,
    Listener,
    Role,
    UnmarkedRoute,
    anyone,
    application,
    asked,
    caller,
    needs,
    sent,
)
from proxy.admin import listener as listener_module
from proxy.admin.answers import answer
from proxy.ledger import Database
from tests.admin.desk import Desk, refused
from tests.e2e.house import Answer


class Order(BaseModel):
    goods: Annotated[str, Field(max_length=10)]
    count: Annotated[int, Field(ge=1)] = 1


@needs(Role.OPERATOR, query=Order, body=Order)
async def order(request: web.Request) -> web.Response:
    """Another room's route."""
    query, body = asked(request, Order), sent(request, Order)
    return answer({"by": caller(request).name, "asked": query.goods, "sent": body.count})


@anyone(gives="text/plain")
async def broken(_: web.Request) -> web.Response:
    raise RuntimeError("a secret")


@anyone(gives="text/plain")
async def cut_off(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    await response.write(b"half an ans")
    raise RuntimeError("a secret")


async def unmarked(_: web.Request) -> web.Response:
    return answer({})


ROUTES = [web.post("/order", order), web.get("/broken", broken), web.get("/cut", cut_off)]


@asynccontextmanager
async def serving(dsn: str) -> AsyncIterator[tuple[str, Keys]]:
    database = await Database.open(dsn)
    keys = Keys(database)
    listener = await Listener.start(application(keys, ROUTES, Hosts()), "127.0.0.1", 0)
    host, port = listener.addresses[0]
    try:
        yield f"http://{host}:{port}", keys
    finally:
        await listener.close()
        await database.close()


async def post(url: str, **options: object) -> Answer:
    async with (
        aiohttp.ClientSession() as session,
        session.post(url, **options) as response,  # type: ignore[arg-type]
    ):
        return Answer(response.status, response.headers, await response.read())


async def test_a_route_without_a_mark_is_never_served() -> None:
    with pytest.raises(UnmarkedRoute, match="GET /loose does not say who may use it"):
        application(Keys(None), [*ROUTES, web.get("/loose", unmarked)], Hosts())  # type: ignore[arg-type]


async def test_another_rooms_route(dsn: str) -> None:
    async with serving(dsn) as (url, keys):
        key = {"Authorization": f"Bearer {await keys.create('op', Role.OPERATOR)}"}
        there = f"{url}/order?goods=tea"
        done = await post(there, json={"goods": "x", "count": 3}, headers=key)
        assert (done.status, done.json) == (200, {"by": "op", "asked": "tea", "sent": 3})
        refused(await post(there, json={}), 401, "api_key_required")  # before the body is read
        for bad, code in (
            ({"json": {"goods": "x" * 11}}, "bad_body"),
            ({"json": []}, "bad_body"),
            ({"data": "{", "headers": {"Content-Type": "application/json"}}, "bad_body"),
            ({"data": "[" * 100_000, "headers": {"Content-Type": "application/json"}}, "bad_body"),
        ):
            options = bad | {"headers": key | bad.get("headers", {})}  # type: ignore[operator]
            answered = await post(there, **options)
            refused(answered, 400, code)
            assert "xxx" not in answered.body.decode()
        refused(await post(there, data="goods=tea", headers=key), 415, "json_required")
        fault = await post(f"{url}/order", json={"goods": "x"}, headers=key)
        refused(fault, 400, "bad_query")
        assert fault.json["errors"] == [{"where": "goods", "why": "Field required"}]
        twice = await post(f"{there}&goods=coffee", json={"goods": "x"}, headers=key)
        refused(twice, 400, "bad_query")


async def test_bodies_are_bounded(dsn: str) -> None:
    async with serving(dsn) as (url, keys):
        key = {"Authorization": f"Bearer {await keys.create('op', Role.OPERATOR)}"}
        long = json.dumps({"goods": "x" * 300_000})
        headers = key | {"Content-Type": "application/json"}

        async def chunks() -> AsyncIterator[bytes]:
            for at in range(0, len(long), 10_000):
                yield long[at : at + 10_000].encode()

        refused(
            await post(f"{url}/order?goods=x", data=chunks(), headers=headers),
            413,
            "content_too_large",
        )
        # Not a byte of it is waited for.
        reader, writer = await connect(url)
        writer.write(b"POST /order HTTP/1.1\r\nHost: localhost\r\nContent-Length: 300000\r\n\r\n")
        said = await asyncio.wait_for(reader.read(), 20)
        assert b" 413 " in said and b"content_too_large" in said
        writer.close()


async def test_a_fault_of_ours_tells_nothing(dsn: str, caplog: pytest.LogCaptureFixture) -> None:
    async with serving(dsn) as (url, _):
        async with aiohttp.ClientSession() as session, session.get(f"{url}/broken") as response:
            fault = Answer(response.status, response.headers, await response.read())
        refused(fault, 500, "internal_error")
        assert b"secret" not in fault.body and "a secret" in caplog.text
        reader, writer = await connect(url)
        writer.write(b"GET /cut HTTP/1.1\r\nHost: localhost\r\n\r\n")
        said = await asyncio.wait_for(reader.read(), 20)
        assert said.count(b"HTTP/1.1") == 1 and b"half an ans" in said and b"secret" not in said
        assert not said.endswith(b"0\r\n\r\n")  # it does not look complete
        writer.close()


async def test_what_is_not_there(desk: Desk) -> None:
    refused(await desk.ask("/"), 404, "not_found")
    refused(await desk.ask("/v1/nothing", Role.ADMIN), 404, "not_found")
    answer = await desk.ask("/v1/agents", Role.ADMIN, "DELETE")
    refused(answer, 405, "method_not_allowed")
    assert answer.headers["Allow"] == "GET, HEAD, POST"
    head = await desk.ask("/v1/agents", Role.READER, "HEAD")
    assert (head.status, head.body) == (200, b"")
    assert (await desk.ask("/v1/agents", None, "HEAD")).status == 401
    assert head.headers["Server"] == "autopay"


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=1001", "limit=x", "before=x", "agent=a%00b", "agent=", "bogus=1"]
)
async def test_bad_queries(desk: Desk, query: str) -> None:
    refused(await desk.ask(f"/v1/decisions?{query}", Role.READER), 400, "bad_query")


@pytest.mark.parametrize("data", [b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\nA\0: b\r\n\r\n"])
async def test_what_is_no_request(desk: Desk, data: bytes) -> None:
    reader, writer = await connect(desk.url)
    writer.write(data)
    said = await asyncio.wait_for(reader.read(), 20)
    assert b" 400 " in said and b"problem+json" in said and b"bad_request" in said
    writer.close()


async def test_silence(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever connects and says nothing is in nobody's way for long."""
    monkeypatch.setattr(listener_module, "IDLE_SECONDS", 0.5)
    reader, writer = await connect(desk.url)
    assert await asyncio.wait_for(reader.read(), 20) == b""
    writer.close()


async def test_a_crowd_of_idle_ones_makes_room(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """For whoever comes next: the one that was not used for the longest time."""
    monkeypatch.setattr(listener_module, "CONNECTIONS", 3)
    crowd = [await connect(desk.url) for _ in range(3)]
    for one in (*crowd, crowd[0]):  # whose second request makes crowd[1] the oldest
        await asks(one)
    new = await connect(desk.url)
    await asks(new)
    assert await asyncio.wait_for(crowd[1][0].read(), 20) == b""
    for one in (crowd[0], crowd[2], new):
        await asks(one)
    silent = await connect(desk.url)  # says nothing, and takes the place of crowd[0]
    assert await asyncio.wait_for(crowd[0][0].read(), 20) == b""
    late = [await connect(desk.url) for _ in range(3)]  # at once: each takes a place of its own
    for one in (crowd[2], new, silent):
        assert await asyncio.wait_for(one[0].read(), 20) == b""
    for one in late:
        await asks(one)
    for _, writer in (*crowd, new, silent, *late):
        writer.close()


async def test_who_is_being_answered_makes_no_room(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener_module, "CONNECTIONS", 2)
    key = await desk.key(Role.AUDITOR)
    streams = [await connect(desk.url) for _ in range(2)]
    for reader, writer in streams:
        head = f"Host: localhost\r\nAuthorization: Bearer {key}\r\n\r\n"
        writer.write(f"GET /v1/events/stream HTTP/1.1\r\n{head}".encode())
        assert b" 200 " in await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
        await asks_once(desk.url)
    for reader, writer in streams:
        assert not reader.at_eof()
        writer.close()
    async with asyncio.timeout(20):  # until they are gone
        while True:
            try:
                await asks_once(desk.url)
            except (ConnectionError, asyncio.IncompleteReadError):
                await asyncio.sleep(0.02)
            else:
                return


Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def asks(connection: Connection) -> None:
    """A request that is answered, on a connection that stays."""
    reader, writer = connection
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
    async with asyncio.timeout(20):
        head = await reader.readuntil(b"\r\n\r\n")
        assert b" 200 " in head
        size = int(head.lower().partition(b"content-length:")[2].split()[0])
        assert json.loads(await reader.readexactly(size))["status"] == "ok"


async def asks_once(url: str) -> None:
    connection = await connect(url)
    try:
        await asks(connection)
    finally:
        connection[1].close()


async def connect(url: str) -> Connection:
    host, _, port = url.removeprefix("http://").partition(":")
    return await asyncio.open_connection(host, int(port))


@pytest.fixture(autouse=True)
def _all_logs(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
