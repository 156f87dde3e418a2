"""The main job: a program asks, the official server is paid, and all of it is on record."""

import asyncio
import hashlib
import json
import sys
from pathlib import Path

import pytest

from policies import Rules
from proxy.ledger import policies
from proxy.localnet import CASH, Localnet
from tests.e2e.house import FUNDS, House, decoded, house, until


async def test_a_paid_answer_and_its_record(home: House, shop: str) -> None:
    answer = await home.ask(f"{shop}/paid")
    assert (answer.status, answer.json) == (200, {"ok": "/paid"})
    assert answer.headers["Autopay-Amount"] == "0.001 USDC"
    assert answer.headers["Autopay-Remaining"] == "0.999 USD"
    transaction = answer.headers["Autopay-Transaction"]
    assert decoded(answer.headers["PAYMENT-RESPONSE"])["transaction"] == transaction
    assert home.paid_on_chain() == 1000
    assert await home.counters() == (1000, 0)

    payment = await home.row("SELECT * FROM payments")
    assert str(payment["id"]) == answer.headers["Autopay-Payment"]
    assert payment["status"] == "CONFIRMED"
    assert payment["payment_hash"] == transaction
    assert payment["payer"] == str(home.wallet.pubkey())
    receipt = await home.row("SELECT * FROM x402_payment_logs")
    assert receipt["id"] == payment["id"]
    assert (receipt["tx_hash"], receipt["amount"], receipt["success"]) == (
        transaction,
        "1000",
        True,
    )
    assert json.loads(receipt["settle_response"])["transaction"] == transaction
    assert receipt["payment_payload_hash"] and receipt["settle_response_hash"]
    delivery = await home.row("SELECT * FROM x402_procurement_receipts")
    assert delivery["response_hash"] == hashlib.sha256(answer.body).hexdigest()
    assert (delivery["attempt"], delivery["success"], delivery["status"]) == (1, True, 200)
    assert delivery["latency_ms"] > 0 and 0 < delivery["score"] <= 1
    decision = await home.row("SELECT * FROM policy_decision_logs")
    assert (decision["decision"], decision["reason"]) == ("allow", "ok")
    assert (decision["quoted_price_micros"], decision["remaining_daily_micros"]) == (1000, 999_000)


async def test_the_chain_has_the_very_transaction_that_was_signed(home: House, shop: str) -> None:
    answer = await home.ask(f"{shop}/paid")
    payment = await home.row("SELECT * FROM payments")
    async with home.session.post(
        home.net.rpc_url,
        json={
            "jsonrpc": "2.0",
            "id": 1,
            "method": "getTransaction",
            "params": [
                answer.headers["Autopay-Transaction"],
                {
                    "encoding": "json",
                    "commitment": "confirmed",
                    "maxSupportedTransactionVersion": 0,
                },
            ],
        },
    ) as response:
        found = (await response.json())["result"]
    assert found["meta"]["err"] is None
    assert found["transaction"]["signatures"][1] == payment["client_signature"]
    assert found["transaction"]["message"]["recentBlockhash"] == payment["blockhash"]


async def test_a_body_is_sent_again_byte_for_byte(home: House, shop: str) -> None:
    body = bytes(range(256)) * 20_000  # 5 MB: past the memory limit, so spilled to disk
    answer = await home.ask(f"{shop}/echo", "POST", data=body)
    assert answer.status == 200
    assert answer.body == body
    assert home.paid_on_chain() == 1000


@pytest.mark.parametrize("path", ["/memo", "/upfront"])
async def test_other_flows(home: House, shop: str, path: str) -> None:
    flows = Rules(allowed_flows=("authorization", "upfront"))
    applied = await policies.set_rules(home.operator, None, None, flows)
    await until(lambda: home.service.directory.version >= applied.version)
    answer = await home.ask(shop + path)
    assert answer.status == 200
    assert home.paid_on_chain() == 1000
    payment = await home.row("SELECT memo FROM payments")
    assert path != "/memo" or payment["memo"] == "inv-42"


async def test_cash_is_paid_by_token_2022(home: House, shop: str) -> None:
    answer = await home.ask(f"{shop}/cash")
    assert answer.status == 200
    assert answer.headers["Autopay-Amount"] == "0.001 CASH"
    assert home.net.chain.balance(home.wallet.pubkey(), CASH) == FUNDS - 1000


async def test_free_things_stay_free(home: House, shop: str) -> None:
    answer = await home.ask(f"{shop}/free")
    assert answer.status == 200
    assert not [name for name in answer.headers if name.lower().startswith("autopay")]
    assert await home.rows("SELECT * FROM policy_decision_logs") == []


async def test_a_payment_needs_no_rpc_once_the_receiver_is_known(home: House, shop: str) -> None:
    await home.ask(f"{shop}/paid")
    before = dict(home.net.node.calls)
    for _ in range(3):
        assert (await home.ask(f"{shop}/paid")).status == 200
    after = dict(home.net.node.calls)
    # Only the facilitator asked the node for each; our blockhash comes from the background.
    assert after["getMultipleAccounts"] == before["getMultipleAccounts"]
    assert after["sendTransaction"] == before["sendTransaction"] + 3
    assert after.get("getAccountInfo", 0) == before.get("getAccountInfo", 0)


async def test_fifty_at_once_spend_exactly_what_fits(home: House, shop: str) -> None:
    await home.set_policy(daily_limit=20_000)
    answers = await asyncio.gather(*(home.ask(f"{shop}/paid") for _ in range(50)))
    paid = [answer for answer in answers if answer.status == 200]
    refused = [answer for answer in answers if answer.status == 403]
    assert (len(paid), len(refused)) == (20, 30)
    assert {answer.json["code"] for answer in refused} == {"over_daily_limit"}
    assert home.paid_on_chain() == 20_000
    assert await home.counters() == (20_000, 0)


async def test_unmodified_programs(home: House, shop: str) -> None:
    script = (
        "import requests, os; r = requests.get(os.environ['URL']); print(r.status_code, r.text)"
    )
    for command in (["curl", "-sS", f"{shop}/paid"], [sys.executable, "-c", script]):
        process = await asyncio.create_subprocess_exec(
            *command,
            env={"http_proxy": home.proxy, "URL": f"{shop}/paid", "PATH": "/usr/bin:/bin"},
            stdout=asyncio.subprocess.PIPE,
        )
        out, _ = await process.communicate()
        assert b'{"ok":"/paid"}' in out
    assert home.paid_on_chain() == 2000


async def test_a_mount_pays_too_and_keeps_the_token_to_itself(
    net: Localnet, shop: str, dsn: str, tmp_path: Path
) -> None:
    async with house(net, dsn, tmp_path, providers={"shop": {"upstream": shop}}) as home:
        for url, headers in (
            ("/shop/paid", {"Autopay-Token": home.token}),
            ("/shop/paid", {"Authorization": f"Bearer {home.token}"}),
            (f"/~{home.token}/shop/paid", {}),
        ):
            answer = await home.ask(home.mounts + url, proxy=None, headers=headers)
            assert (answer.status, answer.json) == (200, {"ok": "/paid"})
        assert home.paid_on_chain() == 3000
        answer = await home.ask(f"{home.mounts}/shop/paid", proxy=None)
        assert (answer.status, answer.json["code"]) == (401, "authentication_required")
