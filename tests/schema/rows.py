# ruff: noqa: E501 - tables read better as tables
"""Rows such as a database has after some months, for every table, at any migration.

A row is given with all its columns; a database that is not so far yet takes those that it has.
"""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import asyncpg

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]

Row = dict[str, Any]

DEVNET = "solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1"
MAINNET = "solana:5eykt4UsFv8P8NJdTREpY1vzqKqZKvdp"
WALLET = "2wKupLR9q6wXYppw8Gr2NvWxKBUqm4PPJKkQfoxHDBg4"
SHOP = "https://api.example.com:443"
QUOTE = "https://api.example.com/v1/quote"
SEALED = "\\x01" + "5e" * 64

_KINDS, _SUBJECTS, _WINDOWS = 10, 17, 29  # the migrations that made them


def u(number: int) -> str:
    return f"00000000-0000-4000-8000-{number:012d}"


BOT, SHOPPER, NOBODY = u(1), u(2), u(99)
INITIATED, SIGNED, DOUBTED, CONFIRMED, VERIFIED, UNSENT, DEAD = (u(n) for n in range(11, 18))
OPEN, PAID = (INITIATED, SIGNED, DOUBTED), (CONFIRMED, VERIFIED)
PRICES = {
    INITIATED: 1_000, SIGNED: 10_000, DOUBTED: 20_001, CONFIRMED: 30_000, VERIFIED: 40_007,
    UNSENT: 5_000, DEAD: 50_000,
}  # fmt: skip
ENDS = {
    CONFIRMED: ["CONFIRMED"], VERIFIED: ["CONFIRMED", "VERIFIED"], UNSENT: ["FAILED"], DEAD: ["FAILED"],
}  # fmt: skip


async def fill(connection: "Connection", level: int) -> None:
    """Fills a database that is migrated up to file number `level`, by plain INSERTs."""
    for table, row in rows():
        if row.pop("since", 0) > level:
            continue
        found = await connection.fetch(
            "SELECT attname FROM pg_attribute WHERE attrelid = to_regclass($1) AND attnum > 0 "
            "AND attgenerated = '' AND NOT attisdropped",
            table,
        )
        columns = ", ".join(column for (column,) in found if column in row)
        if columns:
            await connection.execute(
                f"INSERT INTO {table} ({columns}) "
                f"SELECT {columns} FROM jsonb_populate_record(NULL::{table}, $1)",
                json.dumps(row),
            )
    if level >= 2:
        for payment, states in ENDS.items():
            for state in states:
                await connection.execute(
                    "UPDATE payments SET status = $2::text::payment_status, "
                    "release_reason = CASE $2::text WHEN 'FAILED' THEN $3::text END, "
                    "settled_at = CASE $2::text WHEN 'CONFIRMED' THEN now() ELSE settled_at END "
                    "WHERE id = $1::text::uuid",
                    payment,
                    state,
                    "never_sent" if payment == UNSENT else "proved_dead",
                )


