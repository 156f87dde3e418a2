"""Webhooks, made and looked after by whoever has a key; nothing secret of them is shown twice."""

import asyncio
import base64
import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from typing import Any
from unittest import mock
from uuid import uuid4

import pytest

from proxy.admin import Role
from proxy.notices.webhooks import MOST
from tests.admin.desk import Desk, refused
from tests.e2e.house import until
from tests.e2e.seller import Seen, Seller, reply, selling

ADMIN, OPERATOR, AUDITOR, READER = Role.ADMIN, Role.OPERATOR, Role.AUDITOR, Role.READER
PATH = "/v1/webhooks"
PATIENCE = 90.0  # another test of this server may hold a transaction open, which events wait for


@pytest.fixture
async def receiver() -> AsyncIterator[Seller]:
    async with selling() as receiver:
        receiver.answer = lambda seen: reply(200)
        yield receiver


async def add(desk: Desk, receiver: Seller, *types: str) -> dict[str, Any]:
    made: dict[str, Any] = await desk.does(
        "POST",
        PATH,
        {
            "url": receiver.url.replace("//", "//user:T0PSECRET@") + "/T0PSECRET?key=T0PSECRET",
            "types": list(types or ("alarm",)),
            "private": True,
        },
        role=ADMIN,
        status=201,
    )
    return made


def signature(secret: str, seen: Seen) -> str:
    signed = ".".join(seen.headers[f"webhook-{name}"] for name in ("id", "timestamp"))
    key = base64.b64decode(secret.removeprefix("whsec_"))
    mac = hmac.new(key, f"{signed}.".encode() + seen.body, hashlib.sha256).digest()
    return f"v1,{base64.b64encode(mac).decode()}"


async def changes(desk: Desk) -> list[str]:
    """The details of WEBHOOK_CHANGE events, as text."""
    rows = await desk.home.rows(
        "SELECT details::text AS said FROM audit_events WHERE event_type = 'WEBHOOK_CHANGE'"
        " ORDER BY created_at"
    )
    return [row["said"] for row in rows]


async def test_a_webhooks_life(desk: Desk, receiver: Seller) -> None:
    made = await add(desk, receiver)
    done = await desk.last_action()
    assert (done["by"], done["role"], done["action"]) == ("admin", "admin", f"POST {PATH}")
    assert (done["leads_to"], done["types"], done["private"]) == (receiver.url, ["alarm"], True)
    assert made["secret"] not in str(done)
    path = f"{PATH}/{made['id']}"

    outcome = await desk.does("POST", f"{path}/test", role=ADMIN)
    assert outcome == {"status": 200, "error": ""}
    (seen,) = receiver.seen
    assert seen.line == "POST /T0PSECRET?key=T0PSECRET HTTP/1.1"
    assert seen.headers["webhook-signature"] == signature(made["secret"], seen)
    assert await desk.actions() == 1  # to try it changes nothing

    (shown,) = await desk.items(PATH)
    assert shown == await desk.does("GET", path, role=READER)
    assert (shown["leads_to"], shown["active"], shown["waiting"]) == (receiver.url, True, 0)
    assert shown["created_by"] == "admin"

    paused = await desk.does("PATCH", path, {"active": False}, role=ADMIN)
    assert paused == {**shown, "active": False}
    assert (await desk.last_action())["active"] is False
    told = {"active": True, "types": ["alarm", "policy.changed"]}
    assert await desk.does("PATCH", path, told, role=ADMIN) == {**shown, **told}
    assert await desk.actions() == 3
    for same in (told, {}):
        assert await desk.does("PATCH", path, same, role=ADMIN) == {**shown, **told}
    assert await desk.actions() == 3  # it was so before

    await desk.does("DELETE", path, role=ADMIN, status=204)
    assert await desk.items(PATH) == []
    assert (await desk.last_action())["id"] == made["id"]
    said = await changes(desk)
    assert len(said) == 4 and all('"by": "admin"' in one for one in said)
    assert all('"origin": "api 127.0.0.1"' in one for one in said)
    actions = "SELECT details::text AS said FROM audit_events"
    everything = [row["said"] for row in await desk.home.rows(actions)]
    assert "T0PSECRET" not in str([shown, *everything]) and made["secret"] not in str(everything)


