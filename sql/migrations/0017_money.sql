-- The moves of money, whole, as they are from here on (0004 and 0006 told how they were before):
-- more budgets, and beside every move the rows of its request, its trace and its delivery.
--
-- Locks are always taken in this order: payment ids, payment rows, counters by scope, policy and
-- limits, trace. `enable_seqscan = off`: plans are cached, and one made while a table was empty
-- would scan it for as long as the connection lives. The functions that are called from outside run
-- with their owner's rights: a proxy has none to touch a counter or a payment by itself.

-- Scopes, in lock order:
--   10/agent-day/<agent>/<day>      20/session/<agent>/<session>     30/trace/<agent>/<trace>
--   40/agent-provider-day/<agent>/<provider>/<day>                   50/provider-day/<provider>/<day>
--   60/wallet-day/<network>/<wallet>/<day>                           70/fleet-day/<day>
ALTER TABLE budget_counters ADD COLUMN IF NOT EXISTS subject text;
COMMENT ON COLUMN budget_counters.subject IS 'the trace, provider or wallet that it is about';
DO $$ BEGIN
    ALTER TABLE budget_counters ADD CONSTRAINT budget_counters_subject_check CHECK (
        (kind IN ('agent_day', 'session', 'fleet_day') OR subject IS NOT NULL)
        AND (kind NOT IN ('trace', 'agent_provider_day') OR agent_id IS NOT NULL)
        AND (kind IN ('agent_day', 'session', 'trace') OR day IS NOT NULL));
EXCEPTION WHEN duplicate_object THEN NULL;
END $$;
ALTER TABLE budget_counters ADD COLUMN IF NOT EXISTS top_limit_micros bigint;
COMMENT ON COLUMN budget_counters.top_limit_micros IS
    'the highest limit that was in force when it rose; NULL where none holds it';
CREATE INDEX IF NOT EXISTS idx_budget_counters_day ON budget_counters (kind, day DESC);

DO $$ BEGIN
    ALTER TYPE reservation ADD ATTRIBUTE joined uuid;
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

DROP FUNCTION IF EXISTS budget_limit(budget_kind, agent_policies);
-- What a counter may rise to; NULL if nothing holds it. `least` takes no notice of a NULL.
CREATE OR REPLACE FUNCTION counter_limit(p_counter budget_counters, p_policy agent_policies) RETURNS bigint
LANGUAGE sql STABLE AS $$
    SELECT CASE p_counter.kind
        WHEN 'agent_day' THEN p_policy.daily_limit_micros
        WHEN 'session'   THEN least(p_policy.session_limit_micros, p_counter.limit_micros)
        WHEN 'trace'     THEN p_policy.trace_limit_micros
        ELSE spend_limit(p_counter.kind, p_counter.agent_id, coalesce(p_counter.subject, '*')) END
$$;

CREATE OR REPLACE FUNCTION budget_denial(p_kind budget_kind) RETURNS text
LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE p_kind
        WHEN 'agent_day'          THEN 'over_daily_limit'
        WHEN 'session'            THEN 'over_session_limit'
        WHEN 'trace'              THEN 'over_trace_limit'
        WHEN 'agent_provider_day' THEN 'over_agent_provider_limit'
        WHEN 'provider_day'       THEN 'over_provider_limit'
        WHEN 'wallet_day'         THEN 'over_wallet_limit'
        WHEN 'fleet_day'          THEN 'over_fleet_limit' END
$$;

-- The last wall, should a caller ever come around the functions: spent + held never RISES past the
-- limit. It may stand above it (a limit lowered while money is held), and it may always fall.
CREATE OR REPLACE FUNCTION guard_budget() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    v_policy agent_policies;
    v_limit  bigint;
BEGIN
    SELECT p.* INTO v_policy FROM agent_policies p WHERE p.agent_id = NEW.agent_id;
    v_limit := counter_limit(NEW, v_policy);
    IF NEW.spent_micros + NEW.held_micros > v_limit
       OR v_limit IS NULL AND NEW.kind IN ('agent_day', 'session', 'trace') THEN
        RAISE EXCEPTION 'budget % would rise to % of %',
            NEW.scope, NEW.spent_micros + NEW.held_micros, v_limit
            USING ERRCODE = 'check_violation', CONSTRAINT = 'budget_guard';
    END IF;
    -- Once without a limit, it may stand anywhere.
    IF v_limit IS NULL THEN
        NEW.top_limit_micros := 999999999999999999;
    ELSE
        NEW.top_limit_micros := greatest(NEW.top_limit_micros, v_limit);
    END IF;
    RETURN NEW;
