# ruff: noqa: E501 - tables read better as tables
"""Every rule that the tables have, told once more, apart from the migrations.

What is generated from these (tests/schema/test_schema_rules.py) breaks each rule on a row that
otherwise fits, and compares the lists with the catalog: a rule that is new, or gone, shows.
"""

from hashlib import sha256
from typing import Any

from tests.schema.rows import BOT, CONFIRMED, NOBODY, SIGNED

# table: the columns that must have a value
REQUIRED = {
    "abandoned_reservations": "payment_id created_at",
    "agent_keys": "agent_id created_at",
    "agent_policies": "agent_id frozen daily_limit_micros per_call_limit_micros session_limit_micros "
    "allowed_endpoints allowed_pay_to allowed_assets allowed_networks version updated_at "
    "allowed_targets allowed_ports trace_limit_micros inherited",
    "agent_tokens": "token_sha256 agent_id created_at id",
    "agents": "id name autonomy_level wallet_address is_active created_at updated_at capture_chat",
    "api_keys": "key_sha256 name role created_at created_by",
    "api_requests": "id agent_id provider method endpoint api_type http_status status created_at updated_at",
    "approvals": "id agent_id state bound provider method endpoint network asset symbol pay_to price_micros asks "
    "expires_at note created_at updated_at",
    "audit_events": "id agent_id event_type severity created_at",
    "budget_counters": "scope kind spent_micros held_micros paid_calls created_at updated_at alerted held_calls "
    "brought_micros brought_calls",
    "cache_savings": "agent_id day provider answers saved_micros created_at updated_at",
    "certificate_rejections": "agent_id host reason times first_seen last_seen left_until",
    "chain_balances": "network source_account slot amount_atomic seen_at",
    "chain_doubts": "payment_id why detail alarmed created_at updated_at",
    "chain_rounds": "network source_account leader finished_at",
    "chain_seen": "network source_account signature slot commitment client_signature change_atomic "
    "left_atomic fee_lamports seen_at",
    "chat_messages": "id session_id message_id content is_user truncated",
    "chat_sessions": "id wallet_address message_count",
    "error_classifications": "code class party retryable counts_for_breaker description told",
    "event_servers": "system_identifier told_from",
    "kept_answers": "payment_id agent_id delivered created_at expires_at",
    "loss_counters": "day lost_micros lost_calls updated_at",
    "losses": "payment_id agent_id provider day micros created_at",
    "maintenance_tasks": "task created_at updated_at",
    "message_ratings": "id message_id user_address is_positive",
    "pay_to_pins": "provider network pay_to accepted updated_by refusals created_at updated_at",
    "payments": "id agent_id status amount_atomic price_micros day scopes policy_version provider method "
    "endpoint x402_version network asset symbol pay_to created_at updated_at api_request_id decimals identified presented",
    "policy_book": "single version updated_at changed_in",
    "policy_changes": "id version changed_at changed_by origin note part layer",
    "policy_decision_logs": "id agent_id method endpoint decision reason detail quoted_price_micros "
    "spent_today_micros reserved_micros remaining_daily_micros day created_at",
    "policy_limits": "win",
    "policy_rules": "rules updated_at",
    "policy_shadow": "single note updated_at",
    "provider_scores": "provider endpoint successes failures paid_failures schema_passes quotes delivered_micros "
    "lost_micros recent_successes recent_failures recent_paid_failures recent_schema_passes recent_latency "
    "recent_quotes recent_asked recent_delivered recent_lost weighed_at updated_at",
    "provider_thumbs": "provider endpoint ups downs up down weighed_at updated_at",
    "query_logs": "id response_time_ms created_at",
    "rating_words": "receipt_id user_address provider endpoint is_positive said_at",
    "receipt_chains": "agent_id length head",
    "receipt_keys": "key_id public_key created_at",
    "receipt_links": "agent_id seq kind receipt_id canonical sha256 previous recorded_at",
    "receipt_ratings": "id receipt_id user_address is_positive created_at",
    "receipt_signatures": "agent_id seq key_id signature created_at",
    "retry_attempts": "id agent_id attempt_number backoff_delay outcome created_at kind",
    "schema_migrations": "name sha256 applied_at",
    "spend_limits": "kind subject limit_micros created_at updated_at",
    "spending": "single halted timeline failover_safe since",
    "transaction_logs": "id agent_id payment_id solana_tx_metadata confirmation_status is_duplicate created_at",
    "wallet_balances": "id agent_id wallet_address network balance_cash balance_usdc threshold "
    "last_checked low_balance_event created_at updated_at",
    "webhook_deliveries": "id webhook_id event_id agent_id type payload state attempts next_try created_at",
    "webhook_progress": "single xid id",
    "webhooks": "id url sealed types private active told_from dropped created_by created_at updated_at",
    "x402_payment_logs": "id agent_id endpoint method amount symbol asset amount_micros network pay_to "
    "source claimed success latency_ms settled_at created_at",
    "x402_procurement_provider_stats": "id calls successes failures avg_latency_ms schema_passes "
    "consecutive_failures quality max_price_micros updated_at circuit_version circuit_successes",
    "x402_procurement_receipts": "id intent provider_id url method status paid_amount_atomic "
    "response_hash latency_ms success schema_ok score attempt created_at",
    "x402_trace_steps": "id agent_id trace_id step_index tool_name endpoint quoted_price_micros reason "
    "budget_before_micros budget_after_micros outcome created_at updated_at",
    "x402_traces": "agent_id trace_id budget_limit_micros spent_start_micros spent_end_micros "
    "remaining_end_micros steps created_at updated_at",
}

