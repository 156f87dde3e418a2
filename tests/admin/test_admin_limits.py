"""What an operator may change while agents run, and that the next payment keeps to it."""

import asyncio
from typing import Any

from proxy.admin import Role
from proxy.localnet import Localnet
from tests.admin.desk import Desk, refused
from tests.e2e.seller import Seller, challenge, offer, pays_once, settled

OPERATOR, READER = Role.OPERATOR, Role.READER
SESSION = "/v1/agents/shopper/sessions/run-7/limit"


async def buys(desk: Desk, net: Localnet, seller: Seller, price: int, **headers: str) -> str:
    """ "paid", or the code of the refusal. `price` in micro-USD."""
    asks = challenge(offer(str(net.seller.pubkey()), str(net.fee_payer.pubkey()), price))
    seller.answer = pays_once(asks, lambda _: settled())
    path = f"/{await desk.actions()}-{len(seller.seen)}"  # something else each time
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    answer = await desk.home.ask(seller.url + path, headers=names)
    return "paid" if answer.headers.get("Autopay-State") == "paid" else str(answer.json["code"])


async def until_buys(desk: Desk, net: Localnet, seller: Seller, price: int, wanted: str) -> None:
    """Fails if it is not so within some seconds: a proxy hears of a change at once."""
    said = ""
    try:
        async with asyncio.timeout(20):
            while (said := await buys(desk, net, seller, price)) != wanted:
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError(f"{said}, not {wanted}") from None


async def test_ceilings(desk: Desk, net: Localnet, seller: Seller) -> None:
    put = {"kind": "provider_day", "subject": seller.url.upper(), "limit_usd": "0.002"}
    await desk.does("PUT", "/v1/limits", put, status=204)
    await desk.does("PUT", "/v1/limits", put, status=204)  # again is the same
    await desk.does("PUT", "/v1/limits", {"kind": "fleet_day", "limit_usd": "0.01"}, status=204)
    assert await buys(desk, net, seller, 1_500) == "paid"
    assert await buys(desk, net, seller, 1_500) == "over_provider_limit"
    fleet, provider = (await desk.does("GET", "/v1/limits", role=READER))["items"][::-1]
    assert (provider["kind"], provider["subject"]) == ("provider_day", seller.url)
    assert (provider["limit_usd"], provider["spent_usd"]) == ("0.002", "0.0015")
    assert (provider["updated_by"], fleet["limit_usd"]) == ("operator", "0.01")
    done = await desk.last_action()
    assert (done["action"], done["by"], done["agent"]) == ("PUT /v1/limits", "operator", "autopay")
    assert (done["kind"], done["limit_usd"]) == ("fleet_day", "0.01")

    named = f"/v1/limits?kind=provider_day&subject={seller.url}"
    await desk.does("DELETE", named, status=204)
    refused(await desk.ask(named, OPERATOR, "DELETE"), 404, "no_such_limit")
    assert await buys(desk, net, seller, 1_500) == "paid"
    one = {
        "kind": "agent_provider_day",
        "agent": "shopper",
        "subject": seller.url,
        "limit_usd": "0",
    }
    await desk.does("PUT", "/v1/limits", one, status=204)
    assert await buys(desk, net, seller, 1) == "over_agent_provider_limit"
    assert (await desk.last_action())["agent"] == "shopper"
    refused(
        await desk.ask("/v1/limits", OPERATOR, "PUT", json=one | {"agent": "nobody"}),
        404,
        "no_such_agent",
    )
    for wrong in (
        {"kind": "fleet_day", "subject": "x", "limit_usd": "1"},
        {"kind": "provider_day", "subject": "api.example.com", "limit_usd": "1"},
        {"kind": "provider_day", "subject": "ftp://a", "limit_usd": "1"},
        {"kind": "fleet_day", "agent": "shopper", "limit_usd": "1"},
        {"kind": "session", "limit_usd": "1"},
        {"kind": "fleet_day", "limit_usd": "-1"},
        {"kind": "fleet_day", "limit_usd": 1},
        {"kind": "fleet_day", "limit_usd": "1.0000001"},
        {"kind": "fleet_day"},
    ):
        refused(await desk.ask("/v1/limits", OPERATOR, "PUT", json=wrong), 400, "bad_body")
    refused(await desk.ask("/v1/limits?kind=x", OPERATOR, "DELETE"), 400, "bad_query")