END $$;

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
        client_signature text, message_sha256 bytea, payment_payload jsonb);
EXCEPTION WHEN duplicate_object THEN NULL;
END $$;

-- Every counter that a payment takes from, unlocked and not yet made, in lock order.
DROP FUNCTION IF EXISTS counters_of(reservation_request, date);
CREATE FUNCTION counters_of(q reservation_request, p_today date) RETURNS TABLE (
    scope text, kind budget_kind, agent_id uuid, day date, session_id text, subject text
) LANGUAGE sql IMMUTABLE AS $$
    SELECT c.scope, c.kind::budget_kind, c.agent_id, c.day, c.session_id, c.subject
      FROM (VALUES
        (agent_day_scope(q.agent_id, p_today), 'agent_day', q.agent_id, p_today, NULL, NULL, true),
        (session_scope(q.agent_id, q.session_id), 'session', q.agent_id, NULL, q.session_id, NULL,
            q.session_id IS NOT NULL),
        (trace_scope(q.agent_id, q.trace_id), 'trace', q.agent_id, NULL, NULL, q.trace_id,
            q.trace_id IS NOT NULL),
        ('40/agent-provider-day/' || q.agent_id || '/' || q.provider || to_char(p_today, '/YYYY-MM-DD'),
            'agent_provider_day', q.agent_id, p_today, NULL, q.provider, true),
        ('50/provider-day/' || q.provider || to_char(p_today, '/YYYY-MM-DD'),
            'provider_day', NULL, p_today, NULL, q.provider, true),
        ('60/wallet-day/' || q.network || '/' || q.payer || to_char(p_today, '/YYYY-MM-DD'),
            'wallet_day', NULL, p_today, NULL, q.payer, q.payer IS NOT NULL),
        ('70/fleet-day' || to_char(p_today, '/YYYY-MM-DD'), 'fleet_day', NULL, p_today, NULL, NULL, true)
      ) AS c (scope, kind, agent_id, day, session_id, subject, wanted)
     WHERE c.wanted ORDER BY c.scope COLLATE "C"
$$;

-- The counters of these requests, made where they are missing, and others that are there: all locked,
-- in the one order. Returns the scopes of the requests.
CREATE OR REPLACE FUNCTION lock_counters(
    p_requests reservation_request[], p_today date, p_others text[] DEFAULT '{}'
) RETURNS text[]
LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE
    v_scopes text[];
BEGIN
    SELECT coalesce(array_agg(DISTINCT c.scope), '{}') INTO v_scopes
      FROM unnest(p_requests) q, counters_of(q, p_today) c;
    IF (SELECT count(*) FROM budget_counters b WHERE b.scope = ANY (v_scopes)) < cardinality(v_scopes) THEN
        INSERT INTO budget_counters (scope, kind, agent_id, day, session_id, subject)
        SELECT DISTINCT ON (c.scope) c.scope, c.kind, c.agent_id, c.day, c.session_id, c.subject
          FROM unnest(p_requests) q, counters_of(q, p_today) c
         WHERE c.agent_id IS NULL OR EXISTS (SELECT 1 FROM agents a WHERE a.id = c.agent_id)
         ORDER BY c.scope
        ON CONFLICT (scope) DO NOTHING;
    END IF;
    PERFORM 1 FROM budget_counters b
      WHERE b.scope = ANY (v_scopes || p_others) ORDER BY b.scope FOR UPDATE;
    RETURN v_scopes;
END $$;

DROP FUNCTION IF EXISTS reserve(uuid, uuid, bigint, numeric, text, text, text, text, text, bytea, integer,
    text, text, text, text, text, text, text, text, text, text, bigint, bigint, text, bytea, jsonb);

