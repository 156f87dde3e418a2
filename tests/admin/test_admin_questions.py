"""What may be asked of the books, and what the answers leave out."""

from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any
from urllib.parse import quote, urlencode

from proxy.admin import Role
from proxy.ledger import decided
from proxy.localnet import Localnet
from tests.admin.desk import Desk, refused
from tests.admin.test_admin_books import spend
from tests.admin.test_admin_limits import buys
from tests.e2e.house import until
from tests.e2e.seller import Seller, challenge, offer, pays_once, settled

READER, AUDITOR, OPERATOR = Role.READER, Role.AUDITOR, Role.OPERATOR


async def count(desk: Desk, path: str, role: Role = READER, **query: str) -> int:
    return len(await desk.items(f"{path}?{urlencode(query)}" if query else path, role))


async def test_filters(desk: Desk, net: Localnet, seller: Seller) -> None:
    await spend(desk, net, seller)  # three paid, one denied, one in doubt
    names = {"Autopay_Session": "s 1", "Autopay_Trace": "t-1"}
    assert await buys(desk, net, seller, 1_000, **names) == "paid"
    await until(lambda: desk.home.service.ledger.waiting == 0)
    now = datetime.now(UTC)
    later, earlier = (now + timedelta(hours=1)).isoformat(), (now - timedelta(hours=1)).isoformat()
    for path, there in (("/v1/decisions", 6), ("/v1/payments", 5), ("/v1/receipts", 4)):
        assert await count(desk, path) == there
        assert await count(desk, path, since=earlier) == there
        assert await count(desk, path, since=later) == 0
        assert await count(desk, path, until=later) == there
        assert await count(desk, path, until=earlier) == 0
        assert await count(desk, path, session="s 1") == 1
        assert await count(desk, path, trace="t-1") == 1
        assert await count(desk, path, trace="nothing") == 0
        for bad in (
            "since=yesterday",
            "since=2026-01-01",
            "until=9999-12-31T23:59:59Z",
            "session=",
        ):
            refused(await desk.ask(f"{path}?{bad}", READER), 400, "bad_query")
    assert await count(desk, "/v1/decisions", decision="deny") == 1
    assert await count(desk, "/v1/decisions", reason="over_per_call_limit") == 1
    assert await count(desk, "/v1/payments", status="CONFIRMED") == 4
    assert await count(desk, "/v1/payments", provider=seller.url) == 5
    assert await count(desk, "/v1/payments", provider="https://other.example:443") == 0
    refused(await desk.ask("/v1/payments?status=PAID", READER), 400, "bad_query")


async def test_events(desk: Desk, net: Localnet, seller: Seller) -> None:
    await spend(desk, net, seller)
    await desk.does("PUT", "/v1/agents/shopper/freeze", status=204)
    everything = await desk.items("/v1/events?limit=1000", AUDITOR)
    assert everything[0]["type"] in ("OPERATOR_ACTION", "POLICY_CHANGE")
    assert await count(desk, "/v1/events", AUDITOR, type="PAYMENT_SUCCESS") == 3
    assert await count(desk, "/v1/events", AUDITOR, severity="ERROR") == 0
    assert await count(desk, "/v1/events", AUDITOR, agent="nobody") == 0
    (one,) = await desk.items("/v1/events?type=OPERATOR_ACTION&words=OPER+127.0", AUDITOR)
    assert one["details"] == {
        "by": "operator",
        "role": "operator",
        "origin": "api 127.0.0.1",
        "action": "PUT /v1/agents/{agent}/freeze",
    }
    assert one["agent"] == "shopper"
    pages: list[dict[str, Any]] = []
    cursor = ""
    while True:
        page = (await desk.ask(f"/v1/events?limit=4{cursor}", AUDITOR)).json
        pages += page["items"]
        if page["next"] is None:
            break
        cursor = f"&before={page['next']}"
    assert pages == everything
    for bad in ("type=PARTY", "severity=BAD", f"words={'x' * 201}", "words=a%00b"):
        refused(await desk.ask(f"/v1/events?{bad}", AUDITOR), 400, "bad_query")
    refused(await desk.ask("/v1/events", READER), 403, "role_not_allowed")


