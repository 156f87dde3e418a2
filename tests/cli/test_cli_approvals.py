"""What an operator says yes to, and whom providers are paid to."""

import json
from uuid import uuid4

import asyncpg
import pytest

from tests.cli.conftest import Autopay

SHOP = "https://shop.example"
NETWORK = "solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1"
ASK = """
SELECT g.detail ->> 'approval' FROM policy_gate(jsonb_populate_record(NULL::reservation_request,
    jsonb_build_object('agent_id', (SELECT id FROM agents WHERE name = 'bot'), 'method', 'GET',
        'endpoint', 'https://shop.example/v1/quote', 'provider', 'https://shop.example:443',
        'network', $1::text, 'asset', 'x', 'symbol', 'USDC', 'pay_to', 'Somebody',
        'price_micros', 250000, 'request_key', $3::text)), $2) g
"""


async def ask(dsn: str, key: str = r"\x11", **rules: object) -> str:
    """`key`: of method, URL, query and body."""
    connection = await asyncpg.connect(dsn)
    try:
        return str(await connection.fetchval(ASK, NETWORK, json.dumps(rules), key))
    finally:
        await connection.close()


async def test_approvals_are_listed_approved_and_rejected(autopay: Autopay, dsn: str) -> None:
    autopay.well("agent", "add", "bot")
    assert "Nothing waits" in autopay.well("approval", "list")
    waits = await ask(dsn, approval=True)
    said = autopay.well("approval", "list")
    assert waits in said
    assert "$0.25" in said
    assert "GET https://shop.example/v1/quote" in said
    (one,) = map(json.loads, autopay.well("approval", "list", "--json").splitlines())
    assert (one["id"], one["state"], one["price_usd"], one["agent"]) == (
        waits,
        "pending",
        "0.25",
        "bot",
    )

    said = autopay.well("approval", "approve", waits, "--good-for", "2h", "--note", "once")
    assert "pays up to $0.25, once, until" in said
    assert "Nothing waits" in autopay.well("approval", "list")
    (one,) = map(json.loads, autopay.well("approval", "list", "--all", "--json").splitlines())
    assert (one["state"], one["decided_by"], one["note"]) == (
        "approved",
        "autopay approval",
        "once",
    )
    assert "is not asked for again until" in autopay.well("approval", "reject", waits)
    assert "there is no approval" in autopay.refused("approval", "approve", str(uuid4()))
    for wrong in (["x"], [waits, "--good-for", "8d"]):
        with pytest.raises(SystemExit):
            autopay("approval", "approve", *wrong)


async def test_requests_that_differ_by_their_query_are_told_apart(
    autopay: Autopay, dsn: str
) -> None:
    autopay.well("agent", "add", "bot")
    first = await ask(dsn, approval=True)
    assert "(*)" not in autopay.well("approval", "list")
    second = await ask(dsn, r"\x12", approval=True)
    assert first != second
    said = autopay.well("approval", "list")
    rows = [line for line in said.splitlines() if line.startswith((first, second))]
    assert len(rows) == 2 and all("/v1/quote (*)" in row for row in rows)
    assert "(*) These differ in their query or body alone" in said
    autopay.well("approval", "reject", second)  # what was decided waits no more
    assert "(*)" not in autopay.well("approval", "list", "--all")


async def test_pins_are_listed_accepted_and_forgotten(autopay: Autopay, dsn: str) -> None:
    autopay.well("agent", "add", "bot")
    assert "No receiver is pinned" in autopay.well("pin", "list")
    said = autopay.well("pin", "accept", f"{SHOP}/v1", "First", "--network", "solana-devnet")
    assert said == f"First may be paid at {SHOP}:443.\n"
    await ask(dsn, pinning="first_use")
    (one,) = map(json.loads, autopay.well("pin", "list", "--waiting", "--json").splitlines())
    assert (one["provider"], one["network"], one["pay_to"]) == (f"{SHOP}:443", NETWORK, "Somebody")
    assert (one["accepted"], one["agent"], one["refusals"]) == (False, "bot", 1)
    assert "waits" in autopay.well("pin", "list", "--provider", SHOP)
    assert "may be paid" in autopay.well("pin", "accept", SHOP, "Somebody")
    assert "could be paid already" in autopay.well("pin", "accept", SHOP, "Somebody")
    assert "No receiver waits" in autopay.well("pin", "list", "--waiting")
    assert "Forgotten" in autopay.well("pin", "forget", SHOP, "First")
    assert "1 receiver." in autopay.well("pin", "forget", SHOP)
    assert "no such receiver" in autopay.refused("pin", "forget", SHOP)
    assert "name the network" in autopay.refused("pin", "accept", SHOP, "Nobody")
    assert "http:// or https://" in autopay.refused("pin", "accept", "shop.example", "x")
