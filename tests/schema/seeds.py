# ruff: noqa: E501 - statements and tables read better unbroken
"""What the two designs that the schema comes from name: each table with its columns."""

FIRST = {
    "chat_sessions": "id wallet_address title created_at updated_at",
    "chat_messages": "id session_id message_id content is_user escrow_id tx_hash image_preview created_at",
    "query_logs": "id response_time_ms agent_id tx_hash created_at",
    "x402_payment_logs": "id session_id trace_id agent_id endpoint method amount amount_usd network pay_to "
    "receipt_ref tx_hash settle_payer settle_network settle_tx_hash facilitator_settlement_id "
    "facilitator_payment_id payment_response_header created_at "
    # the audit fields that the page abridges
    "payment_response_hash settle_response settle_response_hash settle_extensions payment_payload "
    "payment_payload_hash settled_at latency_ms success error",
    "x402_session_spend": "session_id total_spend_usd paid_calls updated_at",
    "x402_traces": "trace_id session_id user_prompt budget_limit_usd spent_usd_start spent_usd_end "
    "remaining_usd_end created_at",
    "x402_trace_steps": "id trace_id step_index tool_name endpoint quoted_price_usd reason "
    "budget_before_usd budget_after_usd outcome receipt_ref latency_ms",
    "x402_procurement_provider_stats": "id calls successes failures avg_latency_ms schema_passes "
    "consecutive_failures circuit_open_until last_status last_error last_seen_at updated_at",
    "x402_procurement_receipts": "id intent provider_id url method status paid_amount_atomic "
    "response_hash latency_ms success schema_ok score tx_hash pay_to attempt error created_at",
    "message_ratings": "id message_id user_address agent_id is_positive created_at",
    "agent_policies": "agent_id frozen daily_limit_usd per_call_limit_usd allowed_endpoints "
    "allowed_pay_to updated_by updated_at",
    "policy_decision_logs": "id trace_id session_id agent_id endpoint quoted_price_usd decision reason "
    "spent_today_usd reserved_usd remaining_daily_usd budget_before_usd created_at",
}

# "All tables include id, created_at, updated_at": so all of these have an updated_at too.
SECOND = {
    "agents": "id name autonomy_level wallet_address session_token_hash is_active created_at updated_at",
    "api_requests": "id agent_id endpoint api_type http_status x402_instructions request_payload "
    "response_headers data_accessed status created_at updated_at",
    "payments": "id api_request_id agent_id amount currency facilitator_url payment_hash status "
    "verification_callback mainnet_flag created_at updated_at",
    "transaction_logs": "id agent_id payment_id solana_tx_metadata confirmation_status gas_fees "
    "is_duplicate error_message created_at updated_at",
    "wallet_balances": "id agent_id wallet_address balance_cash balance_usdc threshold last_checked "
    "low_balance_event created_at updated_at",
    "retry_attempts": "id agent_id api_request_id payment_id attempt_number backoff_delay outcome "
    "created_at updated_at",
    "audit_events": "id agent_id event_type related_id details severity created_at updated_at",
}

ENUMS = {
    "autonomy_level": "PHASE1 PHASE2 PHASE3",
    "api_type": "MARKET_DATA KNOWLEDGE_DATA",
    "request_status": "PENDING PAYMENT_REQUIRED PAID FAILED ACCESSED",
    "payment_currency": "CASH USDC",
    "payment_status": "INITIATED SIGNED CONFIRMED VERIFIED FAILED",
    "confirmation_status": "PROCESSED CONFIRMED FINALIZED",
    "retry_outcome": "SUCCESS FAILURE",
    "audit_event_type": "PAYMENT_SUCCESS PAYMENT_FAILURE LOW_BALANCE NETWORK_ISSUE CIRCUIT_BREAKER "
    "API_ACCESS",
    "audit_severity": "INFO WARNING ERROR",
}

INDEXES = [  # by the names that the first one gives
    "idx_chat_sessions_wallet", "idx_chat_messages_session", "idx_query_logs_agent",
    "idx_x402_payment_logs_session", "idx_x402_payment_logs_trace",
]  # fmt: skip
