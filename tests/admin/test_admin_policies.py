"""The book of policies, changed through the API while agents pay."""

import asyncio
from typing import Any

from proxy.admin import Role
from proxy.localnet import Localnet
from tests.admin.desk import Desk, refused
from tests.admin.test_admin_limits import until_buys
from tests.e2e.seller import Seller

OPERATOR, READER = Role.OPERATOR, Role.READER
AGENT = "/v1/policies/agents/shopper"


async def test_one_layer(desk: Desk, net: Localnet, seller: Seller) -> None:
    before = await desk.does("GET", AGENT, role=READER)
    assert (before["layer"], before["agent"], before["provider"]) == (
        "agent shopper",
        "shopper",
        None,
    )
    assert before["rules"]["per_call"] == "0.05"

    # Lists replace; what is not named stays.
    change = {"per_call": "0.01", "allowed_pay_to": ["nobody", "noone"], "monthly": "7.5"}
    after = await desk.does("PATCH", f"{AGENT}?note=less", change)
    assert after["rules"] == {**before["rules"], **change, "monthly": "7.50"}
    assert after["version"] == before["version"] + 1
    await until_buys(desk, net, seller, 20_000, "over_per_call_limit")
    await until_buys(desk, net, seller, 1_000, "pay_to_not_allowed")
    after = await desk.does("PATCH", AGENT, {"allowed_pay_to": ["noone"]})
    assert after["rules"]["allowed_pay_to"] == ["noone"]
    # An empty list, or null, says nothing: everybody may be paid again.
    after = await desk.does("PATCH", AGENT, {"allowed_pay_to": [], "monthly": None})
    assert after["rules"] == {**before["rules"], "per_call": "0.01"}
    await until_buys(desk, net, seller, 1_000, "paid")
    again = await desk.does("PATCH", AGENT, {"per_call": "0.010"})
    assert again["version"] == after["version"]  # the same again changes nothing

    # PUT leaves nothing of what was.
    whole = await desk.does("PUT", AGENT, {"allowed_targets": ["127.0.0.0/8"]})
    assert whole["rules"] == {"allowed_targets": ["127.0.0.0/8"]}
    shown = await desk.does("GET", "/v1/agents/shopper", role=READER)
    assert shown["per_call_usd"] == "0.05"  # what holds where nobody says anything
    await desk.does("PUT", "/v1/policies/defaults", {"per_call": "0.002"})
    await until_buys(desk, net, seller, 3_000, "over_per_call_limit")
    await desk.does("DELETE", "/v1/policies/defaults", status=204)
    await until_buys(desk, net, seller, 3_000, "paid")


async def test_layers_of_providers(desk: Desk, net: Localnet, seller: Seller) -> None:
    origin = seller.url.replace("/", "%2F")
    for path, layer in (
        (f"/v1/policies/providers/{origin}", f'provider "{seller.url}"'),
        (
            f"/v1/policies/agents/shopper/providers/{origin}",
            f'agent shopper provider "{seller.url}"',
        ),
    ):
        refused(await desk.ask(path, READER), 404, "no_such_layer")
        refused(await desk.ask(path, OPERATOR, "DELETE"), 404, "no_such_layer")
        made = await desk.does("PUT", path, {"per_call": "0.001"})
        assert (made["layer"], made["provider"]) == (layer, seller.url)
        await until_buys(desk, net, seller, 2_000, "over_per_call_limit")
        await desk.does("PATCH", path, {"hourly": "3"})
        rules = (await desk.does("GET", path, role=READER))["rules"]
        assert rules == {"per_call": "0.001", "hourly": "3.00"}
        await desk.does("DELETE", path, status=204)
        await until_buys(desk, net, seller, 2_000, "paid")
    refused(
        await desk.ask("/v1/policies/agents/nobody/providers/a.example", OPERATOR, "PUT", json={}),
        404,
        "no_such_agent",
    )


