-- What was decided, what was paid, how it went: rows that are only ever added.

-- agent_id has no foreign key in the decision log: a decision about an agent that does not exist
-- is worth a row too.
CREATE TABLE policy_decision_logs (
    id                     uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    payment_id             uuid,
    trace_id               text,
    session_id             text,
    agent_id               uuid NOT NULL,
    method                 text NOT NULL DEFAULT '',
    endpoint               text NOT NULL,
    decision               text NOT NULL CHECK (decision IN ('allow', 'deny')),
    reason                 text NOT NULL,
    detail                 text NOT NULL DEFAULT '',
    policy_version         bigint,
    -- the budget or limit that decided (of the day if none refused)
    scope                  text,
    limit_micros           bigint,
    scope_spent_micros     bigint,
    scope_held_micros      bigint,
    -- the agent's day
    quoted_price_micros    bigint NOT NULL DEFAULT 0,
    spent_today_micros     bigint NOT NULL DEFAULT 0,
    reserved_micros        bigint NOT NULL DEFAULT 0,
    remaining_daily_micros bigint NOT NULL DEFAULT 0,
    budget_before_micros   bigint,
    remaining_micros       bigint,
    day                    date NOT NULL DEFAULT (now() AT TIME ZONE 'UTC')::date,
    quoted_price_usd       numeric(18, 6) GENERATED ALWAYS AS (quoted_price_micros * 0.000001) STORED,
    spent_today_usd        numeric(18, 6) GENERATED ALWAYS AS (spent_today_micros * 0.000001) STORED,
    reserved_usd           numeric(18, 6) GENERATED ALWAYS AS (reserved_micros * 0.000001) STORED,
    remaining_daily_usd    numeric(18, 6) GENERATED ALWAYS AS (remaining_daily_micros * 0.000001) STORED,
    budget_before_usd      numeric(18, 6) GENERATED ALWAYS AS (budget_before_micros * 0.000001) STORED,
    created_at             timestamptz NOT NULL DEFAULT now()
);
COMMENT ON COLUMN policy_decision_logs.payment_id IS
    'the payment that was reserved, or would have been; null if a policy said no before that';
COMMENT ON COLUMN policy_decision_logs.reason IS
    'the stable code: ok, over_daily_limit, …; not_payable for a 402 that could not be paid (its code is in detail)';
COMMENT ON COLUMN policy_decision_logs.reserved_micros IS 'held today, after this decision';
COMMENT ON COLUMN policy_decision_logs.budget_before_micros IS 'left today, before this decision';
COMMENT ON COLUMN policy_decision_logs.remaining_daily_micros IS 'left today, after this decision';
COMMENT ON COLUMN policy_decision_logs.remaining_micros IS 'the least that is left in any budget, after it';

CREATE INDEX idx_policy_decision_logs_agent ON policy_decision_logs (agent_id, created_at DESC);
CREATE INDEX idx_policy_decision_logs_created ON policy_decision_logs (created_at DESC);
CREATE INDEX idx_policy_decision_logs_trace ON policy_decision_logs (trace_id) WHERE trace_id IS NOT NULL;
-- A repeated reservation is answered from its first decision.
CREATE INDEX idx_policy_decision_logs_payment ON policy_decision_logs (payment_id)
    WHERE payment_id IS NOT NULL;

