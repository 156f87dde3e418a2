-- The moves of money, whole (0004 and 0006 told how they were before): more budgets, and beside every
-- move the rows of its request, its trace and its delivery. How a price is taken is in 0029, with all
-- that limits it; functions in plpgsql may name what only later files make.
--
-- Locks are always taken in this order: the book of policies (`hold_policies`, 0028), payment ids,
-- payment rows, counters by scope, policy and limits, trace, chains of receipts (0025).
-- `enable_seqscan = off`: plans are cached, and one made while a table was empty would scan it for as
-- long as the connection lives. The functions that are called from outside run with their owner's
-- rights: a proxy has none to touch a counter or a payment by itself.

-- Scopes, in lock order:
--   10/agent-day/<agent>/<day>      20/session/<agent>/<session>     30/trace/<agent>/<trace>
--   40/agent-provider-day/<agent>/<provider>/<day>                   50/provider-day/<provider>/<day>
--   60/wallet-day/<network>/<wallet>/<day>                           70/fleet-day/<day>
ALTER TABLE budget_counters ADD COLUMN IF NOT EXISTS subject text;
COMMENT ON COLUMN budget_counters.subject IS
    'the trace, provider, wallet or pattern of providers that it is about';
DO $$ BEGIN
    ALTER TABLE budget_counters ADD CONSTRAINT budget_counters_subject_check CHECK (CASE
        WHEN kind::text IN ('hour', 'day', 'month', 'lifetime', 'rolling') THEN  -- of 0029
            num_nonnulls(agent_id, subject) > 0 AND (kind::text IN ('lifetime', 'rolling')) = (day IS NULL)
        ELSE (kind::text IN ('agent_day', 'session', 'fleet_day') OR subject IS NOT NULL)
            AND (kind::text NOT IN ('trace', 'agent_provider_day') OR agent_id IS NOT NULL)
            AND (kind::text IN ('agent_day', 'session', 'trace') OR day IS NOT NULL) END);
EXCEPTION WHEN duplicate_object THEN NULL;
END $$;
ALTER TABLE budget_counters ADD COLUMN IF NOT EXISTS top_limit_micros bigint;
COMMENT ON COLUMN budget_counters.top_limit_micros IS
    'the highest limit that was in force when it rose; NULL where none holds it';
CREATE INDEX IF NOT EXISTS idx_budget_counters_day ON budget_counters (kind, day DESC);

DO $$ BEGIN
    ALTER TYPE reservation ADD ATTRIBUTE joined uuid, ADD ATTRIBUTE detail jsonb;
EXCEPTION WHEN duplicate_column THEN NULL;
END $$;

-- A ceiling that is no agent's own; NULL if there is none. In plpgsql, which plans a statement once:
-- a function in SQL that can't be written into its caller's statement is planned at every call.
CREATE OR REPLACE FUNCTION spend_limit(p_kind budget_kind, p_agent_id uuid, p_subject text) RETURNS bigint
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN (SELECT l.limit_micros FROM spend_limits l
             WHERE l.kind = p_kind AND (l.agent_id = p_agent_id OR l.agent_id IS NULL)
               AND l.subject IN (p_subject, '*')
             ORDER BY l.agent_id NULLS LAST, l.subject = '*' LIMIT 1);
END $$;

-- What a counter may rise to by its policy's columns and the ceilings (0011); NULL if nothing holds it.
-- `least` takes no notice of a NULL.
CREATE OR REPLACE FUNCTION counter_limit(p_counter budget_counters, p_policy agent_policies) RETURNS bigint
LANGUAGE sql STABLE AS $$
    SELECT CASE p_counter.kind
        WHEN 'agent_day' THEN p_policy.daily_limit_micros
        WHEN 'session'   THEN least(p_policy.session_limit_micros, p_counter.limit_micros)
        WHEN 'trace'     THEN p_policy.trace_limit_micros
        ELSE CASE WHEN p_counter.kind IN ('agent_provider_day', 'provider_day', 'wallet_day', 'fleet_day')
            THEN spend_limit(p_counter.kind, p_counter.agent_id, coalesce(p_counter.subject, '*')) END END
$$;