# table: its keys, each the columns that together name one row
UNIQUE = {
    "abandoned_reservations": "payment_id",
    "agent_keys": "agent_id",
    "agent_policies": "agent_id",
    "agent_tokens": "token_sha256 id",
    "agents": "id name",
    "api_keys": "key_sha256 name",
    "api_requests": "id",
    "approvals": "id bound",
    "audit_events": "id+created_at",
    "budget_counters": "scope",
    "cache_savings": "agent_id+day+provider",
    "certificate_rejections": "agent_id+host",
    "chain_balances": "network+source_account+slot",
    "chain_doubts": "payment_id",
    "chain_rounds": "network+source_account",
    "chain_seen": "network+source_account+signature",
    "chat_messages": "id session_id+message_id",
    "chat_sessions": "id agent_id+session_key",
    "error_classifications": "code",
    "event_servers": "system_identifier",
    "kept_answers": "payment_id",
    "loss_counters": "day+agent_id+provider",
    "losses": "payment_id",
    "maintenance_tasks": "task",
    "message_ratings": "id message_id+user_address",
    "pay_to_pins": "provider+network+pay_to",
    "payments": "id message_sha256 payment_hash agent_id+idempotency_key",
    "policy_book": "single",
    "policy_changes": "id",
    "policy_decision_logs": "id+created_at",
    "policy_limits": "agent_id+provider+win+hours",
    "policy_rules": "agent_id+provider",
    "policy_shadow": "single",
    "provider_scores": "provider+endpoint",
    "provider_thumbs": "provider+endpoint",
    "query_logs": "id+created_at",
    "rating_words": "receipt_id+user_address",
    "receipt_chains": "agent_id",
    "receipt_keys": "key_id",
    "receipt_links": "agent_id+seq receipt_id+kind",
    "receipt_ratings": "id receipt_id+user_address",
    "receipt_signatures": "agent_id+seq",
    "retry_attempts": "id",
    "schema_migrations": "name",
    "spend_limits": "kind+agent_id+subject",
    "spending": "single",
    "transaction_logs": "id+created_at",
    "wallet_balances": "id agent_id+wallet_address+network",
    "webhook_deliveries": "id webhook_id+event_id",
    "webhook_progress": "single",
    "webhooks": "id",
    "x402_payment_logs": "id",
    "x402_procurement_provider_stats": "id",
    "x402_procurement_receipts": "id",
    "x402_trace_steps": "id agent_id+trace_id+step_index",
    "x402_traces": "agent_id+trace_id",
}

# table: column>table it points to; "!": the row goes with that one, else that one cannot go
REFERENCES = {
    "agent_keys": "agent_id>agents",
    "agent_policies": "agent_id>agents",
    "agent_tokens": "agent_id>agents",
    "api_requests": "agent_id>agents error_class>error_classifications",
    "approvals": "agent_id>agents payment_id>payments",
    "audit_events": "agent_id>agents",
    "budget_counters": "agent_id>agents",
    "cache_savings": "agent_id>agents",
    "certificate_rejections": "agent_id>agents",
    "chain_doubts": "payment_id>payments",
    "chat_messages": "payment_id>payments session_id>chat_sessions!",
    "chat_sessions": "agent_id>agents",
    "kept_answers": "agent_id>agents payment_id>payments",
    "loss_counters": "agent_id>agents",
    "losses": "agent_id>agents payment_id>payments",
    "pay_to_pins": "agent_id>agents",
    "payments": "agent_id>agents api_request_id>api_requests",
    "policy_changes": "agent_id>agents",
    "policy_limits": "agent_id>agents",
    "policy_rules": "agent_id>agents",
    "receipt_chains": "agent_id>agents",
    "receipt_links": "agent_id>receipt_chains receipt_id>x402_payment_logs",
    "receipt_ratings": "receipt_id>x402_payment_logs",
    "receipt_signatures": "agent_id+seq>receipt_links key_id>receipt_keys",
    "retry_attempts": "agent_id>agents api_request_id>api_requests error_class>error_classifications "
    "cause>error_classifications "
    "payment_id>payments",
    "spend_limits": "agent_id>agents",
    "transaction_logs": "agent_id>agents payment_id>payments",
    "wallet_balances": "agent_id>agents",
    "webhook_deliveries": "agent_id>agents webhook_id>webhooks!",
    "x402_payment_logs": "agent_id>agents id>payments",
    "x402_procurement_receipts": "agent_id>agents payment_id>payments",
    "x402_trace_steps": "agent_id+trace_id>x402_traces! payment_id>payments",
    "x402_traces": "agent_id>agents",
}

NO_HOLD = {"held_micros": 0, "spent_micros": 0, "held_calls": 0, "paid_calls": 0}