async def test_budgets(desk: Desk, net: Localnet, seller: Seller) -> None:
    layer = {"monthly": "2", "rolling": {"24h": "1"}, "payments": {"hour": 10}}
    await desk.does("PATCH", "/v1/policies/agents/shopper", layer)
    origin = quote(seller.url, safe="")
    await desk.does("PUT", f"/v1/policies/providers/{origin}", {"hourly": "0.5"})
    await spend(desk, net, seller)  # 0.003 spent, 0.002 held
    items = (await desk.does("GET", "/v1/budgets", role=READER))["items"]
    by = {(one["agent"], one["provider"], one["window"]): one for one in items}
    assert set(by) == {
        *(("shopper", None, window) for window in ("day", "month", "24h", "hour")),
        (None, seller.url, "hour"),
    }
    for key, limit, left in (
        (("shopper", None, "day"), "1.00", "0.995"),
        (("shopper", None, "month"), "2.00", "1.995"),
        (("shopper", None, "24h"), "1.00", "0.995"),
        ((None, seller.url, "hour"), "0.50", "0.495"),
    ):
        one = by[key]
        assert (one["limit_usd"], one["remaining_usd"]) == (limit, left), key
        assert (one["spent_usd"], one["held_usd"], one["payments"]) == ("0.003", "0.002", 4), key
    hour = by["shopper", None, "hour"]
    assert (hour["limit_usd"], hour["payments_limit"], hour["payments"]) == (None, 10, 4)
    assert by["shopper", None, "24h"]["resets_at"] is None
    assert by["shopper", None, "day"]["resets_at"].endswith("T00:00:00Z")
    mine = (await desk.does("GET", "/v1/budgets?agent=shopper", role=READER))["items"]
    assert mine == [one for one in items if one["agent"] == "shopper"]
    refused(await desk.ask("/v1/budgets?agent=nobody", READER), 404, "no_such_agent")


async def test_why(desk: Desk, net: Localnet, seller: Seller) -> None:
    async def why(**question: str) -> dict[str, Any]:
        asked = {"agent": "shopper", "url": f"{seller.url}/x", "price": "0.001"} | question
        found: dict[str, Any] = await desk.does(
            "GET", f"/v1/policies/explain?{urlencode(asked)}", role=READER
        )
        return found

    good = await why()
    assert (good["allowed"], good["code"]) == (True, "ok")
    assert {step["outcome"] for step in good["steps"]} <= {"allows", "silent"}
    dear = await why(price="0.06")
    assert (dear["allowed"], dear["code"]) == (False, "over_per_call_limit")
    (no,) = [step for step in dear["steps"] if step["outcome"] == "denies"]
    assert (no["rule"], no["layer"], no["value"]) == ("per_call", "agent shopper", "0.05")
    await spend(desk, net, seller)
    (day,) = [step for step in (await why())["steps"] if step["rule"] == "daily"]
    assert (day["numbers"]["spent_usd"], day["numbers"]["left_usd"]) == ("0.003", "0.995")
    await desk.does("PUT", "/v1/halt", {"reason": "x"})
    assert (await why())["code"] == "spending_halted"
    for bad in ({"url": "nowhere"}, {"price": "-1"}, {"price": "x"}, {"method": "get"}):
        asked = {"agent": "shopper", "url": "https://a.example/", "price": "1"} | bad
        refused(
            await desk.ask(f"/v1/policies/explain?{urlencode(asked)}", READER), 400, "bad_query"
        )
    nobody = urlencode({"agent": "nobody", "url": "https://a.example/", "price": "1"})
    refused(await desk.ask(f"/v1/policies/explain?{nobody}", READER), 404, "no_such_agent")


async def test_an_approval_is_explained_as_it_pays(
    desk: Desk, net: Localnet, seller: Seller
) -> None:
    entry = offer(str(net.seller.pubkey()), str(net.fee_payer.pubkey()), 2_000)
    seller.answer = pays_once(challenge(entry), lambda _: settled())
    await desk.does("PATCH", "/v1/policies/agents/shopper", {"approval_above": "0.001"})
    url = f"{seller.url}/x?q=a%20b"

    async def why(body: bytes | None = None, **more: str) -> tuple[str, bool | None, str]:
        asked = {"agent": "shopper", "url": url, "price": "0.002", "method": "POST"}
        asked |= {"pay_to": str(net.seller.pubkey()), "network": entry["network"]} | more
        if body is not None:
            asked["body_sha256"] = sha256(body).hexdigest()
        found = await desk.does("GET", f"/v1/policies/explain?{urlencode(asked)}", role=READER)
        details = [one["detail"] for one in found["steps"] if one["rule"] == "approval_above"]
        return found["code"], found["allowed"], details[0]

    async def buy(body: bytes) -> str:
        answer = await desk.home.ask(url, "POST", data=body)
        return "ok" if answer.headers.get("Autopay-State") == "paid" else str(answer.json["code"])

    assert (await why(b"one"))[:2] == ("approval_required", False)
    assert await buy(b"one") == "approval_required"
    (waiting,) = await desk.items("/v1/approvals?state=pending")
    assert f"approval {waiting['id']} waits" in (await why(b"one"))[2]
    await desk.does("POST", f"/v1/approvals/{waiting['id']}/approve", {})
    assert (await why(b"one"))[:2] == ("ok", True)
    assert (await why(b"two"))[:2] == ("approval_required", False)
    assert (await why(b"one", url=url + "1"))[:2] == ("approval_required", False)
    code, allowed, detail = await why()
    assert (code, allowed) == ("unknown", None)
    assert waiting["id"] in detail and "Not said: its body." in detail
    assert await buy(b"two") == "approval_required"
    assert await buy(b"one") == "ok"
    assert (await why(b"one"))[:2] == ("approval_required", False)  # used up
    assert (await why())[:2] == ("approval_required", False)