def rows() -> Iterator[tuple[str, Row]]:
    """(table, row) in an order in which the foreign keys hold."""
    now = datetime.now(UTC)
    past = {days: (now - timedelta(days=days)).isoformat() for days in (0, 35, 70)}
    today, then = past[0][:10], past[35][:10]

    for agent, name in (BOT, "bot"), (SHOPPER, "shopper"):
        yield "agents", {
            "id": agent, "name": name, "autonomy_level": "PHASE2", "is_active": True,
            "wallet_address": WALLET, "session_token_hash": SEALED, "capture_chat": agent == BOT,
            "created_at": past[70], "updated_at": past[70],
        }  # fmt: skip
        yield "agent_tokens", {
            "token_sha256": "\\x" + f"{name[0]}".encode().hex() * 32, "agent_id": agent,
            "session_id": "s1" if agent == BOT else None, "sealed": SEALED, "created_at": past[70],
        }  # fmt: skip
        yield "agent_policies", {
            "agent_id": agent, "frozen": agent == SHOPPER, "daily_limit_micros": 2_000_003,
            "per_call_limit_micros": 50_000, "session_limit_micros": 1_500_000,
            "trace_limit_micros": 900_000, "allowed_endpoints": ["GET https://api.example.com/*"],
            "allowed_pay_to": [], "allowed_assets": ["USDC"], "allowed_networks": [],
            "allowed_targets": ["10.0.0.0/8"], "allowed_ports": [443], "version": 3,
            "updated_by": "ann", "updated_at": past[35],
        }  # fmt: skip
        yield "policy_rules", {
            "agent_id": agent, "provider": "api.example.com", "rules": {"per_call": "0.01"},
            "updated_by": "ann", "updated_at": past[35],
        }  # fmt: skip
        yield "agent_keys", {"agent_id": agent, "sealed_key": SEALED, "created_at": past[35]}
    yield "policy_rules", {
        "agent_id": None, "provider": None, "rules": {"daily": "3.00"}, "updated_by": "ann", "updated_at": past[35],
    }  # fmt: skip
    yield "policy_rules", {
        "agent_id": None, "provider": "limits.example", "rules": {"rolling": {"7d": "9.00"}}, "updated_by": "ann",
        "updated_at": past[35], "since": _WINDOWS,
    }  # fmt: skip
    yield "api_keys", {
        "key_sha256": "\\x" + "ab" * 32, "name": "ops", "role": "operator", "created_by": "ann",
        "created_at": past[35], "expires_at": now.replace(year=now.year + 1, day=1).isoformat(),
    }  # fmt: skip
    yield "cache_savings", {
        "agent_id": BOT, "day": today, "provider": SHOP, "answers": 3, "saved_micros": 3_000,
        "created_at": past[0], "updated_at": past[0],
    }  # fmt: skip
    yield "certificate_rejections", {
        "agent_id": BOT, "host": "pinned.example", "reason": "unknown ca", "times": 2,
        "first_seen": past[35], "last_seen": past[0], "left_until": past[0],
    }  # fmt: skip
    for kind, agent, subject in (
        ("fleet_day", None, "*"), ("provider_day", None, SHOP), ("agent_provider_day", BOT, "*")
    ):  # fmt: skip
        yield "spend_limits", {
            "kind": kind, "agent_id": agent, "subject": subject, "limit_micros": 9_000_001,
            "updated_by": "ann", "created_at": past[35], "updated_at": past[35],
        }  # fmt: skip

    for payment, price in PRICES.items():
        old = payment == VERIFIED
        at = past[35 if old else 0]
        in_session = payment in (DOUBTED, CONFIRMED)
        mark = payment[-2:]
        yield "api_requests", {
            "id": payment, "agent_id": BOT, "session_id": "s1" if in_session else None,
            "trace_id": "t1" if in_session else None, "provider": SHOP, "method": "GET",
            "endpoint": QUOTE, "api_type": "MARKET_DATA", "http_status": 402,
            "x402_instructions": {"x402Version": 2, "chosen": {"amount": str(price)}},
            "response_headers": {"content-type": "application/json"}, "status": "PAYMENT_REQUIRED",
            "created_at": at, "updated_at": at,
        }  # fmt: skip
        yield "payments", {
            "id": payment, "agent_id": BOT, "status": "INITIATED" if payment == INITIATED else "SIGNED",
            "amount_atomic": price, "price_micros": price, "day": at[:10],
            "scopes": [f"10/agent-day/{BOT}/{at[:10]}", *([f"20/session/{BOT}/s1"] * in_session)],
            "policy_version": 3, "session_id": "s1" if in_session else None,
            "trace_id": "t1" if in_session else None, "provider": SHOP, "method": "GET",
            "endpoint": QUOTE, "x402_version": 2, "network": MAINNET if old else DEVNET,
            "asset": "4zMMC9srt5Ri5X14GAgXhaHii3GnPAEERYPJgZJDncDU",
            "symbol": "CASH" if payment == CONFIRMED else "USDC", "decimals": 6, "pay_to": WALLET,
            "payer": WALLET, "source_account": WALLET, "memo": mark, "blockhash": WALLET,
            "last_valid_block_height": 250, "client_signature": "5" * 86 + mark,
            "message_sha256": None if payment == INITIATED else "\\x" + mark * 32,
            "request_key": "\\x" + mark * 32, "idempotency_key": "\\x" + mark * 32,
            "identified": False, "presented": 0, "api_request_id": payment,
            "payment_payload": {"transaction": "AQ=="},
            "payment_hash": "4" * 86 + mark if payment in PAID else None,
            "doubt_reason": "answer_lost" if payment == DOUBTED else None,
            "in_doubt_since": at if payment == DOUBTED else None,
            "created_at": at, "updated_at": at,
        }  # fmt: skip
        yield "policy_decision_logs", decision(payment, at, price)
    for number, days in enumerate((35, 70, 70), start=101):
        yield "policy_decision_logs", decision(None, past[days], number) | {
            "id": u(number), "decision": "deny", "reason": "over_per_call_limit",
            "agent_id": NOBODY if number == 103 else BOT,
        }  # fmt: skip

    def spent(*payments: str) -> int:
        return sum(PRICES[payment] for payment in payments)

    day = {"agent_id": BOT, "created_at": past[0], "updated_at": past[0]}
    for counter in (
        {"scope": f"10/agent-day/{BOT}/{today}", "kind": "agent_day", "day": today,
         "held_micros": spent(*OPEN), "held_calls": len(OPEN), "spent_micros": spent(CONFIRMED),
         "paid_calls": 1},
        {"scope": f"10/agent-day/{BOT}/{then}", "kind": "agent_day", "day": then,
         "held_micros": 0, "spent_micros": spent(VERIFIED), "paid_calls": 1},
        {"scope": f"20/session/{BOT}/s1", "kind": "session", "session_id": "s1",
         "held_micros": spent(DOUBTED), "held_calls": 1, "spent_micros": spent(CONFIRMED),
         "paid_calls": 1, "limit_micros": 800_000},
        {"scope": f"30/trace/{BOT}/t9", "kind": "trace", "subject": "t9", "held_micros": 0,
         "spent_micros": 0, "paid_calls": 0, "since": _SUBJECTS},
        {"scope": f"70/fleet-day/{today}", "kind": "fleet_day", "agent_id": None, "day": today,
         "held_micros": 0, "spent_micros": 0, "paid_calls": 0, "since": _KINDS},
    ):  # fmt: skip
        yield "budget_counters", day | counter
    yield "abandoned_reservations", {"payment_id": u(51), "created_at": past[0]}

    for payment in PAID:
        at = past[35 if payment == VERIFIED else 0]
        yield "x402_payment_logs", {
            "id": payment, "session_id": "s1" if payment == CONFIRMED else None,
            "trace_id": "t1" if payment == CONFIRMED else None, "agent_id": BOT, "endpoint": QUOTE,
            "method": "GET", "amount": str(PRICES[payment]), "symbol": "USDC", "asset": WALLET,
            "amount_micros": PRICES[payment], "network": DEVNET, "pay_to": WALLET,
            "tx_hash": "4" * 86 + payment[-2:], "source": "provider", "claimed": True,
            "success": True, "http_status": 200, "latency_ms": 12, "settle_response": {"success": True},
            "settled_at": at, "created_at": at,
        }  # fmt: skip
        yield "x402_procurement_receipts", {
            "id": u(20 + int(payment[-2:])), "payment_id": payment, "agent_id": BOT, "intent": "quote",
            "provider_id": SHOP, "url": QUOTE, "method": "GET", "status": 200,
            "paid_amount_atomic": str(PRICES[payment]), "response_hash": "ab" * 32, "latency_ms": 12,
            "success": True, "schema_ok": True, "score": "0.730000", "pay_to": WALLET, "attempt": 1,
            "created_at": at,
        }  # fmt: skip
    public = bytes(32)
    yield "receipt_keys", {
        "key_id": "\\x" + sha256(public).hexdigest(), "public_key": "\\x" + public.hex(), "created_at": past[0],
    }  # fmt: skip
    yield "receipt_signatures", {  # the links are made by the receipts themselves
        "agent_id": BOT, "seq": 1, "key_id": "\\x" + sha256(public).hexdigest(),
        "signature": "\\x" + "77" * 64, "created_at": past[0],
    }  # fmt: skip
    yield "kept_answers", {
        "payment_id": CONFIRMED, "agent_id": BOT, "request_key": "\\x" + "14" * 32, "delivered": True,
        "sealed": SEALED, "created_at": past[0], "expires_at": past[0],
    }  # fmt: skip
    yield "x402_procurement_provider_stats", {
        "id": SHOP, "calls": 9, "successes": 7, "failures": 2, "avg_latency_ms": "12.50",
        "schema_passes": 7, "consecutive_failures": 0, "quality": "0.800000",
        "max_price_micros": 50_000, "last_status": 200, "last_seen_at": past[0], "updated_at": past[0],
    }  # fmt: skip

    yield "retry_attempts", {
        "id": u(61), "agent_id": BOT, "api_request_id": UNSENT, "payment_id": UNSENT,
        "kind": "connection", "attempt_number": 1, "backoff_delay": "1 second", "outcome": "FAILURE",
        "error_class": "connect_failed", "created_at": past[0],
    }  # fmt: skip
    for number, days in (71, 0), (72, 35), (73, 70):
        yield "transaction_logs", {
            "id": u(number), "agent_id": BOT, "payment_id": VERIFIED,
            "solana_tx_metadata": {"signature": "4" * 88, "slot": number},
            "confirmation_status": "FINALIZED", "gas_fees": "5000", "is_duplicate": False,
            "created_at": past[days],
        }  # fmt: skip
        yield "audit_events", {
            "id": u(number), "agent_id": BOT, "event_type": "PAYMENT_SUCCESS", "related_id": VERIFIED,
            "details": {"provider": SHOP}, "severity": "INFO", "created_at": past[days],
        }  # fmt: skip
        yield "query_logs", {
            "id": u(number), "response_time_ms": 12, "agent_id": BOT, "created_at": past[days],
        }  # fmt: skip

    yield "chat_sessions", {
        "id": u(81), "wallet_address": WALLET, "title": "Prices", "agent_id": BOT,
        "session_key": "s1", "message_count": 2, "created_at": past[35], "updated_at": past[35],
    }  # fmt: skip
    for number, is_user in (82, True), (83, False):
        yield "chat_messages", {
            "id": u(number), "session_id": u(81), "message_id": f"m{number}", "content": "how much?",
            "is_user": is_user, "payment_id": None if is_user else CONFIRMED, "truncated": False,
            "created_at": past[35],
        }  # fmt: skip
    for endpoint in "", f"GET {QUOTE}":
        yield "provider_scores", {
            "provider": SHOP, "endpoint": endpoint, "successes": 7, "failures": 2, "paid_failures": 1,
            "schema_passes": 7, "quotes": 9, "delivered_micros": 70_000, "lost_micros": 10_000,
            "recent_successes": 6.5, "recent_failures": 1.5, "recent_paid_failures": 0.5,
            "recent_schema_passes": 6.5, "recent_latency": 81.25, "recent_quotes": 3.5,
            "recent_asked": 35_000.5, "recent_delivered": 69_000.5, "recent_lost": 9_000.5,
            "weighed_at": past[0], "rated_at": None, "last_status": 200, "last_error": None,
            "last_seen_at": past[0], "updated_at": past[0],
        }  # fmt: skip
    yield "receipt_ratings", {
        "id": u(89), "receipt_id": CONFIRMED, "user_address": WALLET, "is_positive": True,
        "agent_id": BOT, "provider": SHOP, "endpoint": f"GET {QUOTE}", "created_at": past[0],
    }  # fmt: skip
    yield "message_ratings", {
        "id": u(84), "message_id": "m83", "user_address": WALLET, "agent_id": BOT,
        "is_positive": True, "created_at": past[35], "receipt_id": CONFIRMED, "provider": SHOP,
        "endpoint": f"GET {QUOTE}",
    }  # fmt: skip
    yield "x402_traces", {
        "agent_id": BOT, "trace_id": "t1", "session_id": "s1", "user_prompt": "buy a quote",
        "budget_limit_micros": 900_000, "spent_start_micros": 0, "spent_end_micros": 30_000,
        "remaining_end_micros": 849_999, "steps": 2, "created_at": past[0], "updated_at": past[0],
    }  # fmt: skip
    for number, payment in enumerate((CONFIRMED, DOUBTED)):
        yield "x402_trace_steps", {
            "id": u(85 + number), "agent_id": BOT, "trace_id": "t1", "step_index": number,
            "tool_name": SHOP, "endpoint": QUOTE, "quoted_price_micros": PRICES[payment],
            "reason": "ok", "budget_before_micros": 900_000,
            "budget_after_micros": 900_000 - PRICES[payment],
            "outcome": "paid" if payment == CONFIRMED else "in_doubt", "payment_id": payment,
            "created_at": past[0], "updated_at": past[0],
        }  # fmt: skip
    yield "wallet_balances", {
        "id": u(91), "agent_id": BOT, "wallet_address": WALLET, "network": DEVNET,
        "balance_cash": "0.5", "balance_usdc": "1.25", "threshold": "0.1", "last_checked": past[0],
        "low_balance_event": False, "created_at": past[35], "updated_at": past[0],
    }  # fmt: skip
    account = {"network": DEVNET, "source_account": WALLET}
    yield "chain_seen", account | {
        "signature": "4" * 88, "slot": 7, "commitment": "finalized", "client_signature": "5" * 88,
        "change_atomic": -40_007, "left_atomic": 1_000_000, "fee_lamports": 5_000, "seen_at": past[0],
    }  # fmt: skip
    yield "chain_balances", account | {"slot": 7, "amount_atomic": 1_000_000, "seen_at": past[0]}
    yield "chain_rounds", account | {
        "leader": "one", "finalized_height": 9, "finalized_slot": 9, "finished_at": past[0],
    }  # fmt: skip
    yield "chain_doubts", {
        "payment_id": DOUBTED, "why": "rpc_behind", "detail": "", "absent_since": 9, "alarmed": [],
        "created_at": past[0], "updated_at": past[0],
    }  # fmt: skip
    yield "pay_to_pins", {
        "provider": SHOP, "network": DEVNET, "pay_to": WALLET, "accepted": True, "agent_id": BOT,
        "updated_by": "first use", "refusals": 0, "created_at": past[35], "updated_at": past[35],
    }  # fmt: skip
    yield "losses", {
        "payment_id": VERIFIED, "agent_id": BOT, "provider": SHOP, "day": then, "micros": 40_007,
        "created_at": past[35],
    }  # fmt: skip
    yield "loss_counters", {
        "day": then, "agent_id": BOT, "provider": SHOP, "lost_micros": 40_007, "lost_calls": 1,
        "updated_at": past[35],
    }  # fmt: skip
    yield "approvals", {
        "id": u(81), "agent_id": BOT, "state": "pending", "bound": "\\x" + "81" * 32, "provider": SHOP,
        "method": "GET", "endpoint": QUOTE, "network": DEVNET, "asset": WALLET, "symbol": "USDC",
        "pay_to": WALLET, "price_micros": 20_000, "asks": 1, "expires_at": now.replace(year=now.year + 1, day=1).isoformat(),
        "note": "", "created_at": past[0], "updated_at": past[0],
    }  # fmt: skip
    yield "event_servers", {"system_identifier": 402, "told_from": past[35]}
    yield "webhooks", {
        "id": u(95), "url": "https://hooks.example.com/secret?secret", "sealed": SEALED, "types": ["alarm"],
        "private": True, "active": True, "told_from": "3", "dropped": 0, "created_by": "ann",
        "created_at": past[35], "updated_at": past[35],
    }  # fmt: skip
    yield "webhook_deliveries", {
        "id": u(96), "webhook_id": u(95), "event_id": "3-" + u(71), "agent_id": BOT, "type": "alarm",
        "payload": {"type": "alarm"}, "state": "waiting", "attempts": 1, "next_try": past[0],
        "last_status": 500, "last_error": "it answered 500", "created_at": past[0],
    }  # fmt: skip
    yield "maintenance_tasks", {
        "task": "partitions", "succeeded_at": past[0], "details": {"made": 0},
        "created_at": past[0], "updated_at": past[0],
    }  # fmt: skip


def decision(payment: str | None, at: str, price: int) -> Row:
    return {
        "id": u(200 + int(payment[-2:])) if payment else None, "payment_id": payment,
        "trace_id": "t1" if payment == DOUBTED else None, "agent_id": BOT, "method": "GET",
        "endpoint": QUOTE, "decision": "allow", "reason": "ok", "detail": "", "policy_version": 3,
        "scope": f"10/agent-day/{BOT}/{at[:10]}", "limit_micros": 2_000_003, "scope_spent_micros": 0,
        "scope_held_micros": price, "quoted_price_micros": price, "spent_today_micros": 0,
        "reserved_micros": price, "remaining_daily_micros": 2_000_003 - price,
        "budget_before_micros": 2_000_003, "remaining_micros": 2_000_003 - price, "day": at[:10],
        "created_at": at,
    }  # fmt: skip