# A copy of a row of this table, made different from it in all its keys.
FRESH: dict[str, dict[str, Any]] = {
    "agent_tokens": {"token_sha256": "\\x" + "cd" * 32, "id": NOBODY},
    "agents": {"id": NOBODY, "name": "fresh"},
    "api_keys": {"key_sha256": "\\x" + "cd" * 32, "name": "fresh"},
    "approvals": {"id": NOBODY, "bound": "\\x" + "cd" * 32},
    "budget_counters": {"scope": "99/fresh", **NO_HOLD},
    "cache_savings": {"provider": "fresh"},
    "certificate_rejections": {"host": "fresh.example"},
    "chat_messages": {"id": NOBODY, "message_id": "fresh"},
    "chat_sessions": {"id": NOBODY, "session_key": "fresh"},
    "kept_answers": {"payment_id": SIGNED},
    "loss_counters": {"provider": "fresh"},
    "losses": {"payment_id": SIGNED},
    "message_ratings": {"id": NOBODY, "user_address": "fresh"},
    "pay_to_pins": {"pay_to": "fresh"},
    "payments": {
        "id": NOBODY,
        "message_sha256": "\\x" + "cd" * 32,
        "payment_hash": "fresh",
        "idempotency_key": None,
    },
    "policy_changes": {"id": 999_999},
    "policy_limits": {"win": "rolling", "hours": 5},
    "policy_rules": {"agent_id": BOT, "provider": "fresh.example"},
    "receipt_links": {"seq": 99, "kind": "reversal"},
    "provider_scores": {"endpoint": "fresh"},
    "provider_thumbs": {"endpoint": "fresh"},
    "rating_words": {"user_address": "fresh"},
    "receipt_ratings": {"id": NOBODY, "user_address": "fresh"},
    "receipt_signatures": {"seq": 2},
    "spend_limits": {"kind": "agent_provider_day", "subject": "fresh", "agent_id": BOT},
    "wallet_balances": {"id": NOBODY, "network": "fresh"},
    "event_servers": {"system_identifier": 999},
    "webhook_deliveries": {"id": NOBODY, "event_id": "fresh"},
    "webhooks": {"id": NOBODY},
    "x402_payment_logs": {"id": SIGNED},
    "x402_trace_steps": {"id": NOBODY, "step_index": 9},
    "x402_traces": {"trace_id": "fresh"},
}
# Which row to copy, where not any will do.
MODEL = {"payments": f"id = '{SIGNED}'", "x402_payment_logs": f"id = '{CONFIRMED}'"}