-- Takes the price from every budget or from none; writes the request, the payment, the decision and
-- the step. Codes: ok, unknown_agent, frozen, spending_halted (by the one switch), over_per_call_limit,
-- over_…_limit, what `prior_payment` says of the same request (`joined` is the payment it was about),
-- duplicate_message (those bytes are another payment's), abandoned (released before or meanwhile).
CREATE OR REPLACE FUNCTION reserve(p_request jsonb) RETURNS reservation
LANGUAGE plpgsql SECURITY DEFINER SET enable_seqscan = off SET search_path = public, pg_temp AS $$
DECLARE
    q          reservation_request := jsonb_populate_record(NULL::reservation_request, p_request);
    r          reservation;
    v_today    date := (now() AT TIME ZONE 'UTC')::date;
    v_scopes   text[];
    v_day      budget_counters;   -- the agent's
    v_counter  budget_counters;
    v_policy   agent_policies;
    v_limit    bigint;
    v_scope    text;
    v_before   bigint;
    v_session  bigint := 0;
    v_trace    bigint;            -- left to the trace, before
    v_taken    bigint := 0;
    v_prior    text;
BEGIN
    PERFORM lock_payment_id(q.payment_id);

    SELECT d.reason, d.limit_micros, d.scope_spent_micros, d.scope_held_micros, d.remaining_micros,
           d.day, CASE WHEN d.scope LIKE '%-day/%' AND d.decision = 'deny' THEN utc_midnight_after(d.day) END
      INTO r FROM policy_decision_logs d
     WHERE d.payment_id = q.payment_id AND d.created_at > now() - interval '1 day';
    IF FOUND THEN
        IF r.code = 'ok' AND EXISTS (
            SELECT 1 FROM payments p WHERE p.id = q.payment_id AND p.status = 'FAILED') THEN
            r.code := 'abandoned';
        END IF;
        RETURN r;
    END IF;

    r := ('ok', 0, 0, 0, 0, v_today, NULL, NULL);
    IF NOT EXISTS (SELECT 1 FROM agents a WHERE a.id = q.agent_id AND a.is_active) THEN
        r.code := 'unknown_agent';
    ELSE
        v_scopes := lock_counters(ARRAY[q], v_today);
        SELECT * INTO v_day FROM budget_counters b WHERE b.scope = agent_day_scope(q.agent_id, v_today);

        -- Read after the wait for the counters, and held still until the end: whoever has frozen
        -- this agent and got the answer can be sure that nothing is granted any more.
        SELECT p.* INTO v_policy FROM agent_policies p WHERE p.agent_id = q.agent_id FOR SHARE;
        IF NOT FOUND THEN
            r.code := 'unknown_agent';
        ELSE
            PERFORM 1 FROM spend_limits l
              WHERE (l.agent_id = q.agent_id OR l.agent_id IS NULL)
                AND l.subject IN (q.provider, q.payer, '*') FOR SHARE;
            r.limit_micros := v_policy.daily_limit_micros;
            r.spent_micros := v_day.spent_micros;
            r.held_micros := v_day.held_micros;
            r.remaining_micros := NULL;
            v_scope := v_day.scope;
            v_before := r.limit_micros - r.spent_micros - r.held_micros;

            SELECT x.code, x.payment_id INTO v_prior, r.joined
              FROM prior_payment(q.agent_id, q.request_key, q.idempotency_key, q.key_seconds, q.share, q.instance) x;
            IF v_prior IS NULL AND q.idempotency_key IS NOT NULL THEN
                PERFORM free_idempotency_key(q.agent_id, q.idempotency_key, q.key_seconds);
            END IF;
            IF v_policy.frozen THEN
                r.code := 'frozen';
            ELSIF (SELECT s.halted OR s.timeline <> current_timeline() AND NOT s.failover_safe
                     FROM spending s FOR SHARE) THEN
                r.code := 'spending_halted';
            ELSIF q.price_micros > v_policy.per_call_limit_micros THEN
                r.code := 'over_per_call_limit';
                r.limit_micros := v_policy.per_call_limit_micros;
                r.spent_micros := 0;
                r.held_micros := 0;
            ELSIF v_prior IS NOT NULL THEN
                r.code := v_prior;
            ELSIF EXISTS (SELECT 1 FROM abandoned_reservations a WHERE a.payment_id = q.payment_id) THEN
                r.code := 'abandoned';
            END IF;
            -- Whoever may not pay at all is told that, and not of the payment from before.
            IF r.code IS DISTINCT FROM v_prior THEN
                r.joined := NULL;
            END IF;

            FOR v_counter IN SELECT * FROM budget_counters b WHERE b.scope = ANY (v_scopes) ORDER BY b.scope LOOP
                v_limit := counter_limit(v_counter, v_policy);
                r.remaining_micros := least(
                    r.remaining_micros, v_limit - v_counter.spent_micros - v_counter.held_micros);
                IF v_counter.kind = 'session' THEN
                    v_session := v_counter.spent_micros;
                ELSIF v_counter.kind = 'trace' THEN
                    v_trace := v_limit - v_counter.spent_micros - v_counter.held_micros;
                END IF;
                IF r.code = 'ok'
                   AND v_counter.spent_micros + v_counter.held_micros + q.price_micros > v_limit THEN
                    r.code := budget_denial(v_counter.kind);
                    r.limit_micros := v_limit;
                    r.spent_micros := v_counter.spent_micros;
                    r.held_micros := v_counter.held_micros;
                    v_scope := v_counter.scope;
                    IF v_counter.day IS NOT NULL THEN
                        r.resets_at := utc_midnight_after(v_today);
                    END IF;
                END IF;
            END LOOP;
        END IF;
        INSERT INTO api_requests (id, agent_id, session_id, trace_id, provider, method, endpoint, api_type,
                                  http_status, x402_instructions, response_headers, status, error_class)
        VALUES (coalesce(q.api_request_id, q.payment_id), q.agent_id, q.session_id, q.trace_id, q.provider,
                q.method, q.endpoint, coalesce(q.api_type, 'MARKET_DATA'), 402, q.instructions,
                q.response_headers,
                CASE r.code WHEN 'ok' THEN 'PAYMENT_REQUIRED' ELSE 'FAILED' END::request_status,
                CASE r.code WHEN 'ok' THEN NULL ELSE 'denied' END)
        ON CONFLICT (id) DO NOTHING;
    END IF;

    IF r.code = 'ok' THEN
        INSERT INTO payments (
            id, agent_id, status, amount_atomic, price_micros, day, scopes, policy_version,
            session_id, trace_id, provider, method, endpoint, url_sealed, request_key,
            request_body_sha256, instance, api_request_id,
            x402_version, network, asset, symbol, decimals, pay_to, facilitator_url,
            payer, fee_payer, source_account, destination_account, memo, blockhash,
            last_valid_block_height, blockhash_slot, client_signature, message_sha256,
            payment_payload, idempotency_key, payment_header, identified)
        VALUES (
            q.payment_id, q.agent_id,
            CASE WHEN q.message_sha256 IS NULL THEN 'INITIATED' ELSE 'SIGNED' END::payment_status,
            q.amount_atomic, q.price_micros, v_today, v_scopes, v_policy.version,
            q.session_id, q.trace_id, q.provider, q.method, q.endpoint, q.url_sealed, q.request_key,
            q.request_body_sha256, q.instance, coalesce(q.api_request_id, q.payment_id),
            q.x402_version, q.network, q.asset, q.symbol, coalesce(q.decimals, 6), q.pay_to,
            q.facilitator_url,
            q.payer, q.fee_payer, q.source_account, q.destination_account, q.memo, q.blockhash,
            q.last_valid_block_height, q.blockhash_slot, q.client_signature, q.message_sha256,
            q.payment_payload, q.idempotency_key, q.payment_header, coalesce(q.identified, false))
        ON CONFLICT DO NOTHING;
        IF NOT FOUND THEN
            r.code := 'duplicate_message';
            UPDATE api_requests a SET status = 'FAILED', error_class = 'blockhash_in_use'
             WHERE a.id = coalesce(q.api_request_id, q.payment_id) AND a.status = 'PAYMENT_REQUIRED';
        ELSE
            UPDATE budget_counters c
               SET held_micros = c.held_micros + q.price_micros, updated_at = now()
             WHERE c.scope = ANY (v_scopes);
            v_taken := q.price_micros;
            r.held_micros := r.held_micros + v_taken;
            r.remaining_micros := r.remaining_micros - v_taken;
        END IF;
    END IF;

    INSERT INTO policy_decision_logs (
        payment_id, trace_id, session_id, agent_id, method, endpoint, decision, reason,
        policy_version, scope, limit_micros, scope_spent_micros, scope_held_micros,
        quoted_price_micros, spent_today_micros, reserved_micros, remaining_daily_micros,
        budget_before_micros, remaining_micros, day)
    VALUES (q.payment_id, q.trace_id, q.session_id, q.agent_id, q.method, q.endpoint,
            CASE r.code WHEN 'ok' THEN 'allow' ELSE 'deny' END, r.code,
            v_policy.version, v_scope, r.limit_micros, r.spent_micros, r.held_micros,
            q.price_micros, coalesce(v_day.spent_micros, 0), coalesce(v_day.held_micros, 0) + v_taken,
            coalesce(v_before, 0) - v_taken, v_before, r.remaining_micros, v_today);
    -- A second try under a newer blockhash is the same step.
    IF v_trace IS NOT NULL AND r.code <> 'duplicate_message' THEN
        PERFORM add_step(q.agent_id, q.trace_id, q.session_id, coalesce(q.tool_name, q.provider), q.endpoint,
                         q.price_micros, r.code, v_trace, v_trace - v_taken, v_policy.trace_limit_micros,
                         v_session, CASE r.code WHEN 'ok' THEN 'reserved' ELSE 'denied' END,
                         CASE r.code WHEN 'ok' THEN q.payment_id END);
    END IF;
    RETURN r;
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
-- 'settled' if it was paid for, and stays so.
CREATE OR REPLACE FUNCTION release(p_id uuid, p_reason text) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET enable_seqscan = off SET search_path = public, pg_temp AS $$
DECLARE
    v_payment payments;
BEGIN
    PERFORM lock_payment_id(p_id);
    SELECT * INTO v_payment FROM payments p WHERE p.id = p_id FOR UPDATE;
    IF NOT FOUND THEN
        INSERT INTO abandoned_reservations (payment_id) VALUES (p_id) ON CONFLICT DO NOTHING;
        RETURN 'absent';
    ELSIF v_payment.status = 'FAILED' THEN
        RETURN 'already';
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
        remaining_daily_micros, budget_before_micros, day)
    VALUES (v_id, v_trace, v_session, v_agent, p ->> 'method', p ->> 'endpoint', 'deny', p ->> 'reason',
            coalesce(p ->> 'detail', ''), (p ->> 'policy_version')::bigint, (p ->> 'limit_micros')::bigint,
            (p ->> 'price_micros')::bigint, coalesce(v_day.spent_micros, 0),
            coalesce(v_day.held_micros, 0), v_left, v_left, v_today);

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
    v_today    date := (now() AT TIME ZONE 'UTC')::date;
    v_requests reservation_request[];
    v_ids      uuid[];
    v_agents   uuid[];
    v_move     jsonb;