CREATE OR REPLACE FUNCTION budget_denial(p_kind budget_kind) RETURNS text
LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE p_kind::text
        WHEN 'agent_day'          THEN 'over_daily_limit'
        WHEN 'session'            THEN 'over_session_limit'
        WHEN 'trace'              THEN 'over_trace_limit'
        WHEN 'agent_provider_day' THEN 'over_agent_provider_limit'
        WHEN 'provider_day'       THEN 'over_provider_limit'
        WHEN 'wallet_day'         THEN 'over_wallet_limit'
        WHEN 'fleet_day'          THEN 'over_fleet_limit'
        WHEN 'hour'               THEN 'over_hourly_limit'
        WHEN 'day'                THEN 'over_daily_limit'
        WHEN 'month'              THEN 'over_monthly_limit'
        WHEN 'lifetime'           THEN 'over_lifetime_limit'
        WHEN 'rolling'            THEN 'over_rolling_limit' END
$$;

CREATE OR REPLACE FUNCTION trace_scope(p_agent_id uuid, p_trace_id text) RETURNS text
LANGUAGE sql IMMUTABLE AS $$ SELECT '30/trace/' || p_agent_id || '/' || p_trace_id $$;

DROP FUNCTION IF EXISTS lock_counter(text, budget_kind, uuid, date, text);

-- A request to pay, as the proxy brings it.
DO $$ BEGIN
    CREATE TYPE reservation_request AS (
        payment_id uuid, agent_id uuid, price_micros bigint, amount_atomic numeric,
        session_id text, trace_id text, tool_name text,
        provider text, method text, endpoint text, url_sealed bytea,
        request_key bytea, request_body_sha256 bytea, instance uuid,
        api_request_id uuid, api_type api_type, instructions jsonb, response_headers jsonb,
        x402_version smallint, network text, asset text, symbol text, decimals smallint,
        pay_to text, facilitator_url text,
        payer text, fee_payer text, source_account text, destination_account text, memo text,
        blockhash text, last_valid_block_height bigint, blockhash_slot bigint,
        client_signature text, message_sha256 bytea, payment_payload jsonb,
        idempotency_key bytea, key_seconds double precision, share boolean, payment_header text,
        identified boolean, beside boolean,
        policy_version bigint, rules jsonb, shadow_reason text);
EXCEPTION WHEN duplicate_object THEN NULL;
END $$;

DROP FUNCTION IF EXISTS reserve(uuid, uuid, bigint, numeric, text, text, text, text, text, bytea, integer,
    text, text, text, text, text, text, text, text, text, text, bigint, bigint, text, bytea, jsonb);

-- `take` (0029), with all that it wants to be held: the price from every budget or from none.
CREATE OR REPLACE FUNCTION reserve(p_request jsonb) RETURNS reservation
LANGUAGE plpgsql SECURITY DEFINER SET enable_seqscan = off SET search_path = public, pg_temp AS $$
DECLARE
    q reservation_request := jsonb_populate_record(NULL::reservation_request, p_request);
BEGIN
    PERFORM hold_policies();
    PERFORM lock_payment_id(q.payment_id);
    PERFORM lock_counters(ARRAY[q], now());
    RETURN take(q);
END $$;

DROP FUNCTION IF EXISTS settle(uuid, boolean, text, text, text, text, text, text, integer, boolean, integer, text, text);

-- Held → spent, and the receipt. 'settled'; 'already' if it was; 'absent', 'unsigned' or 'released'
-- if there is nothing to settle, which the caller must report: money may have moved unseen.
CREATE OR REPLACE FUNCTION settle(p jsonb) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET enable_seqscan = off SET search_path = public, pg_temp AS $$
DECLARE
    v_id       uuid := p ->> 'payment_id';
    v_payment  payments;
    v_response jsonb := jsonb_or_null(p ->> 'response');
    v_hash     text := substring(p ->> 'transaction' FROM '^[0-9A-Za-z]{32,88}$');
