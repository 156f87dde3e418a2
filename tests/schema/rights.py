"""Who may do what: the rights that the database shall give, as tables to read.

S SELECT, I INSERT, U UPDATE, D DELETE; a small letter: some columns only, named in COLUMNS.
"""

from proxy.ledger.roles import AUDITOR, READER, WRITER

#   table or view                  writer   reader   auditor  admin
TABLES = """
    abandoned_reservations           -        -        -        S
    agent_keys                       SIu      -        -        SIU
    agent_policies                   S        S        S        SIU
    agent_tokens                     S        -        -        SIU
    agents                           S        s        s        SIU
    api_keys                         S        -        -        SIU
    api_requests                     Su       S        s        S
    approvals                        S        S        S        S
    audit_events                     S        S        S        S
    budget_counters                  S        S        S        S
    cache_savings                    SIU      S        S        S
    certificate_rejections           SIU      S        S        SIU
    chain_balances                   SIUD     S        S        S
    chain_doubts                     S        S        S        S
    chain_rounds                     SIUD     S        S        S
    chain_seen                       SIUD     S        S        S
    chat_messages                    SIUD     S        -        SIUD
    chat_sessions                    SIUD     S        -        SIUD
    error_classifications            S        S        S        S
    event_servers                    S        S        S        S
    kept_answers                     SD       -        -        -
    loss_counters                    S        S        S        S
    losses                           S        S        S        S
    maintenance_tasks                S        S        S        S
    message_ratings                  SIUD     SIUD     -        SIUD
    pay_to_pins                      S        S        S        S
    payments                         S        S        S        S
    policy_book                      S        S        S        S
    policy_changes                   S        S        S        S
    policy_decision_logs             S        S        S        S
    policy_limits                    S        S        S        S
    policy_rules                     S        S        S        SIUD
    policy_shadow                    S        S        S        SU
    provider_scores                  SIUD     S        S        S
    provider_thumbs                  -        -        -        -
    query_logs                       S        S        S        S
    rating_words                     -        -        -        -
    receipt_chains                   s        s        s        S
    receipt_keys                     Si       S        S        S
    receipt_links                    S        S        S        S
    receipt_ratings                  -        SIUD     -        SIUD
    receipt_signatures               Si       S        S        S
    retry_attempts                   S        S        S        S
    schema_migrations                S        S        S        S
    spend_limits                     S        S        S        SIUD
    spending                         S        S        S        S
    transaction_logs                 SI       S        S        S
    v_daily_spend                    S        S        S        S
    v_in_doubt                       S        S        S        S
    v_payments_usd                   S        S        S        S
    v_policy_effective               S        S        S        S
    wallet_balances                  S        S        S        S
    webhook_deliveries               SuD      -        -        S
    webhook_progress                 S        -        -        S
    webhooks                         Su       -        -        SIUD
    x402_payment_logs                S        S        S        S
    x402_procurement_provider_stats  SIU      S        S        SIU
    x402_procurement_receipts        S        S        S        S
    x402_session_spend               S        S        S        S
    x402_trace_steps                 S        S        S        S
    x402_traces                      Su       S        s        S
"""

# What is left out: the encrypted token of an agent and the salt of its chain; what programs sent
# and got, and asked for.
_AGENT = (
    "id name autonomy_level wallet_address is_active created_at updated_at capture_chat erased_at"
)
_CHAIN = "agent_id length head"
COLUMNS = {
    (WRITER, "agent_keys", "UPDATE"): "sealed_key destroyed_at",
    (WRITER, "api_requests", "UPDATE"): "request_payload data_accessed",
    (WRITER, "receipt_chains", "SELECT"): _CHAIN,
    (READER, "receipt_chains", "SELECT"): _CHAIN,
    (AUDITOR, "receipt_chains", "SELECT"): _CHAIN,
    (WRITER, "receipt_keys", "INSERT"): "key_id public_key",
    (WRITER, "receipt_signatures", "INSERT"): "agent_id seq key_id signature",
    (WRITER, "x402_traces", "UPDATE"): "user_prompt",
    (WRITER, "webhook_deliveries", "UPDATE"): "state attempts next_try last_status last_error "
    "finished_at",
    (WRITER, "webhooks", "UPDATE"): "active reason",
    (READER, "agents", "SELECT"): _AGENT,
    (AUDITOR, "agents", "SELECT"): _AGENT,
    (AUDITOR, "api_requests", "SELECT"): "id agent_id session_id trace_id provider method endpoint "
    "api_type http_status x402_instructions status error_class created_at updated_at",
    (AUDITOR, "x402_traces", "SELECT"): "agent_id trace_id session_id budget_limit_micros "
    "spent_start_micros spent_end_micros remaining_end_micros steps created_at updated_at",
}
# Of these a reader sees what belongs to the wallet that `autopay.wallet` names.
OWN_ROWS = {
    (READER, "chat_sessions"),
    (READER, "chat_messages"),
    (READER, "message_ratings"),
    (READER, "receipt_ratings"),
}

