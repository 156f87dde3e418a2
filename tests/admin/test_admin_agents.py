"""Agents and their tokens, made and ended while the proxy runs."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

from proxy.admin import Role
from proxy.localnet import Localnet
from tests.admin.desk import Desk, refused

ADMIN, OPERATOR, READER = Role.ADMIN, Role.OPERATOR, Role.READER


async def opens(desk: Desk, net: Localnet, agent: str, token: str) -> bool:
    """Whether the proxy takes this credential."""
    host, port = desk.home.service.proxy_address
    answer = await desk.home.ask(
        f"{net.api_url}/free", proxy=f"http://{agent}:{token}@{host}:{port}"
    )
    return answer.status != 407


async def soon(desk: Desk, net: Localnet, made: dict[str, Any], *, opened: bool) -> None:
    """Waits until the proxy takes a token, or does not take it any more."""
    async with asyncio.timeout(20):
        while await opens(desk, net, made["agent"], made["token"]) is not opened:
            await asyncio.sleep(0.05)


async def test_an_agents_life(desk: Desk, net: Localnet) -> None:
    made = await desk.does("POST", "/v1/agents", {"agent": "bot"}, role=ADMIN, status=201)
    assert made["agent"] == "bot" and made["token"].startswith("ap_")
    assert (made["session"], made["expires_at"]) == (None, None)
    done = await desk.last_action()
    assert (done["agent"], done["by"], done["role"]) == ("bot", "admin", "admin")
    assert done["origin"] == "api 127.0.0.1" and done["action"] == "POST /v1/agents"
    assert "bot" not in str({**done, "agent": None}) and made["token"] not in str(done)

    shown = await desk.does("GET", "/v1/agents/bot", role=READER)
    assert (shown["active"], shown["frozen"], shown["capture_chat"]) == (True, False, False)
    assert shown["daily_usd"] == "1.00"  # by the settings
    changed = await desk.does("PATCH", "/v1/agents/bot", {"capture_chat": True}, role=ADMIN)
    assert changed == {**shown, "capture_chat": True}
    await soon(desk, net, made, opened=True)

    await desk.does("DELETE", "/v1/agents/bot", role=ADMIN, status=204)
    await soon(desk, net, made, opened=False)
    assert (await desk.does("GET", "/v1/agents/bot", role=READER))["active"] is False
    refused(await desk.ask("/v1/agents/bot", ADMIN, "DELETE"), 404, "no_such_agent")
    again = await desk.does("POST", "/v1/agents", {"agent": "bot"}, role=ADMIN, status=201)
    assert (await desk.does("GET", "/v1/agents/bot", role=READER))["id"] == shown["id"]
    await soon(desk, net, again, opened=True)


async def test_a_new_agent_may_begin_frozen(desk: Desk) -> None:
    new = {"agent": "bot", "frozen": True, "capture_chat": True}
    await desk.does("POST", "/v1/agents", new, role=ADMIN, status=201)
    shown = await desk.does("GET", "/v1/agents/bot", role=READER)
    assert (shown["frozen"], shown["capture_chat"]) == (True, True)


async def test_agents_that_are_there_and_that_are_not(desk: Desk) -> None:
    for taken in ("shopper", "autopay"):  # the second is the books' own
        answer = await desk.ask("/v1/agents", ADMIN, "POST", json={"agent": taken})
        refused(answer, 409, "agent_exists")
    change = {"json": {"capture_chat": True}}
    refused(await desk.ask("/v1/agents/nobody", ADMIN, "PATCH", **change), 404, "no_such_agent")
    refused(await desk.ask("/v1/agents/nobody", READER), 404, "no_such_agent")
    refused(await desk.ask("/v1/agents/a%20b", READER), 404, "not_found")
    refused(await desk.ask("/v1/agents/a%00", READER), 404, "not_found")
    # What changed nothing is nobody's action.
    assert await desk.actions() == 0


async def test_tokens_side_by_side(desk: Desk, net: Localnet) -> None:
    one = await desk.does(
        "POST", "/v1/agents/shopper/tokens", {"session": "run-7"}, role=ADMIN, status=201
    )
    assert one["session"] == "run-7"
    await soon(desk, net, one, opened=True)
    listed = (await desk.does("GET", "/v1/agents/shopper/tokens"))["items"]
    assert [item["session"] for item in listed] == ["run-7", None]
    assert listed[0]["id"] == one["token_id"]
    assert one["token"] not in str(listed) and "sha256" not in str(listed)

    path = f"/v1/agents/shopper/tokens/{one['token_id']}"
    await desk.does("DELETE", path, status=204)
    await soon(desk, net, one, opened=False)
    assert await opens(desk, net, "shopper", desk.home.token)
    refused(await desk.ask(path, OPERATOR, "DELETE"), 404, "no_such_token")
    assert (await desk.last_action())["token"] == one["token_id"]


async def test_a_token_ends_by_itself(desk: Desk, net: Localnet) -> None:
    """By the database's clock. Nothing is changed when it ends, so nobody is told of it."""
    made = await desk.does(
        "POST", "/v1/agents/shopper/tokens", {"expires_in": 3600}, role=ADMIN, status=201
    )
    left = datetime.fromisoformat(made["expires_at"]) - datetime.now(UTC)
    assert timedelta(minutes=59) < left < timedelta(minutes=61)
    await soon(desk, net, made, opened=True)
    path = f"/v1/agents/shopper/tokens/{made['token_id']}"
    at = (datetime.now(UTC) + timedelta(seconds=2)).isoformat()
    ends = await desk.does("PATCH", path, {"expires_at": at}, role=ADMIN)
    assert datetime.fromisoformat(ends["expires_at"]) == datetime.fromisoformat(at)
    await soon(desk, net, made, opened=False)
    assert datetime.now(UTC) >= datetime.fromisoformat(at) - timedelta(seconds=0.5)
    # Not only when the proxy reads everything anew, which it does every 15 seconds.
    assert datetime.now(UTC) < datetime.fromisoformat(at) + timedelta(seconds=10)
    assert len((await desk.does("GET", "/v1/agents/shopper/tokens"))["items"]) == 1
    refused(  # an end is an end
        await desk.ask(path, ADMIN, "PATCH", json={"expires_at": None}), 404, "no_such_token"
    )
    assert await opens(desk, net, "shopper", desk.home.token)

    # Its end may be taken back, while it has not come.
    made = await desk.does(
        "POST", "/v1/agents/shopper/tokens", {"expires_in": 4}, role=ADMIN, status=201
    )
    path = f"/v1/agents/shopper/tokens/{made['token_id']}"
    kept = await desk.does("PATCH", path, {"expires_at": None}, role=ADMIN)
    assert kept["expires_at"] is None
    now = "SELECT now() > $1 AS over"
    over = datetime.fromisoformat(made["expires_at"])
    async with asyncio.timeout(20):
        while not (await desk.home.row(now, over))["over"]:
            await asyncio.sleep(0.1)
    assert await opens(desk, net, "shopper", made["token"])