BEGIN
    PERFORM hold_policies();
    SELECT * INTO v_payment FROM payments x WHERE x.id = v_id FOR UPDATE;
    IF NOT FOUND THEN
        RETURN 'absent';
    ELSIF v_payment.status IN ('CONFIRMED', 'VERIFIED') THEN
        RETURN 'already';
    ELSIF v_payment.status <> 'SIGNED' THEN
        RETURN CASE v_payment.status WHEN 'FAILED' THEN 'released' ELSE 'unsigned' END;
    END IF;

    PERFORM move_held(v_payment, true);
    LOOP
        BEGIN
            UPDATE payments x
               SET status = 'CONFIRMED', settled_at = now(), payment_hash = v_hash,
                   verification_callback = v_response
             WHERE x.id = v_id;
            EXIT;
        EXCEPTION WHEN unique_violation THEN
            -- A provider named the transaction of another payment. That must not keep this one
            -- from being booked; the claim stays in the receipt.
            v_hash := NULL;
        END;
    END LOOP;

    INSERT INTO x402_payment_logs (
        id, session_id, trace_id, agent_id, endpoint, method, amount, symbol, asset, amount_micros,
        network, pay_to, receipt_ref, tx_hash, settle_payer, settle_network, settle_tx_hash,
        settle_amount, facilitator_settlement_id, facilitator_payment_id,
        payment_response_header, payment_response_hash, settle_response, settle_response_hash,
        settle_extensions, payment_payload, payment_payload_hash,
        source, claimed, success, http_status, latency_ms, error)
    SELECT x.id, x.session_id, x.trace_id, x.agent_id, x.endpoint, x.method, x.amount_atomic::text,
           x.symbol, x.asset, x.price_micros, x.network, x.pay_to, x.id::text, v_hash,
           p ->> 'payer', p ->> 'network', p ->> 'transaction', p ->> 'amount',
           v_response ->> 'settlementId', v_response ->> 'paymentId',
           p ->> 'response_header', hex_sha256(p ->> 'response_header'), v_response,
           hex_sha256(p ->> 'response'),
           v_response -> 'extensions', x.payment_payload, hex_sha256(x.payment_payload::text),
           p ->> 'source', (p ->> 'claimed')::boolean, (p ->> 'success')::boolean,
           (p ->> 'http_status')::integer, (p ->> 'latency_ms')::integer, p ->> 'error'
      FROM payments x WHERE x.id = v_id;

    PERFORM end_step(v_payment, 'paid', v_payment.price_micros, (p ->> 'latency_ms')::integer);
    UPDATE api_requests a
       SET status = 'PAID', http_status = coalesce((p ->> 'http_status')::integer, a.http_status),
           error_class = NULL
     WHERE a.id = v_payment.api_request_id AND a.status IN ('PAYMENT_REQUIRED', 'FAILED');
    -- The delivery may have been written before its receipt.
    PERFORM access(d.*) FROM x402_procurement_receipts d WHERE d.payment_id = v_id;
    RETURN 'settled';
END $$;

-- The end of a paid request: the program has what it paid for, or has paid for nothing.
CREATE OR REPLACE FUNCTION access(d x402_procurement_receipts) RETURNS void
LANGUAGE plpgsql SET enable_seqscan = off AS $$
BEGIN
    UPDATE api_requests a
       SET status = CASE WHEN d.success THEN 'ACCESSED' ELSE 'FAILED' END::request_status,
           http_status = d.status,
           error_class = CASE WHEN d.success THEN NULL
                              WHEN d.status >= 400 THEN 'paid_failed' ELSE 'body_broken' END
      FROM payments x
     WHERE x.id = d.payment_id AND a.id = x.api_request_id AND a.status = 'PAID';
END $$;

-- What came back from a provider. Repeatable by the receipt's id.
CREATE OR REPLACE FUNCTION deliver(p jsonb) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET enable_seqscan = off SET search_path = public, pg_temp AS $$
DECLARE
    d x402_procurement_receipts := jsonb_populate_record(NULL::x402_procurement_receipts, p);
BEGIN
    d.created_at := now();
    INSERT INTO x402_procurement_receipts SELECT d.* ON CONFLICT (id) DO NOTHING;
    IF NOT FOUND THEN
        RETURN 'already';
    END IF;
    INSERT INTO query_logs (response_time_ms, agent_id, tx_hash) VALUES (d.latency_ms, d.agent_id, d.tx_hash);
    PERFORM access(d);
    RETURN 'delivered';