# CHECK constraint: what to change on a row that fits, or a statement
CHECKS: dict[str, dict[str, Any] | str] = {
    "agent_keys_check": {"destroyed_at": "2026-01-01"},
    "agent_keys_sealed_key_check": {"sealed_key": "\\x02"},
    "agent_policies_allowed_ports_check": {"allowed_ports": [0]},
    "agent_policies_daily_limit_micros_check": {"daily_limit_micros": -1},
    "agent_policies_inherited_check": {"inherited": ["monthly"]},
    "agent_policies_per_call_limit_micros_check": {"per_call_limit_micros": -1},
    "agent_policies_session_limit_micros_check": {"session_limit_micros": -1},
    "agent_policies_trace_limit_micros_check": {"trace_limit_micros": -1},
    "agent_tokens_expires_at_check": {"expires_at": "2000-01-01"},
    "agent_tokens_session_id_check": {"session_id": ""},
    "agent_tokens_token_sha256_check": {"token_sha256": "\\x00"},
    "agents_erased_check": {"erased_at": "2026-01-01", "is_active": True},
    "agents_name_check": {"name": "a:b"},
    "agents_wallet_address_check": {"wallet_address": "0x" + "0" * 40},
    "api_keys_check": {"expires_at": "2000-01-01"},
    "api_keys_key_sha256_check": {"key_sha256": "\\x00"},
    "api_keys_name_check": {"name": "a b"},
    "approvals_asks_check": {"asks": 0},
    "approvals_bound_check": {"bound": "\\x00"},
    "approvals_check": {"state": "used", "decided_at": "2026-01-01"},
    "approvals_check1": {"state": "approved"},
    "approvals_note_check": {"note": "x" * 501},
    "approvals_price_micros_check": {"price_micros": -1},
    "approvals_state_check": {"state": "lost", "decided_at": "2026-01-01"},
    "budget_counters_alerted_check": {"alerted": 7, **NO_HOLD},
    "budget_counters_brought_calls_check": {"brought_calls": -1},
    "budget_counters_brought_micros_check": {"brought_micros": -1},
    "budget_counters_check": {"kind": "agent_day", "day": None},
    "budget_counters_check1": {"kind": "session", "session_id": None, **NO_HOLD},
    "budget_counters_check2": {"limit_micros": 1},
    "budget_counters_held_calls_check": {"held_calls": -1},
    "budget_counters_held_micros_check": {"held_micros": -1},
    "budget_counters_limit_micros_check": {
        "kind": "session", "session_id": "s", "limit_micros": -1, **NO_HOLD
    },
    "budget_counters_paid_calls_check": {"paid_calls": -1},
    "budget_counters_spent_micros_check": {"spent_micros": -1},
    "budget_counters_subject_check": {"kind": "provider_day", "subject": None, **NO_HOLD},
    "cache_savings_answers_check": {"answers": 0},
    "cache_savings_saved_check": {"saved_micros": -1},
    "certificate_rejections_times_check": {"times": 0},
    "chain_balances_amount_atomic_check": {"amount_atomic": -1},
    "chain_balances_slot_check": {"slot": -1},
    "chain_doubts_absent_since_check": {"absent_since": -1},
    "chain_seen_commitment_check": {"commitment": "processed"},
    "chain_seen_fee_lamports_check": {"fee_lamports": -1},
    "chain_seen_left_atomic_check": {"left_atomic": -1},
    "chain_seen_slot_check": {"slot": -1},
    "chat_messages_message_id_check": {"message_id": ""},
    "chat_sessions_message_count_check": {"message_count": -1},
    "chat_sessions_wallet_address_check": {"wallet_address": ""},
    "kept_answers_idempotency_key_check": {"idempotency_key": "\\x00"},
    "kept_answers_request_key_check": {"request_key": "\\x00"},
    "loss_counters_check": {"agent_id": None, "provider": None},
    "loss_counters_lost_calls_check": {"lost_calls": -1},
    "loss_counters_lost_micros_check": {"lost_micros": -1},
    "losses_micros_check": {"micros": -1},
    "maintenance_tasks_error_check": {"error": "x" * 1001},
    "maintenance_tasks_task_check": {"task": "sweep"},
    "message_ratings_user_address_check": {"user_address": "x" * 129},
    "pay_to_pins_refusals_check": {"refusals": -1},
    "payments_amount_atomic_check": {"amount_atomic": 2**64},
    "payments_check": {"message_sha256": None},
    "payments_check1": {"release_reason": "never_sent"},
    "payments_decimals_check": {"decimals": 19},
    "payments_idempotency_key_check": {"idempotency_key": "\\x00"},
    "payments_message_sha256_check": {"message_sha256": "\\x00"},
    "payments_presented_check": {"presented": 4},
    "payments_price_micros_check": {"price_micros": -1},
    "payments_release_reason_check": "UPDATE payments SET status = 'FAILED', release_reason = 'timeout' "
    "WHERE status = 'SIGNED'",
    "payments_request_body_sha256_check": {"request_body_sha256": "\\x00"},
    "payments_request_key_check": {"request_key": "\\x00"},
    "payments_scopes_check": {"scopes": []},
    "policy_book_single_check": {"single": False},
    "policy_book_version_check": "UPDATE policy_book SET version = 0",
    "policy_changes_part_check": {"part": "agents"},
    "policy_decision_logs_decision_check": {"decision": "maybe"},
    "policy_limits_hours_check": {"win": "rolling", "hours": 745},
    "policy_limits_hours_check1": {"win": "hour", "hours": 1},
    "policy_limits_limit_micros_check": {"limit_micros": -1},
    "policy_limits_limit_payments_check": {"limit_payments": -1},
    "policy_limits_says_check": {"limit_micros": None, "limit_payments": None},
    "policy_limits_win_check": {"win": "year", "hours": None},
    "policy_rules_columns_check": {"agent_id": BOT, "provider": None, "rules": {"per_call": "1.00"}},
    "policy_rules_provider_check": {"provider": "API.example.com"},
    "policy_rules_rules_check": {"rules": [], "provider": "fresh.example"},
    "policy_shadow_single_check": {"single": False},
    "provider_scores_endpoint_check": {"endpoint": "x" * 2101},
    "provider_scores_last_error_check": {"endpoint": "fresh", "last_error": "x" * 501},
    "provider_scores_provider_check": {"provider": ""},
    "query_logs_response_time_ms_check": {"response_time_ms": -1},
    "receipt_chains_head_check": {"head": "\\x00"},
    "receipt_chains_length_check": {"length": -1},
    "receipt_keys_check": {"key_id": "\\x00"},
    "receipt_keys_public_key_check": {"public_key": "\\x", "key_id": "\\x" + sha256(b"").hexdigest()},
    "receipt_links_kind_check": {"kind": "gift"},
    "receipt_links_previous_check": {"previous": "\\x00"},
    "receipt_links_seq_check": {"seq": 0},
    "receipt_links_sha256_check": {"canonical": "{}"},
    "receipt_ratings_user_address_check": {"user_address": "x" * 129},
    "receipt_signatures_signature_check": {"signature": "\\x00"},
    "retry_attempts_attempt_number_check": {"attempt_number": 4},
    "retry_attempts_backoff_delay_check": {"backoff_delay": "-1 second"},
    "retry_attempts_check": {"api_request_id": None, "payment_id": None},
    "retry_attempts_kind_check": {"kind": "again"},
    "retry_attempts_request_check": {"provider": "https://api.example.com:443"},
    "spend_limits_check": {"kind": "wallet_day", "agent_id": BOT},
    "spend_limits_check1": {"kind": "fleet_day", "agent_id": None, "subject": "x"},
    "spend_limits_kind_check": {"kind": "session", "agent_id": None},
    "spend_limits_limit_micros_check": {"limit_micros": -1},
    "spend_limits_subject_check": {"kind": "wallet_day", "agent_id": None, "subject": ""},
    "spending_single_check": {"single": False},
    "transaction_logs_gas_fees_check": {"gas_fees": -1},
    "wallet_balances_balance_cash_check": {"balance_cash": -1},
    "wallet_balances_balance_usdc_check": {"balance_usdc": -1},
    "wallet_balances_threshold_check": {"threshold": -1},
    "webhook_deliveries_attempts_check": {"attempts": -1},
    "webhook_deliveries_check": {"finished_at": "2026-01-01"},
    "webhook_deliveries_last_error_check": {"last_error": "x" * 301},
    "webhook_deliveries_state_check": {"state": "lost", "finished_at": "2026-01-01"},
    "webhook_progress_single_check": {"single": False},
    "webhooks_check": {"url": "http://example.com/", "private": False},
    "webhooks_dropped_check": {"dropped": -1},
    "webhooks_reason_check": {"reason": "x" * 301},
    "webhooks_sealed_check": {"sealed": "\\x00"},
    "webhooks_types_check": {"types": []},
    "x402_payment_logs_source_check": {"source": "hearsay"},
    "x402_procurement_provider_stats_probe_check": {"probe_until": "2026-01-01"},
    "x402_procurement_provider_stats_quality_check": {"quality": 1.5},
    "x402_procurement_receipts_attempt_check": {"attempt": 0},
    "x402_trace_steps_outcome_check": {"outcome": "perhaps"},
    "x402_trace_steps_step_index_check": {"step_index": -1},
    "x402_traces_trace_id_check": {"trace_id": ""},
}  # fmt: skip