async def test_what_became_of_its_messages(desk: Desk, receiver: Seller) -> None:
    one, other = [await add(desk, receiver, "policy.changed") for _ in range(2)]
    for method in ("PUT", "DELETE", "PUT"):
        await desk.does(method, "/v1/agents/shopper/freeze", status=204)
    where = f"{PATH}/deliveries?webhook={one['id']}"
    async with asyncio.timeout(20):
        while len(await desk.items(f"{where}&state=delivered", AUDITOR)) < 3:
            await asyncio.sleep(0.05)
    whole = await desk.does("GET", where, role=AUDITOR)
    assert whole["next"] is None
    assert {item["webhook_id"] for item in whole["items"]} == {one["id"]}
    assert {item["payload"]["data"]["agent"] for item in whole["items"]} == {"shopper"}
    assert {(item["last_status"], item["attempts"]) for item in whole["items"]} == {(200, 1)}
    first = await desk.does("GET", f"{where}&limit=2", role=AUDITOR)
    behind = await desk.does("GET", f"{where}&limit=2&before={first['next']}", role=AUDITOR)
    assert first["items"] + behind["items"] == whole["items"] and behind["next"] is None
    assert await desk.items(f"{where}&state=failed", AUDITOR) == []
    assert len(await desk.items(f"{PATH}/deliveries", AUDITOR)) == 6
    refused(await desk.ask(where, READER), 403, "role_not_allowed")

    await desk.does("DELETE", f"{PATH}/{one['id']}", role=ADMIN, status=204)
    left = await desk.items(f"{PATH}/deliveries", AUDITOR)
    assert {item["webhook_id"] for item in left} == {other["id"]}


async def test_it_is_led_elsewhere(desk: Desk, receiver: Seller) -> None:
    """What could not be delivered yet goes along, under its id and signed as before."""
    receiver.answer = lambda seen: reply(500)
    made = await add(desk, receiver, "policy.changed")
    path = f"{PATH}/{made['id']}"
    await desk.does("PUT", "/v1/agents/shopper/freeze", status=204)
    await until(lambda: bool(receiver.seen), PATIENCE)
    async with selling() as other:
        other.answer = lambda seen: reply(200)
        before = await desk.does("GET", path, role=READER)
        url = f"{other.url}/T0PSECRET?key=T0PSECRET"
        assert await desk.does("PATCH", path, {"url": url}, role=ADMIN) == {
            **before, "leads_to": other.url, "last_error": mock.ANY, "waiting": mock.ANY
        }  # fmt: skip
        done = await desk.last_action()
        assert (done["action"], done["leads_to"]) == (f"PATCH {PATH}/{{id}}", other.url)
        await until(lambda: bool(other.seen), PATIENCE)
        (seen,) = other.seen
    assert seen.line == "POST /T0PSECRET?key=T0PSECRET HTTP/1.1"
    assert seen.headers["webhook-id"] == receiver.seen[0].headers["webhook-id"]
    assert seen.headers["webhook-signature"] == signature(made["secret"], seen)
    said = await changes(desk)
    change = json.loads(said[-1])
    assert (change["change"], change["host"], change["by"]) == (
        "changed", other.url.removeprefix("http://"), "admin"
    )  # fmt: skip
    actions = await desk.home.rows("SELECT details::text AS said FROM audit_events")
    assert "T0PSECRET" not in str([said, *(row["said"] for row in actions)])