END $$;

-- Gives held money back. Only for what can never land: 'never_sent' (no byte left) or 'proved_dead'.
-- 'released'; 'already'; 'absent' (and a reservation of that id that arrives later is refused);
-- 'settled' if it was paid for, and stays so; 'presented' if another process has sent what its own never
-- did: then only the chain can tell.
CREATE OR REPLACE FUNCTION release(p_id uuid, p_reason text) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET enable_seqscan = off SET search_path = public, pg_temp AS $$
DECLARE
    v_payment payments;
BEGIN
    PERFORM hold_policies();
    PERFORM lock_payment_id(p_id);
    SELECT * INTO v_payment FROM payments p WHERE p.id = p_id FOR UPDATE;
    IF NOT FOUND THEN
        INSERT INTO abandoned_reservations (payment_id) VALUES (p_id) ON CONFLICT DO NOTHING;
        RETURN 'absent';
    ELSIF v_payment.status = 'FAILED' THEN
        RETURN 'already';
    ELSIF p_reason = 'never_sent' AND v_payment.presented > 0 THEN
        RETURN 'presented';
    ELSIF v_payment.status NOT IN ('INITIATED', 'SIGNED') THEN
        RETURN 'settled';
    END IF;
    PERFORM move_held(v_payment, false);
    UPDATE payments p SET status = 'FAILED', release_reason = p_reason WHERE p.id = p_id;
    PERFORM end_step(v_payment, 'failed', 0, NULL);
    UPDATE api_requests a
       SET status = 'FAILED',
           error_class = CASE p_reason WHEN 'never_sent' THEN 'connect_failed' ELSE 'proved_dead' END
     WHERE a.id = v_payment.api_request_id AND a.status = 'PAYMENT_REQUIRED';
    RETURN 'released';
END $$;

-- Notes that the fate of a payment is unknown. The money stays held. 'doubted', or what it is instead.
CREATE OR REPLACE FUNCTION doubt(p_id uuid, p_reason text, p_detail text, p_http_status integer) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET enable_seqscan = off SET search_path = public, pg_temp AS $$
DECLARE
    v_payment payments;
BEGIN
    SELECT * INTO v_payment FROM payments p WHERE p.id = p_id FOR UPDATE;
    IF NOT FOUND THEN
        RETURN 'absent';
    ELSIF v_payment.status <> 'SIGNED' THEN
        RETURN lower(v_payment.status::text);
    END IF;
    UPDATE payments p
       SET doubt_reason = p_reason, doubt_detail = p_detail, doubt_http_status = p_http_status,
           in_doubt_since = coalesce(p.in_doubt_since, now())
     WHERE p.id = p_id;
    PERFORM end_step(v_payment, 'in_doubt', 0, NULL);
    UPDATE api_requests a
       SET http_status = coalesce(p_http_status, a.http_status), status = 'FAILED',
           error_class = (SELECT e.code FROM error_classifications e WHERE e.code = p_reason)
     WHERE a.id = v_payment.api_request_id AND a.status = 'PAYMENT_REQUIRED';
    RETURN 'doubted';
END $$;

DROP FUNCTION IF EXISTS note_denial(uuid, uuid, text, text, text, text, text, text, bigint, bigint, bigint);

-- The decision row of a denial that took no budget: a policy's "no", a 402 that cannot be paid, a
-- place where the agent may not be taken. The numbers of the agent's day are read here, without
-- waiting for anybody's lock. With `api_request_id` there was a 402, and it gets its row.
CREATE OR REPLACE FUNCTION note_denial(p jsonb) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET enable_seqscan = off SET search_path = public, pg_temp AS $$
DECLARE
    v_id      uuid := p ->> 'id';
    v_agent   uuid := p ->> 'agent_id';
    v_session text := p ->> 'session_id';
    v_trace   text := p ->> 'trace_id';
    v_today   date := (now() AT TIME ZONE 'UTC')::date;
    v_day     budget_counters;
    v_policy  agent_policies;
    v_spent   bigint;
    v_left    bigint;
    v_task    bigint;