# Trigger: (what it must refuse, in which words), or (a statement, what is true after it).
_FINAL = "its rows are the books"
_KEPT = ("policy_decision_logs", "transaction_logs", "audit_events", "query_logs", "x402_payment_logs",
         "retry_attempts", "receipt_links", "receipt_keys", "receipt_signatures")  # fmt: skip
_EVENT = "SELECT exists(SELECT 1 FROM audit_events WHERE created_at = now() AND "
TOUCHED = {
    "agents": "autonomy_level = 'PHASE3'",
    "approvals": "asks = 2",
    "chat_sessions": "title = 'x'",
    "maintenance_tasks": "error = 'x'",
    "policy_rules": "updated_by = 'x'",
    "policy_shadow": "updated_by = 'x'",
    "spend_limits": "updated_by = 'x'",
    "wallet_balances": "balance_usdc = 2",
    "webhooks": "dropped = 1",
    "x402_trace_steps": "latency_ms = 1",
    "x402_traces": "steps = 2",
}
_UNDELIVERED = (
    "DELETE FROM x402_procurement_receipts;"
    "INSERT INTO x402_procurement_receipts (payment_id, intent, provider_id, url, method, status, paid_amount_atomic, "
    f"response_hash, success) VALUES ('{CONFIRMED}', '', '', '', 'GET', 500, '30000', '', false);"
)
_REQUEST_RETRY = (
    "INSERT INTO retry_attempts (agent_id, kind, attempt_number, backoff_delay, outcome, provider, method, endpoint) "
    f"VALUES ('{BOT}', 'request', 1, '1 second', 'FAILURE', 'https://api.example.com:443', 'GET', 'https://api.example.com/');"
)
ANNOUNCED = ("agents", "agent_tokens", "agent_policies", "policy_book", "policy_shadow")
BOOK = ("agent_policies", "policy_rules", "spend_limits")
_CHANGED = "SELECT exists(SELECT 1 FROM policy_changes WHERE changed_at = now() AND version = policy_version() AND "
TRIGGERS: dict[str, list[tuple[str, str]]] = {
    **{f"{table}.{table}_touch": [
        (f"UPDATE {table} SET {change}",
         f"SELECT every(updated_at = now()) AND count(*) > 0 FROM {table} WHERE {change}"),
    ] for table, change in TOUCHED.items()},
    **{f"{table}.{table}_keep": [
        (f"DELETE FROM {table}", _FINAL),
        (f"TRUNCATE {table} CASCADE", _FINAL),
        (f"UPDATE {table} SET {'recorded' if table == 'receipt_links' else 'created'}_at = now()", _FINAL),
    ] for table in _KEPT},
    "retry_attempts.retry_attempts_keep_rows": [
        ("DELETE FROM retry_attempts WHERE kind = 'connection'", _FINAL),
        (_REQUEST_RETRY + "DELETE FROM retry_attempts WHERE kind = 'request'",
         "SELECT NOT exists(SELECT 1 FROM retry_attempts WHERE kind = 'request')"),
    ],
    "agents.agents_forget_retries": [
        (_REQUEST_RETRY + f"UPDATE agents SET is_active = false, erased_at = now() WHERE id = '{BOT}'",
         "SELECT count(*) FILTER (WHERE kind = 'request') = 0 AND count(*) > 0 FROM retry_attempts"),
    ],
    "policy_changes.policy_changes_keep": [
        ("DELETE FROM policy_changes", _FINAL),
        ("TRUNCATE policy_changes", _FINAL),
        ("UPDATE policy_changes SET note = ''", _FINAL),
    ],
    **{f"{table}.{table}_begin": [
        (f"{statement} WHERE false",
         "SELECT exists(SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid() "
         "AND (classid, objid, objsubid, mode) = (402, 4, 2, 'ExclusiveLock'))")
        for statement in (f"DELETE FROM {table}", f"UPDATE {table} SET updated_by = ''")
    ] for table in BOOK},
    "policy_rules.policy_rules_apply": [
        ("UPDATE policy_rules SET rules = '{\"hourly\": \"0.07\", \"payments\": {\"2d\": 9}}' WHERE provider IS NULL",
         "SELECT array_agg((win, hours, limit_micros, limit_payments)::text ORDER BY win) = "
         "'{\"(hour,,70000,)\",\"(rolling,48,,9)\"}' FROM policy_limits WHERE agent_id IS NULL AND provider IS NULL"),
        ("DELETE FROM policy_rules", "SELECT NOT exists(SELECT 1 FROM policy_limits)"),
    ],
    "policy_rules.policy_rules_audit": [
        ("UPDATE policy_rules SET rules = '{\"per_call\": \"0.02\"}' WHERE provider IS NOT NULL",
         _CHANGED + f"agent_id = '{BOT}' AND layer = 'agent provider api.example.com' "
         "AND before ->> 'per_call' = '0.01' AND after ->> 'per_call' = '0.02')"),
        ("SET LOCAL autopay.by = 'eve'; SET LOCAL autopay.origin = '10.0.0.1'; SET LOCAL autopay.note = 'why';"
         "DELETE FROM policy_rules WHERE provider IS NULL",
         _CHANGED + "(changed_by, origin, note, layer) = ('eve', '10.0.0.1', 'why', 'defaults') AND after IS NULL)"),
        ("DELETE FROM policy_rules WHERE provider IS NULL",
         _EVENT + "event_type = 'POLICY_CHANGE' AND details @> '{\"changes\": {\"daily\": [\"3.00\", null]}}')"),
        ("UPDATE policy_rules SET updated_by = 'nobody'",
         "SELECT policy_version() = max(version) AND every(changed_by <> 'nobody') FROM policy_changes"),
    ],
    "policy_rules.policy_rules_defaults": [
        ("UPDATE agent_policies SET inherited = '{per_call,daily}';"
         "UPDATE policy_rules SET rules = '{\"per_call\": \"0.07\"}' WHERE provider IS NULL",
         "SELECT every(per_call_limit_micros = 70000 AND daily_limit_micros = 1000000 "
         "AND session_limit_micros = 1500000) FROM agent_policies"),
    ],
    "spend_limits.spend_limits_audit": [
        ("UPDATE spend_limits SET limit_micros = 5",
         _CHANGED + "part = 'spend_limits' AND layer LIKE 'ceiling %' AND (after ->> 'limit_micros') = '5')"),
    ],
    "agents.agents_ratings": [
        (f"UPDATE agents SET is_active = false, erased_at = now() WHERE id = '{BOT}'",
         f"SELECT NOT exists(SELECT 1 FROM receipt_ratings WHERE agent_id = '{BOT}')"),
    ],
    **{f"{table}.{table}_place": [
        (f"UPDATE {table} SET is_positive = NOT is_positive, provider = 'mine', endpoint = 'mine', receipt_id = receipt_id",
         f"SELECT every(receipt_id = '{CONFIRMED}' AND provider = 'https://api.example.com:443' AND created_at = now() "
         f"AND endpoint = 'GET https://api.example.com/v1/quote') AND count(*) > 0 FROM {table}"),
    ] for table in ("message_ratings", "receipt_ratings")},
    **{f"{table}.{table}_{what}": [
        (f"UPDATE provider_scores SET rated_at = NULL; {change}",
         "SELECT every(rated_at = now() AND updated_at = now()) AND count(*) = 2 FROM provider_scores"),
        (f"UPDATE x402_procurement_provider_stats SET quality = 0; {change}",
         "SELECT every(quality BETWEEN 0.39 AND 0.61) AND count(*) > 0 FROM x402_procurement_provider_stats"),
        (change, f"SELECT count(*) = {words} FROM rating_words WHERE {which}"),
    ] for table in ("message_ratings", "receipt_ratings")
      for what, change, words, which in (
          ("gone", f"DELETE FROM {table}", 1, "is_positive"),
          ("changed", f"UPDATE {table} SET is_positive = false", 1, "NOT is_positive AND said_at = now()"),
          ("said", f"INSERT INTO {table} ({'message' if table < 'n' else 'receipt'}_id, user_address, is_positive) "
                   f"VALUES ('{'m83' if table < 'n' else CONFIRMED}', 'eve', false)", 1, "user_address = 'eve'"))},
    **{f"{table}.{table}_erased": [
        (f"UPDATE agents SET is_active = false, erased_at = now() WHERE id = '{BOT}'; DELETE FROM {table}; {insert}",
         f"SELECT count(*) = 0 FROM {table}"),
    ] for table, insert in (
        ("cache_savings", "INSERT INTO cache_savings (agent_id, day, provider, answers, saved_micros) "
                          f"VALUES ('{BOT}', current_date, 'fresh', 1, 1)"),
        ("certificate_rejections", "INSERT INTO certificate_rejections (agent_id, host, reason, left_until) "
                                   f"VALUES ('{BOT}', 'fresh', '', now())"),
        ("chat_sessions", f"INSERT INTO chat_sessions (wallet_address, agent_id) VALUES ('w', '{BOT}')"))},
    "losses.losses_step": [
        (f"INSERT INTO losses (payment_id, agent_id, provider, micros) VALUES ('{CONFIRMED}', '{BOT}', '', 1)"
         " ON CONFLICT DO NOTHING",
         f"SELECT every(outcome = 'paid_failed') FROM x402_trace_steps WHERE payment_id = '{CONFIRMED}'"),
        (f"INSERT INTO losses (payment_id, agent_id, provider, micros) VALUES ('{CONFIRMED}', '{BOT}', '', 1)"
         f" ON CONFLICT DO NOTHING; DELETE FROM losses WHERE payment_id = '{CONFIRMED}'",
         f"SELECT every(outcome = 'paid') FROM x402_trace_steps WHERE payment_id = '{CONFIRMED}'"),
    ],
    "agents.agents_policies": [
        (f"UPDATE agents SET is_active = false, erased_at = now() WHERE id = '{BOT}'",
         f"SELECT NOT exists(SELECT 1 FROM policy_rules WHERE agent_id = '{BOT}') AND NOT exists("
         f"SELECT 1 FROM policy_changes WHERE agent_id = '{BOT}' AND (before <> '{{}}' OR after <> '{{}}'))"),
    ],
    "payments.payments_keep": [("DELETE FROM payments", _FINAL), ("TRUNCATE payments CASCADE", _FINAL)],
    **{f"{table}.{table}_announce": [] for table in ANNOUNCED},  # by a listener, in a test of its own
    "agent_keys.agent_keys_guard": [
        ("DELETE FROM agent_keys", "destroyed, not deleted"),
        (f"UPDATE agent_keys SET agent_id = '{NOBODY}'", "cannot be moved"),
        ("UPDATE agent_keys SET sealed_key = NULL, destroyed_at = now();"
         "UPDATE agent_keys SET sealed_key = '\\x01' || decode(repeat('5e', 64), 'hex'), destroyed_at = NULL",
         "come back once destroyed"),
    ],
    "agent_policies.agent_policies_audit": [
        ("UPDATE agent_policies SET frozen = true WHERE NOT frozen",
         _EVENT + "event_type = 'POLICY_CHANGE' AND details @> '{\"changes\": {\"frozen\": [false, true]}}')"),
    ],
    "agent_policies.agent_policies_version": [
        ("UPDATE agent_policies SET frozen = NOT frozen, version = 1",
         "SELECT every(version = policy_version() AND updated_at = now()) FROM agent_policies"),
        ("UPDATE agent_policies SET inherited = '{daily,trace}'",
         "SELECT every(daily_limit_micros = 3000000 AND trace_limit_micros = 1000000) FROM agent_policies"),
        ("UPDATE agent_policies SET inherited = '{daily,trace}'; UPDATE agent_policies SET daily_limit_micros = 4000000",
         "SELECT every(inherited = '{trace}' AND daily_limit_micros = 4000000) FROM agent_policies"),
    ],
    "agent_tokens.agent_tokens_sealed": [
        ("UPDATE agent_tokens SET sealed = NULL", "stored sealed, or not at all"),
        ("UPDATE agent_tokens SET sealed = token_sha256", "stored sealed, or not at all"),
        (f"INSERT INTO agent_tokens VALUES (sha256('x'), '{BOT}')", "stored sealed, or not at all"),
    ],
    "agents.agents_session_token_sealed": [
        ("UPDATE agents SET session_token_hash = sha256('token')", "stored encrypted, or not at all"),
        ("INSERT INTO agents (name, session_token_hash) VALUES ('x', 'secret')", "stored encrypted"),
    ],
    "agents.agents_audit": [
        ("UPDATE agents SET is_active = false WHERE is_active",
         _EVENT + "event_type = 'AGENT_CHANGE' AND details @> '{\"change\": \"removed\"}')"),
        ("INSERT INTO agents (id, name) VALUES (gen_random_uuid(), 'new')",
         _EVENT + "event_type = 'AGENT_CHANGE' AND details @> '{\"change\": \"added\"}')"),
    ],
    "agents.agents_approvals": [
        (f"UPDATE agents SET is_active = false, erased_at = now() WHERE id = '{BOT}'",
         "SELECT count(*) = 0 FROM approvals"),
    ],
    "payments.payments_approval": [
        (f"UPDATE approvals SET state = 'used', decided_at = now(), payment_id = '{SIGNED}';"
         f"UPDATE payments SET status = 'FAILED', release_reason = 'never_sent' WHERE id = '{SIGNED}'",
         "SELECT every(state = 'approved' AND payment_id IS NULL) FROM approvals"),
    ],
    "x402_procurement_receipts.x402_procurement_receipts_loss": [
        (_UNDELIVERED, f"SELECT exists(SELECT 1 FROM losses WHERE payment_id = '{CONFIRMED}' AND micros = 30000)"),
    ],
    "x402_payment_logs.x402_payment_logs_loss": [
        (f"UPDATE payments SET status = 'CONFIRMED' WHERE id = '{SIGNED}';"
         "INSERT INTO x402_payment_logs (id, agent_id, endpoint, method, amount, symbol, asset, amount_micros, "
         "network, pay_to, source, claimed, success) SELECT id, agent_id, endpoint, method, amount_atomic::text, "
         f"symbol, asset, price_micros, network, pay_to, 'chain', false, false FROM payments WHERE id = '{SIGNED}'",
         "SELECT sum(lost_micros) = 3 * 10000 FROM loss_counters WHERE day = (now() AT TIME ZONE 'UTC')::date"),
    ],
    "payments.payments_loss": [
        (_UNDELIVERED + "UPDATE payments SET status = 'FAILED', release_reason = 'proved_dead' WHERE status = 'CONFIRMED'",
         f"SELECT NOT exists(SELECT 1 FROM losses WHERE payment_id = '{CONFIRMED}')"),
    ],
    "agents.agents_forget_savings": [
        (f"UPDATE agents SET is_active = false, erased_at = now() WHERE id = '{BOT}'",
         f"SELECT NOT exists(SELECT 1 FROM cache_savings WHERE agent_id = '{BOT}')"),
    ],
    "agents.agents_forget_deliveries": [
        (f"UPDATE agents SET is_active = false, erased_at = now() WHERE id = '{BOT}'",
         "SELECT count(*) = 0 FROM webhook_deliveries"),
    ],
    "webhooks.webhooks_audit": [
        ("UPDATE webhooks SET active = false",
         _EVENT + "event_type = 'WEBHOOK_CHANGE' AND details @> '{\"change\": \"changed\", \"host\": \"hooks.example.com\"}'"
         " AND details::text NOT LIKE '%secret%')"),
        ("SET LOCAL autopay.by = 'eve'; DELETE FROM webhooks",
         _EVENT + "event_type = 'WEBHOOK_CHANGE' AND details @> '{\"change\": \"removed\", \"by\": \"eve\"}')"),
        ("UPDATE webhooks SET dropped = 5", "SELECT count(*) = 0 FROM audit_events WHERE created_at = now()"),
    ],
    "policy_decision_logs.policy_decision_logs_alert": [
        ("INSERT INTO policy_decision_logs (agent_id, endpoint, decision, reason, scope, limit_micros) SELECT agent_id, '', "
         "'deny', 'over_daily_limit', scope, 7 FROM budget_counters WHERE kind = 'agent_day' ORDER BY day DESC LIMIT 1",
         _EVENT + "event_type = 'BUDGET_ALERT' AND details @> '{\"percent\": 100, \"limit_micros\": 7}')"),
        ("INSERT INTO policy_decision_logs (agent_id, endpoint, decision, reason, scope) SELECT agent_id, '', "
         "'deny', v.reason, scope FROM budget_counters, (VALUES ('frozen'), ('over_per_call_limit')) v (reason) "
         "WHERE kind = 'agent_day'",
         "SELECT count(*) = 0 FROM audit_events WHERE created_at = now()"),
    ],
    "agents.agents_chain": [
        (f"INSERT INTO agents (id, name) VALUES ('{NOBODY}', 'new')",
         f"SELECT length = 0 AND salt IS NOT NULL FROM receipt_chains WHERE agent_id = '{NOBODY}'"),
        (f"UPDATE agents SET is_active = false, erased_at = now() WHERE id = '{BOT}'",
         f"SELECT salt IS NULL FROM receipt_chains WHERE agent_id = '{BOT}'"),
    ],
    "x402_payment_logs.x402_payment_logs_link": [
        ("INSERT INTO x402_payment_logs (id, agent_id, endpoint, method, amount, symbol, asset, amount_micros, "
         "network, pay_to, claimed, success) SELECT id, agent_id, endpoint, method, amount_atomic::text, "
         f"symbol, asset, price_micros, network, pay_to, true, true FROM payments WHERE id = '{SIGNED}'",
         f"SELECT exists(SELECT 1 FROM receipt_links WHERE receipt_id = '{SIGNED}' AND kind = 'receipt')"),
    ],
    "payments.payments_link": [
        ("UPDATE payments SET status = 'FAILED', release_reason = 'proved_dead' WHERE status = 'CONFIRMED'",
         f"SELECT exists(SELECT 1 FROM receipt_links WHERE receipt_id = '{CONFIRMED}' AND kind = 'reversal')"),
    ],
    "api_requests.api_requests_guard": [
        ("UPDATE api_requests SET status = 'ACCESSED'", "cannot go from PAYMENT_REQUIRED to ACCESSED"),
        ("UPDATE api_requests SET status = 'PENDING'", "cannot go from PAYMENT_REQUIRED to PENDING"),
        ("UPDATE api_requests SET status = 'PAID'", "SELECT every(updated_at = now()) FROM api_requests"),
    ],
    "api_requests.api_requests_audit": [
        ("UPDATE api_requests SET status = 'PAID'; UPDATE api_requests SET status = 'ACCESSED'",
         _EVENT + "event_type = 'API_ACCESS')"),
    ],
    "budget_counters.budget_counters_guard_insert": [
        (f"INSERT INTO budget_counters (scope, kind, agent_id, day, held_micros) "
         f"VALUES ('x', 'agent_day', '{BOT}', current_date, 2000004)", "would rise to 2000004 of 2000003"),
        ("INSERT INTO budget_counters (scope, kind, day, held_micros) "
         "VALUES ('x', 'fleet_day', current_date, 9000002)", "would rise to 9000002 of 9000001"),
    ],
    "budget_counters.budget_counters_guard_update": [
        ("UPDATE budget_counters SET held_micros = 800001, spent_micros = 0 WHERE kind = 'session'",
         "would rise to 800001 of 800000"),
        ("UPDATE budget_counters SET held_micros = 900001 WHERE kind = 'trace'", "would rise to 900001"),
    ],
    "payments.payments_audit": [
        ("UPDATE payments SET status = 'CONFIRMED' WHERE status = 'SIGNED'",
         _EVENT + "event_type = 'PAYMENT_SUCCESS' AND details ->> 'to' = 'CONFIRMED')"),
        ("UPDATE payments SET status = 'FAILED', release_reason = 'proved_dead' WHERE status = 'SIGNED'",
         _EVENT + "event_type = 'PAYMENT_FAILURE' AND severity = 'WARNING')"),
        ("UPDATE payments SET in_doubt_since = now() WHERE status = 'SIGNED'",
         _EVENT + "event_type = 'NETWORK_ISSUE' AND details ->> 'state' = 'in_doubt')"),
    ],
    "payments.payments_guard": [
        ("UPDATE payments SET status = 'SIGNED' WHERE status = 'CONFIRMED'", "cannot go from CONFIRMED"),
        ("UPDATE payments SET pay_to = 'x'", "does not change"),
        ("UPDATE payments SET scopes = scopes || ARRAY['x']", "does not change"),
    ],
    "wallet_balances.wallet_balances_audit": [
        ("UPDATE wallet_balances SET low_balance_event = true",
         _EVENT + "event_type = 'LOW_BALANCE' AND severity = 'WARNING')"),
    ],
    "x402_procurement_provider_stats.provider_stats_turn": [
        ("UPDATE x402_procurement_provider_stats SET circuit_version = 7, circuit_successes = 1, "
         "probe_owner = gen_random_uuid(), probe_until = now();"
         "UPDATE x402_procurement_provider_stats SET circuit_open_until = now()",
         "SELECT bool_and(circuit_version = 8 AND circuit_successes = 0 AND probe_owner IS NULL "
         "AND probe_until IS NULL) FROM x402_procurement_provider_stats"),
    ],
    "x402_procurement_provider_stats.provider_stats_audit": [
        ("UPDATE x402_procurement_provider_stats SET circuit_open_until = now() + interval '1 hour'",
         _EVENT + "event_type = 'CIRCUIT_BREAKER')"),
        ("UPDATE x402_procurement_provider_stats SET circuit_open_until = now() + interval '1 hour';"
         "UPDATE x402_procurement_provider_stats SET circuit_open_until = NULL",
         _EVENT + "event_type = 'CIRCUIT_BREAKER' AND details @> '{\"state\": \"closed\"}')"),
    ],
}  # fmt: skip