async def test_where_it_may_not_be_led(desk: Desk, receiver: Seller) -> None:
    made = await add(desk, receiver)
    path = f"{PATH}/{made['id']}"
    before = await desk.does("GET", path, role=READER)
    public = {"url": "https://example.com/hook", "private": False}
    for wrong, why in (
        ({"url": "http://169.254.169.254/latest/meta-data"}, "metadata"),
        ({"url": "http://2852039166/"}, "canonical"),
        ({"url": "http://8.8.8.8/"}, "plain http"),
        ({"url": "ftp://example.com/"}, ""),
        ({"private": False}, "https://"),  # it leads to 127.0.0.1, and by http
        ({"url": "https://127.0.0.1/", "private": False}, "loopback"),
    ):
        answer = await desk.ask(path, ADMIN, "PATCH", json=wrong)
        refused(answer, 400, "bad_body")
        assert why in answer.json["detail"]
    assert await desk.does("GET", path, role=READER) == before
    refused(await desk.ask(path, OPERATOR, "PATCH", json=public), 403, "role_not_allowed")
    assert await desk.actions() == 1
    now = await desk.does("PATCH", path, public, role=ADMIN)
    assert (now["leads_to"], now["private"]) == ("https://example.com", False)
    # What it was allowed before, it is not any more.
    answer = await desk.ask(path, ADMIN, "PATCH", json={"url": receiver.url})
    refused(answer, 400, "bad_body")


async def test_an_answer_that_is_none_repeats_no_url(desk: Desk, receiver: Seller) -> None:
    """Not in what is shown: the client's own words would have it."""
    receiver.answer = lambda seen: b"rubbish\r\n\r\n"
    made = await add(desk, receiver)
    outcome = await desk.does("POST", f"{PATH}/{made['id']}/test", role=ADMIN)
    assert outcome == {"status": None, "error": "what it answered is not valid HTTP"}
    receiver.answer = lambda seen: reply(500)
    outcome = await desk.does("POST", f"{PATH}/{made['id']}/test", role=ADMIN)
    assert outcome == {"status": 500, "error": "it answered 500"}


async def test_what_is_no_webhook(desk: Desk, receiver: Seller) -> None:
    url = "https://example.com/hook"
    for wrong in (
        {},
        {"url": "http://example.com/hook"},  # private only
        {"url": "HTTPS://example.com/hook"},
        {"url": "ftp://example.com/"},
        {"url": "https://"},
        {"url": "https://:80"},
        {"url": "https://[::1"},
        {"url": "https://example.com:99999/"},
        {"url": "https://exa mple.com/"},
        {"url": "https://127.0.0.1/"},
        {"url": "http://169.254.169.254/", "private": True},
        {"url": "https://example.com/\n"},
        {"url": "https://example.com/" + "x" * 2_000},
        {"url": url, "types": []},
        {"url": url, "types": ["payment.made"]},
        {"url": url, "secret": "whsec_x"},
    ):
        refused(await desk.ask(PATH, ADMIN, "POST", json=wrong), 400, "bad_body")
    made = await add(desk, receiver)
    changes: list[dict[str, Any]] = [
        {"types": []}, {"types": ["x"]}, {"active": "no"}, {"url": "x"}, {"secret": "whsec_x"}
    ]  # fmt: skip
    for bad in changes:
        answer = await desk.ask(f"{PATH}/{made['id']}", ADMIN, "PATCH", json=bad)
        refused(answer, 400, "bad_body")
    for query in ("state=lost", "webhook=x", "before=x", "limit=0"):
        refused(await desk.ask(f"{PATH}/deliveries?{query}", AUDITOR), 400, "bad_query")
    for nothing in (f"{PATH}/{uuid4()}", f"{PATH}/x"):
        refused(await desk.ask(nothing, READER), 404, "no_such_webhook")
        change = await desk.ask(nothing, ADMIN, "PATCH", json={"active": True})
        refused(change, 404, "no_such_webhook")
        refused(await desk.ask(nothing, ADMIN, "DELETE"), 404, "no_such_webhook")
        refused(await desk.ask(f"{nothing}/test", ADMIN, "POST"), 404, "no_such_webhook")
    assert await desk.actions() == 1


async def test_there_is_a_bound(desk: Desk, receiver: Seller) -> None:
    await add(desk, receiver)
    await desk.home.operator.execute(
        "INSERT INTO webhooks (url, sealed, types, private)"
        " SELECT url, sealed, types, private FROM webhooks, generate_series(2, $1)",
        MOST,
    )
    full = await desk.ask(PATH, ADMIN, "POST", json={"url": "https://example.com/"})
    refused(full, 409, "too_many_webhooks")
    assert await desk.actions() == 1
