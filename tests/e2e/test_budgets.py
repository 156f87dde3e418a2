"""Budgets beside the agent's day, through the listening socket: traces, providers, wallets, all."""

import asyncio
from pathlib import Path

import pytest

from proxy.ledger import audit, ceilings
from proxy.ledger.agent_keys import AgentCipher
from proxy.localnet import Localnet
from tests.e2e.house import House, house
from tests.e2e.seller import Seller, b64, challenge, offer, pays_once, reply

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
TRACE = "0af7651916cd43dd8448eb211c80319c"


@pytest.fixture(autouse=True)
def sells(net: Localnet, seller: Seller) -> None:
    """Every path of the seller costs 1,000 micro-dollars and is served for a payment."""
    entry = offer(str(net.seller.pubkey()), str(net.fee_payer.pubkey()))
    done = b64({"success": True, "transaction": "", "network": entry["network"], "payer": ""})
    served = reply(200, [(b"PAYMENT-RESPONSE", done)], b"goods")
    seller.answer = pays_once(challenge(entry), lambda _: served)


async def test_a_trace_has_a_budget_and_steps_without_a_gap(home: House, seller: Seller) -> None:
    await home.set_policy(trace_limit=5_000)
    headers = {"Autopay-Trace": "task-1", "Autopay-Session": "s-1", "Autopay-Tool": "look-up"}
    answers = await asyncio.gather(
        *(home.ask(f"{seller.url}/{n}", headers=headers) for n in range(12))
    )
    statuses = sorted(answer.status for answer in answers)
    assert statuses == [200] * 5 + [403] * 7
    denied = next(answer for answer in answers if answer.status == 403)
    assert denied.json["code"] == "over_trace_limit"
    assert denied.json["limit_usd"] == "0.005"
    assert all("autopay-tool" not in seen.headers for seen in seller.seen)

    steps = await home.rows("SELECT * FROM x402_trace_steps ORDER BY step_index")
    assert [step["step_index"] for step in steps] == list(range(12))
    assert {step["tool_name"] for step in steps} == {"look-up"}
    assert sorted(step["outcome"] for step in steps) == ["denied"] * 7 + ["paid"] * 5
    for step in steps:
        paid = step["outcome"] == "paid"
        assert step["budget_before_micros"] - step["budget_after_micros"] == (1_000 if paid else 0)
        assert (step["receipt_ref"] is not None) == paid
    trace = await home.row("SELECT * FROM x402_traces")
    assert (trace["trace_id"], trace["session_id"], trace["steps"]) == ("task-1", "s-1", 12)
    assert (trace["spent_end_micros"], trace["remaining_end_micros"]) == (5_000, 0)
    assert str(trace["budget_limit_usd"]) == "0.005000"


async def test_a_traceparent_names_the_trace_and_goes_on(home: House, seller: Seller) -> None:
    assert (await home.ask(seller.url, headers={"traceparent": PARENT})).status == 200
    assert [seen.headers["traceparent"] for seen in seller.seen] == [PARENT, PARENT]
    assert (await home.row("SELECT trace_id FROM x402_traces"))["trace_id"] == TRACE
    assert (await home.row("SELECT trace_id FROM payments"))["trace_id"] == TRACE


async def test_two_agents_traces_of_one_name_are_two(home: House, seller: Seller) -> None:
    await home.ask(seller.url, headers={"Autopay-Trace": "t"})
    other = await home.operator.fetchval("INSERT INTO agents (name) VALUES ('other') RETURNING id")
    await home.operator.execute(
        "SELECT add_step($1, 't', NULL, 'x', 'y', 1, 'ok', 5, 4, 5, 0, 'denied', NULL)", other
    )
    rows = await home.rows("SELECT agent_id, steps FROM x402_traces WHERE trace_id = 't'")
    assert [row["steps"] for row in rows] == [1, 1]