async def test_the_whole_book(desk: Desk) -> None:
    book = await desk.does("GET", "/v1/policies", role=READER)
    assert book["agent"]["shopper"]["daily"] == "1.00"
    wanted: dict[str, Any] = {
        **book,
        "defaults": {"loss_cap": "1.00"},
        "provider": {"*.Example.com": {"rolling": {"24h": "5"}, "payments": {"hour": 9}}},
    }
    path = "/v1/policies/diff"
    (one, *_) = (await desk.does("POST", path, wanted, role=READER))["items"]
    assert (one["layer"], one["rule"]) == ("defaults", "loss_cap")
    assert (one["before"], one["after"], one["direction"]) == (None, "1.00", "tighter")
    assert await desk.does("GET", "/v1/policies", role=READER) == book  # nothing was changed
    assert await desk.actions() == 0

    done = await desk.does("PUT", "/v1/policies?note=from%20git", wanted)
    assert [change["layer"] for change in done["changes"]] == [
        "defaults",
        'provider "*.example.com"',
    ]
    assert done["version"] == book["version"] + 1
    now = await desk.does("GET", "/v1/policies", role=READER)
    assert now["provider"]["*.example.com"] == {"rolling": {"24h": "5.00"}, "payments": {"hour": 9}}
    event = await desk.last_action()
    assert (event["action"], event["by"]) == ("PUT /v1/policies", "operator")

    # The document's own version is a condition, as it is when it came from a GET.
    stale = await desk.ask("/v1/policies", OPERATOR, "PUT", json=wanted)
    refused(stale, 412, "policy_conflict")
    assert stale.json["version"] == now["version"]
    # PATCH leaves the layers that it does not name.
    await desk.does("PATCH", "/v1/policies", {"provider": {"b.example": {"frozen": True}}})
    now = await desk.does("GET", "/v1/policies", role=READER)
    assert set(now["provider"]) == {"*.example.com", "b.example"} and "loss_cap" in now["defaults"]
    kept = {"agent": {"shopper": now["agent"]["shopper"]}}
    listed = await desk.does("POST", f"{path}?prune=false", kept, role=READER)
    assert listed["items"] == []
    assert len((await desk.does("POST", path, kept, role=READER))["items"]) == 4

    lines = (await desk.does("GET", "/v1/policies/history?limit=2", role=READER))["items"]
    assert [line["layer"] for line in lines] == ["provider b.example", "provider *.example.com"]
    assert (lines[0]["changed_by"], lines[0]["origin"]) == ("operator", "api 127.0.0.1")
    assert (lines[1]["note"], lines[1]["version"]) == ("from git", done["version"])
    page = await desk.does("GET", "/v1/policies/history?limit=2", role=READER)
    behind = await desk.does(
        "GET", f"/v1/policies/history?limit=2&before={page['next']}", role=READER
    )
    assert behind["items"][0]["layer"] == "defaults"

    back = await desk.does("POST", "/v1/policies/rollback", {"version": book["version"]})
    now = await desk.does("GET", "/v1/policies", role=READER)
    assert now == {**book, "version": back["version"]}
    unknown = await desk.ask("/v1/policies/rollback", OPERATOR, "POST", json={"version": 10**9})
    refused(unknown, 404, "no_such_version")