BEGIN
    PERFORM lock_payment_id(v_id);
    IF EXISTS (SELECT 1 FROM policy_decision_logs d WHERE d.id = v_id AND d.created_at > now() - interval '1 day') THEN
        RETURN 'already';
    END IF;
    SELECT * INTO v_day FROM budget_counters c WHERE c.scope = agent_day_scope(v_agent, v_today);
    SELECT * INTO v_policy FROM agent_policies x WHERE x.agent_id = v_agent;
    v_left := coalesce(v_policy.daily_limit_micros, 0)
              - coalesce(v_day.spent_micros, 0) - coalesce(v_day.held_micros, 0);
    INSERT INTO policy_decision_logs (
        id, trace_id, session_id, agent_id, method, endpoint, decision, reason, detail,
        policy_version, limit_micros, quoted_price_micros, spent_today_micros, reserved_micros,
        remaining_daily_micros, budget_before_micros, day, shadow_reason)
    VALUES (v_id, v_trace, v_session, v_agent, p ->> 'method', p ->> 'endpoint', 'deny', p ->> 'reason',
            coalesce(p ->> 'detail', ''), (p ->> 'policy_version')::bigint, (p ->> 'limit_micros')::bigint,
            (p ->> 'price_micros')::bigint, coalesce(v_day.spent_micros, 0),
            coalesce(v_day.held_micros, 0), v_left, v_left, v_today, p ->> 'shadow_reason');

    IF p ->> 'api_request_id' IS NULL OR v_policy.agent_id IS NULL THEN
        RETURN 'noted';
    END IF;
    INSERT INTO api_requests (id, agent_id, session_id, trace_id, provider, method, endpoint, api_type,
                              http_status, x402_instructions, response_headers, status, error_class)
    VALUES ((p ->> 'api_request_id')::uuid, v_agent, v_session, v_trace, coalesce(p ->> 'provider', ''),
            p ->> 'method', p ->> 'endpoint', coalesce(p ->> 'api_type', 'MARKET_DATA')::api_type,
            402, p -> 'instructions', p -> 'response_headers', 'FAILED',
            coalesce((SELECT e.code FROM error_classifications e
                       WHERE e.code IN (p ->> 'reason', p ->> 'detail') LIMIT 1), 'denied'))
    ON CONFLICT (id) DO NOTHING;
    IF v_trace IS NOT NULL THEN
        SELECT c.spent_micros INTO v_spent FROM budget_counters c
         WHERE c.scope = session_scope(v_agent, v_session);
        SELECT v_policy.trace_limit_micros - c.spent_micros - c.held_micros INTO v_task
          FROM budget_counters c WHERE c.scope = trace_scope(v_agent, v_trace);
        v_task := coalesce(v_task, v_policy.trace_limit_micros);
        PERFORM add_step(v_agent, v_trace, v_session, coalesce(p ->> 'tool_name', p ->> 'provider', ''),
                         p ->> 'endpoint', (p ->> 'price_micros')::bigint, p ->> 'reason', v_task, v_task,
                         v_policy.trace_limit_micros, coalesce(v_spent, 0), 'denied', NULL);
    END IF;
    RETURN 'noted';
END $$;

-- A try after the first, of a payment that had not left yet. Repeatable by its id.
CREATE OR REPLACE FUNCTION note_retry(p jsonb) RETURNS text
LANGUAGE sql SECURITY DEFINER SET enable_seqscan = off SET search_path = public, pg_temp AS $$
    INSERT INTO retry_attempts (id, agent_id, api_request_id, payment_id, attempt_number, backoff_delay,
                                outcome, error_class, error_message)
    SELECT (p ->> 'id')::uuid, x.agent_id, x.api_request_id, x.id, (p ->> 'attempt')::integer,
           make_interval(secs => (p ->> 'delay')::double precision),
           (p ->> 'outcome')::retry_outcome,
           (SELECT e.code FROM error_classifications e WHERE e.code = p ->> 'error_class'), p ->> 'error'
      FROM payments x WHERE x.id = (p ->> 'payment_id')::uuid
    ON CONFLICT (id) DO NOTHING;
    SELECT 'noted'
$$;