async def test_ceilings_above_the_agents_own_hold(home: House, seller: Seller) -> None:
    address = str(home.wallet.pubkey())
    for code, kind, subject, agent in (
        ("over_fleet_limit", "fleet_day", "*", None),
        ("over_wallet_limit", "wallet_day", address, None),
        ("over_wallet_limit", "wallet_day", "*", None),
        ("over_provider_limit", "provider_day", seller.url, None),
        ("over_provider_limit", "provider_day", "*", None),
        ("over_agent_provider_limit", "agent_provider_day", seller.url, home.agent),
        ("over_agent_provider_limit", "agent_provider_day", "*", None),
    ):
        spent = (await home.counters())[0]
        where = {"agent": agent} if agent else {}
        await ceilings.set_ceiling(home.operator, kind, subject, spent + 1_999, **where)  # type: ignore[arg-type]
        assert (await home.ask(f"{seller.url}/{kind}/1")).status == 200
        refused = await home.ask(f"{seller.url}/{kind}/2")
        assert (refused.status, refused.json["code"]) == (403, code), (kind, subject)
        assert refused.json["possible_again"] is not None
        assert await ceilings.clear_ceiling(home.operator, kind, subject, **where)  # type: ignore[arg-type]
        assert (await home.ask(f"{seller.url}/{kind}/3")).status == 200


async def test_the_ceiling_that_names_its_provider_goes_first(home: House, seller: Seller) -> None:
    await ceilings.set_ceiling(home.operator, "provider_day", "*", 0)
    assert (await home.ask(seller.url)).json["code"] == "over_provider_limit"
    await ceilings.set_ceiling(home.operator, "provider_day", seller.url, 1_000)
    assert (await home.ask(seller.url)).status == 200
    assert (await home.ask(f"{seller.url}/2")).json["code"] == "over_provider_limit"


async def test_the_request_of_every_402_has_its_row(home: House, seller: Seller) -> None:
    assert (await home.ask(f"{seller.url}/paid?who=me", data=b"asked")).status == 200
    await home.set_policy(per_call_limit=1)
    assert (await home.ask(f"{seller.url}/denied")).status == 403
    paid, denied = await home.rows("SELECT * FROM api_requests ORDER BY created_at")
    assert (paid["status"], paid["http_status"], paid["error_class"]) == ("ACCESSED", 200, None)
    assert paid["endpoint"] == f"{seller.url}/paid"
    assert '"currency": "USDC"' in paid["x402_instructions"]
    assert (denied["status"], denied["http_status"]) == ("FAILED", 402)
    assert denied["error_class"] == "denied"

    payment = await home.row("SELECT * FROM payments")
    assert payment["api_request_id"] == paid["id"]
    assert (payment["currency"], payment["mainnet_flag"]) == ("USDC", False)
    assert str(payment["amount"]) == "0.001000000"
    assert len(payment["request_body_sha256"]) == 32
    cipher = AgentCipher(home.operator, home.service.store.vault)
    url = await cipher.open_for(payment["agent_id"], payment["url_sealed"])
    assert url == f"{seller.url}/paid?who=me"
    types = await home.rows("SELECT event_type::text AS type FROM audit_events ORDER BY created_at")
    assert {"PAYMENT_SUCCESS", "API_ACCESS", "PAYMENT_STATUS", "POLICY_CHANGE"} <= {
        row["type"] for row in types
    }
    assert len(await home.rows("SELECT * FROM query_logs")) == 1


async def test_books_that_are_wrong_halt_all_spending(
    net: Localnet, dsn: str, tmp_path: Path, seller: Seller
) -> None:
    async with house(net, dsn, tmp_path, audit={"every_seconds": 0.05}) as home:
        assert (await home.ask(f"{seller.url}/1")).status == 200
        await home.operator.execute(
            "UPDATE budget_counters SET spent_micros = spent_micros - 1 WHERE kind = 'fleet_day'"
        )
        home.service.keeper.wake()
        async with asyncio.timeout(10):
            while not (await audit.spending(home.operator)).halted:
                await asyncio.sleep(0.05)
        refused = await home.ask(f"{seller.url}/2")
        assert (refused.status, refused.json["code"]) == (403, "spending_halted")
        alarms = await home.rows(
            "SELECT details FROM audit_events WHERE event_type = 'ALARM' AND severity = 'ERROR'"
        )
        assert any("spent_is_settled" in alarm["details"] for alarm in alarms)
        seller.answer = lambda _: reply(200, body=b"free")
        assert (await home.ask(f"{seller.url}/free")).body == b"free"
