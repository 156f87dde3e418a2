"""After some minutes of the real service, every table of both seeds has rows, made by the service.

The test speaks to the listening sockets only; it writes nothing into the database itself, but for
what `autopay agent` does.
"""

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path

from proxy.admin import Role
from proxy.ledger import agents
from proxy.localnet import Localnet
from tests.admin.desk import Desk
from tests.chat.talk import JSON, completion, receipt
from tests.e2e.house import House, house, until
from tests.e2e.seller import (
    HangUp,
    Seen,
    Seller,
    challenge,
    offer,
    reply,
    vanishing,
)
from tests.schema.seeds import FIRST, SECOND

TABLES = sorted({*FIRST, *SECOND, "error_classifications"})

EVENTS = {  # every kind that the second seed names, and ours
    "PAYMENT_SUCCESS", "PAYMENT_FAILURE", "LOW_BALANCE", "NETWORK_ISSUE", "CIRCUIT_BREAKER",
    "API_ACCESS", "PAYMENT_STATUS", "POLICY_CHANGE", "AGENT_CHANGE",
}  # fmt: skip

# Tables that nothing fills yet. Empty; and shall stay so.
TO_COME: set[str] = set()


async def test_every_table_is_filled_by_the_system(
    net: Localnet, shop: str, seller: Seller, dsn: str, tmp_path: Path
) -> None:
    seller.answer = sells_chat(net)
    settings = {
        "providers": {"ai": {"upstream": seller.url, "store_data": True, "store_request": True}},
        "wallet": {"check_seconds": 1, "low_balance": "100"},
        "retries": {"backoff": 0.05},
        "breaker": {"failures": 2},
        "reconciler": {"interval": 0.2},
    }
    async with house(net, dsn, tmp_path, **settings) as home:
        await live(home, net, shop, seller)
        await until_filled(home)
        await what_they_hold(home)


def sells_chat(net: Localnet) -> Callable[[Seen], bytes]:
    """Every path costs 1,000 micro-dollars; /lost takes the money and says nothing."""
    entry = offer(str(net.seller.pubkey()), str(net.fee_payer.pubkey()))

    def answer(seen: Seen) -> bytes:
        if seen.payment is None:
            return challenge(entry)
        if "/lost" in seen.line:
            raise HangUp
        return reply(200, [receipt(), JSON], completion("It rains.", "chatcmpl-1"))

    return answer


async def live(home: House, net: Localnet, shop: str, seller: Seller) -> None:
    """A day of an agent, shortened."""
    await agents.set_capture_chat(home.operator, home.agent, True)
    agent = home.service.directory.by_token
    await until(lambda: getattr(agent(home.token), "capture_chat", None) is True)
    task = {"Autopay-Session": "s-1", "Autopay-Trace": "t-1"}

    # paid, and seen final on the chain
    assert (await home.ask(f"{shop}/paid", headers=task)).status == 200
    # said and answered, for money, and kept
    said = json.dumps({"model": "m", "messages": [{"role": "user", "content": "weather?"}]})
    answer = await home.ask(
        f"{seller.url}/v1/chat/completions", "POST", data=said,
        headers={**task, "Content-Type": "application/json"},
    )  # fmt: skip
    assert answer.status == 200
    await until(lambda: not home.service.capture.waiting)
    # liked
    desk = Desk(home)
    rated = await desk.ask(
        "/v1/ratings", Role.OPERATOR, "PUT",
        json={"message_id": "chatcmpl-1", "user_address": "A" * 44, "is_positive": True},
    )  # fmt: skip
    assert rated.status in (200, 201), rated.body
    # in doubt
    assert (await home.ask(f"{seller.url}/lost", headers=task)).json["code"] == "payment_in_doubt"
    # refused by the policy
    await home.set_policy(per_call_limit=10)
    assert (await home.ask(f"{seller.url}/dear", headers=task)).status == 403
    await home.set_policy()
    # gone when the payment comes; tried again, then given up
    entry = offer(str(net.seller.pubkey()), str(net.fee_payer.pubkey()))
    gone = await vanishing(challenge(entry))
    assert (await home.ask(gone, headers=task)).status == 502
    # broken, and left alone after that
    for _ in range(3):
        await home.ask("http://127.0.0.1:1/")


async def until_filled(home: House) -> None:
    """The reconciler and the watchers come round by themselves."""
    deadline = time.monotonic() + 20
    while missing := await _missing(home):
        assert time.monotonic() < deadline, f"nothing has made {sorted(missing)}"
        await asyncio.sleep(0.1)


async def _missing(home: House) -> set[str]:
    wanted = set(TABLES) - TO_COME
    empty = {table for table in wanted if not await home.rows(f"SELECT 1 FROM {table} LIMIT 1")}
    return empty or EVENTS - {
        row["event_type"] for row in await home.rows("SELECT event_type FROM audit_events")
    }


async def what_they_hold(home: House) -> None:
    """Not only rows: what the tables are there for is in them."""
    levels = await home.rows("SELECT DISTINCT confirmation_status FROM transaction_logs")
    assert levels
    stored = await home.row(
        "SELECT data_accessed, request_payload FROM api_requests WHERE data_accessed IS NOT NULL"
    )
    assert "It rains." in stored["data_accessed"]
    assert "weather?" in stored["request_payload"]
    bot = await home.row("SELECT tx_hash FROM chat_messages WHERE NOT is_user")
    assert bot["tx_hash"]
    states = {row["status"] for row in await home.rows("SELECT status FROM api_requests")}
    assert states == {"ACCESSED", "FAILED"}
    retries = await home.rows("SELECT outcome, error_class FROM retry_attempts")
    assert {tuple(row.values()) for row in retries} == {("FAILURE", "connect_failed")}
    trace = await home.row("SELECT steps, session_id, user_prompt FROM x402_traces")
    assert trace == {"steps": 5, "session_id": "s-1", "user_prompt": "weather?"}


def test_nothing_is_to_come() -> None:
    assert set(TABLES) >= TO_COME
    assert set() == TO_COME