#   function                  writer  reader  auditor admin
FUNCTIONS = """
    accept_pin                -       -       -       X
    access                    -       -       -       -
    add_step                  -       -       -       -
    add_link                  -       -       -       -
    adopt_wallet              X       -       -       X
    aftermath                 -       -       -       -
    agent_day_scope           X       X       X       X
    agent_key                 -       -       -       -
    agent_standing            X       X       X       X
    alert_budget              -       -       -       -
    answer_state              X       -       -       -
    approval_bound            -       -       -       -
    approval_denial           -       -       -       -
    approve                   -       -       -       X
    assign_wallets            X       -       -       X
    count_window              -       -       -       -
    limits_in                 -       -       -       -
    limits_of                 X       X       X       X
    provider_names            X       X       X       X
    prune_hours               X       -       -       X
    prune_savings             X       -       -       X
    rolling_end               X       X       X       X
    rolling_sum               X       X       X       X
    take                      -       -       -       -
    window_end                X       X       X       X
    window_limit              X       X       X       X
    window_scope              X       X       X       X
    word_weight               -       -       -       -
    audit_books               X       X       X       X
    begin_rating              -       -       -       -
    begin_presenting          X       -       -       -
    budget_denial             X       X       X       X
    budget_share              -       -       -       -
    budgets_now               -       X       X       X
    canonical_json            -       -       -       -
    change_book               -       -       -       X
    change_policies           -       -       -       X
    claim_transaction         -       -       -       -
    commitment                -       -       -       -
    confirm_from_chain        X       -       -       -
    counter_limit             -       -       -       -
    counters_of               -       -       -       -
    default_limit             -       -       -       -
    default_partition_rows    X       -       -       X
    current_timeline          -       -       -       -
    deliver                   X       -       -       X
    disprove                  X       -       -       -
    doubt                     X       -       -       X
    drift_denial              -       -       -       -
    end_step                  -       -       -       -
    end_presenting            X       -       -       -
    ensure_partitions         X       -       -       X
    erase_agent               -       -       -       X
    events_since              X       X       X       X
    freeze_layer              -       -       -       X
    expire_approvals          X       -       -       X
    faded_thumbs              -       -       -       -
    forget_pins               -       -       -       X
    free_idempotency_key      -       -       -       -
    good_approval             -       -       -       -
    halt_spending             X       -       -       X
    note_takeover             X       -       -       X
    hex_sha256                X       X       X       X
    hold_policies             -       -       -       -
    hold_agents               -       -       -       -
    instance_key              X       -       -       -
    is_awaited                X       -       -       -
    is_sealed                 X       X       X       X
    jsonb_or_null             X       X       X       X
    keep_answer               X       -       -       -
    kept_by_the_month         -       -       -       -
    limit_session             X       -       -       X
    link_receipts             -       -       -       -
    lock_counters             -       -       -       -
    lock_payment_id           -       -       -       -
    lock_traces               -       -       -       -
    loss_denial               -       -       -       -
    lost_micros               X       X       X       X
    move_held                 -       -       -       -
    move_spent_back           -       -       -       -
    note_approval             -       -       -       -
    note_balance              X       -       -       X
    note_chain_doubt          X       -       -       -
    note_change               -       -       -       X
    note_denial               X       -       -       X
    note_event                X       -       -       X
    note_maintenance          X       -       -       X
    note_retry                X       -       -       X
    note_transaction          -       -       -       -
    open_table                -       -       -       -
    policy_content            -       -       -       -
    policy_version            X       X       X       X
    pin_denial                -       -       -       -
    plain_origin              X       X       X       X
    policy_gate               -       -       -       -
    policy_gate_taken         -       -       -       -
    prior_payment             X       -       -       -
    rebuild_payment           X       -       -       X
    provider_covers           X       X       X       X
    prune_partitions          X       -       -       X
    prune_providers           X       -       -       X
    prune_retries             X       -       -       X
    raise_policy_version      -       -       -       -
    queue_deliveries          X       -       -       -
    receipt_content           -       -       -       -
    reject                    -       -       -       X
    release                   X       -       -       X
    reserve                   X       -       -       X
    roll_back_book            -       -       -       X
    running_instances         X       -       -       -
    session_scope             X       X       X       X
    settle                    X       -       -       X
    sign_policy_change        -       -       -       X
    spend_limit               X       X       X       X
    thumbs                    X       X       X       X
    tick                      X       -       -       X
    trace_scope               X       X       X       X
    turn_breaker_by_hand      -       -       -       X
    utc_midnight_after        X       X       X       X
    verify_payment            X       -       -       -
    weigh_loss                -       -       -       -
"""