async def test_a_sessions_limit(desk: Desk, net: Localnet, seller: Seller) -> None:
    """The first seed's runtime spend limit: set, status, clear."""
    fresh = await desk.does("GET", SESSION, role=READER)
    assert (fresh["limit_usd"], fresh["policy_limit_usd"]) == (None, "1.00")
    assert (fresh["remaining_usd"], fresh["paid_calls"]) == ("1.00", 0)
    refused(await desk.ask(SESSION, OPERATOR, "DELETE"), 404, "no_such_limit")

    now = await desk.does("PUT", SESSION, {"limit_usd": "0.002"})
    assert (now["limit_usd"], now["remaining_usd"]) == ("0.002", "0.002")
    run: dict[str, Any] = {"Autopay_Session": "run-7"}
    assert await buys(desk, net, seller, 1_500, **run) == "paid"
    assert await buys(desk, net, seller, 1_500, **run) == "over_session_limit"
    assert await buys(desk, net, seller, 1_500, Autopay_Session="run-8") == "paid"
    now = await desk.does("GET", SESSION, role=READER)
    assert (now["spent_usd"], now["remaining_usd"], now["paid_calls"]) == ("0.0015", "0.0005", 1)
    done = await desk.last_action()
    assert (done["agent"], done["run"], done["limit_usd"]) == ("shopper", "run-7", "0.002")

    await desk.does("DELETE", SESSION, status=204)
    assert await buys(desk, net, seller, 1_500, **run) == "paid"
    now = await desk.does("GET", SESSION, role=READER)
    assert (now["limit_usd"], now["remaining_usd"]) == (None, "0.997")
    nobody = SESSION.replace("shopper", "nobody")
    for method, body in (("GET", None), ("PUT", {"limit_usd": "1"}), ("DELETE", None)):
        options = {} if body is None else {"json": body}
        refused(await desk.ask(nobody, OPERATOR, method, **options), 404, "no_such_agent")
    refused(await desk.ask(SESSION, OPERATOR, "PUT", json={"limit_usd": "x"}), 400, "bad_body")


async def test_the_switches(desk: Desk, net: Localnet, seller: Seller) -> None:
    """Once a switch has answered, nothing is granted; thrown back, it is as it was."""
    provider = seller.url.replace("/", "%2F")
    host = seller.url.rpartition(":")[0].removeprefix("http://")
    for path, code in (
        ("/v1/agents/shopper/freeze", "frozen"),
        (f"/v1/providers/{provider}/freeze", "provider_frozen"),
        (f"/v1/providers/{host}/freeze", "provider_frozen"),
        (f"/v1/agents/shopper/providers/{provider}/freeze", "provider_frozen"),
    ):
        for _ in range(2):
            await desk.does("PUT", path, status=204)
        assert await buys(desk, net, seller, 1_000) == code, path
        done = await desk.last_action()
        assert (done["by"], done["origin"]) == ("operator", "api 127.0.0.1")
        for _ in range(2):
            await desk.does("DELETE", path, status=204)
        await until_buys(desk, net, seller, 1_000, "paid")
    assert (await desk.home.ask(f"{net.api_url}/free")).status == 200
    refused(await desk.ask("/v1/agents/nobody/freeze", OPERATOR, "PUT"), 404, "no_such_agent")
    refused(await desk.ask("/v1/providers/a..b/freeze", OPERATOR, "PUT"), 400, "bad_policy")


async def test_the_kill_switch(desk: Desk, net: Localnet, seller: Seller) -> None:
    assert (await desk.does("GET", "/v1/halt", role=READER))["halted"] is False
    for _ in range(2):
        now = await desk.does("PUT", "/v1/halt", {"reason": "strange payments"})
        assert (now["halted"], now["reason"], now["by"]) == (True, "strange payments", "operator")
    assert await buys(desk, net, seller, 1_000) == "spending_halted"
    assert (await desk.home.ask(f"{net.api_url}/free")).status == 200
    assert (await desk.last_action())["reason"] == "strange payments"
    for _ in range(2):
        assert (await desk.does("DELETE", "/v1/halt"))["halted"] is False
    assert await buys(desk, net, seller, 1_000) == "paid"
    assert await desk.actions() == 2  # what changed nothing is no action
    for wrong in ({}, {"reason": ""}, {"reason": "x" * 501}, {"reason": "a\0b"}):
        refused(await desk.ask("/v1/halt", OPERATOR, "PUT", json=wrong), 400, "bad_body")
    refused(await desk.ask("/v1/halt", OPERATOR, "PUT"), 415, "json_required")
    plain = {"data": '{"reason": "x"}', "headers": {"Content-Type": "text/plain"}}
    refused(await desk.ask("/v1/halt", OPERATOR, "PUT", **plain), 415, "json_required")