async def test_one_of_two_who_change_the_same(desk: Desk) -> None:
    """Who has not seen the last change is told so, and changes nothing."""
    answer = await desk.ask(AGENT, READER)
    seen = answer.headers["ETag"]
    assert seen == f'"{answer.json["version"]}"'
    first = await desk.ask(
        AGENT, OPERATOR, "PATCH", json={"daily": "2"}, headers={"If-Match": seen}
    )
    assert first.status == 200 and first.headers["ETag"] != seen
    for method, path, body in (
        ("PATCH", AGENT, {"daily": "3"}),
        ("PUT", AGENT, {"daily": "3"}),
        ("DELETE", AGENT, None),
        ("PUT", "/v1/policies", {}),
        ("PATCH", "/v1/policies", {"defaults": {"daily": "3"}}),
        ("PUT", "/v1/policies/defaults", {"daily": "3"}),
        ("POST", "/v1/policies/rollback", {"version": 1}),
    ):
        options = {} if body is None else {"json": body}
        late = await desk.ask(path, OPERATOR, method, headers={"If-Match": seen}, **options)
        refused(late, 412, "policy_conflict")
    assert (await desk.does("GET", AGENT, role=READER))["rules"]["daily"] == "2.00"
    for wrong in ("17", 'W/"17"', '"x"', '"1", "2"'):
        answer = await desk.ask(AGENT, OPERATOR, "PATCH", json={}, headers={"If-Match": wrong})
        refused(answer, 400, "bad_query")
    # Side by side and without a condition, none is lost.
    changes: list[dict[str, Any]] = [{"hourly": "1"}, {"monthly": "9"}, {"lifetime": "20"}]
    await asyncio.gather(*(desk.does("PATCH", AGENT, change) for change in changes))
    rules = (await desk.does("GET", AGENT, role=READER))["rules"]
    assert (rules["hourly"], rules["monthly"], rules["lifetime"]) == ("1.00", "9.00", "20.00")


async def test_what_is_no_policy(desk: Desk) -> None:
    version = (await desk.does("GET", AGENT, role=READER))["version"]
    for body, code, where in (
        ({"per_cal": "1"}, "bad_body", "per_cal"),
        ({"per_call": 1}, "bad_body", "per_call"),
        ({"per_call": "-1"}, "bad_body", "per_call"),
        ({"frozen": "yes"}, "bad_body", "frozen"),
        ({"allowed_endpoints": "x"}, "bad_body", "allowed_endpoints"),
        (
            {"allowed_endpoints": ["https://a.example/*", "nowhere"]},
            "bad_policy",
            "allowed_endpoints[2]",
        ),
        ({"hours": ["Funday"]}, "bad_policy", "hours[1]"),
        ({"allowed_assets": ["a\0b"]}, "bad_body", "allowed_assets.0"),
        ({"allowed_assets": ["\ud800"]}, "bad_body", "allowed_assets.0"),
        ({"rolling": {"99d": "1"}}, "bad_policy", "rolling"),
    ):
        answer = await desk.ask(AGENT, OPERATOR, "PATCH", json=body)
        refused(answer, 400, code)
        assert answer.json["errors"][0]["where"].startswith(where), answer.json
        assert where.partition(".")[0] in answer.json["detail"]
    session = {"session": "1"}
    refused(
        await desk.ask("/v1/policies/providers/a.example", OPERATOR, "PUT", json=session),
        400,
        "bad_body",
    )
    unknown = {"agent": {"nobody": {"daily": "1"}}}
    refused(await desk.ask("/v1/policies", OPERATOR, "PATCH", json=unknown), 422, "no_such_agent")
    book: dict[str, Any] = {"agent": {"shopper": {"provider": {"a b": {}}}}}
    refused(await desk.ask("/v1/policies", OPERATOR, "PATCH", json=book), 400, "bad_policy")
    assert (await desk.does("GET", AGENT, role=READER))["version"] == version


async def test_a_shadow(desk: Desk, net: Localnet, seller: Seller) -> None:
    path = "/v1/policies/shadow"
    assert (await desk.does("GET", path, role=READER))["book"] is None
    book = {"agent": {"shopper": {"per_call": "0.000001", "allowed_targets": ["127.0.0.0/8"]}}}
    now = await desk.does("PUT", path, {"book": book, "note": "what if"})
    assert (now["book"]["agent"], now["updated_by"]) == (book["agent"], "operator")
    seen: set[str | None] = set()
    async with asyncio.timeout(20):
        while "over_per_call_limit" not in seen:
            await until_buys(desk, net, seller, 1_000, "paid")
            seen |= {one["shadow_reason"] for one in await desk.items("/v1/decisions")}
    await desk.does("DELETE", path, status=204)
    assert (await desk.does("GET", path, role=READER))["book"] is None