async def test_rotation_with_a_grace(desk: Desk, net: Localnet) -> None:
    old = {"agent": "shopper", "token": desk.home.token}
    path = "/v1/agents/shopper/tokens/rotate"
    new = await desk.does("POST", path, {"grace_seconds": 3}, role=ADMIN, status=201)
    await soon(desk, net, new, opened=True)
    assert len((await desk.does("GET", "/v1/agents/shopper/tokens"))["items"]) == 2
    await soon(desk, net, old, opened=False)
    assert await opens(desk, net, "shopper", new["token"])
    newer = await desk.does("POST", path, {}, role=ADMIN, status=201)
    await soon(desk, net, new, opened=False)
    assert await opens(desk, net, "shopper", newer["token"])
    assert (await desk.last_action())["grace_seconds"] == 0


async def test_what_is_no_agent_and_no_token(desk: Desk) -> None:
    bodies: list[Any] = [
        {},
        {"agent": "a:b"},
        {"agent": "x" * 101},
        {"agent": "x", "daily": "9"},
        [],
    ]
    for body in bodies:
        refused(await desk.ask("/v1/agents", ADMIN, "POST", json=body), 400, "bad_body")
    (token,) = (await desk.does("GET", "/v1/agents/shopper/tokens"))["items"]
    for where, method, wrong in (
        ("", "POST", {"session": ""}),
        ("", "POST", {"session": "a\nb"}),
        ("", "POST", {"expires_in": 0}),
        ("", "POST", {"expires_in": "60"}),
        ("", "POST", {"expires_in": 10**12}),
        ("/rotate", "POST", {"grace_seconds": -1}),
        (f"/{token['id']}", "PATCH", {}),
        (f"/{token['id']}", "PATCH", {"expires_at": "2020-01-01T00:00:00Z"}),
        (f"/{token['id']}", "PATCH", {"expires_at": "2099-01-01T00:00:00"}),
        (f"/{token['id']}", "PATCH", {"expires_at": 4_000_000_000}),
        (f"/{token['id']}", "PATCH", {"expires_at": "9999-12-31T23:59:59-12:00"}),
    ):
        answer = await desk.ask(f"/v1/agents/shopper/tokens{where}", ADMIN, method, json=wrong)
        refused(answer, 400, "bad_body")
    for agent in ("nobody", "autopay"):  # the second is the books' own
        path = f"/v1/agents/{agent}/tokens"
        refused(await desk.ask(path, OPERATOR), 404, "no_such_agent")
        refused(await desk.ask(path, ADMIN, "POST", json={}), 404, "no_such_agent")
        refused(await desk.ask(f"{path}/rotate", ADMIN, "POST", json={}), 404, "no_such_agent")
    await desk.does("POST", "/v1/agents", {"agent": "bot"}, role=ADMIN, status=201)
    for path in (
        f"/v1/agents/shopper/tokens/{uuid4()}",
        "/v1/agents/shopper/tokens/x",
        f"/v1/agents/bot/tokens/{token['id']}",  # another's
    ):
        refused(await desk.ask(path, OPERATOR, "DELETE"), 404, "no_such_token")
    assert len((await desk.does("GET", "/v1/agents/shopper/tokens"))["items"]) == 1
