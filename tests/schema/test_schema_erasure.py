# ruff: noqa: E501 - statements and tables read better unbroken
"""Forgetting an agent: what identifies it is gone from every table, and the books are as before."""

import json
from typing import TYPE_CHECKING

import asyncpg
import pytest

from tests.schema.rows import BOT
from tests.schema.test_schema_upgrade import contents

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]

BOOKS = """
SELECT (SELECT jsonb_agg(jsonb_build_array(id, status, amount_atomic, price_micros, payment_hash) ORDER BY id)
          FROM payments) AS payments,
       (SELECT jsonb_agg(jsonb_build_array(kind, spent_micros, held_micros, paid_calls)
               ORDER BY kind, day, spent_micros) FROM budget_counters) AS counters,
       (SELECT jsonb_agg(jsonb_build_array(id, amount_usd, tx_hash) ORDER BY id)
          FROM x402_payment_logs) AS receipts,
       (SELECT count(*) FROM policy_decision_logs) AS decisions,
       (SELECT count(*) FROM transaction_logs) AS transactions
"""
HELD = """
SELECT count(*) FROM payments p, unnest(p.scopes) s
WHERE NOT EXISTS (SELECT 1 FROM budget_counters c WHERE c.scope = s)
"""


async def test_nothing_that_identifies_is_left(books: "Connection") -> None:
    # Words that are found wherever an agent can leave one.
    for change in (
        "UPDATE chat_messages SET content = 'Rosebud'",
        "UPDATE x402_traces SET user_prompt = 'Rosebud'",
        "UPDATE api_requests SET request_payload = '\"Rosebud\"', data_accessed = '\"Rosebud\"', "
        "response_headers = '\"Rosebud\"'",
        "UPDATE agents SET name = 'Rosebud' WHERE name = 'bot'",
        "UPDATE x402_procurement_receipts SET url = 'https://api.example.com/v1/quote?who=Rosebud'",
    ):
        await books.execute(change)
    await books.execute(
        f"SELECT limit_session('{BOT}', 'Rosebud', 5); "
        f"SELECT note_denial(jsonb_build_object('id', gen_random_uuid(), 'agent_id', '{BOT}', "
        "'session_id', 'Rosebud', 'trace_id', 'Rosebud', 'method', 'GET', 'endpoint', 'e', 'reason', "
        "'denied', 'detail', 'Rosebud', 'price_micros', 1, 'api_request_id', gen_random_uuid()))"
    )
    before = await books.fetchrow(BOOKS)
    alias = await books.fetchval("SELECT erase_agent('Rosebud', 'test')")
    left = {
        table: [row for row in found if "Rosebud" in json.dumps(row)]
        for table, found in (await contents(books)).items()
    }
    assert {table: found for table, found in left.items() if found} == {}
    assert await books.fetchrow(BOOKS) == before
    assert await books.fetchval(HELD) == 0
    row = await books.fetchrow("SELECT * FROM agents WHERE id = $1", BOT)
    assert (row["name"], row["is_active"], row["capture_chat"]) == (alias, False, False)
    assert row["session_token_hash"] is None
    everything = ("chat_messages", "message_ratings", "receipt_ratings")
    for table in ("agent_tokens", "chat_sessions", *everything):
        column = "true" if table in everything else f"agent_id = '{BOT}'"
        assert await books.fetchval(f"SELECT count(*) FROM {table} WHERE {column}") == 0
    assert (
        await books.fetchval("SELECT sealed_key FROM agent_keys WHERE agent_id = $1", BOT) is None
    )


async def test_of_one_session_one_pseudonym(books: "Connection") -> None:
    """What belonged together still does, though nobody can tell what it was called."""
    await books.execute("SELECT erase_agent('bot', 'test')")
    names = await books.fetch(
        "SELECT session_id FROM payments WHERE session_id IS NOT NULL UNION SELECT session_id "
        "FROM x402_payment_logs WHERE session_id IS NOT NULL UNION SELECT session_id FROM x402_traces "
        "UNION SELECT session_id FROM x402_session_spend WHERE agent_id = $1",
        BOT,
    )
    assert len(names) == 1
    assert names[0][0].startswith("erased-")
    steps = "SELECT count(*) FROM x402_trace_steps JOIN x402_traces USING (agent_id, trace_id)"
    assert await books.fetchval(steps) == 2


async def test_erased_twice_is_erased_once(books: "Connection") -> None:
    alias = await books.fetchval("SELECT erase_agent('bot', 'test')")
    before = await books.fetchrow(BOOKS)
    assert await books.fetchval("SELECT erase_agent('bot', 'test')") is None
    assert await books.fetchval("SELECT erase_agent($1, 'test')", alias) is not None
    assert await books.fetchrow(BOOKS) == before


async def test_autopay_itself_cannot_be_erased(books: "Connection") -> None:
    assert await books.fetchval("SELECT erase_agent('autopay', 'test')") is None


async def test_erasing_leaves_the_books_closed(books: "Connection") -> None:
    await books.execute("SELECT erase_agent('bot', 'test')")
    with pytest.raises(asyncpg.CheckViolationError, match="its rows are the books"):
        await books.execute("UPDATE x402_payment_logs SET amount = '0'")