async def test_what_was_decided_can_be_replayed(desk: Desk, net: Localnet, seller: Seller) -> None:
    """The log holds all of the offer, of what was denied at first sight too."""
    assert await buys(desk, net, seller, 1_000) == "paid"
    assert await buys(desk, net, seller, 60_000) == "over_per_call_limit"
    await desk.does("PUT", "/v1/limits", {"kind": "fleet_day", "limit_usd": "0.001"}, status=204)
    assert await buys(desk, net, seller, 2_000) == "over_fleet_limit"
    log = await decided.decisions(
        desk.home.operator, datetime.now(UTC) - timedelta(hours=1), timedelta()
    )
    assert [one.code for one in log.decisions] == ["ok", "over_per_call_limit", "over_fleet_limit"]
    assert log.unreadable == 0
    entry = offer(str(net.seller.pubkey()), str(net.fee_payer.pubkey()), 1)
    for one in log.decisions:
        assert (one.offer_known, one.terms_known, one.timeout_known) == (True, True, True)
        assert (one.ask.pay_to, one.ask.asset) == (entry["payTo"], entry["asset"])
        assert (one.ask.network, one.ask.symbol) == (entry["network"], "USDC")
        assert one.ask.max_timeout_seconds == entry["maxTimeoutSeconds"]
        assert (one.ask.scheme_x402, one.ask.flow) == ("exact", "authorization")
        assert one.provider == seller.url
    assert [bool(one.payer) for one in log.decisions] == [True, False, False]


async def test_approvals_and_pins(desk: Desk, net: Localnet, seller: Seller) -> None:
    rules = {"approval_above": "0.001", "pay_to_pinning": "first_use"}
    await desk.does("PATCH", "/v1/policies/agents/shopper", rules)
    assert await buys(desk, net, seller, 500) == "paid"
    (pin,) = await desk.items("/v1/pins")
    assert (pin["provider"], pin["accepted"]) == (seller.url, True)
    named = {"provider": seller.url, "pay_to": pin["pay_to"]}
    assert await desk.does("PUT", "/v1/pins", named) == {"changed": False}
    other = named | {"pay_to": "2wKupLR9q6wXYppw8Gr2NvWxKBUqm4PPJKkQfoxHDBg4"}
    refused(await desk.ask("/v1/pins", OPERATOR, "PUT", json=other), 404, "no_such_pin")
    other["network"] = "solana-devnet"
    assert await desk.does("PUT", "/v1/pins", other) == {"changed": True}
    assert (await desk.last_action())["network"] == pin["network"]
    assert await count(desk, "/v1/pins", provider=seller.url) == 2
    assert await count(desk, "/v1/pins", waiting="true") == 0
    query = urlencode({"provider": seller.url})
    assert await desk.does("DELETE", f"/v1/pins?{query}") == {"forgotten": 2}
    assert await desk.items("/v1/pins") == []
    for wrong in ({"provider": "a.example"}, {"network": "moon"}, {"pay_to": "a b"}):
        refused(await desk.ask("/v1/pins", OPERATOR, "PUT", json=named | wrong), 400, "bad_body")

    assert await buys(desk, net, seller, 2_000) == "approval_required"
    (waiting,) = await desk.items("/v1/approvals?state=pending&agent=shopper")
    assert (waiting["price_usd"], waiting["provider"]) == ("0.002", seller.url)
    path = f"/v1/approvals/{waiting['id']}"
    assert (await desk.does("GET", path, role=READER)) == waiting
    yes = await desk.does("POST", f"{path}/approve", {"good_for_seconds": 60, "note": "fine"})
    assert (yes["state"], yes["decided_by"], yes["note"]) == ("approved", "operator", "fine")
    assert (await desk.last_action())["id"] == waiting["id"]
    no = await desk.does("POST", f"{path}/reject", {"note": "no"})
    assert no["state"] == "rejected"
    again = await desk.does("POST", f"{path}/approve", {})
    assert again["state"] == "approved"
    paid = await desk.home.ask(waiting["endpoint"])
    assert paid.headers.get("Autopay-State") == "paid", paid.body
    assert (await desk.does("GET", path, role=READER))["state"] == "used"
    refused(await desk.ask(f"{path}/reject", OPERATOR, "POST", json={}), 409, "approval_ended")
    for where in ("/v1/approvals/00000000-0000-0000-0000-00000000000a", "/v1/approvals/x"):
        refused(await desk.ask(where, READER), 404, "no_such_approval")
        answer = await desk.ask(f"{where}/approve", OPERATOR, "POST", json={})
        refused(answer, 404, "no_such_approval")
    wrong_time = await desk.ask(f"{path}/approve", OPERATOR, "POST", json={"good_for_seconds": 0})
    refused(wrong_time, 400, "bad_body")
    refused(await desk.ask("/v1/approvals?state=maybe", READER), 400, "bad_query")