BEGIN
    SELECT array_agg(DISTINCT i.id) INTO v_ids FROM (
        SELECT (m -> 'args' ->> 'payment_id')::uuid AS id
          FROM jsonb_array_elements(p_moves) m
         WHERE m ->> 'move' IN ('reserve', 'settle', 'release', 'doubt')) i;
    PERFORM lock_payment_id(i.id) FROM (SELECT unnest(v_ids) AS id ORDER BY 1) i;
    PERFORM 1 FROM payments x WHERE x.id = ANY (v_ids) ORDER BY x.id FOR UPDATE;
    SELECT array_agg(jsonb_populate_record(NULL::reservation_request, m -> 'args')) INTO v_requests
      FROM jsonb_array_elements(p_moves) m WHERE m ->> 'move' = 'reserve';
    PERFORM lock_counters(v_requests, v_today, ARRAY(
        SELECT DISTINCT s FROM payments x, unnest(x.scopes) s WHERE x.id = ANY (v_ids)));
    -- The chains of receipts (0025) before the first of them grows: two batches of different days
    -- share no counter, so nothing else would keep them in one order.
    SELECT array_agg(DISTINCT x.agent_id) INTO v_agents
      FROM jsonb_array_elements(p_moves) m JOIN payments x ON x.id = (m -> 'args' ->> 'payment_id')::uuid
     WHERE m ->> 'move' = 'settle';
    IF cardinality(v_agents) > 1 THEN  -- a single one is locked by its receipt
        PERFORM 1 FROM receipt_chains c WHERE c.agent_id = ANY (v_agents) ORDER BY c.agent_id FOR NO KEY UPDATE;
    END IF;

    ordinal := -1;
    FOR v_move IN SELECT m FROM jsonb_array_elements(p_moves) m LOOP
        ordinal := ordinal + 1;
        outcome := NULL;
        failure := NULL;
        sqlstate_ := NULL;
        BEGIN
            CASE v_move ->> 'move'
                WHEN 'reserve' THEN outcome := to_jsonb(reserve(v_move -> 'args'));
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
