-- A trace is one task: its payments are steps, in order and without a gap, under a budget of its own.
-- Ids are the callers' own words, so two agents' traces of one id are two traces.

CREATE TABLE IF NOT EXISTS x402_traces (
    agent_id             uuid NOT NULL REFERENCES agents (id) ON DELETE RESTRICT,
    trace_id             text NOT NULL CHECK (trace_id <> ''),
    session_id           text,
    user_prompt          text,
    budget_limit_micros  bigint NOT NULL,
    spent_start_micros   bigint NOT NULL,
    spent_end_micros     bigint NOT NULL,
    remaining_end_micros bigint NOT NULL,
    steps                integer NOT NULL DEFAULT 0,
    budget_limit_usd     numeric(18, 6) GENERATED ALWAYS AS (budget_limit_micros * 0.000001) STORED,
    spent_usd_start      numeric(18, 6) GENERATED ALWAYS AS (spent_start_micros * 0.000001) STORED,
    spent_usd_end        numeric(18, 6) GENERATED ALWAYS AS (spent_end_micros * 0.000001) STORED,
    remaining_usd_end    numeric(18, 6) GENERATED ALWAYS AS (remaining_end_micros * 0.000001) STORED,
    created_at           timestamptz NOT NULL DEFAULT now(),
    updated_at           timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (agent_id, trace_id)
) WITH (fillfactor = 70);
COMMENT ON COLUMN x402_traces.spent_start_micros IS 'what its session had spent when it began; 0 outside a session';
COMMENT ON COLUMN x402_traces.spent_end_micros IS 'spent_start and what the trace has spent since';
COMMENT ON COLUMN x402_traces.remaining_end_micros IS 'of the budget, less what is spent and held';
CREATE INDEX IF NOT EXISTS idx_x402_traces_session ON x402_traces (session_id, created_at DESC)
    WHERE session_id IS NOT NULL;
CREATE INDEX IF NOT EXISTS idx_x402_traces_id ON x402_traces (trace_id);
DROP TRIGGER IF EXISTS x402_traces_touch ON x402_traces;
CREATE TRIGGER x402_traces_touch BEFORE UPDATE ON x402_traces
    FOR EACH ROW EXECUTE FUNCTION touch_updated_at();

CREATE TABLE IF NOT EXISTS x402_trace_steps (
    id                   uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    agent_id             uuid NOT NULL,
    trace_id             text NOT NULL,
    step_index           integer NOT NULL CHECK (step_index >= 0),
    tool_name            text NOT NULL,
    endpoint             text NOT NULL,
    quoted_price_micros  bigint NOT NULL,
    reason               text NOT NULL,
    budget_before_micros bigint NOT NULL,
    budget_after_micros  bigint NOT NULL,
    outcome              text NOT NULL CHECK (outcome IN ('denied', 'reserved', 'paid', 'in_doubt', 'failed')),
    payment_id           uuid REFERENCES payments (id) ON DELETE RESTRICT,
    receipt_ref          text,
    latency_ms           integer,
    quoted_price_usd     numeric(18, 6) GENERATED ALWAYS AS (quoted_price_micros * 0.000001) STORED,
    budget_before_usd    numeric(18, 6) GENERATED ALWAYS AS (budget_before_micros * 0.000001) STORED,
    budget_after_usd     numeric(18, 6) GENERATED ALWAYS AS (budget_after_micros * 0.000001) STORED,
    created_at           timestamptz NOT NULL DEFAULT now(),
    updated_at           timestamptz NOT NULL DEFAULT now(),
    FOREIGN KEY (agent_id, trace_id) REFERENCES x402_traces (agent_id, trace_id)
        ON DELETE CASCADE ON UPDATE CASCADE,
    UNIQUE (agent_id, trace_id, step_index)
) WITH (fillfactor = 80);
CREATE INDEX IF NOT EXISTS idx_x402_trace_steps_payment ON x402_trace_steps (payment_id)
    WHERE payment_id IS NOT NULL;
DROP TRIGGER IF EXISTS x402_trace_steps_touch ON x402_trace_steps;
CREATE TRIGGER x402_trace_steps_touch BEFORE UPDATE ON x402_trace_steps
    FOR EACH ROW EXECUTE FUNCTION touch_updated_at();

-- The next step of a trace, which begins with its first. The trace's row is the lock that keeps the
-- indexes without a gap.
CREATE OR REPLACE FUNCTION add_step(
    p_agent_id uuid, p_trace_id text, p_session_id text, p_tool text, p_endpoint text,
    p_price bigint, p_reason text, p_before bigint, p_after bigint, p_limit bigint,
    p_session_spent bigint, p_outcome text, p_payment_id uuid
) RETURNS void
LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE
    v_index integer;
BEGIN
    INSERT INTO x402_traces (agent_id, trace_id, session_id, budget_limit_micros,
                             spent_start_micros, spent_end_micros, remaining_end_micros, steps)
    VALUES (p_agent_id, p_trace_id, p_session_id, p_limit, p_session_spent, p_session_spent, p_after, 1)
    ON CONFLICT (agent_id, trace_id) DO UPDATE
        SET steps = x402_traces.steps + 1, remaining_end_micros = excluded.remaining_end_micros,
            budget_limit_micros = excluded.budget_limit_micros
    RETURNING steps - 1 INTO v_index;
    INSERT INTO x402_trace_steps (agent_id, trace_id, step_index, tool_name, endpoint,
        quoted_price_micros, reason, budget_before_micros, budget_after_micros, outcome, payment_id)
    VALUES (p_agent_id, p_trace_id, v_index, p_tool, p_endpoint,
        p_price, p_reason, p_before, p_after, p_outcome, p_payment_id);
END $$;

-- What became of a payment's step. `p_spent`: what the trace has spent more for it.
CREATE OR REPLACE FUNCTION end_step(
    p_payment payments, p_outcome text, p_spent bigint, p_latency_ms integer
) RETURNS void
LANGUAGE plpgsql SET enable_seqscan = off AS $$
BEGIN
    IF p_payment.trace_id IS NULL THEN
        RETURN;
    END IF;
    UPDATE x402_traces t
       SET spent_end_micros = t.spent_end_micros + p_spent,
           remaining_end_micros = t.remaining_end_micros
               + CASE WHEN p_outcome = 'failed' THEN p_payment.price_micros ELSE 0 END
     WHERE t.agent_id = p_payment.agent_id AND t.trace_id = p_payment.trace_id;
    UPDATE x402_trace_steps s
       SET outcome = p_outcome, latency_ms = coalesce(p_latency_ms, s.latency_ms),
           receipt_ref = CASE p_outcome WHEN 'paid' THEN p_payment.id::text ELSE s.receipt_ref END
     WHERE s.payment_id = p_payment.id;
END $$;