-- Many moves in one transaction, in order: one round trip and one flush to disk for all of them. One
-- that fails fails alone. All locks are taken first, in the one order, so that batches of many
-- proxies can't wait for each other in a circle.
CREATE OR REPLACE FUNCTION tick(p_moves jsonb)
RETURNS TABLE (ordinal integer, outcome jsonb, failure text, sqlstate_ text)
LANGUAGE plpgsql SECURITY DEFINER SET enable_seqscan = off SET search_path = public, pg_temp AS $$
DECLARE
    v_requests reservation_request[];
    v_ids      uuid[];
    v_agents   uuid[];
    v_served   uuid[];   -- payments whose delivery is written
    v_move     jsonb;
    v_reserved integer := 0;
BEGIN
    PERFORM hold_policies();
    SELECT array_agg(DISTINCT i.id) INTO v_ids FROM (
        SELECT (m -> 'args' ->> 'payment_id')::uuid AS id
          FROM jsonb_array_elements(p_moves) m
         WHERE m ->> 'move' IN ('reserve', 'settle', 'release', 'doubt')) i;
    PERFORM lock_payment_id(i.id) FROM (SELECT unnest(v_ids) AS id ORDER BY 1) i;
    -- A delivery refers to its payment, and may be a loss (0030): it waits for nobody further on.
    SELECT array_agg((m -> 'args' ->> 'payment_id')::uuid) INTO v_served
      FROM jsonb_array_elements(p_moves) m WHERE m ->> 'move' = 'deliver';
    PERFORM 1 FROM payments x WHERE x.id = ANY (v_ids || v_served) ORDER BY x.id FOR UPDATE;
    SELECT array_agg(jsonb_populate_record(NULL::reservation_request, m -> 'args') ORDER BY n) INTO v_requests
      FROM jsonb_array_elements(p_moves) WITH ORDINALITY o (m, n) WHERE m ->> 'move' = 'reserve';
    PERFORM lock_counters(v_requests, now(), ARRAY(
        SELECT DISTINCT s FROM payments x, unnest(x.scopes) s WHERE x.id = ANY (v_ids)));
    -- The chains of receipts (0025) before the first of them grows: two batches of different days
    -- share no counter, so nothing else would keep them in one order.
    SELECT array_agg(DISTINCT x.agent_id) INTO v_agents
      FROM jsonb_array_elements(p_moves) m JOIN payments x ON x.id = (m -> 'args' ->> 'payment_id')::uuid
     WHERE m ->> 'move' IN ('settle', 'deliver');
    PERFORM 1 FROM receipt_chains c WHERE c.agent_id = ANY (v_agents) ORDER BY c.agent_id FOR NO KEY UPDATE;

    ordinal := -1;
    FOR v_move IN SELECT m FROM jsonb_array_elements(p_moves) m LOOP
        ordinal := ordinal + 1;
        outcome := NULL;
        failure := NULL;
        sqlstate_ := NULL;
        v_reserved := v_reserved + (v_move ->> 'move' = 'reserve')::integer;
        BEGIN
            CASE v_move ->> 'move'
                WHEN 'reserve' THEN outcome := to_jsonb(take(v_requests[v_reserved]));
                WHEN 'settle'  THEN outcome := to_jsonb(settle(v_move -> 'args'));
                WHEN 'release' THEN outcome := to_jsonb(release(
                    (v_move -> 'args' ->> 'payment_id')::uuid, v_move -> 'args' ->> 'reason'));
                WHEN 'doubt'   THEN outcome := to_jsonb(doubt(
                    (v_move -> 'args' ->> 'payment_id')::uuid, v_move -> 'args' ->> 'reason',
                    v_move -> 'args' ->> 'detail', (v_move -> 'args' ->> 'http_status')::integer));
                WHEN 'deliver' THEN outcome := to_jsonb(deliver(v_move -> 'args'));
                WHEN 'deny'    THEN outcome := to_jsonb(note_denial(v_move -> 'args'));
                WHEN 'retry'   THEN outcome := to_jsonb(note_retry(v_move -> 'args'));
            END CASE;
        EXCEPTION WHEN OTHERS THEN
            failure := SQLERRM;
            sqlstate_ := SQLSTATE;
        END;
        RETURN NEXT;
    END LOOP;
END $$;