-- The receipt: exactly one for a settled payment.
CREATE TABLE x402_payment_logs (
    id                        uuid PRIMARY KEY REFERENCES payments (id) ON DELETE RESTRICT,
    session_id                text,
    trace_id                  text,
    agent_id                  uuid NOT NULL REFERENCES agents (id) ON DELETE RESTRICT,
    endpoint                  text NOT NULL,
    method                    text NOT NULL,
    amount                    text NOT NULL,
    symbol                    text NOT NULL,
    asset                     text NOT NULL,
    amount_micros             bigint NOT NULL,
    amount_usd                numeric(18, 6) GENERATED ALWAYS AS (amount_micros * 0.000001) STORED,
    network                   text NOT NULL,
    pay_to                    text NOT NULL,
    receipt_ref               text,
    tx_hash                   text,
    settle_payer              text,
    settle_network            text,
    settle_tx_hash            text,
    settle_amount             text,
    facilitator_settlement_id text,
    facilitator_payment_id    text,
    payment_response_header   text,
    payment_response_hash     text,
    settle_response           jsonb,
    settle_response_hash      text,
    settle_extensions         jsonb,
    payment_payload           jsonb,
    payment_payload_hash      text,
    source                    text NOT NULL DEFAULT 'provider' CHECK (source IN ('provider', 'chain')),
    claimed                   boolean NOT NULL,
    success                   boolean NOT NULL,
    http_status               integer,
    latency_ms                integer NOT NULL DEFAULT 0,
    error                     text,
    settled_at                timestamptz NOT NULL DEFAULT now(),
    created_at                timestamptz NOT NULL DEFAULT now()
);
COMMENT ON COLUMN x402_payment_logs.amount IS 'atomic units of the asset, as text: exact for 64 bits';
COMMENT ON COLUMN x402_payment_logs.tx_hash IS 'the transaction that the books go by (payments.payment_hash)';
COMMENT ON COLUMN x402_payment_logs.settle_tx_hash IS 'the transaction that the provider named';
COMMENT ON COLUMN x402_payment_logs.claimed IS
    'whether the provider said so in a settlement header; false: it answered 2xx without one';
COMMENT ON COLUMN x402_payment_logs.success IS 'whether the paid answer was a success (a paid 500 is false)';

CREATE INDEX idx_x402_payment_logs_agent ON x402_payment_logs (agent_id, created_at DESC);
CREATE INDEX idx_x402_payment_logs_created ON x402_payment_logs (created_at DESC);
CREATE INDEX idx_x402_payment_logs_session ON x402_payment_logs (session_id) WHERE session_id IS NOT NULL;
CREATE INDEX idx_x402_payment_logs_trace ON x402_payment_logs (trace_id) WHERE trace_id IS NOT NULL;

CREATE TRIGGER x402_payment_logs_keep BEFORE UPDATE OR DELETE OR TRUNCATE ON x402_payment_logs
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

CREATE TABLE x402_procurement_provider_stats (
    id                   text PRIMARY KEY,
    calls                integer NOT NULL DEFAULT 0,
    successes            integer NOT NULL DEFAULT 0,
    failures             integer NOT NULL DEFAULT 0,
    avg_latency_ms       numeric(12, 2) NOT NULL DEFAULT 0,
    schema_passes        integer NOT NULL DEFAULT 0,
    consecutive_failures integer NOT NULL DEFAULT 0,
    quality              numeric(10, 6) NOT NULL DEFAULT 0.5 CHECK (quality BETWEEN 0 AND 1),
    max_price_micros     bigint NOT NULL DEFAULT 0,
    circuit_open_until   timestamptz,
    last_status          integer,
    last_error           text,
    last_seen_at         timestamptz,
    updated_at           timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 70);

-- One row per attempt to get something, paid or not.
CREATE TABLE x402_procurement_receipts (
    id                 uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    payment_id         uuid REFERENCES payments (id) ON DELETE RESTRICT,
    agent_id           uuid REFERENCES agents (id) ON DELETE RESTRICT,
    intent             text NOT NULL,
    provider_id        text NOT NULL,
    url                text NOT NULL,
    method             text NOT NULL,
    status             integer NOT NULL,
    paid_amount_atomic text NOT NULL,
    response_hash      text NOT NULL,
    latency_ms         integer NOT NULL DEFAULT 0,
    success            boolean NOT NULL DEFAULT false,
    schema_ok          boolean NOT NULL DEFAULT false,
    score              numeric(10, 6) NOT NULL DEFAULT 0,
    tx_hash            text,
    pay_to             text,
    attempt            integer NOT NULL DEFAULT 1 CHECK (attempt >= 1),
    error              text,
    created_at         timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX idx_x402_procurement_receipts_provider ON x402_procurement_receipts (provider_id, created_at DESC);
CREATE INDEX idx_x402_procurement_receipts_payment ON x402_procurement_receipts (payment_id)
    WHERE payment_id IS NOT NULL;
